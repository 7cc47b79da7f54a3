"""Frames of a video: chosen ones (:func:`read`, :func:`read_frames`), or all of them one by one (:func:`stream`).

Files are read through PyAV (or torchcodec), folders of images through Pillow, cameras and URLs as streams.

Frames are numbered in *decode order*, the order in which the decoder gives them, because the timestamps of genuine AVI
files are wrong and the frame counts of headers are not to be trusted. A frame is turned upright, scaled and converted
to RGB in one step, and only if it is asked for. A packet that cannot be decoded costs its frames, not the file. Pixels
are taken as square, as all published systems do (also the usual copies of Kinetics of 340 x 256 pixels, whose headers
say 16:9): ``gesta data check`` names files that players show otherwise, and ``gesta data prepare`` makes pixels square.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar, Unpack

import numpy as np
import torch
from torch import Tensor

from gesta.errors import BrokenOffError, DecodeError, VideoError
from gesta.video.archive import locate
from gesta.video.boundary import DAMAGED, decoding
from gesta.video.clock import FALLBACK_FPS, timed_frames
from gesta.video.container import last_error, open_video, read_packets, set_threads, undecodable
from gesta.video.deadline import Deadline
from gesta.video.decode import VideoFile
from gesta.video.depth import Depth
from gesta.video.flow import Flow, check_is_folder
from gesta.video.images import ImageFolder, image_files, read_image
from gesta.video.modality import Shows, modality_of
from gesta.video.picture import Box, CropTo, FrameBuffer, FrameConverter
from gesta.video.torchcodec import TorchcodecFile
from gesta.video.whole import missing_bytes

Decoder = Literal["pyav", "torchcodec"]

ROUNDING_S = 1e-4
"""Seconds by which a time that was rounded may miss its frame."""


@dataclass(frozen=True)
class Selection:
    """Which frames of a video to read; subclasses carry along whatever else was decided for them.

    Attributes:
        indices: 0 to n - 1 in decode order, of any shape, where n is the number of frames of the video (or segment).
        crop: called once, with height and width of the frames as they would be returned; gives the box of them to keep,
            (top, left, height, width). The pixels are those of whole frames, cropped. None keeps whole frames.
    """

    indices: Tensor
    crop: CropTo | None = None


S = TypeVar("S", bound=Selection)


class Frames(NamedTuple, Generic[S]):
    """Frames that were read.

    Attributes:
        images: ``(*selection.indices.shape, C, H, W)`` uint8 RGB.
        selection: what they were selected by.
        count: number of frames of the video (or segment) for which that selection was made.
        broken: a sentence if the end of the file is missing; else empty.
    """

    images: Tensor
    selection: S
    count: int  # type: ignore[assignment]  # hides tuple.count
    broken: str = ""


class ReadOptions(TypedDict, total=False):
    """How :func:`read` and :func:`read_frames` read.

    Attributes:
        short_side: scale so that the shorter side has this many pixels (bilinear, up or down, aspect kept). None, the
            default, keeps the size.
        start: first frame of the segment to read, in decode order; None, the default, is the beginning.
        end: one past its last frame; None (the default), or beyond the video, is the end.
        seconds: the segment as seconds from the container's beginning, as players count them, instead of ``start`` and
            ``end``: from the frame that is shown at the first to the one that is shown at the second.
        shows: what the video or the images show, and how it becomes three channels; None, the default, is RGB. Depth
            (of 8 or 16 bits) is scaled by taking nearest pixels; optical flow has to be a folder of images.
        decoder: ``pyav``, the default, or ``torchcodec``, which gives the same frames. Files that torchcodec would
            order by unusable timestamps (AVI) or cannot decode, depth, and folders of images, are read as with
            ``pyav``.
        enlarge: False keeps the size of frames whose short side is shorter than ``short_side``; default True.
        deadline: when it has to be done; None, the default, gives a minute and one more second for each 128 kB of the
            file, or for each image of the folder.
    """

    short_side: int | None
    start: int | None
    end: int | None
    seconds: tuple[float, float] | None
    shows: Shows | None
    decoder: Decoder
    enlarge: bool
    deadline: Deadline | None


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a stream.

    Attributes:
        index: in decode order.
        time: seconds from the container's beginning.
        image: ``(C, H, W)`` uint8 RGB.
        duration: seconds that it is shown, as the file says; 0 if it does not.
    """

    index: int
    time: float
    image: Tensor
    duration: float = 0.0


