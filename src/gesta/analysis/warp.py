"""What STAN does to a clip: its transform θ, learnt on feature maps, applied to the raw frames.

The paper's Fig. 2 (Ye & Liang 2023). θ is regressed from the map that enters the layer; as its coordinates run from -1
to 1 whatever the size of the map, the same θ warps the clip itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gesta.errors import GestaError
from gesta.model import VideoModel, to_clips
from gesta.plugins.stan import STANLayer, sampling_grid, thetas, warp
from gesta.plugins.stan import spatial_only as without_time

SHORT_SIDE = 360
"""Pixels of the short side at which the raw frames are drawn, if the video has as many."""


@dataclass(frozen=True, slots=True, eq=False)
class Warped:
    """One STAN layer's transform of one clip.

    Attributes:
        layer: the layer's name in the model, ``inserts.3.0``.
        block: the block before which it stands.
        theta: ``(4, 4)``, rows and columns in the order t, x, y, 1.
        before: the clip, ``(T, 3, S, S)`` uint8.
        after: the clip resampled under θ, of the same shape.
        source: where each pixel of ``after`` is taken from, ``(T, S, S, 3)`` in the order x, y, t, from -1 to 1 over
            each axis of ``before``.
    """

    layer: str
    block: int
    theta: Tensor
    before: Tensor
    after: Tensor
    source: Tensor


def warp_clip(model: VideoModel, clip: Tensor, *, spatial_only: bool = False) -> list[Warped]:
    """Apply the transform of every STAN layer of a model to the clip it was regressed from.

    Args:
        model: as trained.
        clip: square raw frames ``(T, 3, S, S)`` uint8 of any size; the model sees them at its own size.
        spatial_only: leave out all that concerns time (θ's row and column t).

    Returns:
        One entry per layer, in the order of the forward pass.

    Raises:
        GestaError: a model without STAN.
    """
    if not any(isinstance(module, STANLayer) for module in model.modules()):
        raise GestaError(
            f"{type(model).__name__} has no STAN layer and hence no transform to draw; "
            "train one that has, e.g. stan_mvitv2_s"
        )
    spec = model.config.clip
    device = next(model.parameters()).device
    raw = clip.to(device)
    small = F.interpolate(raw.float(), (spec.size, spec.size), mode="bilinear", antialias=True, align_corners=False)
    training = model.training
    try:
        with torch.inference_mode():
            found = thetas(model.eval(), to_clips(small[None, None], spec))
    finally:
        model.train(training)
    video = raw.float().transpose(0, 1)[None]
    drawn = []
    for name, (theta, _) in found.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, STANLayer)
        how = layer.config
        if spatial_only:
            theta = without_time(theta)
        source = sampling_grid(theta, video.shape[2:], direction=how.direction, align_corners=how.align_corners)
        after = warp(
            video,
            theta,
            direction=how.direction,
            padding_mode=how.padding_mode,
            align_corners=how.align_corners,
        )
        pixels = after[0].transpose(0, 1).round().clamp(0, 255).to(torch.uint8)
        block = int(name.split(".")[1])
        drawn.append(Warped(name, block, theta[0].cpu(), clip.cpu(), pixels.cpu(), source[0].cpu()))
    return drawn


def draw(layers: list[Warped]) -> Figure:
    """Middle frame before and after, θ beneath, and which frames it looks at; one row per layer.

    On the frame before, the outline shows from where the frame after is taken.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.9 * len(layers)), layout="constrained", facecolor="white")
    rows = figure.subfigures(len(layers), squeeze=False)
    for row, layer in zip(rows[:, 0], layers):
        axes = row.subplots(2, 3, height_ratios=(4, 1))
        left, middle, right = axes[0]
        for below in axes[1]:
            below.set_axis_off()
        frames, size = len(layer.before), layer.before.shape[-1]
        at = frames // 2
        pixels = (layer.source + 1) / 2 * size - 0.5  # (T, S, S, 3); image coordinates count pixel centres
        row.suptitle(f"STAN before block {layer.block}", fontsize=12)
        left.set_title("middle frame of the clip", fontsize=10)
        left.imshow(layer.before[at].permute(1, 2, 0).numpy())
        left.set_facecolor("0.85")
        for share in (0.25, 0.5, 0.75):
            line = round(share * (size - 1))
            for mesh in (pixels[at, line], pixels[at, :, line]):
                left.plot(mesh[:, 0], mesh[:, 1], color="#ffb000", linewidth=0.7, alpha=0.7)
        outline = _outline(pixels[at])
        left.plot(outline[:, 0], outline[:, 1], color="#ffb000", linewidth=2.2)
        reach = np.clip(outline[:, :2], -size, 2 * size)  # a wild θ must not shrink the frame to a dot
        margin = 0.03 * size
        left.set_xlim(min(0, reach[:, 0].min()) - margin, max(size - 1, reach[:, 0].max()) + margin)
        left.set_ylim(max(size - 1, reach[:, 1].max()) + margin, min(0, reach[:, 1].min()) - margin)
        top = pixels[at, 0]
        left.plot(top[:, 0], top[:, 1], color="#d40000", linewidth=2.2)
        middle.set_title("the same under θ", fontsize=10)
        middle.imshow(layer.after[at].permute(1, 2, 0).numpy())
        for panel in (left, middle):
            panel.set_xticks([])
            panel.set_yticks([])
        _draw_time(right, layer)
        axes[1, 0].text(0, 1, _matrix(layer.theta), family="monospace", fontsize=9, va="top")
        axes[1, 1].text(0, 1, _legend(layer.theta), fontsize=9, va="top")
    return figure


