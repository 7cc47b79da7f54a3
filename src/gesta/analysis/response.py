"""Where feature maps respond, frame by frame, for several models beside each other.

Figs 6 and 7 of Y. Zhao et al., "Alignment-guided Temporal Attention for Video Action Recognition", NeurIPS 2022: the
mean over channels of the final feature map, or of the map after the temporal modelling of a block (the paper's 7th is
block 6 here). The final map is the last block's before any layer norm, which makes channel means (nearly) equal.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gesta.analysis.sources import after_time, as_input, read_clip, write_figure
from gesta.errors import GestaError
from gesta.model import ClipSpec, VideoModel

COLUMNS = 8
"""Frames that are drawn at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Response:
    """Channel means of one model's feature map.

    Attributes:
        name: of the model.
        tap: of the feature map.
        map: ``(T', H, W)``; T' may be less than the frames of the clip.
    """

    name: str
    tap: str
    map: Tensor

    def at(self, frame: int, frames: int) -> Tensor:
        """The part of the map ``(H, W)`` that frame ``frame`` of ``frames`` belongs to."""
        return self.map[frame * len(self.map) // frames]


@torch.inference_mode()
def respond(name: str, model: VideoModel, clip: Tensor, *, block: int | None = None) -> Response:
    """Channel means of a feature map.

    Args:
        name: what to call the model.
        model: in evaluation mode.
        clip: square raw frames ``(T, 3, S, S)`` uint8 of any size; the model sees them at its own size.
        block: None for the last block's result, otherwise the map after this block's temporal modelling.

    Raises:
        GestaError: no such block.
    """
    tap = f"block.{len(model.blocks) - 1}" if block is None else after_time(model, block)
    grid = model.taps(as_input(clip, model), [tap])[tap]
    return Response(name, tap, grid[0].float().mean(0).cpu())


def draw(clip: Tensor, responses: Sequence[Response]) -> Figure:
    """The frames, and under them each model's response over them, on one colour scale per model.

    Args:
        clip: raw frames ``(T, 3, S, S)`` uint8.
        responses: one row each.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    frames, edge = len(clip), clip.shape[-1]
    shown = np.linspace(0, frames - 1, min(frames, COLUMNS)).round().astype(int).tolist()
    rows = 1 + len(responses)
    tight = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.02, wspace=0.0, hspace=0.01)
    figure = Figure(figsize=(1.5 * len(shown) + 1.9, 1.56 * rows + 0.2), layout=tight, facecolor="white")
    axes = figure.subplots(rows, len(shown) + 1, squeeze=False, width_ratios=[1] * len(shown) + [0.06])
    axes[0, -1].set_axis_off()
    for panel in axes[:, :-1].flat:
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
    for panel, frame in zip(axes[0], shown):
        panel.imshow(clip[frame].permute(1, 2, 0).numpy())
        panel.set_title(f"frame {frame}", fontsize=9)
    axes[0, 0].set_ylabel("video", fontsize=9)
    for row, response in zip(axes[1:], responses):
        values = response.map.numpy()
        low, high = np.quantile(values, (0.01, 0.99))
        for panel, frame in zip(row, shown):
            panel.imshow(clip[frame].float().mean(0).numpy(), cmap="gray", vmin=0, vmax=255)
            heat = panel.imshow(
                response.at(frame, frames).numpy(),
                cmap="turbo",
                vmin=low,
                vmax=high,
                alpha=0.6,
                extent=(-0.5, edge - 0.5, edge - 0.5, -0.5),
                interpolation="bilinear",
            )
        row[0].set_ylabel(f"{_short(response.name)}\n{response.tap}", fontsize=9)
        figure.colorbar(heat, cax=row[-1]).ax.tick_params(labelsize=7)
    return figure


def response_figure(
    models: Sequence[tuple[str, VideoModel]],
    video: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    block: int | None = None,
) -> Path:
    """Draw models' responses to the middle clip of a video into a picture.

    Args:
        models: names and models, in evaluation mode; all eat the same frames.
        video: file or folder of frames.
        out: the picture; its ending says the kind (.png, .svg, .pdf).
        block: as in :func:`respond`.

    Raises:
        GestaError: models of different clips, no such block, an unreadable video, a picture that cannot be written.
    """
    eaten = {name: _words(m.config.clip) for name, m in models}
    (first, frames), *rest = eaten.items()
    for name, others in rest:
        if others != frames:
            raise GestaError(f"{name} sees {others}, {first} sees {frames}: draw such models apart")
    clip = read_clip(video, models[0][1].config.clip)
    return write_figure(draw(clip, [respond(name, model, clip, block=block) for name, model in models]), out)


def _words(clip: ClipSpec) -> str:
    apart = f"{clip.stride} apart" if clip.sampling == "dense" else "spread over the video"
    return f"{clip.frames} frames {apart}"


def _short(name: str) -> str:
    """A name in lines that fit beside a frame; of a path its end."""
    path = Path(name.removesuffix("/best.safetensors"))
    return "\n".join(textwrap.wrap(path.name, 20))
