"""Video files as packets: opening them, choosing the video stream, counting frames, and decoding packet by packet.

:mod:`gesta.video.read` is where to start. Frame counts come from packets, never from the header, which may be wrong.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import av
from av.error import ExitError
from av.stream import Disposition
from torch.utils.data import get_worker_info

from gesta.errors import VideoError
from gesta.video.archive import ByteRange, locate
from gesta.video.boundary import DAMAGED, decoding, explain
from gesta.video.deadline import Deadline
from gesta.video.picture import MAX_PIXELS, size_problem

HELD_BYTES = 16 * 2**20
"""A file up to this size is held as packets while it is read; of a larger one only the range that is needed."""

MAX_REORDER = 32
"""A decoder holds back at most 16 pictures to bring them into the order in which they are shown (H.264, HEVC), so no
frame comes out later than this many packets after its own."""

NETWORK_TIMEOUT = 20.0
"""Seconds without an answer after which a URL has failed."""

LIMITS = {"max_pixels": str(MAX_PIXELS)}
"""For libav's decoders, which then refuse a larger picture before they allocate it."""


# --- opening ---------------------------------------------------------------------------------------------------------


@contextmanager
def open_video(source: str | int, deadline: Deadline | None = None) -> Iterator[tuple[Any, Any]]:
    """Open a file, URL or camera and choose its video stream; yields (container, stream).

    With a deadline, opening it and reading a packet are given up when each of them has taken all of that time.

    Whatever is raised while it is open becomes the error of this file, see :func:`gesta.video.boundary.decoding`.

    Raises:
        VideoError: it does not exist, cannot be opened, holds no moving picture, or one of absurd size.
    """
    name, options = _libav_source(source)
    options["options"] = LIMITS | options.get("options", {})
    if deadline is not None:
        options["timeout"] = deadline.seconds
    if int(av.__version__.split(".")[0]) < 19:  # later versions never fail on such tags and do not know the argument
        options["metadata_errors"] = "replace"
    with decoding(source, "cannot be opened as a video", _remedy(source)):
        try:
            container = av.open(name, **options)
        except ExitError:
            if deadline is None:
                raise
            raise deadline.error() from None
    with decoding(source), container:
        yield container, _choose_stream(container, source)


def _libav_source(source: str | int) -> tuple[str, dict[str, Any]]:
    """What to hand to libav: name and options."""
    if isinstance(source, str) and not source.startswith("/dev/video"):
        if (byte_range := locate(source)) is not None:
            return byte_range.url, {}
        if os.path.exists(source):
            raise VideoError(f"{source}: is neither a file nor a folder; give a video file or a folder of frames")
    text = str(source)
    if "://" in text:
        options = {"rtsp_transport": "tcp"} if text.startswith("rtsp") else {}
        return text, {"timeout": NETWORK_TIMEOUT, "options": options}
    if text.isdigit() or text.startswith("/dev/video"):
        if sys.platform == "darwin":
            return text, {"format": "avfoundation", "options": {"framerate": "30"}}
        if sys.platform == "win32":
            raise VideoError(f"{source}: cameras have names here; give video=NAME")
        return f"/dev/video{text}" if text.isdigit() else text, {"format": "v4l2"}
    if text.startswith("video=") and sys.platform == "win32":
        return text, {"format": "dshow"}
    raise VideoError(f"{source}: does not exist; check the path")


def _remedy(source: str | int) -> str:
    if isinstance(source, str) and locate(source) is not None:
        return DAMAGED
    return "check that the address is right and the device or server is on and not in use"


