"""Image backbones as video models: every frame is an image of the batch, and any block may get a layer that sees time.

Source: the per-frame backbones of Y. Zhao et al., "Alignment-guided Temporal Attention for Video Action Recognition",
NeurIPS 2022, §4.3 and Table 3. ``averaging`` is such a model alone (TSN: L. Wang et al., ECCV 2016); ``attention`` and
``ATA`` are the same with :func:`temporal_inserts`, a temporal attention before every block.

:class:`TimmFrames` takes an image model of timm apart: what comes before its first block and its head stay in timm's
own code, the blocks become ours to loop over. That is exact only where the blocks are a plain chain, which a pass
without weights or data proves when the model is built: each part must be called once, with nothing but the very tensor
that the part before it gave. Other models are refused.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isqrt
from typing import Any, Literal, NamedTuple, TypedDict, cast

import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from gesta.config import Count, CountOrZero, NotNegative, Positive, config, copy, from_json, suggest
from gesta.errors import GestaError
from gesta.layers.init import Standardise, init_small
from gesta.layers.resize import resize_line
from gesta.layers.temporal import TemporalAttention
from gesta.model import AroundConfig, Classifier, ClipSpec, Grid, Insert, ModelConfig, VideoModel, block_grids

Layout = Literal["NCHW", "NHWC", "NLC"]
"""How an image backbone keeps its maps: channels first, channels last, or tokens with class tokens first."""


@config
class FramesConfig(ModelConfig):
    """What all image backbones share. Stochastic depth (``drop_path``) leaves branches out frame by frame.

    Attributes:
        time_embed: add a vector per frame, zeros at first, to the map behind the stem (the paper is silent on it).
        small_init: our addition for narrow models and few videos, see :mod:`gesta.layers.init`.
    """

    time_embed: bool = True
    small_init: bool = False
    clip: ClipSpec = field(default_factory=lambda: ClipSpec(frames=8, stride=32, size=224))


class State(NamedTuple):
    """What goes from block to block.

    Attributes:
        images: ``(B·T, ...)`` in the backbone's own layout.
        frames: T, a plain number.
    """

    images: Tensor
    frames: int


class Block(nn.Sequential):
    """Parts of an image backbone one after the other, on the images of a :class:`State`."""

    def forward(self, state: State) -> State:  # type: ignore[override]
        return State(super().forward(state.images), state.frames)


class FrameModel(VideoModel):
    """Base of image backbones: folding, time embedding, layouts. A subclass says what happens to images.

    It sets :attr:`blocks`, calls :meth:`finish_frames` at the end of its ``__init__``, and implements
    :meth:`stem_of_images` and :meth:`pool_images`.
    """

    config: FramesConfig
    layout: Layout = "NCHW"
    prefix_tokens: int = 0

    def stem_of_images(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)``, channels last in memory, to the first block's input."""
        raise NotImplementedError

    def pool_images(self, images: Tensor, frames: int) -> Tensor:
        """The last block's output for ``(B·T, ...)`` to features ``(B, D)``, the mean over frames and positions."""
        raise NotImplementedError

    def finish_frames(self, grids: list[Grid], features: int, std: float | None = None) -> None:
        """Time embedding, classifier and inserts.

        Args:
            grids: the map before every block and after the last.
            features: D of the pooled features.
            std: linear layers start with weights of this deviation and biases of 0; None leaves them as they are.
        """
        config = self.config
        self._grids = grids
        self.time_embed: nn.Parameter | None = None
        if config.time_embed:
            self.time_embed = nn.Parameter(torch.zeros(1, config.clip.frames, grids[0][0]))
        self.standardise = Standardise(features) if config.small_init else nn.Identity()
        self.classifier = Classifier(features, config.classes, config.dropout)
        if std is not None:
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=std)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        if config.small_init:
            init_small(self)
        self.finish()

    def stem(self, video: Tensor) -> State:
        frames = video.shape[2]
        images = video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        state = State(self.stem_of_images(images), frames)
        if self.time_embed is None:
            return state
        times = resize_line(self.time_embed, frames).mT
        grid = self.to_grid(state)
        return self.from_grid(grid + times[..., None, None].to(grid.dtype), state)

    def pool(self, state: State) -> Tensor:
        return self.standardise(self.pool_images(*state))

    def to_grid(self, state: State) -> Tensor:
        """The maps of all frames: a view. Class tokens are left out."""
        images = state.images
        if self.layout == "NLC":
            edge = isqrt(images.shape[1] - self.prefix_tokens)
            images = images[:, self.prefix_tokens :].unflatten(1, (edge, edge))
        elif self.layout == "NCHW":
            images = images.permute(0, 2, 3, 1)
        return images.unflatten(0, (-1, state.frames)).permute(0, 4, 1, 2, 3)

    def from_grid(self, grid: Tensor, state: State) -> State:
        """A view if the map is channels last in memory and there are no class tokens."""
        images = grid.permute(0, 2, 3, 4, 1).flatten(0, 1)
        if self.layout == "NLC":
            images = images.flatten(1, 2)
            if self.prefix_tokens:
                images = torch.cat([state.images[:, : self.prefix_tokens], images], 1)
        elif self.layout == "NCHW":
            images = images.permute(0, 3, 1, 2)
        return State(images, state.frames)

    def grid_at(self, block: int) -> Grid:
        return self._grids[block]

    def no_weight_decay(self) -> set[str]:
        return set() if self.time_embed is None else {"time_embed"}