# --- chosen frames ---------------------------------------------------------------------------------------------------


def read(
    path: str | os.PathLike[str],
    choose: Callable[[int], Tensor | np.ndarray],
    *,
    crop: CropTo | None = None,
    **options: Unpack[ReadOptions],
) -> Tensor:
    """Read chosen frames of a video file or a folder of frames; :func:`read_frames` without what surrounds them.

    Args:
        path: video file, or folder of numbered images.
        choose: gets n, the number of frames, and returns the indices of those to read, 0 to n - 1 in decode order, of
            any shape. It is called again with the true, smaller n if the file ends early.
        crop: the box to keep of all of them, see :class:`Selection`.
        options: see :class:`ReadOptions`.

    Returns:
        ``(*indices.shape, C, H, W)`` uint8 RGB.

    Raises:
        VideoError: as :func:`read_frames`.
        GestaError: torchcodec is asked for and cannot be loaded.
    """
    return read_frames(path, lambda n: Selection(torch.as_tensor(choose(n)), crop), **options).images


def read_frames(path: str | os.PathLike[str], select: Callable[[int], S], **options: Unpack[ReadOptions]) -> Frames[S]:
    """Read the frames that ``select`` selects, given how many there are.

    The result depends on the file and the arguments alone: nothing is remembered between calls. Decoding stops after
    the last selected frame and, where that is exact, begins at the key frame before the first; frames that are neither
    selected nor referred to by others are not decoded. In a damaged file an index counts the frames that should be
    there as long as the damage lies outside what has to be decoded, and the frames that are left otherwise.

    Args:
        path: video file, or folder of numbered images.
        select: gets n, the number of frames of the segment (of the whole video by default), which is counted and never
            taken from a header. It is called again with the true, smaller n if fewer frames decode than the packets
            promised, so it must be a function of n alone; the last selection is the one that is returned.
        options: see :class:`ReadOptions`.

    Raises:
        VideoError: the video cannot be opened, no frame of it decodes, it takes too long, or the segment is empty.
        GestaError: torchcodec is asked for and cannot be loaded.
    """
    path = os.fspath(path)
    with contextlib.ExitStack() as stack:
        with decoding(path):
            source = _open(path, options.get("deadline") or Deadline(path), options)
            stack.enter_context(source)
            start, end = _segment(path, source, options)
        while True:
            promised = source.frames
            count = _segment_length(path, source, start, end)
            selection = select(count)
            numbers, inverse = _numbers(selection, count)
            with decoding(path):
                buffer = _buffer((numbers + start).tolist(), selection.crop, options)
                decoded = source.fill(buffer)
                if not buffer.missing:
                    # a segment that ends before that lacks nothing
                    reason = source.broken if end is None or end > source.frames else ""
                    broken = str(broken_off(path, reason)) if reason else ""
                    return Frames(_in_order(buffer, inverse), selection, count, broken)
                if decoded >= promised:
                    raise RuntimeError(f"{decoded} frames came, but not frames {sorted(buffer.missing)}")
            # the file ends early, and source.frames is now the true number


def read_whole(
    path: str | os.PathLike[str], most_bytes: int, **options: Unpack[ReadOptions]
) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """All frames of a video (or segment) as they can be kept for :func:`select_frames`, ``(N, H, W, 3)`` uint8.

    None where that might give others than reading chosen frames does: the video is damaged, breaks off or has frames of
    several sizes. None also for more than ``most_bytes`` of pixels.

    Raises:
        VideoError, GestaError: as :func:`read_frames`.
    """
    path = os.fspath(path)

    def whole(height: int, width: int) -> Box:
        if 3 * height * width * count > most_bytes:
            raise MemoryError  # before they are allocated
        return 0, 0, height, width

    with contextlib.ExitStack() as stack:
        with decoding(path):
            source = _open(path, options.get("deadline") or Deadline(path), options)
            stack.enter_context(source)
            start, end = _segment(path, source, options)
        promised, count = source.frames, _segment_length(path, source, start, end)
        with decoding(path):
            buffer = _buffer(range(start, start + count), whole, options)
            decoded = source.fill(buffer)
    exact = decoded == promised and not (buffer.missing or buffer.doubtful or source.problem or source.broken)
    return buffer.images.transpose(0, 2, 3, 1) if exact and buffer.images is not None else None


