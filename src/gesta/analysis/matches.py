"""ATA's matching figure: which patches of two neighbouring frames are matched, on the frames and as a matrix (Fig. 5).

Y. Zhao et al., "Alignment-guided Temporal Attention for Video Action Recognition", NeurIPS 2022 (Eqs 17 and 18). For a
model without ATA it shows what would be matched if the model aligned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from gesta.alignment.chain import Size, similarity
from gesta.analysis.figures import new_figure
from gesta.analysis.measured import plain
from gesta.analysis.mutual_information import infonce
from gesta.analysis.sources import as_input, check_block
from gesta.config import replace
from gesta.errors import GestaError
from gesta.layers.temporal import TemporalBranch
from gesta.model import VideoModel, hooked
from gesta.plugins.ata import ATA, Alignment

ARROWS = 24
"""Moves drawn at most: those that gain most similarity, since patches of a uniform area move for no gain."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Matches:
    """The matches of one pair of neighbouring frames."""

    name: str
    block: int  # whose input was matched
    aligns: bool  # whether the model itself aligns in this block
    frame: int  # the later frame, counted in the feature map
    size: Size  # (H, W) of the map
    similarity: Tensor  # cosines (N, N), rows the earlier frame
    match: Tensor  # index in the later frame of every token of the earlier, (N,)
    earlier: Tensor  # the frame as filmed, (3, S, S) uint8
    later: Tensor  # the next one that the map has, of the same shape
    gain: float  # what InfoNCE gains by alignment, in nats
    tau: float  # its temperature

    @property
    def unaligned(self) -> float:
        """Mean cosine of tokens at the same position."""
        return self.similarity.diagonal().mean().item()

    @property
    def aligned(self) -> float:
        """Mean cosine of matched tokens."""
        return self.similarity.gather(1, self.match[:, None]).mean().item()

    @property
    def unmoved(self) -> float:
        """Fraction of the tokens that are matched with the one at their own position."""
        return (self.match == torch.arange(len(self.match))).float().mean().item()

    def to_json(self) -> dict[str, Any]:
        """All but the frames and the matrix."""
        fields = plain(self, "similarity", "earlier", "later", "gain")
        cosines = {"cosine_unaligned": self.unaligned, "cosine_aligned": self.aligned}
        return fields | cosines | {"unmoved": self.unmoved, "infonce_gain": self.gain}

    def __str__(self) -> str:
        return (
            f"mean cosine {self.unaligned:.3f} unaligned, {self.aligned:.3f} aligned; {self.unmoved:.0%} of "
            f"{len(self.match)} patches stay; InfoNCE gains {self.gain:.3f} nats (τ = {self.tau:g})"
        )


@torch.inference_mode()
def measure_matches(
    name: str, model: VideoModel, clip: Tensor, *, block: int | None = None, frame: int | None = None, tau: float = 0.1
) -> Matches:
    """Match the features of two neighbouring frames as they enter a block.

    Where the model aligns, its own method is used (hard matches, if its own are soft); elsewhere ATA's default.

    Args:
        name, model, clip: as in :mod:`gesta.analysis`.
        block: None for the middle one.
        frame: the later of the two, from 1, in frames of the feature map; None for the middle one.
        tau: temperature of the gain.

    Raises:
        GestaError: no such block, no such pair of frames, or a map of a single position.
    """
    block = len(model.blocks) // 2 if block is None else block
    check_block(model, block)
    tap = f"block.{block - 1}" if block else "stem"
    branch, ata, entering = _temporal_branch(model, block), ATA(), list[Any]()
    around = branch.around if branch is not None and isinstance(branch.around, Alignment) else None
    with hooked(pre={around: lambda _, inputs: entering.append(inputs)} if around else {}):
        grid = model.taps(as_input(clip, model), [tap])[tap]
    frames, size = grid.shape[2], (grid.shape[3], grid.shape[4])
    at = max(frames // 2, 1) if frame is None else frame
    _check_map(block, frames, size, at)
    tokens = grid.permute(0, 2, 3, 4, 1).flatten(2, 3)
    if around is not None:
        ata = replace(around.config, alignment="hard")
        _, x, norm, _, positions = entering[0]
        tokens = around.compared(x, norm, positions)
    tokens = tokens[:, at - 1 : at + 1]
    match = Alignment(ata).routes(tokens, size)[0, 1]
    earlier, later = tokens[0, :1], tokens[0, 1:]
    gain = infonce(earlier, later[:, match], tau) - infonce(earlier, later, tau)
    filmed = [round((t + 0.5) * len(clip) / frames - 0.5) for t in (at - 1, at)]  # the clip may have more frames
    return Matches(
        name=name,
        block=block,
        aligns=around is not None,
        frame=at,
        size=size,
        similarity=similarity(tokens)[0, 0].cpu(),
        match=match.cpu(),
        earlier=clip[filmed[0]].cpu(),
        later=clip[filmed[1]].cpu(),
        gain=gain.item(),
        tau=tau,
    )


def _check_map(block: int, frames: int, size: Size, at: int) -> None:
    if frames == 1:
        raise GestaError(f"the map that enters block {block} has one frame, without a neighbour; choose another block")
    if not 1 <= at < frames:
        allowed = f"frames 0 to {frames - 1}: the later of two is 1 to {frames - 1}"
        raise GestaError(f"the map that enters block {block} has {allowed}, not {at}")
    if size == (1, 1):
        raise GestaError(f"the map that enters block {block} has a single position per frame; choose an earlier block")


def _temporal_branch(model: VideoModel, block: int) -> TemporalBranch | None:
    """The temporal attention that the map entering a block meets first: in an insert, or inside the block."""
    inserts = [model.inserts[str(block)]] if str(block) in model.inserts else []
    modules = (module for parent in [*inserts, model.blocks[block]] for module in parent.modules())
    return next((module for module in modules if isinstance(module, TemporalBranch)), None)


def draw_matches(measured: Matches) -> Figure:
    """The frames with matched patches in the same colour, the moves, and the matrix before and after."""
    figure = new_figure(13.6, 9.2)
    panels = figure.subplots(2, 3)
    where = "ATA in block" if measured.aligns else "what enters block"
    frames = f"frames {measured.frame - 1} and {measured.frame}"
    figure.suptitle(f"{where} {measured.block}, {frames}: {measured}", fontsize=11)
    colours = _position_colours(measured.size)
    moved = np.empty_like(colours)
    moved[measured.match.numpy()] = colours
    _draw_patches(panels[0, 0], measured.earlier, colours, measured.size)
    panels[0, 0].set_title(f"frame {measured.frame - 1}: a colour for every position", fontsize=10)
    _draw_patches(panels[0, 1], measured.later, moved, measured.size)
    panels[0, 1].set_title(f"frame {measured.frame}: the colours of the matches", fontsize=10)
    _draw_moves(panels[0, 2], measured, colours)
    _draw_matrices(figure, panels[1], measured, colours)
    return figure


def _position_colours(size: Size) -> np.ndarray:
    """A colour for every position, ``(N, 3)``: the hue distinguishes left from right, pale is above and dark below."""
    down, across = (np.linspace(0, 1, n) for n in size)
    hue, depth = np.meshgrid(0.85 * across, down)
    return hsv_to_rgb(np.stack([hue, 0.35 + 0.65 * depth, 1 - 0.4 * depth], 2)).reshape(-1, 3)


def _draw_patches(axes: Axes, frame: Tensor, colours: np.ndarray, size: Size) -> None:
    """A grey frame under a tint for every patch."""
    edge = frame.shape[-1]
    grey = frame.float().mean(0).numpy() / 255
    tint = np.kron(colours.reshape(*size, 3), np.ones((8, 8, 1)))
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=(0, edge, edge, 0))
    axes.imshow(tint, alpha=0.5, extent=(0, edge, edge, 0), interpolation="nearest")
    axes.set_xticks(np.linspace(0, edge, size[1] + 1)[1:-1], labels=[])
    axes.set_yticks(np.linspace(0, edge, size[0] + 1)[1:-1], labels=[])
    axes.tick_params(length=0)
    axes.grid(color="white", linewidth=0.5, alpha=0.6)


