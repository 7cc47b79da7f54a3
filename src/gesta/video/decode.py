"""Chosen frames of one video file, by decoding as few packets as give exactly the same frames.

What a frame's number means is defined by decoding from the first packet on (:meth:`VideoFile._from_first_packet`).
The shortcut (:meth:`VideoFile._from_key_frames`) enters the file at the key frame before each chosen frame. It is taken
only where it is known to give the same frames, and what it gives is checked; where a check fails, the file is decoded
from its first packet after all.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import av
import numpy as np

from gesta.errors import VideoError
from gesta.video.container import (
    MAX_REORDER,
    KeyFrame,
    decode_packets,
    last_error,
    open_video,
    presentation_times,
    read_packets,
    scan_packets,
    set_threads,
)
from gesta.video.deadline import Deadline
from gesta.video.picture import FrameBuffer

ONE_PACKET_ONE_FRAME = frozenset({"h264", "hevc", "av1", "libdav1d", "libaom-av1"})
"""Decoders of codecs in which each packet is exactly one shown frame; VP8 may hide some, so it cannot be entered at a
key frame."""

MAX_RANGE_BYTES = 256 * 2**20
"""More packets than this between two key frames are not held; such a file is decoded from its beginning."""


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
        self._scan = scan_packets(self._container, self._stream, self._deadline)
        self.frames = self._scan.frames
        self._shortcut = bool(self._scan.keys) and self._stream.codec_context.name in ONE_PACKET_ONE_FRAME
        self._decoder_is_new = True
        self._multithreaded = set_threads(self._stream)
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(None, None, None)

    def times(self) -> np.ndarray:
        """When each frame is shown, seconds from the first; by number and average rate where times are unusable."""
        if not self._scan.times:
            rate = float(self._stream.average_rate or 0) or float(self._stream.guessed_rate or 0)
            if not rate:
                raise VideoError(
                    f"{self.path}: does not say its frames per second; give its segments in frames, not in seconds"
                )
            return np.arange(self.frames) / rate
        times = np.sort(np.asarray(self._scan.times, dtype=np.float64))
        return (times - times[0]) * self._scan.unit

    def fill(self, buffer: FrameBuffer) -> int:
        """Decode the chosen frames into the buffer; returns how many frames there are, as far as is known then."""
        if not (self._shortcut and self._from_key_frames(buffer)):
            self._shortcut = False  # it failed a check, so it is not tried again
            buffer.missing = set(buffer.numbers)
            self.frames = self._from_first_packet(buffer)
        return self.frames

    def _from_first_packet(self, buffer: FrameBuffer, single_thread: bool = False) -> int:
        """Decode from the first packet to the last chosen frame: the meaning of frame numbers, whatever the file."""
        errors: list[Exception] = []
        if self._decoder_is_new and self._scan.packets is not None:
            self._decoder_is_new, multithreaded = False, self._multithreaded
            count = _decode_in_order(self._stream, self._deadline.guard(self._scan.packets), buffer, errors)
        else:  # a decoder that has decoded already may hold frames back: open the file again
            with open_video(self.path, self._deadline) as (container, stream):
                multithreaded = set_threads(stream, single_thread)
                packets = read_packets(container, stream, errors, self._deadline)
                count = _decode_in_order(stream, packets, buffer, errors)
        self.problem = last_error(errors)
        if errors and multithreaded:  # with several threads an error may take other frames along
            buffer.missing = set(buffer.numbers)
            return self._from_first_packet(buffer, single_thread=True)
        return count if buffer.missing else max(self.frames, count)

    def _from_key_frames(self, buffer: FrameBuffer) -> bool:
        """Decode only the packets that the chosen frames need; False if that is not provably the same.

        In an undamaged file the frame with the k-th presentation time is the k-th that the decoder gives. Here that is
        relied on only where packets and frames correspond one to one, and checked on everything that is decoded: each
        range of packets begins with its key frame, times rise, nothing fails. H.264 pictures that no other refers to
        are not decoded unless they are chosen.
        """
        key_numbers = [key.number for key in self._scan.keys]
        by_key: dict[int, list[int]] = {}  # position of a key frame → chosen frames from it to the next
        for number in buffer.numbers:
            by_key.setdefault(bisect.bisect_right(key_numbers, number) - 1, []).append(number)
        for key, numbers in by_key.items():
            # pictures shown before a key frame may follow it in the file: then decoding starts one key frame earlier
            packets = self._packet_range(key, numbers) or (self._packet_range(key - 1, numbers) if key else None)
            if packets is None or not self._decode(packets, buffer):
                return False
        return not buffer.missing

    def _packet_range(self, key: int, numbers: list[int]) -> _PacketRange | None:
        """The packets needed for the chosen frames from a key frame on; None if they cannot be had from there."""
        key_frame = self._scan.keys[key]
        packets = self._packets(key_frame, numbers[-1] - key_frame.number + MAX_REORDER)
        times = presentation_times(packets)
        if not times:
            return None
        # "leading" pictures follow the key frame in the file but are shown before it: among all frames the key frame is
        # shown that many positions later, and they refer to what precedes it and cannot be decoded from here
        leading = sum(time < times[0] for time in times)
        first = key_frame.number + leading
        if first > numbers[0]:
            return None
        number_at: dict[int | None, int] = {time: first + i for i, time in enumerate(sorted(times)[leading:])}
        chosen = set(numbers)
        # in the file every frame comes after all it refers to, so nothing is needed after the last chosen one
        last = max((i for i, time in enumerate(times) if number_at.get(time) in chosen), default=0)
        return _PacketRange(packets[: last + 1], number_at)

    def _packets(self, key: KeyFrame, count: int) -> list[av.Packet]:
        """A key frame's packet and up to ``count`` that follow; none if the file cannot be entered there."""
        if self._scan.packets is not None:
            return self._scan.packets[key.number : key.number + 1 + count]
        for time in (key.pts, key.dts):  # which of them a container seeks by differs
            if time is None:
                continue
            try:
                self._container.seek(time, stream=self._stream)
            except Exception:  # whatever it is, the file can still be decoded from its beginning
                continue
            errors: list[Exception] = []
            following = read_packets(self._container, self._stream, errors, self._deadline)
            first = next(following, None)
            # seeking is not exact in every container: go on only from the very packet that was asked for
            if first is None or not first.is_keyframe:
                continue
            if (first.pts != key.pts) if key.dts is None else (first.dts != key.dts):
                continue
            packets, size = [first], 0
            for packet in itertools.islice(following, count):
                packets.append(packet)
                size += packet.size
                if size > MAX_RANGE_BYTES:
                    return []
            return [] if errors else packets
        return []

    def _decode(self, packet_range: _PacketRange, buffer: FrameBuffer) -> bool:
        """Decode a range of packets into the buffer; returns whether exactly the expected frames came."""
        context = self._stream.codec_context
        skips = context.name == "h264"
        errors: list[Exception] = []

        def packets() -> Iterator[av.Packet]:
            for packet in self._deadline.guard(packet_range.packets):
                if skips:  # pictures that no other refers to ("NONREF")
                    chosen = packet_range.number_at.get(packet.pts) in buffer.positions
                    context.skip_frame = "DEFAULT" if chosen else "NONREF"
                yield packet

        if not self._decoder_is_new:
            context.flush_buffers()
        self._decoder_is_new = False
        decoded = []
        for frame in decode_packets(self._stream, packets(), errors):
            if frame.pts in packet_range.number_at:  # the others are shown before the key frame, lacking references
                decoded.append(packet_range.number_at[frame.pts])
                buffer.add_frame(decoded[-1], frame)
        numbers = packet_range.number_at
        expected = sorted(numbers[p.pts] for p in packet_range.packets if p.pts in numbers)
        if skips:  # some do not come, but the key frame comes first and numbers rise
            return not errors and decoded[:1] == expected[:1] and all(x < y for x, y in itertools.pairwise(decoded))
        return not errors and decoded == expected


def _decode_in_order(stream: Any, packets: Iterable[av.Packet], buffer: FrameBuffer, errors: list[Exception]) -> int:
    """Decode to the last chosen frame; returns the number of frames that came."""
    count = 0
    for frame in decode_packets(stream, packets, errors):
        buffer.add_frame(count, frame)
        count += 1
        if count > buffer.numbers[-1]:
            break
    return count


class _PacketRange(NamedTuple):
    """Packets from a key frame on, and the frame number of each presentation time."""

    packets: list[av.Packet]
    number_at: dict[int | None, int]
