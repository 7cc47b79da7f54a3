"""What a run is: the model, the data, how it is trained and how it is evaluated, as typed configuration."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import field, fields
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

from gesta.config import (
    GIVEN_BY_FLAGS,
    Between,
    Count,
    CountOrZero,
    Fraction,
    NotNegative,
    Positive,
    config,
    copy,
    default_of,
    unless,
)
from gesta.files import is_path
from gesta.model import ModelConfig
from gesta.processes import Precision
from gesta.records import DataConfig

ShortVideos = Literal["loop", "clamp"]
"""What fills the frames that a short video lacks: the video again, or its last frame."""


_Part = Annotated[float, Between(0, 1, open="low")]
_Decay = Annotated[float, Between(0, 1, open="high")]
_Side = Annotated[int, Between(1, 4096)]
_Workers = Annotated[int, Between(-1, 1024)]


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
            Corners without picture are black; of optical flow they show no motion.
        rotate_probability: probability that a clip is rotated.
        color_jitter: strength of brightness, contrast and saturation jitter, 0 for none. Optical flow has no colours,
            so it and ``hue`` change the other streams only, and are refused where there are none; ``randaugment`` is
            refused with any.
        hue: largest shift of the hue to either side, as a fraction of the colour circle, 0 to 0.5; 0 for none.
        jitter_probability: probability that a clip gets colour jitter (hue included).
        randaugment: number of RandAugment operations per clip, 0 for none.
        magnitude: RandAugment's magnitude, 0 to 30 as torchvision counts (timm's m9 is 27).
        erasing: probability of filling a random box, the same in all frames, with noise.
    """

    crop: Literal["random_resized", "jitter", "short_side"] = "random_resized"
    scale: tuple[_Part, _Part] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (0.75, 1.3333)
    independent_sides: bool = False
    short_side: tuple[_Side, _Side] = (256, 320)
    inverse_uniform: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    flip: Fraction = 0.5
    flip_labels: dict[str, str] = field(default_factory=dict)
    rotate: Annotated[float, Between(0, 180)] = 0.0
    rotate_probability: Fraction = 0.5
    color_jitter: Fraction = 0.0
    hue: Annotated[float, Between(0, 0.5)] = 0.0
    jitter_probability: Fraction = 1.0
    randaugment: Annotated[int, Between(0, 100)] = 0
    magnitude: Annotated[int, Between(0, 30)] = 7
    erasing: Fraction = 0.0

    def contradictions(self) -> Iterator[tuple[str, str]]:
        for name in ("scale", "ratio", "short_side"):
            low, high = getattr(self, name)
            if low > high:
                yield name, "which does not rise"
        if self.crop == "jitter" and self.short_side[0] < 224:
            yield "short_side", "below the crop's 224 pixels (it is stated at size 224)"

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.crop != "jitter", "crop='random_resized' or 'short_side'", "scale")
        yield from unless(self.crop == "random_resized", "crop='random_resized'", "ratio")
        yield from unless(self.crop == "short_side", "crop='short_side'", "independent_sides")
        yield from unless(self.crop == "jitter", "crop='jitter'", "short_side", "inverse_uniform")
        yield from unless(self.flip > 0, "flip", "flip_labels")
        yield from unless(self.rotate > 0, "rotate", "rotate_probability")
        yield from unless(self.color_jitter > 0 or self.hue > 0, "color_jitter or hue", "jitter_probability")
        yield from unless(self.randaugment > 0, "randaugment", "magnitude")


SMALL_PARAMETERS = 5_000_000
"""Below this number of parameters ``lr=None`` is the rate of random weights also when training starts from given ones
(``benchmarks/experiments/finetune.py``)."""


class Rates(NamedTuple):
    """Those fields of a :class:`TrainConfig` that may be None, derived from the others."""

    lr: float
    warmup_epochs: float
    warmup_lr: float
    min_lr: float
    layer_decay: float


