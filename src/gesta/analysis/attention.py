"""What a class token looks at, frame by frame, and which frames a model drops (Fig. 3.1 of Y. Ma's thesis).

The weights are those of the forward pass itself: queries and keys are taken where a block hands them to attention. So
any model can be asked whose blocks attend from a class token to the patches of a frame or of the whole clip.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gesta.analysis.sources import as_input, no_block, read_clip, write_figure
from gesta.errors import GestaError
from gesta.model import VideoModel

COLUMNS = 16
"""Frames that are drawn at most."""

PREFIX = 8
"""Tokens before the patches at most: class token and registers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropping:
    """One layer that drops frames.

    Attributes:
        block: its number in the model.
        frames: places of the frames that enter it, in frames of the clip.
        deviation: σ of each frame's attention (Eq. 3.13), mean of the heads.
        kept: places of those that stay, where each head chooses in any of them.
        per_head: each head chooses.
    """

    block: int
    frames: list[float]
    deviation: list[float]
    kept: list[float]
    per_head: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ClassAttention:
    """Attention of a clip's class token(s) to its patches.

    Attributes:
        name: of the model.
        block: whose attention.
        frames: of the clip.
        map: ``(T', H, W)``, mean of the heads; what is missing to a sum of 1 goes to other tokens than patches.
        per_frame: whether the sum is that of each frame, to which the class token attends alone, or of all of them.
        dropping: the layers that drop frames, in their order.
    """

    name: str
    block: int
    frames: int
    map: Tensor
    per_frame: bool
    dropping: list[Dropping]

    def at(self, frame: int) -> Tensor:
        """The part of the map ``(H, W)`` that a frame of the clip belongs to."""
        return self.map[frame * len(self.map) // self.frames]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {
            "model": self.name,
            "block": self.block,
            "frames": self.frames,
            "per_frame": self.per_frame,
            "attention": self.map.tolist(),
            "dropping": [
                {"block": d.block, "frames": d.frames, "deviation": d.deviation, "kept": d.kept} for d in self.dropping
            ],
        }

    def __str__(self) -> str:
        share = self.map.flatten(1).sum(1)
        total = share.mean() if self.per_frame else share.sum()
        lines = [
            f"{self.name}: in block {self.block} the class token attends to patches by {total:.0%}, the rest to itself"
        ]
        if not self.per_frame and len(share) > 1:
            lines.append("  by frame: " + ", ".join(f"{value / share.sum():.0%}" for value in share))
        for d in self.dropping:
            kept = ", ".join(f"{frame:g}" for frame in d.kept)
            who = f"the heads of block {d.block} together keep" if d.per_head else f"block {d.block} keeps"
            lines.append(f"{who} {len(d.kept)} of {len(d.frames)} frames: {kept}")
        return "\n".join(lines)


@torch.inference_mode()
def attend(name: str, model: VideoModel, clip: Tensor, *, block: int | None = None) -> ClassAttention:
    """Attention of the class token to the patches of a clip.

    Args:
        name: what to call the model.
        model: in evaluation mode.
        clip: square raw frames ``(T, 3, S, S)`` uint8 of any size; the model sees them at its own size.
        block: which; None for the last one in which a class token attends to patches.

    Raises:
        GestaError: no such block, or none in which a class token attends to patches.
    """
    if block is not None and not 0 <= block < len(model.blocks):
        raise no_block(model, block)
    video = as_input(clip, model)
    weights = listen(model, video, range(len(model.blocks)) if block is None else [block])
    if not weights:
        where = "" if block is None else f" in block {block}"
        raise GestaError(
            f"{name} has no class token that attends to patches{where}; models with one are rpe_stdt_b12, ctn_b, "
            "timesformer_b and image ViTs by timm_frames"
        )
    at = max(weights)
    found, per_frame = weights[at]
    dropping = []
    kept_frames: Callable[[Tensor], Sequence[Any]] | None = getattr(model, "kept_frames", None)
    for kept in kept_frames(video) if kept_frames is not None else ():
        frames, per_head = kept.frames[0].tolist(), kept.kept.dim() == 3
        dropping.append(
            Dropping(
                block=kept.block,
                frames=frames,
                deviation=(kept.deviation[0].mean(0) if per_head else kept.deviation[0]).tolist(),
                kept=[frames[i] for i in kept.kept[0].unique().tolist()],
                per_head=per_head,
            )
        )
    return ClassAttention(
        name=name, block=at, frames=len(clip), map=found.cpu(), per_frame=per_frame, dropping=dropping
    )