def temporal_inserts(
    config: ModelConfig,
    around: AroundConfig | None = None,
    stages: Sequence[int] | None = None,
    post_norm: bool = True,
) -> list[Insert]:
    """A temporal attention before every block of some stages (``x + fc(MHSA_T(norm(x)))``, identity at first).

    Args:
        config: the model; what is inserted into it already does not matter.
        around: what finds the routes it attends along, e.g. ``ATA()``; None for fixed positions.
        stages: which stages, from 0: a stage is a run of blocks with maps of one size. None for all.
        post_norm: see :class:`gesta.layers.temporal.TemporalAttention`.

    Raises:
        GestaError: a stage that the model does not have.
    """
    grids = block_grids(config)
    sizes = list(dict.fromkeys(grids))
    selected = range(len(sizes)) if stages is None else stages
    for stage in selected:
        if not 0 <= stage < len(sizes):
            name = type(config).__name__.removesuffix("Config")
            raise GestaError(f"{name} has no stage {stage}: its stages are 0 to {len(sizes) - 1}")
    layer = TemporalAttention(around=around, post_norm=post_norm)
    return [Insert(layer=copy(layer), at=at) for at, grid in enumerate(grids) if sizes.index(grid) in selected]


# --- image models of timm --------------------------------------------------------------------------------------------


class TimmOptions(TypedDict, total=False):
    """Arguments of timm's image models that may be given: numbers and booleans by name, checked by type.

    A file may hold them, so none may make timm open, download or import anything: ``checkpoint_path``, ``pretrained…``,
    ``cache_dir`` and whatever names a class are refused.
    """

    base_width: Count
    cardinality: Count
    channels: list[Count]
    class_token: bool
    conv_mlp: bool
    depth: Count
    depths: list[Count]
    dims: list[Count]
    embed_dim: Count | list[Count]
    img_size: Count
    init_values: NotNegative | None
    kernel_sizes: Count | list[Count]
    layers: list[Count]
    ls_init_value: NotNegative | None
    mlp_ratio: Positive
    num_heads: Count | list[Count]
    patch_size: Count
    qk_norm: bool
    qkv_bias: bool
    reg_tokens: CountOrZero
    stem_width: Count
    use_grn: bool
    window_size: Count


@config
class TimmFramesConfig(FramesConfig):
    """An image model of timm on every frame.

    Attributes:
        image: its name in timm.
        options: what differs from the model of that name, such as ``{"depths": [1, 1, 2, 1]}``.
    """

    image: str = "convnext_base"
    options: TimmOptions = field(default_factory=TimmOptions)

    def build(self) -> TimmFrames:
        return TimmFrames(self)


def timm_frames() -> TimmFramesConfig:
    """Any image model of timm on 8 frames of 224 × 224, every 32nd: ``--model timm_frames --model.image resnet18``."""
    return TimmFramesConfig(image="resnet50")


