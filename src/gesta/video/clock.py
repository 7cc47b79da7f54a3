"""When frames are shown: timestamps become seconds that rise from frame to frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import av

from gesta.video.container import decode_packets, hides_picture

FALLBACK_FPS = 25.0
"""Assumed where a video does not say its frames per second, as folders of images never do."""

JUMP_FRAMES = 16
"""A decoder holds back at most 16 pictures, so a clock that falls by more was reset: recordings were joined."""

GAP_S = 10.0
"""In a broadcast format, whose clock may be reset at any time, a longer gap is such a jump, as in other players."""

ROUNDING_S = 1e-5
"""Seconds by which the container's beginning may be rounded."""

BROADCAST = frozenset({"mpegts", "mpeg", "mpegvideo"})


def numbers_chunks(container: Any) -> bool:
    """Whether the container (AVI) counts pictures in the order of the file and has no presentation times."""
    return "avi" in container.format.name.split(",")


class Clock:
    """Turns the timestamps of frames, in the order in which the decoder gives them, into seconds.

    Zero is the container's beginning, as players have it: a picture that begins after the sound begins after zero. The
    times rise from frame to frame: where a timestamp is missing, repeated or too early, the frame follows the one
    before it after the usual step, and where the clock was reset (recordings were joined, it overflowed) the frames
    after that are moved along.

    Args:
        container: open file or stream.
        stream: its video stream.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self._unit = float(stream.time_base or 0)
        self._origin = None if container.start_time is None else container.start_time / av.time_base
        rate = float(stream.average_rate or 0) or float(stream.guessed_rate or 0)
        self._step = 1 / (rate or FALLBACK_FPS)
        self._may_jump = container.format.name in BROADCAST
        self._last: float | None = None

    def __call__(self, timestamp: int | None) -> float:
        """Seconds at which the next frame is shown, given its presentation time in the stream's units."""
        expected = 0.0 if self._last is None else self._last + self._step
        if timestamp is None or not self._unit:
            time = expected
        else:
            time = timestamp * self._unit
            # a camera says no beginning, and libav's is rounded to microseconds
            if self._origin is None or (self._last is None and time < self._origin + ROUNDING_S):
                self._origin = time
            time -= self._origin
            if self._last is not None:
                early, too_late = self._last - time, self._may_jump and time - self._last > GAP_S
                if early > JUMP_FRAMES * self._step or too_late:
                    self._origin += time - expected
                if early >= 0 or too_late:
                    time = expected
        self._last = time
        return time


def timed_frames(
    container: Any, stream: Any, packets: Iterable[av.Packet], errors: list[Exception]
) -> Iterator[tuple[av.VideoFrame, float]]:
    """Decoded frames with the seconds at which they are shown; ``errors`` as in ``decode_packets``."""
    clock = Clock(container, stream)
    if not numbers_chunks(container):
        for frame in decode_packets(stream, packets, errors):
            yield frame, clock(frame.pts)
        return
    chunks: deque[int | None] = deque()  # of the frames that are still to come

    def noted() -> Iterator[av.Packet]:
        for packet in packets:
            shown = not hides_picture(stream, packet)
            chunks.extend([packet.dts] * shown)
            errors_before = len(errors)
            yield packet
            if shown and len(errors) > errors_before:  # this one costs its frame
                chunks.pop()

    for frame in decode_packets(stream, noted(), errors):
        yield frame, clock(chunks.popleft() if chunks else None)
