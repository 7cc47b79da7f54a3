"""Which patches of two neighbouring frames are matched: alignment, drawn on the frames and on the similarity matrix.

Fig. 5 of Y. Zhao et al., "Alignment-guided Temporal Attention for Video Action Recognition", NeurIPS 2022 (Eqs 17 and
18). A model without ATA can be asked as well: what would be matched if it aligned.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gesta.alignment.chain import Size, similarity
from gesta.analysis.mutual_information import infonce
from gesta.analysis.sources import as_input, no_block, read_clip, write_figure
from gesta.config import replace
from gesta.errors import GestaError
from gesta.layers.temporal import TemporalBranch
from gesta.model import VideoModel
from gesta.plugins.ata import ATA, Alignment

ARROWS = 24
"""Moves that are drawn at most: those of the largest gain in similarity, since patches of a lawn move for nothing."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Matches:
    """One pair of neighbouring frames.

    Attributes:
        block: whose input was matched.
        aligns: whether the model itself aligns there.
        frame: the later frame, counted in the feature map.
        size: (H, W) of the map.
        similarity: cosines ``(N, N)``, rows the earlier frame.
        match: place in the later frame of every token of the earlier, ``(N,)``.
        earlier: the frame as filmed, ``(3, S, S)`` uint8.
        later: the next one that the map knows, of the same shape.
        gain: what InfoNCE gains by alignment, in nats.
        tau: its temperature.
    """

    block: int
    aligns: bool
    frame: int
    size: Size
    similarity: Tensor
    match: Tensor
    earlier: Tensor
    later: Tensor
    gain: float
    tau: float

    @property
    def unaligned(self) -> float:
        """Mean cosine of what stands at the same place."""
        return self.similarity.diagonal().mean().item()

    @property
    def aligned(self) -> float:
        """Mean cosine of what is matched."""
        return self.similarity.gather(1, self.match[:, None]).mean().item()

    @property
    def stay(self) -> float:
        """Share of tokens that are matched with the one at their own place."""
        return (self.match == torch.arange(len(self.match))).float().mean().item()

    def __str__(self) -> str:
        return (
            f"mean cosine {self.unaligned:.3f} unaligned, {self.aligned:.3f} aligned; {self.stay:.0%} of "
            f"{len(self.match)} patches stay; InfoNCE gains {self.gain:.3f} nats (τ = {self.tau:g})"
        )