class PassThrough(nn.Module):
    """Stands in for a part that is ours now; some models hand their blocks an option they do not use."""

    def forward(self, images: Tensor, **_: None) -> Tensor:
        return images


class StemAndHead(nn.Module):
    """What an image model does before its first block, and behind its last norm (pooling, a norm), in timm's own code.

    Args:
        image: the model, with :class:`PassThrough` in place of every part that is ours.
    """

    def __init__(self, image: nn.Module) -> None:
        super().__init__()
        self.image = cast(Any, image)

    def forward(self, images: Tensor, end: Literal["stem", "head"]) -> Tensor:
        if end == "stem":
            return self.image.forward_features(images)
        return self.image.forward_head(images, pre_logits=True)


class TimmFrames(FrameModel):
    """An image model of timm on every frame; the head sees the mean of the frames' last maps.

    A downsampling between two stages belongs to the block before it, so that a layer before a stage's first block sees
    the stage's own width. Its weights are timm's: a checkpoint of the image model gives all but the classifier, the
    time embedding and the inserts.

    Raises:
        GestaError: a name or option that timm does not know, or a model that is no plain chain of blocks.
    """

    config: TimmFramesConfig

    def __init__(self, config: TimmFramesConfig) -> None:
        super().__init__(config)
        anatomy = _anatomy(config.image, json.dumps(config.options, sort_keys=True), config.clip.size)
        image = _create(config.image, config.options, config.clip.size, config.drop_path)
        self.layout, self.prefix_tokens = anatomy.layout, anatomy.prefix_tokens
        self._ours: dict[str, str] = {}  # beginnings of timm's names and ours

        def take(prefix: str, names: tuple[str, ...]) -> list[nn.Module]:
            parts = []
            for i, name in enumerate(names):
                self._ours[f"{name}."] = f"{prefix}.{i}."
                parts.append(image.get_submodule(name))
                image.set_submodule(name, PassThrough())
            return parts

        self.blocks = nn.ModuleList(Block(*take(f"blocks.{i}", names)) for i, names in enumerate(anatomy.blocks))
        self.tail = nn.Sequential(*take("tail", anatomy.tail))
        self.ends = StemAndHead(image)
        self._head = tuple(f"ends.image.{name}." for name in anatomy.head)
        classifiers = image.pretrained_cfg.get("classifier") or ()
        for name in (classifiers,) if isinstance(classifiers, str) else classifiers[:1]:
            if not isinstance(config.classes, dict):
                self._ours[f"{name}."] = "classifier.linear."
        grids = [(width, config.clip.frames, edge, edge) for width, edge in anatomy.maps]
        self.finish_frames(grids, getattr(image, "head_hidden_size", None) or image.num_features)

    def stem_of_images(self, images: Tensor) -> Tensor:
        return self.ends(images, "stem")

    def pool_images(self, images: Tensor, frames: int) -> Tensor:
        return self.ends(self.tail(images).unflatten(0, (-1, frames)).mean(1), "head")

    def no_weight_decay(self) -> set[str]:
        theirs: set[str] = getattr(self.ends.image, "no_weight_decay", set)()
        ours = {self._our_name(name) for name in theirs} & {name for name, _ in self.named_parameters()}
        return ours | FrameModel.no_weight_decay(self)

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """timm's names of the image model to ours; position embeddings for another size are resized, with a warning."""
        if any(name.startswith("ends.") for name in weights):
            return weights
        weights = _as_timm(weights)
        self._warn_of_normalisation()
        renamed = {self._our_name(name): value for name, value in weights.items()}
        if (value := renamed.get("classifier.linear.weight")) is not None:
            renamed["classifier.linear.weight"] = value.flatten(1)  # a 1×1 convolution in some models
        name, (_, _, edge, _) = "ends.image.pos_embed", self._grids[0]
        table, ours = renamed.get(name), self.state_dict().get(name)
        if (
            table is not None
            and ours is not None
            and table.dim() == ours.dim() == 3
            and table.shape[1] != ours.shape[1]
        ):
            warnings.warn(
                f"position embeddings were made for another size and are resized to {edge} × {edge}", stacklevel=2
            )
            prefix = ours.shape[1] - edge * edge
            renamed[name] = resample_abs_pos_embed(table, [edge, edge], num_prefix_tokens=prefix)
        return renamed

    def _warn_of_normalisation(self) -> None:
        """Warn if pixels are normalised very differently from what timm's weights expect, which shapes do not tell.

        The small difference between the means of ImageNet and of Kinetics, our default, causes no warning.
        """
        known = timm.get_pretrained_cfg(self.config.image)
        if known is None or not known.mean:
            return
        clip = self.config.clip
        close_means = all(abs(a - b) < 0.15 for a, b in zip(known.mean, clip.mean))
        close_stds = all(2 / 3 < a / b < 3 / 2 for a, b in zip(known.std, clip.std))
        if not (close_means and close_stds):
            mean, std = (" ".join(f"{v:g}" for v in values) for values in (known.mean, known.std))
            warnings.warn(
                f"timm's weights of {self.config.image} expect pixels of another mean and deviation: give "
                f"--model.clip.mean {mean} --model.clip.std {std}",
                stacklevel=3,
            )

    def _our_name(self, name: str) -> str:
        for theirs, ours in self._ours.items():
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return f"ends.image.{name}"

    def _is_stem(self, name: str) -> bool:
        return name.startswith(("ends.", "time_embed")) and not name.startswith(self._head)