def _choose_stream(container: Any, source: str | int) -> Any:
    file_format = container.format.name
    if file_format.endswith("_pipe") or file_format == "image2":
        raise VideoError(f"{source}: is a still image; give a video file or the folder of frames")
    if file_format == "tty":  # libav draws text files
        raise VideoError(f"{source}: is a text file; give a video file or a folder of frames")
    stream = container.streams.best("video")
    if stream is None or stream.disposition & Disposition.attached_pic:
        raise VideoError(f"{source}: holds no video, only {_contents(container)}; take it off the list")
    if stream.codec_context is None:
        raise VideoError(f"{source}: its video codec has no decoder here; convert it, for example to H.264")
    if stream.width and stream.height and (problem := size_problem(stream.width, stream.height)):
        raise VideoError(f"{source}: by its header, {problem}; {DAMAGED}")
    stream.codec_context.options = dict(LIMITS)
    return stream


def _contents(container: Any) -> str:
    names = {"video": "a cover picture"}  # the only "video" that is no moving picture
    return " and ".join(sorted({names.get(stream.type, stream.type) for stream in container.streams})) or "a header"


def set_threads(stream: Any, single: bool = False) -> bool:
    """One decoder thread in a loader process and for small pictures, several otherwise; returns whether several."""
    several = not single and get_worker_info() is None and stream.width * stream.height > 1280 * 720
    stream.thread_type = "FRAME" if several else "NONE"
    stream.codec_context.thread_count = min(os.cpu_count() or 1, 8) if several else 1
    return several


# --- what packets tell -----------------------------------------------------------------------------------------------


class KeyFrame(NamedTuple):
    """A frame that needs no other: its number in file order, decoding time (if the file has it), presentation time."""

    number: int
    dts: int | None
    pts: int


class PacketScan(NamedTuple):
    """What the packets of a video tell without decoding.

    Attributes:
        frames: number of packets that should give a frame.
        times: their presentation times (of the container's index: decoding times) in file order, in units of
            ``unit``; empty where unknown or wrong (AVI).
        keys: key frames at which decoding may start and gives exactly the same; empty if only the beginning may.
        packets: all packets, discarded ones included, if they are few enough to hold.
        unit: seconds per unit of time.
    """

    frames: int
    times: list[int]
    keys: list[KeyFrame]
    packets: list[av.Packet] | None
    unit: float


def scan_packets(container: Any, stream: Any, deadline: Deadline) -> PacketScan:
    """Count the frames of an open file and learn where decoding may start, from its packets or its index."""
    byte_range = locate(deadline.path)
    if byte_range is None:
        raise VideoError(f"{deadline.path}: does not exist any more; check the path")
    large = byte_range.size > HELD_BYTES
    unit = float(stream.time_base or 0)
    if large and "mp4" in container.format.name and not _fragmented(byte_range):
        indexed = _from_index(container, stream, unit, deadline)
        if indexed is not None:
            return indexed
    packets: list[av.Packet] = []
    times: list[int] = []
    keys: list[KeyFrame] = []
    shown = 0
    guessed_dts = "matroska" in container.format.name  # which stores presentation times only; libav guesses the others
    latest = None  # the latest presentation time so far
    for packet in read_packets(container, stream, [], deadline):
        if not large:
            packets.append(packet)
        if not packet.is_discard:
            shown += 1
            if packet.pts is None:
                continue
            times.append(packet.pts)
            # only key frames that are shown after all packets before them
            if packet.is_keyframe and (latest is None or packet.pts > latest):
                keys.append(KeyFrame(len(times) - 1, None if guessed_dts else packet.dts, packet.pts))
            latest = packet.pts if latest is None else max(latest, packet.pts)
    # the times of AVI files are wrong, and times that packets share or lack do not order frames
    if container.format.name == "avi" or len(set(times)) < shown:
        return PacketScan(shown, [], [], packets or None, unit)
    # without a key frame first, the decoder drops frames and all later numbers shift
    if len(packets) > shown or not keys or keys[0].number > 0 or times[0] > min(times):
        keys = []
    return PacketScan(shown, times, keys, packets or None, unit)


