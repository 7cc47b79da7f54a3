"""What a video is: frames counted, size, rate, codec, without trusting its header."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from gesta.errors import DecodeError
from gesta.video.boundary import decoding
from gesta.video.clock import numbers_chunks
from gesta.video.container import decode_packets, last_error, open_video, read_packets, set_threads, undecodable
from gesta.video.deadline import Deadline
from gesta.video.decode import VideoFile
from gesta.video.flow import Flow, check_is_folder
from gesta.video.images import image_error, image_files, read_image
from gesta.video.index import is_even
from gesta.video.modality import Shows, modality_of
from gesta.video.picture import FrameConverter, display_matrix

HDR_TRANSFER = frozenset({16, 18})
"""Transfer characteristics of HDR video: SMPTE ST 2084 (PQ) and ARIB STD-B67 (HLG), as ITU-T H.273 numbers them."""

SQUARE = 0.01
"""How much a pixel may be wider or higher than square: scaling to whole pixels leaves such aspects behind."""


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video is; made by :func:`probe`.

    Attributes:
        path: as given.
        kind: ``file``, or ``frames`` for a folder of images.
        frames: frames counted: packets that should give a frame, or with ``exact`` the frames that did decode.
        fps: average frames per second; 0 for a folder of images, which does not say.
        width: of the upright picture, in pixels.
        height: of the upright picture, in pixels.
        duration: seconds from the first frame to the end of the last; 0 for a folder of images.
        codec: name of the codec, or the images' suffix.
        rotation: degrees by which the stored pictures are turned counter-clockwise to stand upright: 0, 90, 180 or 270.
        declared_frames: what the header says, None if it says nothing.
        variable_rate: whether the distance of frames in time differs within the video.
        container: name of the file format.
        damaged: packets or images that could not be decoded; known only after ``exact``.
        start: seconds from the container's beginning to the first frame.
        pixel_aspect: width of the upright picture's pixels over their height, as players show them. gesta reads pixels
            as square, as published systems do; ``gesta data prepare`` makes them so.
        interlaced: whether a decoded frame is made of two fields, so that moving edges look like combs.
        hdr: whether its brightness is coded as PQ or HLG, which is shown flat and dark without tone mapping.
        contradictory_times: whether timestamps are repeated or run backwards, as in joined recordings; ``fps`` and
            ``duration`` are then of the frames in the order in which they are decoded.
    """

    path: str
    kind: Literal["file", "frames"]
    frames: int
    fps: float
    width: int
    height: int
    duration: float
    codec: str
    rotation: int = 0
    declared_frames: int | None = None
    variable_rate: bool = False
    container: str = ""
    damaged: int = 0
    start: float = 0.0
    pixel_aspect: float = 1.0
    interlaced: bool = False
    hdr: bool = False
    contradictory_times: bool = False

    to_json = asdict


def probe(
    path: str | os.PathLike[str],
    exact: bool = False,
    shows: Shows | None = None,
    deadline: Deadline | None = None,
) -> VideoInfo:
    """What a video is, without trusting its header.

    Args:
        path: video file or folder of frames.
        exact: decode everything and count what comes out, instead of counting packets.
        shows: as in :func:`gesta.video.read.read_frames`.
        deadline: when it has to be done; None gives a minute and one more second for each 128 kB of the file.

    Raises:
        VideoError: not a video, nothing in it can be decoded, or it takes too long.
    """
    path = os.fspath(path)
    deadline = deadline or Deadline(path)
    if isinstance(shows, Flow):
        check_is_folder(path)
    if os.path.isdir(path):
        return _probe_folder(path, exact, shows, deadline)
    with decoding(path), VideoFile(path, deadline) as file:
        times = file.times() if file.has_times else np.empty(0)
        frames, video, contradictory = file.frames, file.stream, file.contradictory_times
        declared, aspect = video.frames or None, float(video.sample_aspect_ratio or 1)
        average = float(video.average_rate or 0) or float(video.guessed_rate or 0)
        codec, file_format = video.codec_context.name, file.container.format.name
        last_step = 1 / average if average and numbers_chunks(file.container) else None
    first, decoded, interlaced = None, 0, False
    errors: list[Exception] = []
    with open_video(path, deadline) as (container, video):
        set_threads(video, single=True)  # with several threads an error may take other frames along
        for frame in decode_packets(video, read_packets(container, video, errors, deadline), errors):
            first = first or frame
            decoded += 1
            interlaced = interlaced or frame.interlaced_frame
            if not exact:
                break
    if first is None:
        raise undecodable(path, last_error(errors))
    frames = decoded if exact else frames
    with decoding(path):
        height, width = FrameConverter(None).size(first, display_matrix(first))  # upright
        quarter_turned = (height, width) == (first.width, first.height) and width != height
        aspect = 1 / aspect if quarter_turned else aspect
        fps, duration, variable = _frame_rate(times, frames, average, last_step)
    return VideoInfo(
        path=path,
        kind="file",
        frames=frames,
        fps=fps,
        width=width,
        height=height,
        duration=duration,
        codec=codec,
        rotation=int(first.rotation) % 360,
        declared_frames=declared,
        variable_rate=variable,
        container=file_format,
        damaged=len(errors),
        start=float(times[0]) if len(times) else 0.0,
        pixel_aspect=1.0 if abs(aspect - 1) < SQUARE else aspect,
        interlaced=interlaced,
        hdr=first.color_trc in HDR_TRANSFER,
        contradictory_times=contradictory,
    )


def _frame_rate(times: np.ndarray, frames: int, average: float, last_step: float | None) -> tuple[float, float, bool]:
    """Frames per second, duration in seconds, and whether the rate varies."""
    if len(times) < 2:
        return average, frames / average if average else 0.0, False
    steps = np.diff(times)
    fps = (len(times) - 1) / (times[-1] - times[0])
    variable = not is_even(steps)
    if abs(fps - average) < 0.01 * fps and not variable:
        fps = average
    last_step = last_step or (float(np.median(steps)) if variable else 1 / fps)
    return float(fps), float(times[-1] - times[0] + last_step), variable


def _probe_folder(path: str, exact: bool, shows: Shows | None, deadline: Deadline) -> VideoInfo:
    files = image_files(path, modality_of(shows))
    width = height = readable = 0
    problem = ""
    for file in files:
        deadline.check()
        try:
            image = read_image(file, None, shows)
        except DecodeError as error:
            problem = image_error(file, error)
            continue
        if not readable:
            height, width = image.shape[1:]
        readable += 1
        if not exact:
            break
    if not readable:
        raise undecodable(path, problem)
    return VideoInfo(
        path=path,
        kind="frames",
        frames=readable if exact else len(files),
        fps=0.0,
        width=width,
        height=height,
        duration=0.0,
        codec=os.path.splitext(files[0])[1].lower().lstrip("."),
        container="folder",
        damaged=len(files) - readable if exact else 0,
    )