def _draw_moves(axes: Axes, measured: Matches, colours: np.ndarray) -> None:
    """Arrows from where patches were to where their matches are, on the later frame."""
    height, width = measured.size
    edge = measured.later.shape[-1]
    position, match = np.arange(height * width), measured.match.numpy()
    cell = np.array([edge / width, edge / height])
    start, end = (np.stack([index % width, index // width], 1) for index in (position, match))
    cosines = measured.similarity.numpy()
    gain = np.where(match != position, cosines[position, match] - cosines[position, position], -np.inf)
    count = int((match != position).sum())
    drawn = np.argsort(-gain, kind="stable")[: min(ARROWS, count)]
    axes.imshow(measured.later.permute(1, 2, 0).numpy(), extent=(0, edge, edge, 0))
    curved = "arc3,rad=0.25"  # two patches that change positions get two arrows
    style = "simple,tail_width=3,head_width=9,head_length=8"
    for i in drawn:
        a, b = ((point[i] + 0.5) * cell for point in (start, end))
        arrow = FancyArrowPatch(a, b, connectionstyle=curved, arrowstyle=style, facecolor=colours[i], linewidth=0.7)
        axes.add_patch(arrow)
    moves = f"{count} patches moved" if count <= ARROWS else f"the {ARROWS} of {count} moves that gain most"
    axes.set_title(f"frame {measured.frame}: {moves if count else 'no patch moved'}", fontsize=10)
    axes.set(xlim=(0, edge), ylim=(edge, 0), xticks=[], yticks=[])


def _draw_matrices(figure: Figure, panels: np.ndarray, measured: Matches, colours: np.ndarray) -> None:
    """Similarities with the matches on them, the same with columns rearranged, and what each patch gains."""
    cosines, match = measured.similarity.numpy(), measured.match.numpy()
    position = np.arange(len(cosines))
    low, high = np.quantile(cosines, (0.005, 1.0))
    later = f"patches of frame {measured.frame}"
    for axes, values, title, below in (
        (panels[0], cosines, "similarity, and the match (dots)", later),
        (panels[1], cosines[:, match], "the same, aligned: the match is the diagonal", f"{later}, rearranged"),
    ):
        image = axes.imshow(values, cmap="RdBu_r", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set(xlabel=below, ylabel=f"patches of frame {measured.frame - 1}")
    panels[0].plot(match, position, ".", color="black", markersize=max(1.0, 260 / len(cosines)))
    figure.colorbar(image, ax=list(panels[:2]), location="bottom", aspect=40, shrink=0.7, label="cosine similarity")
    unmatched, matched = cosines[position, position], cosines[position, match]
    panels[2].plot([unmatched.min(), 1], [unmatched.min(), 1], color="0.7", linewidth=1)
    panels[2].scatter(unmatched, matched, s=14, c=colours, edgecolors="black", linewidths=0.3)
    panels[2].set(xlabel="cosine with the same position", ylabel="cosine with the match")
    panels[2].set_title("each patch (in its colour) before and after", fontsize=10)
    panels[2].set_box_aspect(1)