def _from_index(container: Any, stream: Any, unit: float, deadline: Deadline) -> PacketScan | None:
    """The same of an MP4 file from its index, without reading the file; None if the index may not be all."""
    entries = [(entry.timestamp, entry.is_keyframe, entry.is_discard) for entry in stream.index_entries]
    if not entries or len(entries) != stream.frames or any(discard for _, _, discard in entries):
        return None
    first = list(itertools.islice(read_packets(container, stream, [], deadline), MAX_REORDER))
    times = presentation_times(first)
    if not times or not first[0].is_keyframe or times[0] > min(times):
        return None
    # the index has decoding times only; a key frame is shown as long after its decoding as the first one is
    offset = times[0] - (times[0] if first[0].dts is None else first[0].dts)
    keys = [KeyFrame(i, time, time + offset) for i, (time, key, _) in enumerate(entries) if key]
    return PacketScan(len(entries), [time for time, _, _ in entries], keys, None, unit)


def presentation_times(packets: list[av.Packet]) -> list[int]:
    """Presentation times of packets; empty unless each has its own and all are shown."""
    times = {packet.pts for packet in packets if packet.pts is not None and not packet.is_discard}
    return [packet.pts for packet in packets if packet.pts is not None] if len(times) == len(packets) else []


def _fragmented(byte_range: ByteRange) -> bool:
    """Whether an MP4 file is made of fragments, whose index is not complete before the whole file is read."""
    with open(byte_range.file, "rb") as file:
        file.seek(byte_range.offset)
        # a file is a list of boxes: size (4 bytes, with itself), type (4 bytes), content
        while len(header := file.read(16)) >= 8 and file.tell() <= byte_range.offset + byte_range.size:
            size, box_type = int.from_bytes(header[:4], "big"), header[4:8]
            if box_type == b"moof":  # movie fragment
                return True
            if size == 1:  # the size follows, in 8 bytes
                size = int.from_bytes(header[8:16], "big")
            if size < 8:  # 0: reaches to the end of the file
                return False
            file.seek(size - len(header), os.SEEK_CUR)
    return False


def read_packets(
    container: Any, stream: Any, errors: list[Exception], deadline: Deadline | None = None
) -> Iterator[av.Packet]:
    """The stream's packets to the end of the file, or to where the file breaks off.

    Raises:
        VideoError: the deadline is over. That is no damage: read again, the file may be longer.
    """
    packets, at_end = container.demux(stream), False
    while True:
        if deadline is not None:
            deadline.check()
        try:
            packet = next(packets)
        except StopIteration:
            return
        except Exception as error:
            if deadline is not None and isinstance(error, ExitError):
                raise deadline.error() from None
            # At the end PyAV fails on streams that appeared after opening (an FLV whose sound begins late).
            if not (at_end and isinstance(error, IndexError)):
                errors.append(error)
            return
        at_end = not packet.size and packet.dts is None
        if packet.size:  # empty ones stand for dropped frames, or for the end
            yield packet


def decode_packets(stream: Any, packets: Iterable[av.Packet], errors: list[Exception]) -> Iterator[av.VideoFrame]:
    """Decode packets one by one; what cannot be decoded goes to ``errors`` and costs its own frames only."""
    for packet in packets:
        try:
            frames = packet.decode()
        except Exception as error:  # whatever it is, the other packets may be whole
            errors.append(error)
            continue
        yield from _readable(frames, errors)
    try:
        held_back = stream.codec_context.decode(None)
    except Exception as error:
        errors.append(error)
        return
    yield from _readable(held_back, errors)


def _readable(frames: Iterable[av.VideoFrame], errors: list[Exception]) -> Iterator[av.VideoFrame]:
    """Frames of a size that can be scaled; it may change within a video."""
    for frame in frames:
        if problem := size_problem(frame.width, frame.height):
            errors.append(ValueError(problem))
        else:
            yield frame


def last_error(errors: list[Exception]) -> str:
    """The last error in words; empty if there was none."""
    return explain(errors[-1]) if errors else ""


def undecodable(path: str, problem: str) -> VideoError:
    """What is raised when not a single frame came."""
    detail = f" ({problem})" if problem else ""
    return VideoError(f"{path}: no frame of it can be decoded{detail}; {DAMAGED}")
