"""Reading video: files through PyAV (or torchcodec), folders of images through Pillow, cameras and URLs as streams.

Frames are numbered in *decode order*, the order in which the decoder gives them, because the timestamps of genuine AVI
files are wrong and header frame counts lie. A frame is turned upright, scaled and converted to RGB in one step, and
only if it is asked for. A packet that cannot be decoded costs its frames, not the file. Pixels are taken as square, as
all published systems do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from av.error import FFmpegError
from torch import Tensor

from gesta.errors import VideoError
from gesta.video.container import DAMAGED, frames_of, open_video, packets_of, set_threads, undecodable
from gesta.video.deadline import Deadline
from gesta.video.decode import VideoFile
from gesta.video.depth import Depth
from gesta.video.images import ImageFolder, image_files, read_image
from gesta.video.picture import CropTo, FrameBuffer, FrameConverter
from gesta.video.torchcodec import TorchcodecFile

Decoder = Literal["pyav", "torchcodec"]

TICK = 1e-4
"""Seconds by which a time that is rounded may miss its frame."""

FOLDER_FPS = 25.0
"""Assumed by :func:`stream` where nothing tells the frames per second."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stream: index in decode order, seconds since the first frame, ``(C, H, W)`` uint8 RGB."""

    index: int
    time: float
    image: Tensor


def read(
    path: str | os.PathLike[str],
    choose: Callable[[int], Tensor | np.ndarray],
    *,
    short_side: int | None = None,
    start: int | None = None,
    end: int | None = None,
    seconds: tuple[float, float] | None = None,
    depth: Depth | None = None,
    decoder: Decoder = "pyav",
    crop: CropTo | None = None,
    enlarge: bool = True,
    deadline: Deadline | None = None,
) -> Tensor:
    """Read chosen frames of a video file or a folder of frames.

    The result depends on the file and the arguments alone: nothing is remembered between calls. Decoding stops after
    the last chosen frame and, where that is exact, begins at the key frame before the first; frames that are neither
    chosen nor referred to by others are not decoded. In a damaged file an index counts the frames that should be there
    as long as the damage lies outside what has to be decoded, and the frames that are left otherwise.

    Args:
        path: video file, or folder of numbered images.
        choose: gets n, the number of frames of the stretch, and returns the wanted indices, 0 to n - 1 in decode order,
            of any shape. It is called again with the true, smaller n if fewer frames decode than the packets promised.
        short_side: scale so that the shorter side has this many pixels (bilinear, up or down, aspect kept). None keeps
            the size.
        start: first frame of the stretch in decode order; None is the beginning.
        end: one past its last frame; None, or beyond the video, is the end.
        seconds: the stretch as seconds from the first frame, instead of ``start`` and ``end``: from the frame that is
            shown at the first to the one that is shown at the second.
        depth: the video or the images (of 8 or 16 bits) show depth, and how it is shown to the model; they are scaled
            by taking nearest pixels.
        decoder: ``pyav``, or ``torchcodec``, which gives the same frames. Files that torchcodec would order by unusable
            timestamps (AVI) or cannot decode, depth, and folders of images, are read as with ``pyav``.
        crop: gets height and width of the frames as they would be returned and gives the box of them to keep, (top,
            left, height, width); called once after each call of ``choose``. The pixels are those of whole frames, cut.
        enlarge: False keeps the size of frames whose short side is shorter than ``short_side``.
        deadline: when it has to be done; None gives a minute and one more second for each 128 kB of the file, or for
            each image of the folder.

    Returns:
        ``(*indices.shape, C, H, W)`` uint8 RGB.

    Raises:
        VideoError: the video cannot be opened, no frame of it decodes, it takes too long, or the stretch is empty.
        GestaError: torchcodec is asked for and cannot be loaded.
    """
    path = os.fspath(path)
    deadline = deadline or Deadline(path)
    source: ImageFolder | VideoFile | TorchcodecFile
    if os.path.isdir(path):
        source = ImageFolder(path, deadline, depth)
    elif decoder == "torchcodec" and depth is None:
        source = TorchcodecFile(path, deadline)
    else:
        source = VideoFile(path, deadline)
    with source:
        try:
            if seconds is not None:
                start, end = _frames_at(path, source, seconds)
            return _read(path, source, choose, short_side, start or 0, end, depth, crop, enlarge)
        except (FFmpegError, MemoryError) as error:
            raise VideoError(f"{path}: cannot be converted to RGB ({error}); {DAMAGED}") from None