def select_frames(pixels: np.ndarray[Any, np.dtype[np.uint8]], select: Callable[[int], S]) -> Frames[S]:
    """What :func:`read_frames` gives of a video of which :func:`read_whole` has given ``pixels``, to the bit."""
    selection = select(len(pixels))
    numbers, inverse = _numbers(selection, len(pixels))
    buffer = FrameBuffer(numbers.tolist(), None, crop=selection.crop)
    for number in buffer.numbers:
        buffer.add_image(number, pixels[number].transpose(2, 0, 1))
    return Frames(_in_order(buffer, inverse), selection, len(pixels))


def _buffer(numbers: Sequence[int], crop: CropTo | None, options: ReadOptions) -> FrameBuffer:
    shows = options.get("shows")
    depth = shows if isinstance(shows, Depth) else None
    return FrameBuffer(list(numbers), options.get("short_side"), depth, crop, options.get("enlarge", True))


def _numbers(selection: Selection, count: int) -> tuple[Tensor, Tensor]:
    """The selected frames, each once and rising, however often and in whatever order it is selected; and the position
    of each selected one among them.

    Raises:
        ValueError: there is no such frame among ``count``.
    """
    indices = selection.indices.to(torch.int64)
    if indices.numel() == 0 or int(indices.min()) < 0 or int(indices.max()) >= count:
        raise ValueError(
            f"of {count} frames, only indices from 0 to {count - 1} can be selected, not {indices.tolist()}"
        )
    numbers, inverse = torch.unique(indices, sorted=True, return_inverse=True)
    return numbers, inverse


def _open(path: str, deadline: Deadline, options: ReadOptions) -> ImageFolder | VideoFile:
    shows = options.get("shows")
    if isinstance(shows, Flow):
        check_is_folder(path)
    if os.path.isdir(path):
        return ImageFolder(path, deadline, shows)
    if options.get("decoder") == "torchcodec" and shows is None:
        return TorchcodecFile(path, deadline)
    return VideoFile(path, deadline)


def _segment(path: str, source: ImageFolder | VideoFile, options: ReadOptions) -> tuple[int, int | None]:
    """First frame of the segment to read, and one past its last; None for the end of the video."""
    seconds = options.get("seconds")
    if seconds is None:
        return options.get("start") or 0, options.get("end")
    if isinstance(source, ImageFolder):
        raise VideoError(f"{path}: a folder of frames does not know seconds; give its segments in frames")
    if source.frames == 0:
        raise undecodable(path, source.problem)
    if not source.has_times:
        raise VideoError(f"{path}: does not say its frames per second; give its segments in frames, not in seconds")
    times = source.times()
    end = float(times[-1]) + float(np.median(np.diff(times)) if len(times) > 1 else 0)
    if seconds[1] < times[0] - ROUNDING_S or seconds[0] > end + ROUNDING_S:
        raise VideoError(
            f"{path}: shows pictures from {times[0]:.2f} to {end:.2f} s, none of them from {seconds[0]:g} to "
            f"{seconds[1]:g} s; correct this entry's times"
        )
    first, last = np.searchsorted(times - ROUNDING_S, seconds, side="right") - 1
    return max(int(first), 0), int(last) + 1


def _segment_length(path: str, source: ImageFolder | VideoFile, start: int, end: int | None) -> int:
    if source.frames == 0:
        raise undecodable(path, source.problem)
    length = min(source.frames, source.frames if end is None else end) - start
    if length < 1:
        segment = f"from {start} to {'the end' if end is None else end}"
        raise VideoError(
            f"{path}: has {source.frames} frames, none of them {segment}; correct this entry's start and end"
        )
    return length