@torch.inference_mode()
def listen(model: VideoModel, video: Tensor, blocks: Sequence[int]) -> dict[int, tuple[Tensor, bool]]:
    """Weights of the class token in each of these blocks that has one.

    A block may attend several times, over time and then in space; the last call that fits counts. Only attention by
    PyTorch's ``scaled_dot_product_attention`` is heard.

    Args:
        model: in evaluation mode.
        video: one normalised clip ``(1, 3, T, H, W)``.
        blocks: which.

    Returns:
        Block → weights ``(T', h, w)``, mean of the heads, and whether each frame is attended to alone.
    """
    found: dict[int, tuple[Tensor, bool]] = {}
    listening: dict[str, Any] = {}

    class Calls(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is F.scaled_dot_product_attention and "block" in listening:
                weights = _class_weights(listening["grid"], *args, **kwargs)
                if weights is not None:
                    found[listening["block"]] = weights
            return func(*args, **kwargs)

    def begin(number: int) -> Any:
        def hook(module: Any, inputs: tuple[Any, ...]) -> None:
            listening.update(block=number, grid=tuple(model.to_grid(inputs[0]).shape[2:]))

        return hook

    def end(module: Any, inputs: Any, result: Any) -> None:
        listening.clear()

    handles = [model.blocks[i].register_forward_pre_hook(begin(i)) for i in blocks]
    handles += [model.blocks[i].register_forward_hook(end) for i in blocks]
    try:
        with Calls():
            model.embed(video)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _class_weights(
    grid: tuple[int, int, int],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> tuple[Tensor, bool] | None:
    """The first query's weights on the patches if these are all there, of a clip or of each frame; else None."""
    frames, height, width = grid
    batch, count = len(key), key.shape[-2]
    for images, places in ((frames, height * width), (1, frames * height * width)):
        prefix = count - places
        if batch == images and height * width > 1 and 1 <= prefix <= PREFIX:
            scores = query[..., :1, :] @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
            if attn_mask is not None:
                scores = scores + attn_mask[..., :1, :]
            weights = scores.float().softmax(-1)[..., 0, prefix:].flatten(1, -2).mean(1)
            return weights.reshape(frames, height, width), images == frames and frames > 1
    return None


def draw(clip: Tensor, found: ClassAttention) -> Figure:
    """The frames, attention over them on one colour scale, and σ of the layers that drop frames, kept ones dark.

    Args:
        clip: raw frames ``(T, 3, S, S)`` uint8.
        found: what :func:`attend` gave for it.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    frames, edge = len(clip), clip.shape[-1]
    shown = np.linspace(0, frames - 1, min(frames, COLUMNS)).round().astype(int).tolist()
    rows = 2 + len(found.dropping)
    tight = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.03, wspace=0.0, hspace=0.02)
    heights = [1.0, 1.0] + [0.75] * len(found.dropping)
    figure = Figure(figsize=(1.2 * len(shown) + 1.5, 1.2 * sum(heights) + 0.5), layout=tight, facecolor="white")
    table = figure.add_gridspec(rows, len(shown) + 1, width_ratios=[1] * len(shown) + [0.07], height_ratios=heights)
    drops = bool(found.dropping) and not found.dropping[-1].per_head  # whole frames
    last = set(found.dropping[-1].kept) if drops else set()
    low, high = np.quantile(found.map.numpy(), (0.01, 0.995))
    for column, frame in enumerate(shown):
        above, below = figure.add_subplot(table[0, column]), figure.add_subplot(table[1, column])
        stays = not drops or frame in last
        above.set_title(f"frame {frame}" + " ✓" * (drops and stays), fontsize=9)
        above.imshow(clip[frame].permute(1, 2, 0).numpy(), alpha=1.0 if stays else 0.45)
        below.imshow(clip[frame].float().mean(0).numpy(), cmap="gray", vmin=0, vmax=255)
        heat = below.imshow(
            found.at(frame).numpy(),
            cmap="turbo",
            vmin=low,
            vmax=high,
            alpha=0.55,
            extent=(-0.5, edge - 0.5, edge - 0.5, -0.5),
            interpolation="bilinear",
        )
        for panel in (above, below):
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(False)
        if not column:
            above.set_ylabel("video", fontsize=9)
            below.set_ylabel(f"attention,\nblock {found.block}", fontsize=9)
    figure.colorbar(heat, cax=figure.add_subplot(table[1, -1])).ax.tick_params(labelsize=7)
    for row, dropping in enumerate(found.dropping):
        axes = figure.add_subplot(table[2 + row, :-1])
        colours = ["#1d4ed8" if frame in dropping.kept else "#c3cad6" for frame in dropping.frames]
        axes.bar(dropping.frames, dropping.deviation, width=0.7, color=colours)
        axes.set_xlim(-0.5, frames - 0.5)
        values = np.array(dropping.deviation)  # σ differs little: let the bars start where they differ
        spread = max(float(np.ptp(values)), 1e-9)
        axes.set_ylim(max(0.0, values.min() - 0.4 * spread), values.max() + 0.15 * spread)
        axes.set_xticks(range(frames) if frames <= 32 else [])
        axes.tick_params(labelsize=7)
        axes.set_ylabel(f"σ, block {dropping.block}\nkeeps {len(dropping.kept)}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    where = "each frame" if found.per_frame else "the whole clip"
    figure.suptitle(f"{found.name}: what the class token attends to in {where}, mean of the heads", fontsize=10)
    return figure


def attention_figure(
    name: str,
    model: VideoModel,
    video: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    block: int | None = None,
) -> ClassAttention:
    """Draw the class token's attention on the middle clip of a video into a picture.

    Args:
        name: of the model.
        model: in evaluation mode.
        video: file or folder of frames.
        out: the picture; its ending says the kind (.png, .svg, .pdf).
        block: as in :func:`attend`.

    Raises:
        GestaError: as :func:`attend`, an unreadable video, a picture that cannot be written.
    """
    clip = read_clip(video, model.config.clip)
    found = attend(name, model, clip, block=block)
    write_figure(draw(clip, found), out)
    return found
