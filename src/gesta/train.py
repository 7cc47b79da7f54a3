"""The training loop, top to bottom, on Lightning Fabric."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from gesta.config import config
from gesta.data.transforms import Augment


@config
class TrainConfig:
    """How a model is trained.

    Attributes:
        epochs: passes over the training videos.
        batch_size: videos per optimiser step, over all processes and accumulation steps together.
        accumulate: forward/backward passes per optimiser step.
        repeats: clips drawn from every video of a batch (repeated augmentation); the forward pass sees
            ``batch_size * repeats`` clips.
        optimizer: ``adamw`` or ``sgd``.
        lr: peak learning rate, as used (no hidden scaling).
        betas: of AdamW.
        momentum: of SGD.
        nesterov: of SGD.
        weight_decay: for all parameters but biases, 1-D parameters and those a model or ``no_decay`` exempts.
        no_decay: further name fragments of parameters without weight decay.
        layer_decay: the learning rate of depth d (of D) is multiplied by ``layer_decay ** (D - d)``; 1 for none.
        lr_multipliers: factor on the learning rate by parameter-name prefix (``{"inserts.": 0.1}``).
        schedule: ``cosine`` to ``min_lr``, ``steps`` (times ``gamma`` at each epoch of ``milestones``), ``constant``.
        warmup_epochs: linear warm-up from ``warmup_lr`` to ``lr``.
        clip_grad: largest L2 norm of the gradient, None for no clipping.
        precision: as Lightning Fabric names it.
        ema: decay of an exponential moving average of the weights, None for none; evaluation uses the average.
        label_smoothing: of the cross-entropy.
        mixup: alpha of MixUp, 0 for none.
        cutmix: alpha of CutMix, 0 for none; with both, ``mix_switch`` is the share of CutMix.
        mix_probability: share of batches that are mixed at all.
        balanced: draw classes equally often.
        freeze: prefixes of parameters that stay as they are (their batch norms stay in evaluation mode).
        compile: run ``torch.compile`` on the model.
        seed: of everything random.
        workers: loader processes; -1 chooses by the number of processors.
        short_videos: a video shorter than a clip is played again (``loop``) or its last frame is held (``clamp``).
        decoder: ``pyav`` or ``torchcodec``.
        augment: augmentation of one clip.
        validate_every: epochs between evaluations on the validation split, 0 for only after the last.
        save_every_s: seconds between writes of ``last.ckpt`` inside an epoch.
    """

    epochs: int = 30
    batch_size: int = 16
    accumulate: int = 1
    repeats: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.05
    no_decay: tuple[str, ...] = ()
    layer_decay: float = 1.0
    lr_multipliers: dict[str, float] = field(default_factory=dict)
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    warmup_lr: float = 1e-6
    min_lr: float = 1e-6
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    clip_grad: float | None = 1.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    ema: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    mix_switch: float = 0.5
    balanced: bool = False
    freeze: tuple[str, ...] = ()
    compile: bool = False
    seed: int = 0
    workers: int = -1
    short_videos: Literal["loop", "clamp"] = "loop"
    decoder: Literal["pyav", "torchcodec"] = "pyav"
    augment: Augment = field(default_factory=Augment)
    validate_every: int = 1
    save_every_s: float = 300.0
