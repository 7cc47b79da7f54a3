"""Two networks side by side, one on RGB and one on depth, that are trained together.

The papers here train one network per modality and fuse scores (``gesta fuse``); this is the other usual way, for
comparison: features of both, concatenated, go to one classifier (Simonyan & Zisserman, NeurIPS 2014, fuse scores;
Feichtenhofer et al., CVPR 2016, compare the places where two streams can meet). Where a modality is missing, the
features of the other one count twice.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from gesta.config import config, replace
from gesta.errors import GestaError
from gesta.model import Classifier, ClipSpec, Grid, ModelConfig, VideoModel
from gesta.models.mfst import mfst_large, mfst_tiny

NAMES = ("rgb", "depth")


@config
class TwoStreamConfig(ModelConfig):
    """Two networks with equally many blocks and maps of one size.

    Classes, clips, dropout, stochastic depth and recomputation are those of the whole; what the two say is not read.

    Attributes:
        rgb: the network of RGB.
        depth: the network of depth.
    """

    rgb: ModelConfig = field(default_factory=mfst_large)
    depth: ModelConfig = field(default_factory=lambda: replace(mfst_large(), cdc="t"))
    clip: ClipSpec = field(default_factory=lambda: replace(mfst_large().clip, streams=NAMES))

    def build(self) -> TwoStream:
        return TwoStream(self)


def mfst_rgbd() -> TwoStreamConfig:
    """MFST-Large on RGB and depth at once: central differences over space and time for RGB, over time for depth."""
    return TwoStreamConfig()


def mfst_rgbd_tiny() -> TwoStreamConfig:
    """Two ``mfst_tiny`` on RGB and depth at once."""
    rgb = mfst_tiny()
    return TwoStreamConfig(rgb=rgb, depth=replace(rgb, cdc="t"), clip=replace(rgb.clip, streams=NAMES))


class State(NamedTuple):
    """What goes from block to block.

    Attributes:
        rgb: state of the network of RGB.
        depth: state of the network of depth.
        there: ``(B, 2)`` bool; whether a clip has that stream.
    """

    rgb: Any
    depth: Any
    there: Tensor


class Pair(nn.Module):
    """Block i of both networks."""

    def __init__(self, rgb: nn.Module, depth: nn.Module) -> None:
        super().__init__()
        self.rgb, self.depth = rgb, depth

    def forward(self, state: State) -> State:
        return State(self.rgb(state.rgb), self.depth(state.depth), state.there)


class TwoStream(VideoModel):
    """Two networks, block beside block; the map that plug-ins see holds the channels of both."""

    config: TwoStreamConfig
    streams: ClassVar = NAMES
    rgb: VideoModel
    depth: VideoModel

    def __init__(self, config: TwoStreamConfig) -> None:
        super().__init__(config)
        width = 0
        for name in NAMES:
            network = _part(config, name)
            width += cast(nn.Linear, network.classifier.linear).in_features
            blocks = list(network.blocks)
            del network.classifier, network.blocks  # what is registered below has the parameters
            network.blocks = blocks
            self.add_module(name, network)
        self.blocks = nn.ModuleList(map(Pair, self.rgb.blocks, self.depth.blocks))
        self.classifier = Classifier(width, config.classes, config.dropout)
        rgb, depth = ([part.grid_at(i)[1:] for i in range(len(part.blocks) + 1)] for part in (self.rgb, self.depth))
        if rgb != depth:
            raise GestaError(
                "model.rgb and model.depth must have equally many blocks, and maps of one size before each"
            )
        self.finish()

    def stem(self, video: Tensor) -> State:
        """``(B, 6, T, H, W)``, RGB before depth; a clip whose stream is NaN does without it."""
        there = ~video[:, ::3, 0, 0, 0].isnan()
        rgb, depth = video.nan_to_num(nan=0.0).split(3, 1)
        return State(self.rgb.stem(rgb), self.depth.stem(depth), there)

    def pool(self, state: State) -> Tensor:
        """Features of both, ``(B, D + D')``: 0 for what is not there, and those of the other then twice."""
        weight = 2 * state.there / state.there.sum(1, keepdim=True).clamp(min=1)
        features = self.rgb.pool(state.rgb), self.depth.pool(state.depth)
        return torch.cat([part * weight[:, i : i + 1].to(part.dtype) for i, part in enumerate(features)], 1)

    def to_grid(self, state: State) -> Tensor:
        return torch.cat([self.rgb.to_grid(state.rgb), self.depth.to_grid(state.depth)], 1)

    def from_grid(self, grid: Tensor, state: State) -> State:
        first = self.rgb.to_grid(state.rgb).shape[1]
        rgb, depth = grid[:, :first], grid[:, first:]
        return State(self.rgb.from_grid(rgb, state.rgb), self.depth.from_grid(depth, state.depth), state.there)

    def grid_at(self, block: int) -> Grid:
        rgb, depth = self.rgb.grid_at(block), self.depth.grid_at(block)
        return rgb[0] + depth[0], *rgb[1:]

    def scale_token(self, state: State, factor: int) -> State:
        rgb, depth = self.rgb.scale_token(state.rgb, factor), self.depth.scale_token(state.depth, factor)
        return State(rgb, depth, state.there)

    def losses(self, state: State) -> dict[str, Tensor]:
        by_stream = {"rgb": self.rgb.losses(state.rgb), "depth": self.depth.losses(state.depth)}
        return {f"{name}/{loss}": value for name, losses in by_stream.items() for loss, value in losses.items()}

    def no_weight_decay(self) -> set[str]:
        by_stream = {"rgb": self.rgb.no_weight_decay(), "depth": self.depth.no_weight_decay()}
        return {_own_name(stream, name) for stream, names in by_stream.items() for name in names}

    def _is_stem(self, name: str) -> bool:
        stream, _, rest = name.partition(".")
        return stream in NAMES and getattr(self, stream)._is_stem(rest)


def _part(config: TwoStreamConfig, name: str) -> VideoModel:
    """The network of one stream, with a classifier that is to be thrown away."""
    part: ModelConfig = getattr(config, name)
    if part.inserts:
        raise GestaError(f"model.{name}.inserts are not run here; give the whole plug-ins (model.inserts)")
    if part.attentive:
        raise GestaError(f"model.{name}.attentive is not run here; give it to the whole (model.attentive)")
    clip = replace(config.clip, streams=())
    network = replace(part, classes=1, clip=clip, drop_path=config.drop_path, activation_checkpointing=False).build()
    if "blocks" not in network._modules:
        raise GestaError(
            f"model.{name}: the blocks of {type(network).__name__} do not lie in one list, so none can pair"
        )
    return network


def _own_name(stream: str, name: str) -> str:
    """The name here of a parameter of one of the networks."""
    first, _, rest = name.partition(".")
    if first != "blocks":
        return f"{stream}.{name}"
    number, _, rest = rest.partition(".")
    return f"blocks.{number}.{stream}.{rest}"