@torch.inference_mode()
def match_frames(
    model: VideoModel, clip: Tensor, *, block: int | None = None, frame: int | None = None, tau: float = 0.1
) -> Matches:
    """Match the features of two neighbouring frames as they enter a block.

    Where the model aligns, its own way of doing so is used (hard matches, if it is soft); elsewhere ATA's default.

    Args:
        model: in evaluation mode.
        clip: square raw frames ``(T, 3, S, S)`` uint8 of any size; the model sees them at its own size.
        block: None for the middle one.
        frame: the later of the two, from 1, in frames of the feature map; None for the middle one.
        tau: temperature of the gain.

    Raises:
        GestaError: no such block, no such pair of frames, or a map of a single place.
    """
    block = len(model.blocks) // 2 if block is None else block
    if not 0 <= block < len(model.blocks):
        raise no_block(model, block)
    entering = f"block.{block - 1}" if block else "stem"
    grid = model.taps(as_input(clip, model), [entering])[entering]
    frames, size = grid.shape[2], (grid.shape[3], grid.shape[4])
    at = max(frames // 2, 1) if frame is None else frame
    if not 1 <= at < frames:
        raise GestaError(
            f"the map that enters block {block} has frames 0 to {frames - 1}: the later of two is 1 to {frames - 1}, "
            f"not {at}"
            if frames > 1
            else f"the map that enters block {block} has one frame, which has no neighbour; choose an earlier block"
        )
    if size == (1, 1):
        raise GestaError(f"the map that enters block {block} has a single place per frame; choose an earlier block")
    tokens = grid[:, :, at - 1 : at + 1].permute(0, 2, 3, 4, 1).flatten(2, 3)
    branch, around = _temporal_branch(model, block), ATA()
    aligns = branch is not None and isinstance(branch.around, Alignment)
    if branch is not None and isinstance(branch.around, Alignment):
        around = replace(branch.around.config, alignment="hard")
        if around.align_on == "norm":
            tokens = branch.norm(tokens)
    found = Alignment(around).routes(tokens, size)[0, 1]
    earlier, later = tokens[0, :1], tokens[0, 1:]
    gain = infonce(earlier, later[:, found], tau) - infonce(earlier, later, tau)
    shown = [round((t + 0.5) * len(clip) / frames - 0.5) for t in (at - 1, at)]
    return Matches(
        block=block,
        aligns=aligns,
        frame=at,
        size=size,
        similarity=similarity(tokens)[0, 0].cpu(),
        match=found.cpu(),
        earlier=clip[shown[0]].cpu(),
        later=clip[shown[1]].cpu(),
        gain=gain.item(),
        tau=tau,
    )


def _temporal_branch(model: VideoModel, block: int) -> TemporalBranch | None:
    """The temporal attention that the map entering a block meets first: in an insert, or inside the block."""
    places = [model.inserts[str(block)]] if str(block) in model.inserts else []
    for place in [*places, model.blocks[block]]:
        for module in place.modules():
            if isinstance(module, TemporalBranch):
                return module
    return None


def draw(matches: Matches) -> Figure:
    """The frames with their patches in colours that go with them, the moves, and the matrix before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.6, 9.2), layout="constrained", facecolor="white")
    axes = figure.subplots(2, 3)
    what = "ATA in block" if matches.aligns else "what enters block"
    figure.suptitle(f"{what} {matches.block}, frames {matches.frame - 1} and {matches.frame}: {matches}", fontsize=11)
    colours = _colours(matches.size)
    moved = np.empty_like(colours)
    moved[matches.match.numpy()] = colours
    _draw_patches(axes[0, 0], matches.earlier, colours, matches.size, f"frame {matches.frame - 1}: colours of places")
    _draw_patches(axes[0, 1], matches.later, moved, matches.size, f"frame {matches.frame}: colours of the matches")
    _draw_moves(axes[0, 2], matches)
    _draw_matrices(figure, axes[1], matches)
    return figure


def matches_figure(
    model: VideoModel,
    video: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    block: int | None = None,
    frame: int | None = None,
    tau: float = 0.1,
) -> Matches:
    """Draw the matches between two frames of the middle clip of a video into a picture.

    Args:
        model: in evaluation mode.
        video: file or folder of frames.
        out: the picture; its ending says the kind (.png, .svg, .pdf).
        block: as in :func:`match_frames`, with the rest.

    Raises:
        GestaError: as :func:`match_frames`, an unreadable video, a picture that cannot be written.
    """
    found = match_frames(model, read_clip(video, model.config.clip), block=block, frame=frame, tau=tau)
    write_figure(draw(found), out)
    return found


def _colours(size: Size) -> np.ndarray:
    """A colour for every place, ``(N, 3)``: the hue tells left from right, pale from dark above from below."""
    from matplotlib.colors import hsv_to_rgb

    down, across = (np.linspace(0, 1, n) for n in size)
    hue, depth = np.meshgrid(0.85 * across, down)
    return hsv_to_rgb(np.stack([hue, 0.35 + 0.65 * depth, 1 - 0.4 * depth], 2)).reshape(-1, 3)


def _draw_patches(axes: Axes, frame: Tensor, colours: np.ndarray, size: Size, title: str) -> None:
    """A grey frame under a tint for every patch."""
    edge = frame.shape[-1]
    grey = frame.float().mean(0).numpy() / 255
    tint = np.kron(colours.reshape(*size, 3), np.ones((8, 8, 1)))
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=(0, edge, edge, 0))
    axes.imshow(tint, alpha=0.5, extent=(0, edge, edge, 0), interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_xticks(np.linspace(0, edge, size[1] + 1)[1:-1], labels=[])
    axes.set_yticks(np.linspace(0, edge, size[0] + 1)[1:-1], labels=[])
    axes.tick_params(length=0)
    axes.grid(color="white", linewidth=0.5, alpha=0.6)


def _draw_moves(axes: Axes, matches: Matches) -> None:
    """Arrows from where patches were to where their matches are, on the later frame."""
    from matplotlib.patches import FancyArrowPatch

    height, width = matches.size
    edge = matches.later.shape[-1]
    place = np.arange(height * width)
    to = matches.match.numpy()
    cell = np.array([edge / width, edge / height])
    start, end = (np.stack([p % width, p // width], 1) for p in (place, to))
    cosines = matches.similarity.numpy()
    gain = np.where(to != place, cosines[place, to] - cosines[place, place], -np.inf)
    count = int((to != place).sum())
    drawn = np.argsort(-gain, kind="stable")[: min(ARROWS, count)]
    axes.imshow(matches.later.permute(1, 2, 0).numpy(), extent=(0, edge, edge, 0))
    colours = _colours(matches.size)
    for i in drawn:
        arrow = FancyArrowPatch(
            (start[i] + 0.5) * cell,
            (end[i] + 0.5) * cell,
            connectionstyle="arc3,rad=0.25",  # two patches that change places get two arrows
            arrowstyle="simple,tail_width=3,head_width=9,head_length=8",
            facecolor=colours[i],
            edgecolor="black",
            linewidth=0.7,
        )
        axes.add_patch(arrow)
    title = f"frame {matches.frame}: " + (
        f"{count} patches moved" if count <= ARROWS else f"the {ARROWS} of {count} moves that gain most"
    )
    axes.set_title(title if count else f"frame {matches.frame}: no patch moved", fontsize=10)
    axes.set_xlim(0, edge)
    axes.set_ylim(edge, 0)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_matrices(figure: Figure, axes: np.ndarray, matches: Matches) -> None:
    """Similarities with the matches on them, the same rearranged by these, and what each patch gains."""
    cosines = matches.similarity.numpy()
    place, to = np.arange(len(cosines)), matches.match.numpy()
    low, high = np.quantile(cosines, (0.005, 1.0))
    scale = {"cmap": "RdBu_r", "vmin": low, "vmax": high, "interpolation": "nearest"}
    dot = max(1.0, 260 / len(cosines))
    for panel, values, column, title in (
        (axes[0], cosines, to, "similarity, and the match (dots)"),
        (axes[1], cosines[:, to], place, "the same, aligned: the match is the diagonal"),
    ):
        shown = panel.imshow(values, **scale)
        if panel is axes[0]:
            panel.plot(column, place, ".", color="black", markersize=dot)
        panel.set_title(title, fontsize=10)
        panel.set_ylabel(f"patches of frame {matches.frame - 1}")
    axes[0].set_xlabel(f"patches of frame {matches.frame}")
    axes[1].set_xlabel(f"patches of frame {matches.frame}, rearranged")
    figure.colorbar(shown, ax=list(axes[:2]), location="bottom", aspect=40, shrink=0.7, label="cosine similarity")
    own, matched = cosines[place, place], cosines[place, to]
    axes[2].plot([own.min(), 1], [own.min(), 1], color="0.7", linewidth=1)
    axes[2].scatter(own, matched, s=14, c=_colours(matches.size), edgecolors="black", linewidths=0.3)
    axes[2].set_xlabel("cosine with the same place")
    axes[2].set_ylabel("cosine with the match")
    axes[2].set_title("each patch (in its colour) before and after", fontsize=10)
    axes[2].set_box_aspect(1)
