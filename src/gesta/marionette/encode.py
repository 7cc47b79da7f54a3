"""Frames of the synthetic data set into files: videos of several codecs, folders of pictures, depth maps.

Files and folders appear under their names only when complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image

from gesta.errors import GestaError
from gesta.files import make_folder, temporary_for
from gesta.marionette.renderer import Array
from gesta.video.flow import write_flow

CODECS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "", {"crf": "18", "preset": "veryfast"}),
    "xvid": ("mpeg4", "XVID", {"qscale": "3", "flags": "+qscale"}),
    "mpeg4": ("mpeg4", "FMP4", {"qscale": "3", "flags": "+qscale"}),
    "vp9": ("libvpx-vp9", "", {"crf": "24", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
}
"""Encoder, codec tag of the stream and encoder options, by the codec's name in this package."""


def write_video(frames: Array, path: Path, codec: str, rate: Fraction) -> None:
    """Write a video; its suffix says which container.

    Args:
        frames: ``(T, H, W, 3)`` RGB, or ``(T, H, W)`` levels that become the luma as they are, uint8; even sides.
        path: of the file.
        codec: one of :data:`CODECS`.
        rate: frames per second.
    """
    encoder, tag, options = CODECS[codec]
    with _complete(path) as part:
        with av.open(str(part), "w", format=path.suffix[1:]) as container:
            stream: Any = container.add_stream(encoder, rate=rate, options=options)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.thread_count = 1
            if tag:
                stream.codec_context.codec_tag = tag
            for image in frames:
                container.mux(stream.encode(_picture(image)))
            container.mux(stream.encode())


def _picture(image: Array) -> av.VideoFrame:
    if image.ndim == 3:
        return av.VideoFrame.from_ndarray(image, format="rgb24")
    grey = np.full((len(image) // 2, image.shape[1]), 128, np.uint8)  # both colour planes
    return av.VideoFrame.from_ndarray(np.concatenate([image, grey]), format="yuv420p")


def write_pictures(frames: Array, folder: Path) -> None:
    """Write ``00001.jpg`` and so on."""
    with _complete(folder) as part:
        part.mkdir()
        for number, image in enumerate(frames, 1):
            Image.fromarray(image).save(part / f"{number:05d}.jpg", quality=92)


def write_depth(metres: Array, folder: Path, prefix: str = "") -> None:
    """Write ``Depth-00000001.png`` and so on: 16 bits, millimetres, 0 where there is nothing."""
    with _complete(folder) as part:
        part.mkdir()
        for number, image in enumerate(np.minimum(1000 * metres + 0.5, 65_535).astype(np.uint16), 1):
            Image.fromarray(image).save(part / f"{prefix}Depth-{number:08d}.png", compress_level=1)


def write_flow_pictures(frames: Array, folder: Path) -> None:
    """Write the optical flow of frames ``(T, H, W, 3)``: ``flow_x_00001.png``, ``flow_y_00001.png`` and so on."""
    with _complete(folder) as part:
        part.mkdir()
        write_flow(frames, part)


@contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """Another name beside ``path``, that becomes ``path`` at the end, or is removed."""
    make_folder(path.parent)
    try:
        with temporary_for(path) as part:
            yield part
    except (OSError, FFmpegError) as error:
        raise GestaError(f"{path}: cannot be written ({error}); free some space or choose another folder") from None
