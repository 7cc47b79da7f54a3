"""What a class token attends to, frame by frame, and which frames a model drops (Fig. 3.1 of Y. Ma's thesis).

The weights are those of the forward pass itself: queries and keys are taken where a block hands them to attention. So
it works for every model whose blocks attend from a class token to the patches of a frame or of the whole clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gesta.analysis.figures import hide_axes, hide_top_right_spines, new_figure, show_frame, show_heat, spread_frames
from gesta.analysis.measured import plain
from gesta.analysis.sources import as_input, check_block
from gesta.errors import GestaError
from gesta.evaluation.health import attention_weights
from gesta.model import VideoModel, hooked
from gesta.progress import join_lines

COLUMNS = 16
"""Frames that are drawn at most."""

PREFIX = 8
"""Tokens before the patches at most: class token and registers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameDrop:
    """One layer that drops frames."""

    block: int  # its index in the model
    frames: list[float]  # positions of the frames that enter it, in frames of the clip
    deviation: list[float]  # σ of each frame's attention (Eq. 3.13), mean of the heads
    kept: list[float]  # positions of the frames that stay, in any of the heads where each of them chooses
    per_head: bool = False  # each head chooses
    matters: bool = True  # the model's scores depend on the choice


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Attention:
    """Attention of a clip's class token(s) to its patches."""

    name: str
    block: int  # whose attention
    clip: Tensor  # raw frames (T, 3, S, S) uint8
    map: Tensor  # (T', H, W), mean of the heads; what is missing to a sum of 1 goes to other tokens than patches
    per_frame: bool  # whether the sum is that of each frame, to which the class token attends alone, or of all of them
    drops: list[FrameDrop]  # the layers that drop frames, in their order

    def map_of(self, frame: int) -> Tensor:
        """The part of the map ``(H, W)`` that a frame of the clip belongs to."""
        return self.map[frame * len(self.map) // len(self.clip)]

    def to_json(self) -> dict[str, Any]:
        """All but the clip."""
        fields = {"frames": len(self.clip), "per_frame": self.per_frame, "attention": self.map.tolist()}
        return {"model": self.name, "block": self.block} | fields | {"drops": plain(self.drops)}

    def __str__(self) -> str:
        by_frame = self.map.flatten(1).sum(1)
        total = by_frame.mean() if self.per_frame else by_frame.sum()
        attends = f"the class token attends to patches by {total:.0%}, to itself by the remainder"
        lines = [f"{self.name}: in block {self.block} {attends}"]
        if not self.per_frame and len(by_frame) > 1:
            lines.append("  by frame: " + ", ".join(f"{value / by_frame.sum():.0%}" for value in by_frame))
        for drop in self.drops:
            kept = ", ".join(f"{frame:g}" for frame in drop.kept)
            who = f"the heads of block {drop.block} together keep" if drop.per_head else f"block {drop.block} keeps"
            unread = "" if drop.matters else " (no score depends on it: only the class token is read afterwards)"
            lines.append(f"{who} {len(drop.kept)} of {len(drop.frames)} frames: {kept}{unread}")
        return join_lines(lines)


@torch.inference_mode()
def measure_attention(name: str, model: VideoModel, clip: Tensor, *, block: int | None = None) -> Attention:
    """Attention of the class token to the patches of a clip.

    Args:
        name, model, clip: as in :mod:`gesta.analysis`.
        block: which; None for the last one in which a class token attends to patches.

    Raises:
        GestaError: no such block, or none in which a class token attends to patches.
    """
    if block is not None:
        check_block(model, block)
    video = as_input(clip, model)
    weights = class_token_weights(model, video, range(len(model.blocks)) if block is None else [block])
    if not weights:
        where = "" if block is None else f" in block {block}"
        others = "rpe_stdt_b12, ctn_b, timesformer_b and image ViTs by timm_frames"
        raise GestaError(f"{name} has no class token that attends to patches{where}; models with one are {others}")
    last = max(weights)
    attention, per_frame = weights[last]
    drops = _frame_drops(model, video)
    return Attention(name=name, block=last, clip=clip, map=attention.cpu(), per_frame=per_frame, drops=drops)


def _frame_drops(model: VideoModel, video: Tensor) -> list[FrameDrop]:
    """The layers that drop frames, as a model with a method ``kept_frames(video)`` reports them."""
    kept_frames: Callable[[Tensor], Sequence[Any]] | None = getattr(model, "kept_frames", None)
    drops = []
    for kept in kept_frames(video) if kept_frames is not None else ():
        frames, per_head = kept.frames[0].tolist(), kept.kept.dim() == 3
        deviation = (kept.deviation[0].mean(0) if per_head else kept.deviation[0]).tolist()
        stay = [frames[i] for i in kept.kept[0].unique().tolist()]
        drops.append(
            FrameDrop(
                block=kept.block,
                frames=frames,
                deviation=deviation,
                kept=stay,
                per_head=per_head,
                matters=kept.matters,
            )
        )
    return drops


@torch.inference_mode()
def class_token_weights(model: VideoModel, video: Tensor, blocks: Sequence[int]) -> dict[int, tuple[Tensor, bool]]:
    """Weights of the class token in each of these blocks that has one.

    A block may attend several times, over time and then in space; the last call that fits counts. Only attention by
    PyTorch's ``scaled_dot_product_attention`` is seen.

    Args:
        model: in evaluation mode.
        video: one normalised clip ``(1, 3, T, H, W)``.
        blocks: which.

    Returns:
        Block → weights ``(T', h, w)``, mean of the heads, and whether each frame is attended to alone.
    """
    weights: dict[int, tuple[Tensor, bool]] = {}
    current: dict[str, Any] = {}  # the block that is running and its grid; empty between blocks

    class RecordAttention(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            attends = func is F.scaled_dot_product_attention and bool(current)
            if attends and (of_call := _class_weights(current["grid"], *args, **kwargs)):
                weights[current["block"]] = of_call
            return func(*args, **kwargs)

    def begin(block: int, module: Any, inputs: tuple[Any, ...]) -> None:
        current.update(block=block, grid=tuple(model.to_grid(inputs[0]).shape[2:]))

    def end(module: Any, inputs: Any, result: Any) -> None:
        current.clear()

    begins = {model.blocks[i]: partial(begin, i) for i in blocks}
    with hooked(dict.fromkeys(begins, end), pre=begins), RecordAttention():
        model.embed(video)
    return weights


def _class_weights(
    grid: tuple[int, int, int], query: Tensor, key: Tensor, *others: Any, **named: Any
) -> tuple[Tensor, bool] | None:
    """The first query's weights on the patches if all patches of a clip, or of each frame, are keys; else None."""
    frames, height, width = grid
    batch, count = len(key), key.shape[-2]
    for images, patches in ((frames, height * width), (1, frames * height * width)):
        prefix = count - patches
        if batch == images and height * width > 1 and 1 <= prefix <= PREFIX:
            weights = attention_weights(slice(0, 1), query, key, *others, **named)
            if weights is None:
                return None
            of_patches = weights[..., 0, prefix:].flatten(1, -2).mean(1)
            return of_patches.reshape(frames, height, width), images == frames and frames > 1
    return None


def draw_attention(measured: Attention) -> Figure:
    """The frames, attention over them on one colour scale, and σ of the layers that drop frames, kept ones dark.

    The frames marked are those that the last layer keeps whose choice changes scores.
    """
    clip, drops = measured.clip, measured.drops
    choices = [drop for drop in drops if drop.matters]
    shown = spread_frames(len(clip), COLUMNS)
    heights = [1.0, 1.0] + [0.75] * len(drops)
    figure = new_figure(1.2 * len(shown) + 1.5, 1.2 * sum(heights) + 0.5, frames_apart=(0.03, 0.02))
    widths = [1] * len(shown) + [0.07]
    table = figure.add_gridspec(len(heights), len(widths), width_ratios=widths, height_ratios=heights)
    whole_frames = bool(choices) and not choices[-1].per_head
    last = set(choices[-1].kept) if whole_frames else set()
    low, high = np.quantile(measured.map.numpy(), (0.01, 0.995))
    for column, frame in enumerate(shown):
        above, below = figure.add_subplot(table[0, column]), figure.add_subplot(table[1, column])
        stays = not whole_frames or frame in last
        above.set_title(f"frame {frame}" + " ✓" * (whole_frames and stays), fontsize=9)
        show_frame(above, clip[frame], alpha=1.0 if stays else 0.45)
        heat = show_heat(below, clip[frame], measured.map_of(frame), low, high, alpha=0.55)
        for axes in (above, below):
            hide_axes(axes)
        if not column:
            above.set_ylabel("video", fontsize=9)
            below.set_ylabel(f"attention,\nblock {measured.block}", fontsize=9)
    figure.colorbar(heat, cax=figure.add_subplot(table[1, -1])).ax.tick_params(labelsize=7)
    for row, drop in enumerate(drops):
        _draw_deviation(figure.add_subplot(table[2 + row, :-1]), drop, len(clip))
    where = "each frame" if measured.per_frame else "the whole clip"
    figure.suptitle(f"{measured.name}: what the class token attends to in {where}, mean of the heads", fontsize=10)
    return figure


def _draw_deviation(axes: Axes, drop: FrameDrop, frames: int) -> None:
    colours = ["#1d4ed8" if frame in drop.kept else "#c3cad6" for frame in drop.frames]
    axes.bar(drop.frames, drop.deviation, width=0.7, color=colours)
    axes.set_xlim(-0.5, frames - 0.5)
    values = np.array(drop.deviation)  # σ differs little: let the bars start where they differ
    spread = max(float(np.ptp(values)), 1e-9)
    axes.set_ylim(max(0.0, values.min() - 0.4 * spread), values.max() + 0.15 * spread)
    axes.set_xticks(range(frames) if frames <= 32 else [])
    axes.tick_params(labelsize=7)
    axes.set_ylabel(f"σ, block {drop.block}\nkeeps {len(drop.kept)}{'' if drop.matters else ', unread'}", fontsize=9)
    hide_top_right_spines(axes)
