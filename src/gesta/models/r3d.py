"""3-D ResNet: the plain convolutional backbone of ST-MANet, and the first one without tokens.

Source: K. Hara, H. Kataoka, Y. Satoh, "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?",
CVPR 2018; the network of Y. Wang, ComSIS 21(4), 2024, §3.1. Parameter names are those of Hara's public checkpoints, so
they load as they are (only ``fc`` is renamed).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import field
from typing import cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from gesta.config import Count, config
from gesta.layers.pointwise import Pointwise
from gesta.model import Classifier, ClipSpec, Grid, ModelConfig, VideoModel, drop_path_rates

EXPANSION = 4  # a bottleneck gives four times its width


@config
class R3DConfig(ModelConfig):
    """Sizes of a 3-D ResNet made of bottlenecks.

    Attributes:
        depths: bottlenecks in each of the four stages.
        width: channels of the stem and of the first stage's bottlenecks; each further stage doubles it.
        stem_kernel: frames, rows and columns of the first convolution, odd.
        time_strides: of the first convolution, the max-pool and the last three stages; in space all have 2.
    """

    depths: tuple[Count, Count, Count, Count] = (3, 4, 6, 3)
    width: Count = 64
    stem_kernel: tuple[Count, Count, Count] = (7, 7, 7)
    time_strides: tuple[Count, Count, Count, Count, Count] = (1, 2, 2, 2, 2)
    clip: ClipSpec = field(
        default_factory=lambda: ClipSpec(
            frames=32, stride=2, size=112, mean=(0.4345, 0.4051, 0.3775), std=(0.2768, 0.2713, 0.2737)
        )
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from ModelConfig.contradictions(self)
        if not all(size % 2 for size in self.stem_kernel):
            yield "stem_kernel", "and its sizes must be odd, or maps would be larger than plug-ins are built for"

    def build(self) -> R3DTrunk:
        return R3D(self)


def r3d_50() -> R3DConfig:
    """3-D ResNet-50 on 32 frames of 112 × 112, every second frame."""
    return R3DConfig()


def r3d_tiny() -> R3DConfig:
    """A narrow network of four bottlenecks for CPUs: 16 frames of 64 × 64."""
    config = R3DConfig(depths=(1, 1, 1, 1), width=12)
    config.clip.frames, config.clip.size = 16, 64
    return config


class Bottleneck(nn.Module):
    """1×1×1 (w) – 3×3×3 (w, carries the stride) – 1×1×1 (4w), batch norm after each, shortcut of type B.

    Args:
        inputs: channels of the input.
        width: w; the output has ``4 * w`` channels.
        stride: of time and space alike, or of time, height and width.
        drop_path: probability of leaving the branch out for a clip in training.
    """

    def __init__(self, inputs: int, width: int, stride: int | tuple[int, int, int], drop_path: float) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = Pointwise(inputs, width, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = Pointwise(width, outputs, bias=False)
        self.bn3 = nn.BatchNorm3d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path)
        self.downsample: nn.Module = nn.Identity()
        if self.conv2.stride != (1, 1, 1) or inputs != outputs:
            self.downsample = nn.Sequential(Pointwise(inputs, outputs, stride, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, T, H, W)`` to ``(B, 4w, T / stride, H / stride, W / stride)``, sizes rounded up."""
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return self.relu(self.drop_path(branch) + self.downsample(x))


class R3DTrunk(VideoModel):
    """Stem and stages of a 3-D ResNet in Hara's names, for models that differ in what goes between and after them.

    Args:
        stages: how many of the four are built.
    """

    config: R3DConfig
    bottleneck = Bottleneck

    def __init__(self, config: R3DConfig, stages: int = 4) -> None:
        super().__init__(config)
        width, kernel = config.width, config.stem_kernel
        in_conv, in_pool, *in_stages = config.time_strides
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv1 = nn.Conv3d(3, width, kernel, (in_conv, 2, 2), padding, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d(3, (in_pool, 2, 2), padding=1)
        rates = list(drop_path_rates(config.drop_path, sum(config.depths[:stages])))
        inputs = width
        for stage in range(stages):
            first = (in_stages[stage - 1], 2, 2) if stage else 1
            blocks = []
            for i in range(config.depths[stage]):
                blocks.append(self.bottleneck(inputs, width, 1 if i else first, rates.pop(0)))
                inputs = EXPANSION * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            width *= 2
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem_map(self, video: Tensor) -> Tensor:
        """Convolution, batch norm, ReLU, max-pool: ``(B, 3, T, H, W)`` to ``(B, w, T / 2, H / 4, W / 4)`` (Hara).

        Channels lie last: on CPUs max-pooling is then ten times as fast, the first convolution twice, others a little.
        """
        x = self.conv1(video.contiguous(memory_format=torch.channels_last_3d))
        return self.maxpool(self.relu(self.bn1(x)))

    def bottlenecks(self, stage: int) -> list[Bottleneck]:
        """The blocks of ``layer1`` … ``layer4`` in order."""
        return [cast(Bottleneck, block) for block in cast(nn.Sequential, self.get_submodule(f"layer{stage}"))]

    def grid_at(self, block: int) -> Grid:
        clip, channels = self.config.clip, self.config.width
        frames, size = _after(clip.frames, math.prod(self.config.time_strides[:2])), _after(clip.size, 4)
        for module in self.blocks[:block]:
            if isinstance(module, Bottleneck):
                channels = module.conv3.out_channels
                frames, size = _after(frames, module.conv2.stride[0]), _after(size, module.conv2.stride[1])
        return channels, frames, size, size

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hara's names: ``module.`` of data-parallel training is dropped, ``fc`` is our classifier."""
        renamed = {}
        for name, value in weights.items():
            name = name.removeprefix("module.")
            if name.startswith("fc.") and not isinstance(self.config.classes, dict):
                name = "classifier.linear." + name.removeprefix("fc.")
            renamed[name] = value
        return renamed


class R3D(R3DTrunk):
    """3-D ResNet. Its blocks are the bottlenecks; the stages of ``r3d_50`` start at blocks 0, 3, 7 and 13.

    The state between blocks is the feature map itself.
    """

    def __init__(self, config: R3DConfig) -> None:
        super().__init__(config)
        self.classifier = Classifier(self.bottlenecks(4)[-1].conv3.out_channels, config.classes, config.dropout)
        self.finish()

    @property
    def blocks(self) -> list[Bottleneck]:
        """All bottlenecks in order."""
        return [block for stage in range(1, 5) for block in self.bottlenecks(stage)]

    def stem(self, video: Tensor) -> Tensor:
        return self.stem_map(video)

    def pool(self, state: Tensor) -> Tensor:
        """Mean over time and space."""
        return state.mean((2, 3, 4))

    def to_grid(self, state: Tensor) -> Tensor:
        return state

    def from_grid(self, grid: Tensor, state: Tensor) -> Tensor:
        return grid


def _after(size: int, stride: int) -> int:
    return -(-size // stride)
