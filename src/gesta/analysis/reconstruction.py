"""What a model of masked pretraining makes of a clip: the frames, what it sees of them, and what it rebuilds.

VideoMAE (Tong et al. 2022) draws the same three rows. A rebuilt tube is drawn with the mean and standard deviation of
the true one, since the model predicts standardised colours; what the encoder has seen is drawn as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from gesta.analysis.figures import new_figure, show_frame, spread_frames
from gesta.analysis.measured import plain
from gesta.analysis.sources import as_input
from gesta.errors import GestaError
from gesta.model import VideoModel
from gesta.pretraining.simmim import SimMIM
from gesta.pretraining.videomae import VideoMAE

FRAMES = 8
"""Frames of a clip that are drawn."""

HIDDEN = 127
"""Grey of what is hidden."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Reconstruction:
    """A clip, masked and rebuilt.

    Attributes:
        name: of the model.
        clip, masked, rebuilt: frames as the model sees them, ``(T, 3, S, S)`` uint8.
        hidden: fraction of the tokens that were hidden.
        loss: what was minimised: the mean squared error of the standardised pixels of hidden tubes (VideoMAE), or the
            mean absolute error of the normalised pixels of hidden squares (SimMIM).
        mean_loss: the same of a guess.
        guess: what is guessed: each tube's mean colour, or the colour that hides squares.
    """

    name: str
    clip: Tensor
    masked: Tensor
    rebuilt: Tensor
    hidden: float
    loss: float
    mean_loss: float
    guess: str

    def to_json(self) -> dict[str, Any]:
        """The numbers, without pixels."""
        return plain(self, "clip", "masked", "rebuilt")

    def __str__(self) -> str:
        return (
            f"{self.name}: {100 * self.hidden:.0f} % hidden, error {self.loss:.3f} ({self.guess} instead: "
            f"{self.mean_loss:.3f})"
        )


@torch.inference_mode()
def measure_reconstruction(name: str, model: VideoModel, clip: Tensor, *, seed: int = 0) -> Reconstruction:
    """Hide most of a clip from the model and let it rebuild the rest; all that is hidden, whatever it was trained on.

    Args:
        name, model, clip: as in :mod:`gesta.analysis`.
        seed: of the mask.

    Raises:
        GestaError: a model without a decoder.
    """
    if not isinstance(model, VideoMAE | SimMIM):
        raise GestaError(
            f"{name}: has no decoder to rebuild pixels with; give a run of gesta pretrain videomae or simmim"
        )
    video = as_input(clip, model.eval())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _rebuilt_tubes(name, model, video) if isinstance(model, VideoMAE) else _squares(name, model, video)


def _rebuilt_tubes(name: str, model: VideoMAE, video: Tensor) -> Reconstruction:
    kept = model.draw_masks(video.cpu())[0].to(video.device)
    result = model.rebuild(video, kept, ~kept)
    cubes, mean, std = model.tubes(video)
    shown = cubes.unflatten(2, (-1, 3)) * std + mean  # (1, N, pixels, 3)
    grey, guess = torch.full_like(shown, HIDDEN / 255), shown.clone()
    guess[~kept] = result.tubes[0].to(shown.dtype).unflatten(1, (-1, 3)) * std[~kept] + mean[~kept]
    frames = [model.pixels(part) for part in (shown, torch.where(kept[..., None, None], shown, grey), guess)]
    return Reconstruction(
        name=name,
        **{field: _bytes(part[0]) for field, part in zip(("clip", "masked", "rebuilt"), frames)},
        hidden=float((~kept).double().mean()),
        loss=float((result.tubes.to(result.targets.dtype) - result.targets).square().mean()),
        mean_loss=float(result.targets.square().mean()),
        guess="each tube's mean colour",
    )


def _squares(name: str, model: SimMIM, video: Tensor) -> Reconstruction:
    hidden = model.draw_hidden(video.cpu()).to(video.device)
    rebuilt = torch.where(hidden, model.rebuild(video, hidden).clip, video)
    spec = model.config.clip
    mean, std = (video.new_tensor(values).view(3, 1, 1, 1) for values in (spec.mean, spec.std))
    shown, guess = video * std + mean, rebuilt * std + mean
    frames = [shown, torch.where(hidden, HIDDEN / 255, shown), guess]
    return Reconstruction(
        name=name,
        **{field: _bytes(part[0]) for field, part in zip(("clip", "masked", "rebuilt"), frames)},
        hidden=float(hidden.double().mean()),
        loss=float(model.error(rebuilt, video, hidden)),
        mean_loss=float(model.error(model.colour.expand_as(video), video, hidden)),
        guess="the colour that hides it",
    )


def _bytes(pixels: Tensor) -> Tensor:
    """Pixels ``(3, T, S, S)`` in [0, 1] as frames ``(T, 3, S, S)`` uint8."""
    return (255 * pixels.transpose(0, 1)).round().clamp(0, 255).to(torch.uint8).cpu()


def draw_reconstruction(measured: Reconstruction) -> Figure:
    """Three rows: frames of the clip, what of them was seen, and what was rebuilt."""
    chosen = spread_frames(len(measured.clip), FRAMES)
    rows = {
        "clip": measured.clip,
        f"seen ({100 * (1 - measured.hidden):.0f} %)": measured.masked,
        "rebuilt": measured.rebuilt,
    }
    figure = new_figure(1.5 * len(chosen), 1.6 * len(rows), frames_apart=(0.02, 0.02))
    panels = figure.subplots(len(rows), len(chosen), squeeze=False)
    for (title, frames), row in zip(rows.items(), panels):
        row[0].set_ylabel(title)
        for axes, frame in zip(row, chosen):
            show_frame(axes, frames[frame])
            axes.set(xticks=[], yticks=[])
    return figure
