"""What the packets of a video file tell without decoding: how many frames there are, and where decoding may start.

Frame counts come from packets, never from the header, which may be wrong. Presentation times order frames only where
the packets of the file at hand prove it (:func:`_proves_order`).
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import av
import numpy as np

from gesta.video.archive import ByteRange, locate
from gesta.video.clock import numbers_chunks
from gesta.video.container import hides_picture, last_error, read_packets
from gesta.video.deadline import Deadline
from gesta.video.mp4 import composition_offsets, is_fragmented
from gesta.video.whole import missing_bytes

HELD_BYTES = 16 * 2**20
"""A file up to this size is held as packets while it is read; of a larger one only the range that is needed."""

MAX_REORDER = 16
"""A decoder holds back at most so many pictures to bring them into the order in which they are shown (H.264, HEVC)."""

STORES_DECODING_TIMES = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "mpegts", "flv"})
"""Containers whose decoding times are those of the file; of others libav guesses them."""


class PacketIndex(NamedTuple):
    """The packets of a video that should give a frame, in the order of the file.

    Attributes:
        frames: how many they are.
        pts: their presentation times, ``(frames,)`` int64; empty where they are unknown, repeated or contradictory.
        dts: their decoding times where known; of AVI the numbers of their chunks.
        keys: positions of the key frames at which decoding may start and gives exactly the same; empty if only the
            beginning may.
        discards: whether there are others, which an edit list leaves out.
        one_clock: whether the order of frames is known even of those that are not decoded.
        packets: all packets, those that give no frame included, if they are few enough to hold.
        broken: why packets are missing at the end; empty if none are.
    """

    frames: int
    pts: np.ndarray
    dts: list[int | None]
    keys: list[int]
    discards: bool
    one_clock: bool
    packets: list[av.Packet] | None
    broken: str = ""


def index_packets(container: Any, stream: Any, deadline: Deadline) -> PacketIndex:
    """Count the frames of an open file and learn where decoding may start, from its packets or its own index."""
    byte_range = locate(deadline.path)  # an address has none, and is read packet by packet
    large = byte_range is not None and byte_range.size > HELD_BYTES
    missing = missing_bytes(byte_range)
    has_tables = "mp4" in container.format.name and stream.codec_context.codec.canonical_name != "vp8"
    if byte_range is not None and large and has_tables and not is_fragmented(byte_range):
        indexed = _from_samples(container, stream, deadline, byte_range)
        if indexed is not None:
            return indexed._replace(broken=missing)
    packets: list[av.Packet] = []
    pts: list[int | None] = []
    dts: list[int | None] = []
    keys: list[int] = []
    discarded = hidden = held_bytes = 0
    errors: list[Exception] = []
    for packet in read_packets(container, stream, errors, deadline):
        held_bytes += packet.size
        if large or held_bytes > HELD_BYTES:
            packets.clear()
            large = True
        else:
            packets.append(packet)
        if packet.is_discard:
            discarded += 1
        elif hides_picture(stream, packet):
            hidden += 1
        else:
            if packet.is_keyframe:
                keys.append(len(pts))
            pts.append(packet.pts)
            dts.append(packet.dts)
    index = _index(container, stream, pts, dts, keys)
    index = index._replace(packets=packets or None, broken=last_error(errors) or missing)
    # without its discarded packets, the decoder drops frames and all later numbers shift
    return index._replace(keys=[], discards=discarded > 0) if discarded or hidden else index


def _from_samples(container: Any, stream: Any, deadline: Deadline, byte_range: ByteRange) -> PacketIndex | None:
    """The same of an MP4 file from its tables of samples, without reading the file; None if they may not be all."""
    entries = [(entry.timestamp, entry.is_keyframe, entry.is_discard) for entry in stream.index_entries]
    if not entries or len(entries) != stream.frames or any(discard for _, _, discard in entries):
        return None
    offsets = composition_offsets(byte_range, stream.id)
    if offsets is None or len(offsets) not in (0, len(entries)):
        return None
    dts = [time for time, _, _ in entries]
    pts = np.asarray(dts) + (offsets if len(offsets) else 0)
    first = list(itertools.islice(read_packets(container, stream, [], deadline), MAX_REORDER))
    read = [packet.pts for packet in first if packet.pts is not None]
    # an edit list may move all times by the same
    if not read or (pts[: len(first)] - pts[0] + read[0]).tolist() != read:
        return None
    keys = [i for i, (_, key, _) in enumerate(entries) if key]
    return _index(container, stream, (pts - pts[0] + read[0]).tolist(), dts, keys)


def _index(container: Any, stream: Any, times: list[int | None], dts: list[int | None], keys: list[int]) -> PacketIndex:
    index = PacketIndex(len(times), np.empty(0, np.int64), dts, [], False, False, None)
    if numbers_chunks(container) or None in times or not times:
        return index
    pts = np.asarray(times, np.int64)
    numbers = frame_numbers(pts)
    if not _proves_order(pts, numbers, dts):
        return index
    latest = np.maximum.accumulate(pts)
    # a key frame is shown after all that stands before it, and the decoder knows of frames that change their order
    enters = keys[:1] == [0] and numbers[0] == 0 and all(pts[key] > latest[key - 1] for key in keys[1:])
    if not enters or (stream.codec_context.has_b_frames != bool((numbers != np.arange(len(pts))).any())):
        keys = []
    stores_dts = container.format.name in STORES_DECODING_TIMES and None not in dts
    shown = np.sort(pts)
    one_clock = is_even(np.diff(shown) * float(stream.time_base or 0)) or (
        stores_dts and _one_delay(shown, np.asarray(dts))
    )
    return index._replace(pts=pts, keys=keys, one_clock=one_clock)


def _proves_order(pts: np.ndarray, numbers: np.ndarray, dts: list[int | None]) -> bool:
    """Whether one clock runs through the whole file, so that the k-th presentation time is that of the k-th frame.

    Where recordings were joined, or the clock overflowed or was set back, times are repeated, decoding times fall, or
    frames are further from their position than any decoder can move them.
    """
    decoding = np.asarray([time for time in dts if time is not None])
    return bool(
        len(np.unique(pts)) == len(pts)
        and (np.diff(decoding) > 0).all()
        and np.abs(numbers - np.arange(len(pts))).max() <= MAX_REORDER
    )


def _one_delay(shown: np.ndarray, decoding: np.ndarray) -> bool:
    """Whether each packet is decoded when the picture so many positions before is shown, as encoders make it."""
    delays = range(min(len(shown), MAX_REORDER + 1))
    return any(np.array_equal(decoding[delay:], shown[: len(shown) - delay]) for delay in delays)


def frame_numbers(pts: np.ndarray) -> np.ndarray:
    """For each packet in the order of the file, the rank of its time among all."""
    numbers = np.empty(len(pts), np.int64)
    numbers[np.argsort(pts, kind="stable")] = np.arange(len(pts))
    return numbers


def is_even(steps: np.ndarray) -> bool:
    """Whether frames follow each other at a constant rate, given the seconds between them."""
    if not len(steps):
        return True
    # containers that count milliseconds give 33, 33, 34, ...: that is not a variable rate
    usual_step = float(np.median(steps))
    return not bool((np.abs(steps - usual_step) > max(0.0015, 0.1 * usual_step)).any())
