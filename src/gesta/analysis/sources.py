"""What an analysis looks at, a model and the middle clip of a video, and where its picture goes."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from gesta import checkpoint
from gesta.config import suggest
from gesta.data.clips import test_indices
from gesta.errors import GestaError
from gesta.model import ClipSpec, VideoModel, to_clips
from gesta.models import MODELS, create_model
from gesta.video.probe import probe
from gesta.video.read import read

SHORT_SIDE = 360
"""Pixels of the short side at which raw frames are drawn, if the video has as many."""


def is_model(source: str) -> bool:
    """Whether this names a model, a ``.safetensors`` file or a run folder, rather than videos."""
    path = Path(source)
    return source in MODELS or path.suffix == ".safetensors" or (path / "best.safetensors").is_file()


def load(source: str, *, trust_code: bool = False) -> tuple[str, VideoModel]:
    """A model and what to call it.

    Args:
        source: a run folder (its best weights), a ``.safetensors`` file, or a model's name (always the same random
            weights).
        trust_code: see :func:`gesta.checkpoint.load`.

    Returns:
        The name and the model, in evaluation mode.

    Raises:
        GestaError: neither of these, or a file that cannot be read.
    """
    if source in MODELS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return f"{source} (random weights)", create_model(source).eval()
    if not is_model(source):
        raise GestaError(
            f"{source} is neither a run folder, a .safetensors file nor a model{suggest(source, MODELS)} "
            "(all names: gesta models)"
        )
    return source.rstrip("/"), checkpoint.load(source, trust_code=trust_code).model


def read_clip(video: str | os.PathLike[str], spec: ClipSpec) -> Tensor:
    """The frames of a test's middle clip, and the square of them that its centre crop shows, but larger.

    Args:
        video: file or folder of frames.
        spec: frames and sampling of the model.

    Returns:
        ``(T, 3, S, S)`` uint8, S at most 224/256 of :data:`SHORT_SIDE`.

    Raises:
        GestaError: an unreadable video.
    """
    info = probe(video)
    short = min(info.width, info.height, SHORT_SIDE)
    frames = read(video, lambda n: test_indices(n, spec, 1, "even", "loop")[0], short_side=short)
    side = round(min(frames.shape[-2:]) * 224 / 256)
    top, left = ((length - side) // 2 for length in frames.shape[-2:])
    return frames[..., top : top + side, left : left + side]


def as_input(clip: Tensor, model: VideoModel) -> Tensor:
    """Raw square frames ``(T, 3, S, S)`` uint8 of any size as the model eats them, ``(1, 3, T, size, size)``."""
    spec = model.config.clip
    raw = clip.to(next(model.parameters()).device).float()
    small = F.interpolate(raw, (spec.size, spec.size), mode="bilinear", antialias=True, align_corners=False)
    return to_clips(small[None, None], spec)


def after_time(model: VideoModel, block: int) -> str:
    """The tap after the temporal modelling of a block: inside it, before it by an insert, or else the block's end.

    Raises:
        GestaError: no such block.
    """
    known = model.tap_names()
    for name in (f"temporal.{block}", f"insert.{block}", f"block.{block}"):
        if name in known:
            return name
    raise no_block(model, block)


def no_block(model: VideoModel, block: int) -> GestaError:
    """Says which blocks there are."""
    return GestaError(f"{type(model).__name__} has blocks 0 to {len(model.blocks) - 1}, not {block}")


def write_figure(figure: Figure, out: str | os.PathLike[str]) -> Path:
    """Write a figure; the ending of ``out`` says the kind (.png, .svg, .pdf). Its folder is made if need be.

    Raises:
        GestaError: a kind that matplotlib does not know, or a place that cannot be written.
    """
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=130)
    except (OSError, ValueError) as error:
        raise GestaError(f"{out}: the picture cannot be written ({error})") from None
    return Path(out)