_EFFICIENTNET = {
    "_depthwise_conv": "conv_dw",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
}
"""Parts of a block of EfficientNet: names of L. Melas-Kyriazi's code and timm's."""


def _as_timm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an EfficientNet in the names of L. Melas-Kyriazi's PyTorch code in timm's; others as they are.

    In that code blocks are numbered consecutively over all stages, and the norms of a block from 0, or from 1 if the
    block has no expansion. timm numbers blocks within their stages: a stage begins where the width at a block's end
    differs from that of the block before it.
    """
    if "_conv_stem.weight" not in weights:
        return weights
    blocks: list[str] = []  # timm's names
    stage, number, width = -1, 0, 0
    while (value := weights.get(f"_blocks.{len(blocks)}._project_conv.weight")) is not None and value.dim():
        if len(value) != width:
            stage, number, width = stage + 1, -1, len(value)
        number += 1
        blocks.append(f"blocks.{stage}.{number}")
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    renamed = {}
    for name, value in weights.items():
        first, _, end = name.partition(".")
        if first == "_blocks" and re.fullmatch(r"\d{1,3}\.\w+\..+", end) and int(end.split(".")[0]) < len(blocks):
            index, part, end = end.split(".", 2)
            expands = f"_blocks.{index}._expand_conv.weight" in weights
            convs = {"_expand_conv": "conv_pw", "_project_conv": "conv_pwl" if expands else "conv_pw"}
            norms = {f"_bn{i}": f"bn{i + expands}" for i in range(3)}
            first = f"{blocks[int(index)]}.{(_EFFICIENTNET | convs | norms).get(part, part)}"
        else:
            first = outside.get(first, first)
        renamed[f"{first}.{end}"] = value
    return renamed


@dataclass(frozen=True)
class Anatomy:
    """Where the parts of an image model are, by their names in it.

    Attributes:
        blocks: each block's parts: the block itself and what follows before the next one.
        tail: what follows the last block before the head.
        head: children used by the head only.
        maps: channels and edge of the map before every block and after the last.
        layout: of the maps.
        prefix_tokens: class tokens before the others.
    """

    blocks: tuple[tuple[str, ...], ...]
    tail: tuple[str, ...]
    head: tuple[str, ...]
    maps: tuple[tuple[int, int], ...]
    layout: Layout
    prefix_tokens: int


@lru_cache(maxsize=32)
def _anatomy(name: str, options: str, size: int) -> Anatomy:
    """Find the parts of an image model and prove that its blocks are a chain, on the meta device."""
    with torch.device("meta"):
        image = _create(name, json.loads(options), size, 0.0).eval()
    blocks = dict.fromkeys(path for path, is_block in _body(image) if is_block)
    outside = {path: child for path, child in image.named_children() if not _BODY.fullmatch(path)}
    watched = {path: image.get_submodule(path) for path, _ in _body(image)} | outside
    calls: list[tuple[str, tuple[Any, ...], Any]] = []

    def watch(path: str) -> Any:
        def note(_: nn.Module, inputs: tuple[Any, ...], others: dict[str, Any], result: Any) -> None:
            calls.append((path, (*inputs, *(v for v in others.values() if v is not None)), result))

        return watched[path].register_forward_hook(note, with_kwargs=True)

    for path in watched:
        watch(path)
    try:
        with torch.no_grad():
            result = image.forward_features(torch.empty(1, 3, size, size, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise GestaError(f"timm's {name} cannot take images of {size} × {size}: {error}") from None
    names = [path for path, _, _ in calls]
    begin = next((i for i, path in enumerate(names) if path in blocks), len(names))
    chain = calls[begin:]
    refusal = (
        f"timm's {name} is not a plain chain of blocks that pass nothing on but their map; use one that is, such as a "
        "ConvNeXt, ResNet, RegNet, PoolFormer, Swin or plain ViT"
    )
    given = [*(result for _, _, result in chain), result]
    if not chain or len(set(names)) < len(names) or not blocks.keys() <= set(names) or given[-1] is not given[-2]:
        raise GestaError(refusal)
    for (_, inputs, _), before in zip(chain, [chain[0][1][0], *given]):
        if len(inputs) != 1 or inputs[0] is not before:
            raise GestaError(refusal)
    groups: list[list[str]] = []
    for path, _, _ in chain:
        if path in blocks:
            groups.append([])
        groups[-1].append(path)
    maps = [inputs[0].shape for path, inputs, _ in chain if path in blocks]
    maps.append(next(result.shape for path, _, result in chain if path == groups[-1][0]))
    layout: Layout = "NLC" if len(maps[0]) == 3 else getattr(image, "output_fmt", "NCHW")
    prefix = getattr(image, "num_prefix_tokens", 0) if layout == "NLC" else 0
    channels = 1 if layout == "NCHW" else -1
    sizes = [(shape[channels], isqrt(shape[1] - prefix) if layout == "NLC" else shape[2]) for shape in maps]
    tokens = layout == "NLC" and (set(maps) != {maps[0]} or sizes[0][1] ** 2 != maps[0][1] - prefix)
    if tokens or any(len(shape) != len(maps[0]) for shape in maps):
        raise GestaError(refusal)  # where tokens become fewer, their order need not be that of positions
    return Anatomy(
        blocks=tuple(map(tuple, [*groups[:-1], groups[-1][:1]])),
        tail=tuple(groups[-1][1:]),
        head=tuple(path for path in outside if path not in names),
        maps=tuple(sizes),
        layout=layout,
        prefix_tokens=prefix,
    )


_BODY = re.compile(r"stages|layers|blocks|layer\d|s\d")
"""Children of timm's models that hold their blocks."""