def _frames_at(path: str, source: ImageFolder | VideoFile, seconds: tuple[float, float]) -> tuple[int, int]:
    """First frame of a stretch and one past its last."""
    if isinstance(source, ImageFolder):
        raise VideoError(f"{path}: a folder of frames does not know seconds; give its stretches in frames")
    first, last = np.searchsorted(source.times() - TICK, seconds, side="right") - 1
    return max(int(first), 0), int(last) + 1


def _read(
    path: str,
    source: ImageFolder | VideoFile | TorchcodecFile,
    choose: Callable[[int], Tensor | np.ndarray],
    short_side: int | None,
    start: int,
    end: int | None,
    depth: Depth | None,
    crop: CropTo | None,
    enlarge: bool,
) -> Tensor:
    while True:
        total = source.frames
        if total == 0:
            raise undecodable(path, source.problem)
        length = min(total, total if end is None else end) - start
        if length < 1:
            stretch = f"from {start} to {'the end' if end is None else end}"
            raise VideoError(f"{path}: has {total} frames, none of them {stretch}; correct this entry's start and end")
        indices = torch.as_tensor(choose(length)).to(torch.int64)
        if indices.numel() == 0 or int(indices.min()) < 0 or int(indices.max()) >= length:
            raise ValueError(f"choose({length}) must return indices from 0 to {length - 1}, not {indices.tolist()}")
        wanted, places = torch.unique(indices, sorted=True, return_inverse=True)
        clip = FrameBuffer((wanted + start).tolist(), short_side, depth, crop, enlarge)
        found = source.fill(clip)
        if not clip.missing:
            frames = torch.from_numpy(clip.video)
            if len(wanted) < indices.numel() or not torch.equal(places.flatten(), torch.arange(len(wanted))):
                frames = frames[places.flatten()]
            return frames.view(*indices.shape, *frames.shape[1:])
        if found >= total:
            raise RuntimeError(f"{path}: {found} frames were found, but frames {sorted(clip.missing)} did not come")


def stream(
    source: str | int | os.PathLike[str],
    *,
    short_side: int | None = None,
    step: int = 1,
    depth: Depth | None = None,
) -> Iterator[Frame]:
    """Frames one after the other, in bounded memory: a file, a folder of frames, a URL or a camera.

    Args:
        source: path, URL (``rtsp://…``, ``https://…``), or camera: a number or a device such as ``/dev/video0``.
        short_side: as in :func:`read`.
        step: give every ``step``-th frame only; the others are decoded but not converted.
        depth: as in :func:`read`.

    Yields:
        frames with their index in decode order and their time in seconds since the first frame: by timestamp, or by
        index and average rate where timestamps are unusable (AVI) or missing. A folder of images has no rate and is
        timed as if it had 25 frames per second (``FOLDER_FPS``).

    Raises:
        VideoError: the source cannot be opened, or gives no frame.
    """
    if step < 1:
        raise ValueError(f"step must be at least 1, not {step}")
    source = source if isinstance(source, int) else os.fspath(source)
    if isinstance(source, str) and os.path.isdir(source):
        yield from _stream_folder(source, short_side, step, depth)
        return
    index, last, begin = -1, 0.0, None
    convert = FrameConverter(short_side, depth)
    damage: list[Exception] = []
    with open_video(source) as (container, video):
        set_threads(video)
        rate = float(video.average_rate or 0) or float(video.guessed_rate or 0) or FOLDER_FPS
        timed = "avi" not in container.format.name.split(",")
        for frame in frames_of(video, packets_of(container, video, damage), damage):
            damage.clear()  # hours of a bad line must not pile up
            index += 1
            time = index / rate if not timed else last + 1 / rate if index else 0.0
            if timed and frame.pts is not None:
                now = float(frame.pts * video.time_base)
                begin = now if begin is None else begin
                time = now - begin if index == 0 or now - begin > last else time
            last = time
            if index % step == 0:
                yield Frame(index, time, torch.from_numpy(np.ascontiguousarray(convert(frame))))
    if index < 0:
        raise VideoError(f"{source}: no frame of it can be decoded; {DAMAGED}")


def _stream_folder(path: str, short_side: int | None, step: int, depth: Depth | None) -> Iterator[Frame]:
    index = -1
    for file in image_files(path, depth=depth is not None):
        try:
            image = read_image(file, short_side, depth)
        except OSError:
            continue
        index += 1
        if index % step == 0:
            yield Frame(index, index / FOLDER_FPS, torch.from_numpy(np.ascontiguousarray(image)))
    if index < 0:
        raise VideoError(f"{path}: none of its images can be read; {DAMAGED}")
