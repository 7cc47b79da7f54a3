"""Chosen frames of one video file: the shortest exact way to them, turning upright, scaling to RGB.

:mod:`gesta.video.reader` is the way in.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter
from torch.nn.functional import interpolate

from gesta.errors import VideoError
from gesta.video.container import (
    REORDER,
    Key,
    frames_of,
    open_video,
    packets_of,
    presentation_times,
    reason,
    set_threads,
    timeline,
)
from gesta.video.deadline import Deadline
from gesta.video.depth import Depth, nearest
from gesta.video.images import scaled_size

ONE_PACKET_ONE_FRAME = frozenset({"h264", "hevc", "av1", "libdav1d", "libaom-av1"})
"""Decoders of codecs in which each packet is exactly one shown frame; VP8 may hide some, so it cannot be jumped in."""

STRETCH_BYTES = 256 * 2**20
"""A longer stretch without a key frame is not held but decoded from the beginning of the file."""

Matrix = tuple[int, int, int, int]
"""See :func:`display_matrix`."""

Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

CropTo = Callable[[int, int], Box]
"""Gets height and width of the frames, scaled and upright, and says which box of them to keep."""

CUT = frozenset({"yuv420p", "yuvj420p"})
"""Pixel formats that are converted to RGB at their own size in blocks of 2 x 2 pixels, so a box alone just as well."""

# --- chosen frames of one file ---------------------------------------------------------------------------------------


class Clip:
    """The wanted frames of a video, or one box of all of them, on their way into one array.

    Args:
        wanted: frame numbers, rising.
        short_side: length of the short side in pixels, None keeps the size.
        depth: the video shows depth, and how it is shown to the model.
        crop: asked once, when the first frame comes; None keeps whole frames.
        enlarge: False keeps the size of frames that are smaller.

    Attributes:
        video: ``(T, 3, H, W)`` uint8; of a box the channels lie last, as resizing on a CPU likes them.
    """

    def __init__(
        self,
        wanted: list[int],
        short_side: int | None,
        depth: Depth | None = None,
        crop: CropTo | None = None,
        enlarge: bool = True,
    ) -> None:
        self.wanted = wanted
        self.short_side = short_side
        self.enlarge = enlarge
        self.slots = {number: slot for slot, number in enumerate(wanted)}
        self.missing = set(wanted)
        self.video: np.ndarray | None = None
        self._convert = Converter(short_side, depth, enlarge)
        self._crop = crop
        self._size = (0, 0)
        self._box: Box | None = None

    def put(self, number: int, frame: av.VideoFrame) -> None:
        """Convert a decoded frame into its place, if it is wanted."""
        if number not in self.missing:
            return
        matrix = display_matrix(frame)
        size = self._convert.size(frame, matrix)
        video = self._begin(size) if self.video is None else self.video
        if size == self._size:
            video[self.slots[number]] = self._convert.picture(frame, matrix, self._box)
            self.missing.discard(number)
        else:
            self.put_image(number, self._convert.picture(frame, matrix))

    def put_image(self, number: int, image: np.ndarray) -> None:
        """Put a whole RGB image ``(3, H, W)`` into its place."""
        video = self._begin(image.shape[1:]) if self.video is None else self.video
        if image.shape[1:] != self._size:  # the picture's size changes within the video
            pixels = torch.from_numpy(np.ascontiguousarray(image))[None]
            image = interpolate(pixels, self._size, mode="bilinear", antialias=True)[0].numpy()
        video[self.slots[number]] = image if self._box is None else cut(image, self._box)
        self.missing.discard(number)

    def _begin(self, size: tuple[int, ...]) -> np.ndarray:
        height, width = self._size = size[0], size[1]
        if self._crop is None:
            self.video = np.empty((len(self.wanted), 3, height, width), dtype=np.uint8)
        else:
            self._box = self._crop(height, width)
            self.video = np.empty((len(self.wanted), *self._box[2:], 3), dtype=np.uint8).transpose(0, 3, 1, 2)
        return self.video


class File:
    """Source of frames: one video file, open between ``__enter__`` and ``__exit__``.

    Attributes:
        frames: how many frames there are, as far as the packets tell.
        problem: why frames are missing, as the decoder said last; empty if it said nothing.
    """

    def __init__(self, path: str, deadline: Deadline | None = None) -> None:
        self.path = path
        self.problem = ""
        self._deadline = deadline or Deadline(path)

    def __enter__(self) -> File:
        self._opened = open_video(self.path, self._deadline)
        self._container, self._stream = self._opened.__enter__()
        self._timeline = timeline(self._container, self._stream, self._deadline)
        self.frames = self._timeline.frames
        self._sound = bool(self._timeline.keys) and self._stream.codec_context.name in ONE_PACKET_ONE_FRAME
        self._fresh = True  # nothing has been decoded yet
        self._several = set_threads(self._stream)
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(None, None, None)

    def times(self) -> np.ndarray:
        """When each frame is shown, seconds from the first; by number and average rate where times are unusable."""
        if not self._timeline.times:
            rate = float(self._stream.average_rate or 0) or float(self._stream.guessed_rate or 0)
            if not rate:
                raise VideoError(f"{self.path}: does not say how fast it runs; give its stretches in frames")
            return np.arange(self.frames) / rate
        times = np.sort(np.asarray(self._timeline.times, dtype=np.float64))
        return (times - times[0]) * self._timeline.unit

    def fill(self, clip: Clip) -> int:
        """Decode the wanted frames into the clip; returns how many frames there are, as far as is known then."""
        if not (self._sound and self._by_shortcut(clip)):
            self._sound = False
            clip.missing = set(clip.wanted)
            self.frames = self._from_the_beginning(clip)
        return self.frames

    def _from_the_beginning(self, clip: Clip, single: bool = False) -> int:
        """Decode from the first packet to the last wanted frame: the meaning of frame numbers, whatever the file."""
        damage: list[Exception] = []
        if self._fresh and self._timeline.packets is not None:
            self._fresh, several = False, self._several
            count = _straight(self._stream, self._deadline.during(self._timeline.packets), clip, damage)
        else:
            with open_video(self.path, self._deadline) as (container, stream):
                several = set_threads(stream, single)
                count = _straight(stream, packets_of(container, stream, damage, self._deadline), clip, damage)
        self.problem = reason(damage)
        if damage and several:  # with several threads an error may take other frames along
            clip.missing = set(clip.wanted)
            return self._from_the_beginning(clip, single=True)
        return count if clip.missing else max(self.frames, count)

    def _by_shortcut(self, clip: Clip) -> bool:
        """Decode only the packets that the wanted frames need; False if that is not provably the same.

        In a sound file the frame with the k-th presentation time is the k-th that the decoder gives. Here that is
        relied on only where packets and frames correspond one to one, and checked on everything that is decoded: each
        stretch begins with its key frame, times rise, nothing fails. H.264 pictures that no other refers to are not
        decoded unless they are wanted.
        """
        begins = [key.number for key in self._timeline.keys]
        stretches: dict[int, list[int]] = {}
        for number in clip.wanted:
            stretches.setdefault(bisect.bisect_right(begins, number) - 1, []).append(number)
        for key, wanted in stretches.items():
            # pictures shown before a key frame may follow it in the file: then decoding starts one key frame earlier
            stretch = self._stretch(key, wanted) or (self._stretch(key - 1, wanted) if key else None)
            if stretch is None or not self._decode(stretch, clip):
                return False
        return not clip.missing

    def _stretch(self, key: int, wanted: list[int]) -> _Stretch | None:
        """The packets needed for the wanted frames from a key frame on; None if they cannot be had from there."""
        begin, last = self._timeline.keys[key], wanted[-1]
        packets = self._packets(begin, last - begin.number + REORDER)
        times = presentation_times(packets)
        if not times:
            return None
        leading = sum(time < times[0] for time in times)
        first = begin.number + leading
        if first > wanted[0]:
            return None
        numbers: dict[int | None, int] = {time: first + i for i, time in enumerate(sorted(times)[leading:])}
        chosen = set(wanted)
        needed = max((i for i, time in enumerate(times) if numbers.get(time) in chosen), default=0)
        return _Stretch(packets[: needed + 1], numbers)

    def _packets(self, key: Key, count: int) -> list[av.Packet]:
        """A key frame's packet and up to ``count`` that follow; none if the file cannot be entered there."""
        if self._timeline.packets is not None:
            return self._timeline.packets[key.number : key.number + 1 + count]
        for time in (key.pts, key.dts):  # which of them a container seeks by differs
            if time is None:
                continue
            try:
                self._container.seek(time, stream=self._stream)
            except FFmpegError:
                continue
            damage: list[Exception] = []
            found = packets_of(self._container, self._stream, damage, self._deadline)
            first = next(found, None)
            if first is None or not first.is_keyframe:
                continue
            if (first.pts != key.pts) if key.dts is None else (first.dts != key.dts):
                continue
            packets, size = [first], 0
            for packet in itertools.islice(found, count):
                packets.append(packet)
                size += packet.size
                if size > STRETCH_BYTES:
                    return []
            return [] if damage else packets
        return []

    def _decode(self, stretch: _Stretch, clip: Clip) -> bool:
        context = self._stream.codec_context
        skip = context.name == "h264"
        damage: list[Exception] = []

        def packets() -> Iterator[av.Packet]:
            for packet in self._deadline.during(stretch.packets):
                if skip:
                    wanted = stretch.numbers.get(packet.pts) in clip.slots
                    context.skip_frame = "DEFAULT" if wanted else "NONREF"
                yield packet

        if not self._fresh:
            context.flush_buffers()
        self._fresh = False
        given = []
        for frame in frames_of(self._stream, packets(), damage):
            if frame.pts in stretch.numbers:  # the others are shown before the key frame and lack their references
                given.append(stretch.numbers[frame.pts])
                clip.put(given[-1], frame)
        expected = sorted(stretch.numbers[p.pts] for p in stretch.packets if p.pts in stretch.numbers)
        if skip:
            return not damage and given[:1] == expected[:1] and all(x < y for x, y in itertools.pairwise(given))
        return not damage and given == expected


