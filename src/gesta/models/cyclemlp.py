"""CycleMLP on every frame: a backbone of linear layers whose inputs are channels of neighbouring positions.

Source: S. Chen et al., "CycleMLP: A MLP-like Architecture for Dense Prediction", ICLR 2022, §3 and Table 1; how the
branches are weighed, the overlapping patches and the weights' names are those of the public code (ShoufaChen/CycleMLP),
whose B5 is the backbone of ATA (Y. Zhao et al., NeurIPS 2022, Table 3).

A Cycle FC is a linear layer whose input channels are taken along one axis in turn: the first from here, the second from
one position ahead, the third from one back, and so on. The public code calls a deformable convolution for that and pays
for arbitrary offsets. These are fixed, so a depthwise convolution with a single 1 per kernel takes the same numbers,
bit by bit, and an ordinary linear layer does the rest. While operations are counted (:mod:`gesta.cost`) it is the
deformable convolution.
"""

from __future__ import annotations

import re
from typing import Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from gesta.config import Count, Positive, config
from gesta.cost import is_counting
from gesta.errors import GestaError
from gesta.layers.mlp import mlp
from gesta.model import ClipSpec, drop_path_rates
from gesta.models.frames import FrameModel, FramesConfig, State, temporal_inserts
from gesta.plugins.ata import ATA

Axis = Literal["width", "height"]

CYCLE = 3
"""Stepsize of all Cycle FCs: channels are taken from here, one ahead and one back in turn."""


@config
class CycleMLPConfig(FramesConfig):
    """Sizes of a CycleMLP.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage.
        mlp_ratio: hidden width of the channel MLPs, in widths.
    """

    depths: tuple[Count, ...] = (3, 4, 24, 3)
    widths: tuple[Count, ...] = (96, 192, 384, 768)
    mlp_ratio: Positive = 4.0

    def build(self) -> CycleMLP:
        return CycleMLP(self)


def cyclemlp_b5() -> CycleMLPConfig:
    """CycleMLP-B5 on 8 frames of 224 × 224, every 32nd frame (ATA's "averaging").

    The published 75.3 M parameters are without the time embedding, our addition of 768.
    """
    return CycleMLPConfig()


def ata_cyclemlp_b5() -> CycleMLPConfig:
    """CycleMLP-B5 with temporal attention and ATA before each of its 34 blocks (102.8 M without the time embedding)."""
    config = cyclemlp_b5()
    config.inserts = temporal_inserts(config, ATA())
    return config


def cyclemlp_tiny() -> CycleMLPConfig:
    """Five narrow blocks in four stages for CPUs: 8 frames of 64 × 64, every fourth frame."""
    return CycleMLPConfig(
        depths=(1, 1, 2, 1),
        widths=(32, 64, 128, 192),
        small_init=True,
        clip=ClipSpec(frames=8, stride=4, size=64),
    )


def ata_cyclemlp_tiny() -> CycleMLPConfig:
    """The CycleMLP for CPUs with temporal attention and ATA before each block."""
    config = cyclemlp_tiny()
    config.inserts = temporal_inserts(config, ATA())
    return config


