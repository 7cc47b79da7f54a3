"""What a run is: the model, the data, how it is trained and how it is evaluated, as typed configuration."""

from __future__ import annotations

import os
from dataclasses import field
from typing import Literal

from gesta.config import config, copy
from gesta.model import ModelConfig
from gesta.records import DataConfig

ShortVideos = Literal["loop", "clamp"]
"""What fills the frames that a short video lacks: the video again, or its last frame."""


@config
class Augment:
    """Training augmentation of one clip.

    Attributes:
        crop: ``random_resized`` takes a random area and aspect ratio (Inception), ``jitter`` scales the short side to a
            random length and takes a random square (SlowFast), ``short_side`` takes a random square whose side is a
            random fraction of the short side (ST-MANet).
        scale: range of the crop's area (``random_resized``) or side (``short_side``), as fractions of the frame's.
        ratio: range of the crop's aspect ratio for ``random_resized``.
        independent_sides: let ``short_side`` draw height and width separately, each as a fraction of the short side
            (the other reading of ST-MANet's sentence); the rectangle is then scaled to a square.
        short_side: range of the short side in pixels for ``jitter``, at ``ClipSpec.size`` 224; scaled with the size.
        inverse_uniform: let ``jitter`` draw the inverse of the short side uniformly instead of the short side, so that
            the crop's side as a fraction of the frame's is uniform (SlowFast for Something-Something).
        interpolation: of the resize to the model's size.
        flip: probability of a horizontal flip.
        flip_labels: pairs of class names that a flip exchanges; a class whose name contains the word left, right or
            clockwise and that is in no pair is never flipped.
        rotate: largest angle in degrees by which a clip is rotated, to either side, before the crop; 0 for none.
            Corners without picture are black.
        rotate_probability: probability that a clip is rotated.
        color_jitter: strength of brightness, contrast and saturation jitter, 0 for none.
        hue: largest shift of the hue to either side, as a fraction of the colour circle, 0 to 0.5; 0 for none.
        jitter_probability: probability that a clip gets colour jitter (hue included).
        randaugment: number of RandAugment operations per clip, 0 for none.
        magnitude: RandAugment's magnitude, 0 to 30.
        erasing: probability of filling a random box, the same in all frames, with noise.
    """

    crop: Literal["random_resized", "jitter", "short_side"] = "random_resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    independent_sides: bool = False
    short_side: tuple[int, int] = (256, 320)
    inverse_uniform: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: float = 0.5
    flip_labels: dict[str, str] = field(default_factory=dict)
    rotate: float = 0.0
    rotate_probability: float = 0.5
    color_jitter: float = 0.0
    hue: float = 0.0
    jitter_probability: float = 1.0
    randaugment: int = 0
    magnitude: int = 7
    erasing: float = 0.0


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
        betas: coefficients of AdamW's running averages.
        momentum: of SGD.
        nesterov: use Nesterov momentum in SGD.
        weight_decay: for all parameters but biases, 1-D parameters and those a model or ``no_decay`` exempts.
        decay_biases: apply weight decay to biases and 1-D parameters, too.
        no_decay: further name fragments of parameters without weight decay.
        layer_decay: the learning rate of depth d (of D) is multiplied by ``layer_decay ** (D - d)``; 1 for none.
        lr_multipliers: factor on the learning rate by prefix of the parameter's name (``{"inserts.": 0.1}``).
        schedule: ``cosine`` to ``min_lr``, ``steps`` (times ``gamma`` at each epoch of ``milestones``), ``constant``.
        warmup_epochs: epochs of linear warm-up from ``warmup_lr`` to ``lr``; fractions are allowed.
        warmup_lr: learning rate at the first step of the warm-up.
        min_lr: learning rate at the end of the cosine.
        milestones: epochs at which ``steps`` lowers the learning rate.
        gamma: factor on the learning rate at each milestone.
        clip_grad: largest L2 norm of the gradient, None for no clipping.
        precision: of the computation, in Lightning Fabric's words.
        ema: decay of an exponential moving average of the weights, None for none; evaluation uses the average.
        ema_warmup: let that decay rise from 0 to ``ema``, as 1 − step^−¾ does (timm's ModelEmaV3), so that the average
            of a short training is not one of its first steps.
        label_smoothing: of the cross-entropy, 0 to 1.
        mixup: alpha of MixUp, 0 for none.
        cutmix: alpha of CutMix, 0 for none.
        mix_probability: probability that a batch is mixed at all.
        mix_switch: with both MixUp and CutMix, probability of CutMix.
        balanced: draw every class equally often.
        sync_bn: in training, batch norms see the clips of all processes instead of only their own (CUDA).
        freeze: prefixes of the names of parameters that are not trained (their batch norms stay in evaluation mode).
        compile: run ``torch.compile`` on the model.
        seed: of everything random: weights, order, augmentation, dropout.
        workers: loader processes; -1 chooses by the number of CPU cores.
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
    decay_biases: bool = False
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
    ema_warmup: bool = True
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    mix_switch: float = 0.5
    balanced: bool = False
    sync_bn: bool = False
    freeze: tuple[str, ...] = ()
    compile: bool = False
    seed: int = 0
    workers: int = -1
    short_videos: ShortVideos = "loop"
    decoder: Literal["pyav", "torchcodec"] = "pyav"
    augment: Augment = field(default_factory=Augment)
    validate_every: int = 1
    save_every_s: float = 300.0


@config
class EvaluateConfig:
    """How held-out videos are scored.

    Attributes:
        split: which split is evaluated.
        clips: temporal clips per video.
        crops: spatial crops per clip: 1 (centre) or 3 (left, centre, right; top, centre, bottom for upright videos).
        coverage: ``even`` spreads ``clips`` over the video; ``contiguous`` cuts the whole video into neighbouring
            clips (``clips`` is then not read).
        short_side: length of the short side before cropping, in pixels, at ``ClipSpec.size`` 224; scaled with the size.
        average: what is averaged over views: softmax ``probabilities`` or ``logits``.
        batch_size: views per forward pass.
        workers: loader processes; -1 chooses by the number of CPU cores.
        short_videos: a video shorter than a clip is played again (``loop``) or its last frame is held (``clamp``).
        decoder: ``pyav`` or ``torchcodec``.
    """

    split: Literal["val", "test"] = "test"
    clips: int = 5
    crops: Literal[1, 3] = 1
    coverage: Literal["even", "contiguous"] = "even"
    short_side: int = 256
    average: Literal["probabilities", "logits"] = "probabilities"
    batch_size: int = 16
    workers: int = -1
    short_videos: ShortVideos = "loop"
    decoder: Literal["pyav", "torchcodec"] = "pyav"


@config
class Init:
    """Weights to start from.

    Attributes:
        weights: a run folder or checkpoint of gesta, or a public one whose parameter names the model can convert; None
            for random weights.
        average: of a file that holds both weights and their moving average, take the average.
        min_matched: smallest fraction of the model's parameters, the classifier not counted, that the checkpoint must
            have; a smaller one is an error.
    """

    weights: str | None = None
    average: bool = True
    min_matched: float = 0.5


@config
class Recipe:
    """A whole experiment: what ``gesta train`` runs and a run folder keeps as ``recipe.json``.

    Attributes:
        name: the run folder's name under ``runs/``.
        model: architecture, plug-ins and clip.
        data: the data set.
        train: how it is trained.
        evaluate: how the best weights are scored at the end.
        init: the weights that training starts from.
        paper: the source: authors, year, table.
    """

    name: str
    model: ModelConfig
    data: DataConfig
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    init: Init = field(default_factory=Init)
    paper: str = ""


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """A copy whose paths, of the data set and of the first weights, no longer depend on the current folder."""
    absolute = copy(recipe)
    absolute.data.make_absolute()
    if absolute.init.weights:
        absolute.init.weights = os.path.abspath(absolute.init.weights)
    return absolute


@config
class EvaluateJob:
    """What ``gesta evaluate`` scores and how: the fields that its flags can change.

    Attributes:
        data: the data set.
        evaluate: the protocol.
    """

    data: DataConfig
    evaluate: EvaluateConfig