def _straight(stream: Any, packets: Iterable[av.Packet], clip: Clip, damage: list[Exception]) -> int:
    """Decode to the last wanted frame; returns the number of frames that came."""
    count = 0
    for frame in frames_of(stream, packets, damage):
        clip.put(count, frame)
        count += 1
        if count > clip.wanted[-1]:
            break
    return count


class _Stretch(NamedTuple):
    """Packets from a key frame on, and the frame number of each presentation time."""

    packets: list[av.Packet]
    numbers: dict[int | None, int]


# --- one frame -------------------------------------------------------------------------------------------------------


class Converter:
    """Turns decoded frames upright, scales them and converts them to RGB.

    Args:
        short_side: length of the short side in pixels, None keeps the size.
        depth: take their luma for depth, and show it so; it is scaled by taking nearest pixels.
        enlarge: False keeps the size of frames that are smaller.
    """

    def __init__(self, short_side: int | None, depth: Depth | None = None, enlarge: bool = True) -> None:
        self.short_side = short_side
        self.enlarge = enlarge
        self.depth = depth
        self._scaler = VideoReformatter()
        self._part: av.VideoFrame | None = None
        self._planes: list[np.ndarray] = []

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """A frame as ``(3, H, W)`` uint8."""
        return self.picture(frame, display_matrix(frame))

    def size(self, frame: av.VideoFrame, matrix: Matrix | None) -> tuple[int, int]:
        """Height and width of a frame, scaled and upright."""
        width, height = self._scaled(frame)
        return (width, height) if matrix is not None and abs(matrix[1]) > abs(matrix[0]) else (height, width)

    def picture(self, frame: av.VideoFrame, matrix: Matrix | None, box: Box | None = None) -> np.ndarray:
        """A frame with its display matrix, or the same pixels of a box of it, as ``(3, H, W)`` uint8.

        A box without pixels costs nothing.
        """
        if box is not None and not box[2] * box[3]:
            return np.empty((3, *box[2:]), dtype=np.uint8)
        width, height = self._scaled(frame)
        if self.depth is not None:
            image = self.depth.encode(nearest(self._luma(frame), width, height))
        elif (width, height) != (frame.width, frame.height):
            # planar: faster, already channels first, and with one chroma sample per pixel instead of one per two
            scaled = self._scaler.reformat(frame, width=width, height=height, format="gbrp", threads=1)
            image = np.stack([_pixels(scaled.planes[plane], height, width) for plane in (2, 0, 1)])
        elif box is not None and matrix is None and frame.format.name in CUT and not height % 2:
            return self._packed_box(frame, box)
        else:
            image = self._packed(frame)
        image = upright(image, matrix)
        return image if box is None else cut(image, box)

    def _scaled(self, frame: av.VideoFrame) -> tuple[int, int]:
        return scaled_size(frame.width, frame.height, self.short_side, self.enlarge)

    def _packed(self, frame: av.VideoFrame) -> np.ndarray:
        """RGB at the frame's size: the conversion torchcodec uses; libswscale's planar one leaves columns out here."""
        packed = self._scaler.reformat(frame, format="rgb24", threads=1).planes[0]
        image = _pixels(packed, frame.height, 3 * frame.width)
        return image.reshape(frame.height, frame.width, 3).transpose(2, 0, 1)

    def _packed_box(self, frame: av.VideoFrame, box: Box) -> np.ndarray:
        """The same for a box alone: the whole 2 x 2 blocks around it are copied and converted, with equal results."""
        top, left, height, width = box
        first, begin = top // 2 * 2, left // 2 * 2
        down, across = top - first + height, left - begin + width
        down, across = down + down % 2, min(across + across % 2, frame.width - begin)
        part = self._part
        if part is None or (part.width, part.height, part.format.name) != (across, down, frame.format.name):
            part = self._part = av.VideoFrame(across, down, frame.format.name)
            self._planes = [_pixels(plane, plane.height, plane.width) for plane in part.planes]
        part.colorspace, part.color_range = frame.colorspace, frame.color_range
        for whole, plane, step in zip(frame.planes, self._planes, (1, 2, 2)):
            rows = _pixels(whole, whole.height, whole.line_size)
            plane[:] = cut(rows, (first // step, begin // step, *plane.shape))
        return cut(self._packed(part), (top - first, left - begin, height, width))

    def _luma(self, frame: av.VideoFrame) -> np.ndarray:
        """The stored luma ``(H, W)``, uint8 or uint16: a conversion to grey would stretch and clip it (16 to 235)."""
        bits = frame.format.components[0].bits
        plain = frame.format.name.startswith(("yuv", "gray", "nv"))
        if not plain or 8 < bits < 16 or "be" in frame.format.name:
            frame, bits = self._scaler.reformat(frame, format="gray", threads=1), 8
        if bits == 16:
            return _pixels(frame.planes[0], frame.height, 2 * frame.width).copy().view("<u2")
        return _pixels(frame.planes[0], frame.height, frame.width)


def _pixels(plane: Any, height: int, row: int) -> np.ndarray:
    """One plane as ``(height, row)``, the padding of its lines cut off."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :row]


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """A view of a box of a picture ``(..., H, W)``."""
    top, left, height, width = box
    return image[..., top : top + height, left : left + width]


def display_matrix(frame: av.VideoFrame) -> Matrix | None:
    """(a, b, c, d) by which a stored picture's (x, y) is shown at (a x + c y, b x + d y); None: as it is stored."""
    # frame.side_data would tie the frame into a reference cycle: pictures would pile up until Python's collector runs
    data: Any = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    if data is None:
        return None
    a, b, _, c, d, *_ = np.frombuffer(data, "=i4").tolist()
    return a, b, c, d


def upright(image: np.ndarray, matrix: Matrix | None) -> np.ndarray:
    """Apply a display matrix to a picture ``(..., H, W)``: turns by quarters and mirrorings, other angles rounded."""
    if matrix is None or not any(matrix):
        return image
    a, b, c, d = matrix
    if abs(b) > abs(a):  # x and y change places
        image = image.swapaxes(-1, -2)
        a, d = c, b
    if a < 0:
        image = image[..., ::-1]
    if d < 0:
        image = image[..., ::-1, :]
    return image
