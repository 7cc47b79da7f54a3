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
from contextlib import ExitStack
from typing import Any

import av
import numpy as np

from gesta.video.clock import Clock, numbers_chunks, timed_frames
from gesta.video.container import decode_packets, last_error, open_video, read_packets, set_threads
from gesta.video.deadline import Deadline
from gesta.video.index import MAX_REORDER, frame_numbers, index_packets
from gesta.video.picture import FrameBuffer

ONE_PACKET_ONE_FRAME = frozenset({"h264", "hevc", "av1", "libdav1d", "libaom-av1"})
"""Decoders of codecs in which each packet is exactly one shown frame. VP8 is none of them: it may hide some."""

MAX_RANGE_BYTES = 256 * 2**20
"""More packets than this between two key frames are not held; such a file is decoded from its beginning."""


class VideoFile:
    """Source of frames: one video file, open between ``__enter__`` and ``__exit__``.

    Attributes:
        frames: how many frames there are, as far as the packets tell.
        problem: why frames are missing, as the decoder said last; empty if it said nothing.
        broken: why the end of the file is missing; empty if it is not.
        container: while it is open.
        stream: its video stream.
    """

    def __init__(self, path: str, deadline: Deadline | None = None) -> None:
        self.path = path
        self.problem = ""
        self._deadline = deadline or Deadline(path)

    def __enter__(self) -> VideoFile:
        with ExitStack() as stack:
            self.container, self.stream = stack.enter_context(open_video(self.path, self._deadline))
            self._index = index_packets(self.container, self.stream, self._deadline)
            self.frames, self.broken = self._index.frames, self._index.broken
            counts_exactly = self.stream.codec_context.name in ONE_PACKET_ONE_FRAME
            self._shortcut = bool(self._index.keys) and counts_exactly
            if self._shortcut:
                self._numbers = frame_numbers(self._index.pts)
                self._positions = np.argsort(self._index.pts)  # of packets, by the number of their frame
            self._decoder_is_new = True
            self._multithreaded = set_threads(self.stream)
            self._decoded_times: np.ndarray | None = None
            # a decoder may drop frames where recordings were joined, or keep those that an edit list leaves out
            if self.contradictory_times or (self._index.discards and not counts_exactly):
                self._decoded_times = self._decode_times()
                self.frames = len(self._decoded_times) or self.frames
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.close()

    @property
    def has_times(self) -> bool:
        """Whether the file has timestamps, or says its frames per second."""
        timestamps = [*self._index.pts.tolist(), *self._index.dts]
        return any(timestamps) or bool(self.stream.average_rate or self.stream.guessed_rate)

    @property
    def contradictory_times(self) -> bool:
        """Whether the timestamps of packets order no frames: they are repeated, or run backwards."""
        return not len(self._index.pts) and not numbers_chunks(self.container) and any(self._index.dts)

    def times(self) -> np.ndarray:
        """When each frame is shown, seconds from the container's beginning, see :class:`gesta.video.clock.Clock`.

        Where the times of packets contradict each other, those of the decoded frames.
        """
        if self._decoded_times is not None:
            return self._decoded_times
        clock = Clock(self.container, self.stream)
        return np.array([clock(time) for time in (np.sort(self._index.pts).tolist() or self._index.dts)])

    def _decode_times(self) -> np.ndarray:
        errors: list[Exception] = []
        with open_video(self.path, self._deadline) as (container, stream):
            set_threads(stream)
            packets = read_packets(container, stream, errors, self._deadline)
            return np.array([time for _, time in timed_frames(container, stream, packets, errors)])

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
        if self._decoder_is_new and self._index.packets is not None:
            self._decoder_is_new, multithreaded = False, self._multithreaded
            count = _decode_in_order(self.stream, self._deadline.guard(self._index.packets), buffer, errors)
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

        It is relied on only where packets and frames correspond one to one and the packets prove that the frame with
        the k-th presentation time is the k-th that the decoder gives (:mod:`gesta.video.index`), and checked on
        everything that is decoded: each range of packets begins with its key frame, times rise, nothing fails. H.264
        pictures that no other refers to are not decoded unless they are chosen or their order is in doubt.
        """
        key_numbers = self._numbers[self._index.keys].tolist()
        by_key: dict[int, list[int]] = {}  # position of a key frame → chosen frames from it to the next
        for number in buffer.numbers:
            key = bisect.bisect_right(key_numbers, number) - 1
            by_key.setdefault(self._index.keys[key], []).append(number)
        return all(self._decode(key, chosen, buffer) for key, chosen in by_key.items()) and not buffer.missing

    def _packets(self, key: int, end: int) -> list[av.Packet]:
        """Packets from a key frame's to before ``end``; none if the file cannot be entered there."""
        if self._index.packets is not None:
            return self._index.packets[key:end]
        expected = self._index.pts[key:end].tolist()
        for time in (expected[0], self._index.dts[key]):  # which of them a container seeks by differs
            if time is None:
                continue
            try:
                self.container.seek(time, stream=self.stream)
            except Exception:  # whatever it is, the file can still be decoded from its beginning
                continue
            errors: list[Exception] = []
            packets: list[av.Packet] = []
            size = 0
            for packet in read_packets(self.container, self.stream, errors, self._deadline):
                # seeking is not exact in every container: go on only from the very packets that were asked for
                if packet.pts != expected[len(packets)]:
                    break
                packets.append(packet)
                size += packet.size
                if size > MAX_RANGE_BYTES:
                    return []
                if len(packets) == len(expected):
                    return packets
        return []

    def _decode(self, key: int, chosen: list[int], buffer: FrameBuffer) -> bool:
        """Decode from a key frame on to the last chosen frame; returns whether exactly the expected frames came."""
        context = self.stream.codec_context
        skips = context.name == "h264" and self._index.one_clock
        # in the file every frame comes after all it refers to, so nothing is needed after the last chosen one, except
        # where the packets do not prove which frames are shown before that: those follow within the decoder's delay
        end = int(self._positions[chosen].max()) + 1 + (0 if self._index.one_clock else MAX_REORDER)
        packets = self._packets(key, end)
        number_at = dict(zip(self._index.pts[key:end].tolist(), self._numbers[key:end].tolist()))
        if not packets:
            return False
        errors: list[Exception] = []

        def chosen_or_needed() -> Iterator[av.Packet]:
            for packet in self._deadline.guard(packets):
                if skips:  # pictures that no other refers to ("NONREF")
                    context.skip_frame = "DEFAULT" if number_at.get(packet.pts) in buffer.positions else "NONREF"
                yield packet

        if not self._decoder_is_new:
            context.flush_buffers()
        self._decoder_is_new = False
        decoded = []
        # "leading" pictures follow the key frame in the file but are shown before it and may refer to what precedes it
        first = int(self._numbers[key])
        for frame in decode_packets(self.stream, chosen_or_needed(), errors):
            number = number_at.get(frame.pts, -1)
            if number >= first:
                decoded.append(number)
                buffer.add_frame(number, frame)
        if skips:  # some do not come, but the key frame comes first and numbers rise
            return not errors and decoded[:1] == [first] and all(x < y for x, y in itertools.pairwise(decoded))
        return not errors and decoded == sorted(number for number in number_at.values() if number >= first)


def _decode_in_order(stream: Any, packets: Iterable[av.Packet], buffer: FrameBuffer, errors: list[Exception]) -> int:
    """Decode to the last chosen frame; returns the number of frames that came."""
    count = 0
    for frame in decode_packets(stream, packets, errors):
        buffer.add_frame(count, frame)
        count += 1
        if count > buffer.numbers[-1]:
            break
    return count
