"""One video of a folder that is being prepared: decoded, scaled, and encoded again or written as images."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import ColorRange, VideoReformatter
from PIL import Image

from gesta.errors import DecodeError, VideoError
from gesta.files import DISK_FAULTS, make_folder, refusal, remove, replacement_for, write_text
from gesta.video.boundary import decoding
from gesta.video.clock import FALLBACK_FPS, timed_frames
from gesta.video.container import last_error, open_video, read_packets, set_threads, undecodable
from gesta.video.flow import write_flow
from gesta.video.images import image_files, read_image
from gesta.video.picture import FrameConverter, display_matrix, squared_size
from gesta.video.probe import VideoInfo, probe

CRF = {"h264": 20, "hevc": 22}
"""Quality of the encoder (constant rate factor, lower is better): hardly a visible difference from the original."""

JPEG_QUALITY = 90

TICKS = 90000
"""Units of a second in which the times of a video without a constant rate are written."""

ROUNDING_S = 1e-3
"""Seconds by which a duration may be rounded up: a frame that would last no longer is not added."""

ENCODERS = {"h264": "libx264", "hevc": "libx265"}


class EncodeSettings(NamedTuple):
    """How all videos are written; see :func:`gesta.curation.prepare.prepare`."""

    short_side: int
    codec: str
    fps: float | None
    frames: bool
    flow: bool = False


class EncodeJob(NamedTuple):
    """A video, the file or folder that it becomes, and how."""

    source: str
    target: str
    settings: EncodeSettings


class Outcome(NamedTuple):
    """Frames written, 0 if the video was left out, and a sentence about it if something was wrong."""

    frames: int
    remark: str = ""


class TimedFrame(NamedTuple):
    """A frame, seconds since the first one, and how many times it is to be written (0: not at all)."""

    image: Any  # a decoded frame, or an upright RGB image (3, H, W)
    time: float
    times: int = 1


def remark_file(target: str) -> str:
    """The hidden file beside a copy (or a shard) that says what is wrong with it, if something is."""
    folder, name = os.path.split(target)
    if len(os.fsencode(name)) > 200:  # file systems have names of 255 bytes at most
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return os.path.join(folder, f".{name}.remark")


def read_remark(target: str) -> str:
    """What :func:`remark_file` of a copy says; empty if there is none."""
    try:
        with open(remark_file(target), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def prepare_one(job: EncodeJob) -> Outcome:
    """Write one video; it appears under its name complete or not at all, and an earlier copy stays until then.

    What is wrong with a copy is written before it appears, so that a process that is killed in between leaves no
    damaged copy that counts as whole.
    """
    damage: list[Exception] = []
    try:
        make_folder(os.path.dirname(job.target))
        with decoding(job.source, "cannot be prepared"), replacement_for(job.target) as part:
            info = probe(job.source)
            timed_frames = _deinterlaced(_decoded(job.source, info, damage))
            if job.settings.fps is not None:
                timed_frames = _resampled(timed_frames, info, job.settings.fps)
            if job.settings.frames:
                part.mkdir()
                written = _write_images(str(part), timed_frames, info, job.settings.short_side)
            elif job.settings.flow:
                part.mkdir()
                pictures = _pictures(timed_frames, info, job.settings.short_side)
                written = write_flow((np.asarray(rgb) for rgb, times in pictures for _ in range(times)), part)
            else:
                written = _write_video(str(part), timed_frames, info, job.settings)
            if not written:
                raise undecodable(job.source, last_error(damage))
            if written == 1 and job.settings.frames:  # no reader and no list would find it
                rate = "" if job.settings.fps is None else " or give a higher --fps"
                raise VideoError(
                    f"{job.source}: would be a folder of one image, which is no video; leave --frames out{rate}"
                )
            remark = f"{len(damage)} damaged packets, {written} frames are left; get a better copy" if damage else ""
            if remark:
                write_text(remark_file(job.target), f"{remark}\n")
            else:
                remove(remark_file(job.target))  # of an earlier, damaged copy
    except VideoError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in DISK_FAULTS:  # which every further video would meet
            raise refusal(job.target, cause) from None
        return Outcome(0, str(error))
    return Outcome(written, f"{job.source}: {remark}" if remark else "")


# --- decoding --------------------------------------------------------------------------------------------------------


def _decoded(path: str, info: VideoInfo, damage: list[Exception]) -> Iterator[TimedFrame]:
    """All frames in decode order; with a constant rate the time follows from the number."""
    if info.kind == "frames":
        for file in image_files(path):
            try:
                yield TimedFrame(read_image(file, None), 0.0)
            except DecodeError as error:
                damage.append(error)
        return
    fps = info.fps or FALLBACK_FPS
    begin = None
    with open_video(path) as (container, stream):
        set_threads(stream, single=True)  # the other CPU cores have videos of their own
        packets = read_packets(container, stream, damage)
        for number, (frame, time) in enumerate(timed_frames(container, stream, packets, damage)):
            begin = time if begin is None else begin
            yield TimedFrame(frame, time - begin if info.variable_rate else number / fps)


def _deinterlaced(timed_frames: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    """The same frames; the second field of an interlaced one is made anew, for the moment of its first."""
    graph: Graph | None = None
    size = (0, 0, "")
    held_back: deque[TimedFrame] = deque()  # in the filter, which looks at the frames before and after each
    for timed in timed_frames:
        frame = timed.image
        if not isinstance(frame, av.VideoFrame) or (graph is None and not frame.interlaced_frame):
            yield timed
            continue
        if graph is None or size != (frame.width, frame.height, frame.format.name):
            yield from _filtered(graph, None, held_back)
            size = (frame.width, frame.height, frame.format.name)
            graph = Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, TICKS)
            )
            graph.link_nodes(source, graph.add("bwdif", "send_frame:auto:interlaced"), graph.add("buffersink"))
            graph.configure()
        frame.pts, frame.time_base = len(held_back), Fraction(1, TICKS)
        held_back.append(timed)
        yield from _filtered(graph, frame, held_back)
    yield from _filtered(graph, None, held_back)


def _filtered(graph: Graph | None, frame: av.VideoFrame | None, held_back: deque[TimedFrame]) -> Iterator[TimedFrame]:
    """Push a frame (None: the end) and take what is finished."""
    if graph is None:
        return
    graph.push(frame)
    while True:
        try:
            image = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield held_back.popleft()._replace(image=image)


def _resampled(timed_frames: Iterator[TimedFrame], info: VideoInfo, fps: float) -> Iterator[TimedFrame]:
    """Frame k of the result is the one that a player shows at ``k / fps`` seconds."""
    rate = info.fps or FALLBACK_FPS
    previous, written, end = None, 0, 0.0
    for number, (image, frame_time, _) in enumerate(timed_frames):
        time = number / rate if info.kind == "frames" else frame_time
        if previous is not None:
            until = max(_before(time, fps), written)
            yield TimedFrame(previous, written / fps, until - written)
            written = until
        previous = image
        end = max(info.duration - ROUNDING_S, time + ROUNDING_S) if info.duration else time + 1 / rate
    if previous is not None:
        yield TimedFrame(previous, written / fps, max(_before(end, fps) - written, int(not written)))


def _before(time: float, fps: float) -> int:
    """How many frames of the new rate begin before ``time``; a rounding error does not make one more."""
    return int(np.ceil(time * fps - 1e-6))


# --- writing ---------------------------------------------------------------------------------------------------------


def _write_images(folder: str, timed_frames: Iterator[TimedFrame], info: VideoInfo, short_side: int) -> int:
    """JPEG files, numbered from 1 as MMAction2 numbers them."""
    written = 0
    for rgb, times in _pictures(timed_frames, info, short_side):
        for _ in range(times):
            written += 1
            rgb.save(os.path.join(folder, f"img_{written:05d}.jpg"), quality=JPEG_QUALITY)
    return written


def _pictures(
    timed_frames: Iterator[TimedFrame], info: VideoInfo, short_side: int
) -> Iterator[tuple[Image.Image, int]]:
    """Each frame as a picture of square pixels whose short side is no longer than that, and how often it is written."""
    convert = None
    for image, _, times in timed_frames:
        if not times:
            continue
        if isinstance(image, av.VideoFrame):
            square = info.pixel_aspect == 1
            convert = convert or FrameConverter(_shrunk(image.width, image.height, short_side) if square else None)
            image = convert(image)
        rgb = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        width, height = squared_size(*rgb.size, info.pixel_aspect)
        scale = min(1.0, short_side / min(width, height))
        size = round(width * scale), round(height * scale)
        if rgb.size != size:
            rgb = rgb.resize(size, Image.Resampling.BOX if info.kind == "frames" else Image.Resampling.BICUBIC)
        yield rgb, times


def _write_video(path: str, timed_frames: Iterator[TimedFrame], info: VideoInfo, settings: EncodeSettings) -> int:
    """An MP4 file of 4:2:0 pictures of 8 bits with a key frame every second."""
    width, height = _even_size(*squared_size(info.width, info.height, info.pixel_aspect), settings.short_side)
    constant = settings.fps is not None or not info.variable_rate
    fps = Fraction(settings.fps or info.fps or FALLBACK_FPS).limit_denominator(1001)
    scaler = VideoReformatter()
    written = 0
    with av.open(path, "w", format="mp4") as container:
        stream: Any = container.add_stream(ENCODERS[settings.codec], rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = 1 / fps if constant else Fraction(1, TICKS)
        stream.codec_context.gop_size = max(1, round(fps))
        stream.codec_context.thread_count = 1
        stream.codec_context.color_range = ColorRange.MPEG
        stream.options = {"preset": "fast", "crf": str(CRF[settings.codec])}
        if settings.codec == "hevc":
            stream.options |= {"x265-params": "log-level=error:pools=none"}
            stream.codec_context.codec_tag = "hvc1"
        for image, time, times in timed_frames:
            if not times:
                continue
            if isinstance(image, av.VideoFrame) and display_matrix(image) is None:
                frame = image
                if not written:  # readers then convert the colours back by the same matrix
                    stream.codec_context.colorspace = image.colorspace
            else:
                upright = image if isinstance(image, np.ndarray) else FrameConverter(None)(image)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(upright.transpose(1, 2, 0)), format="rgb24")
            small = scaler.reformat(
                frame, width=width, height=height, format="yuv420p", dst_color_range=ColorRange.MPEG, threads=1
            )
            for _ in range(times):
                small.pict_type = 0  # the encoder decides, not the old file
                small.time_base = stream.codec_context.time_base
                small.pts = written if constant else round(time * TICKS)
                container.mux(stream.encode(small))
                written += 1
        if written:
            container.mux(stream.encode())
    return written


def _shrunk(width: int, height: int, short_side: int) -> int | None:
    """The short side that a picture is scaled to; None if it is small enough."""
    return short_side if min(width, height) > short_side else None


def _even_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Size after scaling, sides rounded to even pixels, as 4:2:0 needs them."""
    scale = min(1.0, short_side / min(width, height))
    return max(2, 2 * round(width * scale / 2)), max(2, 2 * round(height * scale / 2))