def _in_order(buffer: FrameBuffer, inverse: Tensor) -> Tensor:
    """The buffer's frames as they were selected: ``inverse`` says, for each, its position in the buffer."""
    images = torch.from_numpy(buffer.images)
    if not torch.equal(inverse.flatten(), torch.arange(len(images))):
        images = images[inverse.flatten()]
    return images.view(*inverse.shape, *images.shape[1:])


def frame_times(path: str, shows: Shows | None = None) -> np.ndarray:
    """When each frame of a video is shown, ``(F,)``, in seconds as :func:`stream` says them; nothing is decoded.

    Raises:
        VideoError: it cannot be opened.
    """
    with decoding(path), _open(path, Deadline(path), {"shows": shows}) as source:
        return np.arange(source.frames) / FALLBACK_FPS if isinstance(source, ImageFolder) else source.times()


# --- all frames ------------------------------------------------------------------------------------------------------


def stream(
    source: str | int | os.PathLike[str],
    *,
    short_side: int | None = None,
    step: int = 1,
    shows: Shows | None = None,
) -> Iterator[Frame]:
    """Frames one after the other, in bounded memory: a file, a folder of frames, a URL or a camera.

    Args:
        source: path, URL (``rtsp://…``, ``https://…``), or camera: a number or a device such as ``/dev/video0``.
        short_side: as in :func:`read`.
        step: give every ``step``-th frame only; the others are decoded but not converted.
        shows: as in :func:`read`.

    Yields:
        frames with their index in decode order and their time in seconds from the container's beginning, as players
        show it (:class:`gesta.video.clock.Clock`). A folder of images has no rate and is timed as if it had 25 frames
        per second (``FALLBACK_FPS``).

    Raises:
        VideoError: the source cannot be opened, or gives no frame.
        BrokenOffError: its end is missing, or the connection broke; all frames that came have been given.
    """
    if step < 1:
        raise ValueError(f"step must be at least 1, not {step}")
    source = source if isinstance(source, int) else os.fspath(source)
    if isinstance(source, str) and os.path.isdir(source):
        yield from _stream_folder(source, short_side, step, shows)
        return
    if isinstance(shows, Flow):
        check_is_folder(str(source))
    index = -1
    convert = FrameConverter(short_side, shows if isinstance(shows, Depth) else None)
    time = 0.0
    errors: list[Exception] = []
    breaks: list[Exception] = []
    with open_video(source) as (container, video):
        set_threads(video)
        for frame, time in timed_frames(container, video, read_packets(container, video, breaks), errors):
            errors.clear()  # hours of a bad connection must not pile up
            index += 1
            if index % step == 0:
                duration = float((frame.duration or 0) * (video.time_base or 0))
                yield Frame(index, time, torch.from_numpy(np.ascontiguousarray(convert(frame))), duration)
    if index < 0:
        raise undecodable(str(source), last_error(breaks or errors))
    reason = last_error(breaks) or (missing_bytes(locate(source)) if isinstance(source, str) else "")
    if reason:
        raise broken_off(source, reason, f"after {time:.1f} s")


def broken_off(source: object, reason: str, where: str = "before its end") -> BrokenOffError:
    """What is raised, or noted beside the frames, if the end of a video is missing."""
    here = isinstance(source, str) and locate(source) is not None
    remedy = "copy or download it again" if here else "check the connection and the device or server, and try again"
    return BrokenOffError(f"{source}: breaks off {where} ({reason}); {remedy}")


def _stream_folder(path: str, short_side: int | None, step: int, shows: Shows | None) -> Iterator[Frame]:
    index = -1
    for file in image_files(path, modality_of(shows)):
        try:
            image = read_image(file, short_side, shows)
        except DecodeError:
            continue
        index += 1
        if index % step == 0:
            yield Frame(index, index / FALLBACK_FPS, torch.from_numpy(np.ascontiguousarray(image)))
    if index < 0:
        raise VideoError(f"{path}: none of its images can be read; {DAMAGED}")
