"""Video files as packets: opening them, choosing the video stream, and decoding packet by packet.

:mod:`gesta.video.read` is where to start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import av
from av.error import ArgumentError, ExitError
from av.stream import Disposition
from torch.utils.data import get_worker_info

from gesta.errors import VideoError
from gesta.video.archive import locate, read_bytes
from gesta.video.boundary import DAMAGED, decoding, explain
from gesta.video.deadline import Deadline
from gesta.video.picture import MAX_PIXELS, size_problem

NETWORK_TIMEOUT = 20.0
"""Seconds without an answer after which a URL has failed."""

LIMITS = {"max_pixels": str(MAX_PIXELS)}
"""For libav's decoders, which then refuse a larger picture before they allocate it."""

NAMES_OTHER_FILES = frozenset({"avisynth", "concat", "dash", "hls", "imf", "sdp", "vapoursynth", "vobsub"})
"""Formats whose files name others that libav would open: a file that strangers made must not choose what is read."""

_SCHEMES = "http https ftp sftp rtsp rtsps rtspu rtmp rtmpe rtmps rtmpt rtmpte rtmpts rtp srtp udp tcp tls srt mms mmsh"
SCHEMES = frozenset(_SCHEMES.split(" "))
"""Of addresses. All others (``file``, ``subfile`` …) name files of this machine, past the checks of files; lists, which
strangers make, may hold them."""

FILE_FORMATS = ",".join(sorted(av.formats_available - NAMES_OTHER_FILES))
"""What a file may be, for libav."""


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
        except ArgumentError:
            if name != str(source) and _is_text(source):
                raise VideoError(
                    f"{source}: is a playlist or another text that names files, which are not opened; give the videos "
                    "themselves"
                ) from None
            raise
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
            return byte_range.url, {"options": {"format_whitelist": FILE_FORMATS}}
        if os.path.exists(source):
            raise VideoError(f"{source}: is neither a file nor a folder; give a video file or a folder of frames")
    text = str(source)
    if "://" in text:
        if text.partition("://")[0].lower() not in SCHEMES:
            raise VideoError(
                f"{source}: is no address of a server; give the path of a file, or an address such as https:// or rtsp://"
            )
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


def _is_text(source: str | int) -> bool:
    """Whether a file begins as text does."""
    byte_range = locate(str(source))
    return byte_range is not None and b"\0" not in next(read_bytes(byte_range, 2**10), b"\0")


def limit_pixels(most: int) -> None:
    """From now on, this process refuses pictures of more pixels, whatever a header says of them."""
    LIMITS["max_pixels"] = str(min(most, MAX_PIXELS))


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


# --- packets and frames ----------------------------------------------------------------------------------------------


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


def hides_picture(stream: Any, packet: av.Packet) -> bool:
    """Whether a packet holds a picture that others refer to and that is never shown, so that no frame comes of it.

    The first byte of VP8's packets says so (RFC 6386, 9.1: ``show_frame``). Other codecs of today put such a picture
    into the packet of one that is shown, as VP9 and AV1 do.
    """
    return stream.codec_context.codec.canonical_name == "vp8" and not memoryview(packet)[0] & 0x10


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