class CycleFC(nn.Linear):
    """Linear layer whose input channels come from neighbouring positions along one axis (§3.2), zeros beyond the edge.

    Args:
        width: C, in and out.
        axis: the axis along which channels are taken.
    """

    kernel: Tensor

    def __init__(self, width: int, axis: Axis) -> None:
        super().__init__(width, width)
        self.axis = axis
        ahead = (torch.arange(width) + 1) % CYCLE  # 0, 1, 2: taken from one back, here, one ahead
        kernel = F.one_hot(ahead, CYCLE).to(self.weight.dtype).view(width, 1, 1, CYCLE)
        self.register_buffer("kernel", kernel if axis == "width" else kernel.mT, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """``(N, H, W, C)`` to the same shape."""
        images = input.permute(0, 3, 1, 2)
        if is_counting():
            offset = self.offsets().to(input).expand(input.shape[0], -1, *input.shape[1:3])
            return deform_conv2d(images, offset, self.weight[..., None, None], self.bias).permute(0, 2, 3, 1)
        padding = [size // 2 for size in self.kernel.shape[2:]]
        taken = F.conv2d(images, self.kernel, padding=padding, groups=self.in_features)
        return super().forward(taken.permute(0, 2, 3, 1))

    def offsets(self) -> Tensor:
        """The same as offsets of a deformable convolution, ``(1, 2C, 1, 1)``: (down, right) for every channel."""
        step = self.kernel.flatten(1).argmax(1) - CYCLE // 2
        still = torch.zeros_like(step)
        return torch.stack([still, step] if self.axis == "width" else [step, still], 1).view(1, -1, 1, 1)


class CycleMixing(nn.Module):
    """Cycle FCs along both axes and a linear layer at each position, weighed per image and channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp_c = nn.Linear(width, width, bias=False)
        self.sfc_h = CycleFC(width, "width")  # the public code's names are of the kernel (1, 3), and of (3, 1)
        self.sfc_w = CycleFC(width, "height")
        self.reweight = nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, 3 * width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C)`` to the same shape."""
        h, w, c = self.sfc_h(x), self.sfc_w(x), self.mlp_c(x)
        shares = self.reweight((h + w + c).mean((1, 2))).unflatten(1, (-1, 3)).softmax(2)[:, None, None]
        return self.proj(h * shares[..., 0] + w * shares[..., 1] + c * shares[..., 2])


class Block(nn.Module):
    """Mixing of positions and an MLP on channels, each with a shortcut; the last of a stage leads over to the next.

    Args:
        width: C.
        mlp_ratio: hidden width of the MLP, in widths.
        drop_path: probability of leaving a branch out for a frame in training.
        leads_to: channels of the next stage, whose map is half as high and wide; None within a stage.
    """

    def __init__(self, width: int, mlp_ratio: float, drop_path: float, leads_to: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = CycleMixing(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = mlp(width, mlp_ratio)
        self.drop_path = DropPath(drop_path)
        self.downsample = nn.Conv2d(width, leads_to, 3, stride=2, padding=1) if leads_to else None

    def forward(self, state: State) -> State:
        x, frames = state
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        if self.downsample is not None:
            x = self.downsample(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return State(x, frames)


class CycleMLP(FrameModel):
    """CycleMLP on every frame. The stages of ``cyclemlp_b5`` start at blocks 0, 3, 7 and 31."""

    config: CycleMLPConfig
    layout = "NHWC"

    def __init__(self, config: CycleMLPConfig) -> None:
        super().__init__(config)
        if len(config.depths) != len(config.widths):
            raise GestaError(
                f"a CycleMLP needs depths and widths for as many stages, not {config.depths} and {config.widths}"
            )
        if not config.widths or min(config.widths) < 4:
            raise GestaError(f"a CycleMLP needs a stage, and 4 channels or more in each, not widths {config.widths}")
        self.patch_embed = nn.Conv2d(3, config.widths[0], 7, stride=4, padding=2)
        self.blocks = nn.ModuleList()
        rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        edge = (config.clip.size - 3) // 4 + 1
        grids = []
        for depth, width, following in zip(config.depths, config.widths, [*config.widths[1:], None]):
            for i in range(depth):
                leads_to = following if i == depth - 1 else None
                self.blocks.append(Block(width, config.mlp_ratio, next(rates), leads_to))
                grids.append((width, config.clip.frames, edge, edge))
            if following:
                edge = -(-edge // 2)
        grids.append(grids[-1])
        self.norm = nn.LayerNorm(config.widths[-1])
        self.finish_frames(grids, config.widths[-1], std=0.02)

    def stem_of_images(self, images: Tensor) -> Tensor:
        return self.patch_embed(images).permute(0, 2, 3, 1)

    def pool_images(self, images: Tensor, frames: int) -> Tensor:
        return self.norm(images).unflatten(0, (-1, frames)).mean((1, 2, 3))

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of the public checkpoints to ours. The offsets stored there are fixed by the structure and left out.

        Raises:
            GestaError: Cycle FCs with other offsets.
        """
        ours: dict[str, str] = {}
        block = 0
        for stage, depth in enumerate(self.config.depths):
            for i in range(depth):
                ours[f"network.{2 * stage}.{i}"] = f"blocks.{block}"
                block += 1
            ours[f"network.{2 * stage + 1}.proj"] = f"blocks.{block - 1}.downsample"
        renamed: dict[str, Tensor] = {}
        for name, value in weights.items():
            name = name.removeprefix("module.")
            module = ".".join(name.split(".")[:3])
            name = ours.get(module, module) + name.removeprefix(module)
            for pattern, replacement in _FOREIGN:
                name = re.sub(pattern, replacement, name)
            if name.endswith(".offset"):
                self._check_offset(name, value)
            else:
                renamed[name] = value.flatten(1) if re.search(r"\.sfc_[hw]\.weight$", name) else value
        return renamed

    def _check_offset(self, name: str, value: Tensor) -> None:
        layer = dict(self.named_modules()).get(name.removesuffix(".offset"))
        if isinstance(layer, CycleFC) and not torch.equal(layer.offsets().to(value), value):
            raise GestaError(f"{name}: only the published models' Cycle FCs, of stepsize {CYCLE}, are supported")


_FOREIGN: tuple[tuple[str, str], ...] = (
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"\.(mlp|reweight)\.fc1\.", r".\1.0."),
    (r"\.(mlp|reweight)\.fc2\.", r".\1.2."),
    (r"^head\.", "classifier.linear."),
)
"""Patterns of public names and ours."""