def warp_figure(model: VideoModel, video: str | Path, out: str | Path, *, spatial_only: bool = False) -> Path:
    """Draw STAN's transforms of the middle clip of a video into a picture.

    Args:
        model: as trained.
        video: file or folder of frames.
        out: the picture; its ending says the kind (.png, .svg, .pdf).
        spatial_only: as in :func:`warp_clip`.

    Raises:
        GestaError: a model without STAN, an unreadable video, a picture that cannot be written.
    """
    from gesta.data.clips import test_indices
    from gesta.video.probe import probe
    from gesta.video.read import read

    spec = model.config.clip
    info = probe(str(video))
    short = min(info.width, info.height, SHORT_SIDE)
    frames = read(str(video), lambda n: test_indices(n, spec, 1, "even", "loop")[0], short_side=short)
    side = round(min(frames.shape[-2:]) * 224 / 256)  # the part of the frame that a test clip shows
    top, left = ((length - side) // 2 for length in frames.shape[-2:])
    figure = draw(warp_clip(model, frames[..., top : top + side, left : left + side], spatial_only=spatial_only))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(out, dpi=130)
    except (OSError, ValueError) as error:
        raise GestaError(f"{out}: the picture cannot be written ({error})") from None
    return Path(out)


def _outline(source: Tensor) -> np.ndarray:
    """Source positions of a frame's outermost pixels, once around; ``(S, S, 3)`` to ``(4 S, 3)``."""
    edges = (source[0], source[:, -1], source[-1].flip(0), source[:, 0].flip(0))
    return torch.cat(edges).numpy()


def _matrix(theta: Tensor) -> str:
    rows = ["θ" + "".join(f"{axis:>8}" for axis in "txy1")]
    rows += [axis + "".join(f"{value:8.3f}" for value in row.tolist()) for axis, row in zip("txy1", theta)]
    return "\n".join(rows)


def _legend(theta: Tensor) -> str:
    if torch.allclose(theta, torch.eye(4), atol=1e-4):
        return "θ is the identity: nothing learnt, or nothing to align"
    return "outline: what the frame under θ shows,\nits upper edge in red"


def _draw_time(axes: Axes, layer: Warped) -> None:
    """Which frames each output frame is taken from; off the picture's centre they may be others."""
    frames, middle = len(layer.before), layer.before.shape[-1] // 2
    source = ((layer.source[..., 2] + 1) / 2 * frames - 0.5).numpy()
    at = np.arange(frames)
    axes.plot(at, at, ":", color="0.6", label="as in the clip")
    axes.fill_between(
        at, source.min((1, 2)), source.max((1, 2)), alpha=0.25, linewidth=0, label="anywhere in the frame"
    )
    axes.plot(at, source[:, middle, middle], color="#d55e00", linewidth=2, label="centre of the frame")
    axes.set_title("time", fontsize=10)
    axes.set_xlabel("frame under θ")
    axes.set_ylabel("shows frame … of the clip")
    axes.locator_params(integer=True)
    axes.set_box_aspect(1)
    axes.legend(fontsize=7, frameon=False)