@config
class LoRA:
    """Low-rank adaptation (Hu et al., ICLR 2022): adapters beside linear layers are trained instead of the blocks.

    A layer's weight W becomes W + alpha / rank · B A. The head (last norm, readout, classifier) and plug-ins are
    trained as a whole; all else keeps the values of ``init.weights``. The model file has the adapters merged into the
    weights, so that it is like any other. It needs ``peft`` (``pip install 'gesta[lora]'``).

    Attributes:
        rank: rank of A and B.
        alpha: scale of the update, which is multiplied by alpha / rank.
        dropout: dropout probability on an adapter's input.
        targets: linear layers that get adapters: ``attn`` of attention (queries, keys, values, projections; over space,
            time, or both), ``mlp`` of MLPs.
    """

    rank: Count = 8
    alpha: Count = 16
    dropout: _Decay = 0.0
    targets: tuple[Literal["attn", "mlp"], ...] = ("attn", "mlp")

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / self.rank

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if not self.targets or len(set(self.targets)) < len(self.targets):
            yield "targets", "which names a part twice" if self.targets else "and adapters need a part to be in"


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
        lr: peak learning rate, as used (no hidden scaling). None is 1e-3, but with ``init.weights`` 1e-4 unless the
            model has fewer than :data:`SMALL_PARAMETERS`.
        betas: coefficients of AdamW's running averages.
        momentum: of SGD.
        nesterov: use Nesterov momentum in SGD.
        weight_decay: for all parameters but biases, 1-D parameters and those a model or ``no_decay`` exempts.
        decay_biases: apply weight decay to biases and 1-D parameters, too.
        no_decay: further name fragments of parameters without weight decay.
        layer_decay: the learning rate of depth d (of D) is multiplied by ``layer_decay ** (D - d)``; 1 for none. None
            is 1 from random weights and 0.75 with ``init.weights``.
        lr_multipliers: factor on the learning rate by prefix of the parameter's name (``{"inserts.": 0.1}``).
        schedule: ``cosine`` to ``min_lr``, ``steps`` (times ``gamma`` at each epoch of ``milestones``), ``constant``.
        warmup_epochs: epochs of linear warm-up from ``warmup_lr`` to ``lr``; fractions are allowed. None is a fifteenth
            of all epochs.
        warmup_lr: learning rate at the first step of the warm-up; None is ``lr`` / 1000.
        min_lr: learning rate at the end of the cosine; None is ``lr`` / 1000.
        milestones: epochs at which ``steps`` lowers the learning rate.
        gamma: factor on the learning rate at each milestone.
        clip_grad: largest L2 norm of the gradient, None for no clipping.
        precision: ``32-true`` (float32), or ``bf16-mixed`` or ``16-mixed`` (autocast), as in Lightning Fabric.
        ema: decay of an exponential moving average of the weights, None for none; evaluation uses the average.
        ema_warmup: let that decay rise from 0 to ``ema``, as 1 − step^−¾ does (timm's ModelEmaV3), so that the average
            of a short training is not one of its first steps.
        label_smoothing: of the cross-entropy, 0 to 1; of multi-label data targets are moved towards 1/2.
        mixup: alpha of MixUp, 0 for none.
        cutmix: alpha of CutMix, 0 for none.
        mix_probability: probability that a batch is mixed at all.
        mix_switch: with both MixUp and CutMix, probability of CutMix.
        balanced: draw every class equally often; refused for multi-label data.
        class_weights: weights of the classes in the loss, from the numbers of their training videos n: ``balanced``
            ∝ 1 / n, ``effective`` ∝ (1 - β) / (1 - βⁿ) (Cui et al. 2019), which are milder, see
            :func:`gesta.training.loss.class_weights`; None for equal ones. They replace ``balanced``, which draws rare
            classes more often instead. Refused for multi-label data.
        effective_beta: β of the effective number of videos; the nearer to 1, the more rare classes weigh.
        focal_gamma: γ of the focal loss (Lin et al. 2017), which multiplies the loss of a clip by (1 - p)^γ, where p is
            the probability given to its class: clips that are learned count less. 0 for none.
        sync_bn: in training, batch norms see the clips of all processes instead of only their own (CUDA).
        few_clips: how batch norms see a forward pass of fewer than 4 clips: ``running`` mixes their running statistics
            in, so that accuracies differ little from those of larger passes (:mod:`gesta.layers.few_clips`); ``alone``
            takes the clips of the pass alone, as torch does.
        freeze: prefixes of the names of parameters that are not trained (their batch norms stay in evaluation mode).
        lora: train low-rank adapters of the weights, and the head, instead of all weights; None trains all.
        compile: run ``torch.compile`` on the model.
        strategy: for several processes: ``ddp`` keeps all parameters and the optimizer's state in each; ``fsdp`` shards
            parameters, gradients and the optimizer's state (PyTorch's FSDP2), for models that do not fit one GPU in
            training. Up to rounding, both give the same weights.
        seed: of everything random: weights, order, augmentation, dropout.
        workers: loader processes; -1 chooses by the number of CPU cores.
        short_videos: a video shorter than a clip is played again (``loop``) or its last frame is held (``clamp``).
        decoder: ``pyav`` or ``torchcodec``.
        augment: augmentation of one clip.
        validate_every: epochs between evaluations on the validation split, 0 for only after the last.
        patience: the training ends early after this many consecutive validations whose top-1 (multi-label: mAP) is
            not above the best; None for never. ``cosine`` is laid out over all ``epochs``: where it ends early, the
            learning rate has not fallen to ``min_lr``, so that the last gains of a cosine may be missing; ``steps`` and
            ``constant`` are not affected.
        keep_best: number of best epochs, by validation top-1 (multi-label: mAP), whose weights are kept:
            ``best.safetensors`` holds the best, and for 2 or more ``epoch-0012-top1-83.33.safetensors`` … each of them.
        save_every_s: seconds between writes of ``last.ckpt`` inside an epoch.
        logger: where curves go besides ``log.jsonl``: ``tensorboard`` (files in the run's ``events``), ``wandb``
            (Weights & Biases, of the package wandb), both or neither.
    """

    epochs: Count = 30
    batch_size: Count = 16
    accumulate: Count = 1
    repeats: Count = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Positive | None = 1e-4
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    momentum: _Decay = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 0.05
    decay_biases: bool = False
    no_decay: tuple[str, ...] = ()
    layer_decay: Annotated[float, Between(0, 1, open="low")] | None = 1.0
    lr_multipliers: dict[str, Positive] = field(default_factory=dict)
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    warmup_epochs: NotNegative | None = 0.0
    warmup_lr: NotNegative | None = 1e-6
    min_lr: NotNegative | None = 1e-6
    milestones: tuple[Count, ...] = ()
    gamma: Annotated[float, Between(0, 1, open="low")] = 0.1
    clip_grad: Positive | None = 1.0
    precision: Precision = "32-true"
    ema: _Decay | None = None
    ema_warmup: bool = True
    label_smoothing: _Decay = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
    mix_probability: Fraction = 1.0
    mix_switch: Fraction = 0.5
    balanced: bool = False
    class_weights: Literal["balanced", "effective"] | None = None
    effective_beta: _Decay = 0.999
    focal_gamma: NotNegative = 0.0
    sync_bn: bool = False
    few_clips: Literal["running", "alone"] = "running"
    freeze: tuple[str, ...] = ()
    lora: LoRA | None = field(default=None, metadata={GIVEN_BY_FLAGS: LoRA})
    compile: bool = False
    strategy: Literal["ddp", "fsdp"] = "ddp"
    seed: CountOrZero = 0
    workers: _Workers = -1
    short_videos: ShortVideos = "loop"
    decoder: Literal["pyav", "torchcodec"] = "pyav"
    augment: Augment = field(default_factory=Augment)
    validate_every: CountOrZero = 1
    patience: Count | None = None
    keep_best: Count = 1
    save_every_s: NotNegative = 300.0
    logger: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)

    def rates(self, from_weights: bool = False, is_small: bool = False) -> Rates:
        """The learning rates of the schedule. They are derived when a training begins, after all other fields are
        known, and the run's ``recipe.json`` keeps them.

        Args:
            from_weights: training starts from given weights, not from random ones.
            is_small: the model has fewer than :data:`SMALL_PARAMETERS`.
        """
        lr = self.lr if self.lr is not None else 1e-4 if from_weights and not is_small else 1e-3
        warmup = self.warmup_epochs if self.warmup_epochs is not None else self.epochs / 15
        beginning = lr / 1000 if warmup else default_of(TrainConfig, "warmup_lr")
        end = lr / 1000 if self.schedule == "cosine" else default_of(TrainConfig, "min_lr")
        return Rates(
            lr=lr,
            warmup_epochs=warmup,
            warmup_lr=beginning if self.warmup_lr is None else self.warmup_lr,
            min_lr=end if self.min_lr is None else self.min_lr,
            layer_decay=self.layer_decay if self.layer_decay is not None else 0.75 if from_weights else 1.0,
        )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        lr, warmup = self.lr or math.inf, self.warmup_epochs or 0.0
        if warmup and warmup >= self.epochs:
            yield "warmup_epochs", f"and all {self.epochs} epochs of the training would only warm up"
        if warmup and (self.warmup_lr or 0.0) > lr:
            yield "warmup_lr", f"above the lr of {lr:g} that the warm-up leads to"
        if self.schedule == "cosine" and (self.min_lr or 0.0) > lr:
            yield "min_lr", f"above the lr of {lr:g} that falls to it"
        if self.schedule == "steps":
            steps = (warmup, *self.milestones, self.epochs)
            if not self.milestones:
                yield "milestones", "so that schedule='steps' never lowers the learning rate"
            elif any(later <= earlier for earlier, later in pairwise(steps)):
                yield "milestones", f"not rising from the end of the warm-up ({warmup:g}) to epoch {self.epochs - 1}"
        if (self.mixup or self.cutmix) and self.batch_size // self.accumulate * self.repeats < 2:
            yield "mixup" if self.mixup else "cutmix", "and there is one clip per forward pass, which needs another"
        if self.freeze and self.lora:
            yield "freeze", "beside lora, which trains only its adapters, the head and plug-ins"
        if self.class_weights is not None and self.balanced:
            yield "class_weights", "and balanced draws rare classes more often already: choose one of the two"
        if self.strategy == "fsdp":
            for name, given in (("lora", self.lora), ("ema", self.ema is not None), ("compile", self.compile)):
                if given:
                    yield (
                        "strategy",
                        f"beside {name}, which needs the whole weights in each process: choose one of them",
                    )
            if self.precision == "16-mixed":
                yield "strategy", "and the gradients of shared weights are not scaled: use precision bf16-mixed"
        if self.nesterov and self.optimizer == "sgd" and not self.momentum:
            yield "nesterov", "which needs a momentum above 0"

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.optimizer == "adamw", "optimizer='adamw'", "betas")
        yield from unless(self.optimizer == "sgd", "optimizer='sgd'", "momentum", "nesterov")
        yield from unless(self.weight_decay > 0, "weight_decay", "no_decay", "decay_biases")
        yield from unless(self.schedule == "cosine" or self.min_lr is None, "schedule='cosine'", "min_lr")
        yield from unless(self.schedule == "steps", "schedule='steps'", "milestones", "gamma")
        yield from unless(self.warmup_epochs != 0 or self.warmup_lr is None, "warmup_epochs", "warmup_lr")
        yield from unless(self.ema is not None, "ema", "ema_warmup")
        yield from unless(self.class_weights == "effective", "class_weights='effective'", "effective_beta")
        yield from unless(self.mixup > 0 or self.cutmix > 0, "mixup or cutmix", "mix_probability")
        yield from unless(self.mixup > 0 and self.cutmix > 0, "both mixup and cutmix", "mix_switch")
        yield from unless(self.validate_every > 0, "validate_every", "patience", "keep_best")


@config
class ProbeConfig:
    """Probes: classifiers on the features of a backbone that is not trained, all at once on the same batches.

    The features of all views of a video, those of the evaluation, are computed once and kept. A probe for each learning
    rate and weight decay is trained on them with AdamW and a cosine of the learning rate to 0. The one with the best
    validation top-1 becomes the model's classifier (the protocol of V-JEPA 2, Assran et al. 2025). Of ``train`` the
    fields in :data:`PROBE_FIELDS` are used.

    Attributes:
        lrs: learning rates at the first step.
        weight_decays: of weights; biases and other 1-D parameters have none.
        val: fraction of the training videos that is held out to choose the probe where the data have no validation
            split.
        cache: folder in which features are kept; empty for ``gesta/features`` in the user's cache folder.
    """

    lrs: tuple[Positive, ...] = (5e-3, 3e-3, 1e-3, 3e-4, 1e-4)
    weight_decays: tuple[NotNegative, ...] = (0.01, 0.1, 0.4, 0.8)
    val: Annotated[float, Between(0, 1, open="both")] = 0.2
    cache: str = ""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        for name in ("lrs", "weight_decays"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                yield name, "and a probe needs one value at least" if not values else "which has a value twice"


PROBE_FIELDS = (
    *("epochs", "batch_size", "label_smoothing", "class_weights", "effective_beta", "focal_gamma"),
    *("precision", "seed", "logger"),
)
"""Fields of a :class:`TrainConfig` that a training of probes uses; the others change nothing."""

CLASS_FIELDS = (
    *("label_smoothing", "mixup", "cutmix", "balanced", "class_weights", "focal_gamma"),
    *("patience", "keep_best", "augment.flip_labels"),
)
"""Fields of a :class:`TrainConfig` that need classes."""


@config
class EvaluateConfig:
    """How held-out videos are scored.

    Attributes:
        split: which split is evaluated.
        clips: temporal clips per video.
        crops: spatial crops per clip: 1 (centre) or 3 (left, centre, right; top, centre, bottom for upright videos).
        coverage: ``even`` spreads ``clips`` over the video; ``contiguous`` cuts the whole video into neighbouring
            clips (``clips`` is then not read), which is one clip where its frames are spread over all of the video
            (``model.clip.sampling`` ``uniform``).
        short_side: length of the short side before cropping, in pixels, at ``ClipSpec.size`` 224; scaled with the size.
        average: what is averaged over views: ``probabilities``, after the softmax (multi-label: the sigmoid), or
            ``logits``, before it. ``tokens`` joins the clips of each crop along the tokens that ``model.attentive``
            reads, and averages the probabilities of the crops (V-JEPA 2's protocol); the probes of ``gesta train
            probe`` are then trained on joined clips, too.
        batch_size: views per forward pass.
        workers: loader processes; -1 chooses by the number of CPU cores.
        short_videos: a video shorter than a clip is played again (``loop``) or its last frame is held (``clamp``).
        decoder: ``pyav`` or ``torchcodec``.
    """

    split: Literal["val", "test"] = "test"
    clips: Count = 5
    crops: Literal[1, 3] = 1
    coverage: Literal["even", "contiguous"] = "even"
    short_side: _Side = 256
    average: Literal["probabilities", "logits", "tokens"] = "probabilities"
    batch_size: Count = 16
    workers: _Workers = -1
    short_videos: ShortVideos = "loop"
    decoder: Literal["pyav", "torchcodec"] = "pyav"

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.coverage == "even", "coverage='even'", "clips")


@config
class Init:
    """Weights to start from.

    Attributes:
        weights: a run folder or checkpoint of gesta, or a public one whose parameter names the model can convert, as a
            file or by name: ``hf:owner/name`` of a hub, ``package:NAME`` of an installed Python package that ships one
            file of weights; None for random weights.
        average: of a file that holds both weights and their moving average, take the average.
        head: a second file, with the head that belongs to the weights, where it has one of its own (V-JEPA 2's probes).
        only: beginnings of the names of the parameters that are taken (``inserts.3.``); empty for all.
        min_matched: smallest fraction of the model's parameters (those named by ``only``), the classifier not counted,
            that the checkpoint must have; a smaller one is an error.
        expected: what the paper starts from, in words; a training without weights then says so, and its result fills
            no row of the paper's tables.
    """

    weights: str | None = None
    average: bool = True
    head: str | None = None
    only: tuple[str, ...] = ()
    min_matched: Fraction = 0.5
    expected: str = ""

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.weights is not None, "weights", "head")
        expects = self.weights is not None or bool(self.expected)  # recipes say how, before a flag says which
        yield from unless(expects, "weights", "average", "only", "min_matched")


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
        probe: train nothing but probes on the model's features; None trains the model.
        paper: the source: authors, year, table.
    """

    name: str
    model: ModelConfig
    data: DataConfig
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    init: Init = field(default_factory=Init)
    probe: ProbeConfig | None = None
    paper: str = ""

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.evaluate.average == "tokens" and self.model.attentive is None:
            yield "evaluate.average", "and the model has no attentive head (model.attentive) to read joined tokens"
        augment = self.train.augment
        moves = {
            "train.augment.crop": augment.crop != "short_side",
            "train.augment.scale": augment.scale != (1.0, 1.0),
            "train.augment.flip": augment.flip > 0,
            "train.augment.rotate": augment.rotate > 0,
            "train.augment.randaugment": augment.randaugment > 0,
            "train.cutmix": self.train.cutmix > 0,
            "evaluate.short_side": self.evaluate.short_side != 224,  # a larger one leaves edges out
        }
        for name in (name for name, is_so in moves.items() if is_so and self.data.labels_are_positions()):
            yield name, "which moves the picture, and the labels of the data set are positions in it"

    def unused(self) -> Iterator[tuple[str, str]]:
        of_training = [f"train.{f.name}" for f in fields(TrainConfig) if f.name not in PROBE_FIELDS]
        of_model = ["model.drop_path", "model.activation_checkpointing"]
        yield from unless(
            self.probe is None, "a training of the whole model (probe None)", *of_training, *of_model, "data.cache"
        )
        of_classes = [f"train.{name}" for name in CLASS_FIELDS]
        of_classes += [f"evaluate.{f.name}" for f in fields(EvaluateConfig)]
        yield from unless(self.model.learns_classes, "classes, which this model does not learn", *of_classes)


def with_absolute_paths(recipe: Recipe) -> Recipe:
    """A copy whose paths, of the data set and of the first weights, no longer depend on the current folder."""
    absolute = copy(recipe)
    absolute.data.make_absolute()
    if absolute.probe and absolute.probe.cache:
        absolute.probe.cache = os.path.abspath(absolute.probe.cache)
    for name in ("weights", "head"):
        path = getattr(absolute.init, name)
        if path and is_path(path):
            setattr(absolute.init, name, os.path.abspath(path))
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
