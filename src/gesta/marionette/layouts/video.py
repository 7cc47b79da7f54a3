"""One video of a layout, from what it shows to its files. Does not import torch, as :mod:`gesta.marionette.filming`."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from gesta.marionette.encode import write_depth, write_pictures, write_video
from gesta.marionette.filming import ClipName, render_clip, render_clip_masked
from gesta.marionette.motions.blocks import FPS
from gesta.marionette.renderer import Array


@dataclass(frozen=True, slots=True)
class LayoutVideo:
    """A video of a layout; paths are below the root."""

    path: str  # of the file; of a folder of pictures if it has no suffix
    clips: tuple[ClipName, ...]  # one after another
    codec: str = "h264"  # one of gesta.marionette.encode.CODECS
    rate: Fraction = Fraction(FPS)  # frames per second that the file states
    masked: str = ""  # folder of the clip's masked depth, 16 bits
    grey: str = ""  # file of the clip's depth as 8-bit video

    def files(self, root: Path) -> list[Path]:
        """All that is written of it."""
        return [root / path for path in (self.path, self.masked, self.grey) if path]


def make_video(video: LayoutVideo, root: Path, seed: int, size: int, family: str) -> None:
    """Render a video and write its files.

    Raises:
        GestaError: it cannot be written.
    """
    path = root / video.path
    rendered = [(render_clip_masked if video.masked else render_clip)(clip, seed, size, family) for clip in video.clips]
    rgb, depth = (np.concatenate(parts) for parts in zip(*rendered))
    if path.suffix:
        write_video(rgb, path, video.codec, video.rate)
    else:
        write_pictures(rgb, path)
    if video.masked:
        write_depth(depth, root / video.masked, "M")
    if video.grey:
        write_video(_grey(depth), root / video.grey, video.codec, video.rate)


def _grey(metres: Array) -> Array:
    """Near dark and far bright, over the range of the recording."""
    near, far = metres.min(), metres.max()
    return ((metres - near) / (far - near) * 255 + 0.5).astype(np.uint8)