def _body(image: nn.Module) -> Iterator[tuple[str, bool]]:
    """Names of the parts of an image model's stages, and whether each is a block or something between blocks."""

    def open_(path: str, module: nn.Module) -> Iterator[tuple[str, bool]]:
        for name, child in module.named_children():
            if name in ("downsample", "norm"):
                yield f"{path}.{name}", False
            elif type(child) in (nn.Sequential, nn.ModuleList) or hasattr(child, "blocks"):
                yield from open_(f"{path}.{name}", child)
            else:
                yield f"{path}.{name}", True

    for name, child in image.named_children():
        if _BODY.fullmatch(name):
            yield from open_(name, child)


def _create(name: str, options: TimmOptions, size: int, drop_path: float) -> Any:
    """An image model of timm with fresh weights and without classifier."""
    if not re.fullmatch(r"[\w.]+", name) or not timm.is_model(name):  # no addresses, such as hf-hub:… or local-dir:…
        raise GestaError(f"timm has no image model {name!r}{suggest(name, timm.list_models())}")
    given: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    known = timm.get_pretrained_cfg(name)
    if known is not None and known.fixed_input_size:
        given["img_size"] = size
    given |= from_json(dict(options), TimmOptions, source=f"model.options of timm's {name}")
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **given)
    except (TypeError, AssertionError, ValueError) as error:
        raise GestaError(f"timm's {name} cannot be built with {given}: {error}") from None
