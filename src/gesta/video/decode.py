"""Chosen frames of one video file: the shortest exact way to them, turning upright, scaling to RGB.

:mod:`gesta.video.read` is the way in.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import av
import numpy as np
from av.error import FFmpegError

from gesta.errors import VideoError
from gesta.video.container import (
    MAX_REORDER,
    KeyFrame,
    frames_of,
    last_error,
    open_video,
    packets_of,
    presentation_times,
    scan_packets,
    set_threads,
)
from gesta.video.deadline import Deadline
from gesta.video.picture import FrameBuffer

ONE_PACKET_ONE_FRAME = frozenset({"h264", "hevc", "av1", "libdav1d", "libaom-av1"})
"""Decoders of codecs in which each packet is exactly one shown frame; VP8 may hide some, so it cannot be jumped in."""

MAX_RANGE_BYTES = 256 * 2**20
"""A longer stretch without a key frame is not held but decoded from the beginning of the file."""


class VideoFile:
    """Source of frames: one video file, open between ``__enter__`` and ``__exit__``.

    Attributes:
        frames: how many frames there are, as far as the packets tell.
        problem: why frames are missing, as the decoder said last; empty if it said nothing.
    """

    def __init__(self, path: str, deadline: Deadline | None = None) -> None:
        self.path = path
        self.problem = ""
        self._deadline = deadline or Deadline(path)

    def __enter__(self) -> VideoFile:
        self._opened = open_video(self.path, self._deadline)
        self._container, self._stream = self._opened.__enter__()
        self._timeline = scan_packets(self._container, self._stream, self._deadline)
        self.frames = self._timeline.frames
        self._sound = bool(self._timeline.keys) and self._stream.codec_context.name in ONE_PACKET_ONE_FRAME
        self._untouched = True  # nothing has been decoded yet
        self._multithreaded = set_threads(self._stream)
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

    def fill(self, clip: FrameBuffer) -> int:
        """Decode the wanted frames into the clip; returns how many frames there are, as far as is known then."""
        if not (self._sound and self._from_key_frames(clip)):
            self._sound = False
            clip.missing = set(clip.wanted)
            self.frames = self._from_the_beginning(clip)
        return self.frames

    def _from_the_beginning(self, clip: FrameBuffer, single: bool = False) -> int:
        """Decode from the first packet to the last wanted frame: the meaning of frame numbers, whatever the file."""
        damage: list[Exception] = []
        if self._untouched and self._timeline.packets is not None:
            self._untouched, several = False, self._multithreaded
            count = _decode_in_order(self._stream, self._deadline.during(self._timeline.packets), clip, damage)
        else:
            with open_video(self.path, self._deadline) as (container, stream):
                several = set_threads(stream, single)
                count = _decode_in_order(stream, packets_of(container, stream, damage, self._deadline), clip, damage)
        self.problem = last_error(damage)
        if damage and several:  # with several threads an error may take other frames along
            clip.missing = set(clip.wanted)
            return self._from_the_beginning(clip, single=True)
        return count if clip.missing else max(self.frames, count)

    def _from_key_frames(self, clip: FrameBuffer) -> bool:
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
            stretch = self._packet_range(key, wanted) or (self._packet_range(key - 1, wanted) if key else None)
            if stretch is None or not self._decode(stretch, clip):
                return False
        return not clip.missing

    def _packet_range(self, key: int, wanted: list[int]) -> _PacketRange | None:
        """The packets needed for the wanted frames from a key frame on; None if they cannot be had from there."""
        begin, last = self._timeline.keys[key], wanted[-1]
        packets = self._packets(begin, last - begin.number + MAX_REORDER)
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
        return _PacketRange(packets[: needed + 1], numbers)

    def _packets(self, key: KeyFrame, count: int) -> list[av.Packet]:
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
                if size > MAX_RANGE_BYTES:
                    return []
            return [] if damage else packets
        return []

    def _decode(self, stretch: _PacketRange, clip: FrameBuffer) -> bool:
        context = self._stream.codec_context
        skip = context.name == "h264"
        damage: list[Exception] = []

        def packets() -> Iterator[av.Packet]:
            for packet in self._deadline.during(stretch.packets):
                if skip:
                    wanted = stretch.numbers.get(packet.pts) in clip.slots
                    context.skip_frame = "DEFAULT" if wanted else "NONREF"
                yield packet

        if not self._untouched:
            context.flush_buffers()
        self._untouched = False
        given = []
        for frame in frames_of(self._stream, packets(), damage):
            if frame.pts in stretch.numbers:  # the others are shown before the key frame and lack their references
                given.append(stretch.numbers[frame.pts])
                clip.put(given[-1], frame)
        expected = sorted(stretch.numbers[p.pts] for p in stretch.packets if p.pts in stretch.numbers)
        if skip:
            return not damage and given[:1] == expected[:1] and all(x < y for x, y in itertools.pairwise(given))
        return not damage and given == expected


def _decode_in_order(stream: Any, packets: Iterable[av.Packet], clip: FrameBuffer, damage: list[Exception]) -> int:
    """Decode to the last wanted frame; returns the number of frames that came."""
    count = 0
    for frame in frames_of(stream, packets, damage):
        clip.put(count, frame)
        count += 1
        if count > clip.wanted[-1]:
            break
    return count


class _PacketRange(NamedTuple):
    """Packets from a key frame on, and the frame number of each presentation time."""

    packets: list[av.Packet]
    numbers: dict[int | None, int]
