"""A copy of a video with its timed actions drawn into the frames."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gesta.errors import BrokenOffError, GestaError
from gesta.files import temporary_for
from gesta.prediction.prediction import Prediction
from gesta.progress import one_line, show
from gesta.video.boundary import explain
from gesta.video.probe import probe
from gesta.video.read import Frame, stream

FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".mov": "mov"}
"""libav's name of the container, by suffix."""

TICKS_PER_SECOND = 90_000
"""Resolution of the copy's timestamps: fine enough for every usual frame rate."""


def annotate(source: str | os.PathLike[str], segments: Sequence[Prediction], out: str | os.PathLike[str]) -> Path:
    """Write a copy of ``source`` (H.264, without sound) with each segment's action and a bar of its probability.

    Segments that overlap, as those of multi-label models do, are drawn one above the other.

    One frame is held at a time; frames keep their times, so variable frame rates stay variable, and pixels their
    aspect. ``out`` appears only when it is complete.

    Args:
        source: a video file or frame folder.
        segments: predictions of :func:`gesta.prediction.timeline.timeline`; those without times are left out.
        out: ``.mp4``, ``.mkv`` or ``.mov``.

    Raises:
        VideoError: the source cannot be read.
        GestaError: ``out`` has another suffix, is the source itself or cannot be written.
    """
    source, out = os.fspath(source), Path(out)
    check_copy(source, out)
    info = probe(source)
    rate = Fraction(info.fps or 25).limit_denominator(1001)
    timed = [s for s in segments if s.start is not None and s.end is not None and s.labels]
    font = find_font("".join(s.labels[0][0] for s in timed))
    waiting, shown = deque(sorted(timed, key=lambda s: s.start or 0)), list[Prediction]()
    try:
        with temporary_for(out) as part, av.open(str(part), "w", format=FORMATS[out.suffix.lower()]) as container:
            video, last_tick = None, -1
            for frame in _to_the_end(source):
                while waiting and (waiting[0].start or 0) <= frame.time:
                    shown.append(waiting.popleft())
                shown = [s for s in shown if (s.end or 0) > frame.time]
                image = _draw(frame.image, shown, font)
                if video is None:
                    video = container.add_stream("libx264", rate=rate)
                    video.height, video.width, video.pix_fmt = *image.shape[:2], "yuv420p"
                    video.options = {"crf": "20", "preset": "veryfast"}
                    video.codec_context.sample_aspect_ratio = Fraction(info.pixel_aspect).limit_denominator(1001)
                    video.time_base = video.codec_context.time_base = Fraction(1, TICKS_PER_SECOND)
                picture = av.VideoFrame.from_ndarray(image, format="rgb24")
                last_tick = max(round(frame.time * TICKS_PER_SECOND), last_tick + 1)  # H.264 needs rising times
                picture.pts, picture.time_base = last_tick, Fraction(1, TICKS_PER_SECOND)
                container.mux(video.encode(picture))
            if video is not None:
                container.mux(video.encode())
    except (OSError, FFmpegError) as error:
        raise GestaError(f"{out}: cannot be written ({explain(error)}); choose another file with --draw") from None
    return out


def check_copy(source: str, out: Path) -> None:
    """Refuse a place for the copy, before anything is computed; arguments as of :func:`annotate`.

    Raises:
        GestaError: it has another suffix, is the source itself, or its folder is not there.
    """
    if out.suffix.lower() not in FORMATS:
        raise GestaError(f"{out}: an annotated copy is H.264, so its name must end in .mp4, .mkv or .mov")
    if out.exists() and os.path.exists(source) and out.samefile(source):
        raise GestaError(f"{out} is the video itself: choose another name for the copy")
    if not out.parent.is_dir():
        raise GestaError(f"{out}: there is no folder {out.parent}; make it, or choose another file with --draw")


def _to_the_end(source: str) -> Iterator[Frame]:
    """All frames there are; the predictions say already if the end is missing."""
    with contextlib.suppress(BrokenOffError):
        yield from stream(source)


def find_font(text: str) -> str:
    """File of a font that has all letters of a text; empty for Pillow's own, which has those of ASCII alone.

    Of fonts, matplotlib's DejaVu Sans is looked at first, then those of the system. If none has all of them, standard
    error says so, and they are drawn as boxes.
    """
    if text.isascii():
        return ""
    import matplotlib  # start-up time
    from matplotlib.font_manager import findSystemFonts
    from matplotlib.ft2font import FT2Font

    letters = {ord(letter) for letter in one_line(text)}
    usual = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    missing = letters
    for file in itertools.chain([usual], sorted(findSystemFonts())):
        with contextlib.suppress(RuntimeError, OSError):  # of a damaged one
            font = FT2Font(file)
            absent = letters - font.get_charmap().keys()
            if font.scalable and not absent:
                return file
            missing = absent if file == usual else missing
    absent_letters = "".join(map(chr, sorted(missing)))
    show(f"no font here has the letters {absent_letters}; install one, such as Noto Sans CJK", sys.stderr)
    return usual


def _draw(image: Tensor, segments: Sequence[Prediction], font_file: str = "") -> np.ndarray:
    """``(C, H, W)`` uint8 to ``(H, W, C)`` of even size (H.264 requires it), with a banner for each segment."""
    pixels = image.permute(1, 2, 0).numpy()
    height, width = pixels.shape[:2]
    pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    if not segments:
        return np.ascontiguousarray(pixels)
    canvas = Image.fromarray(pixels)
    draw = ImageDraw.Draw(canvas, "RGBA")
    band = min(height, max(12, height // 10))
    bar = max(2, band // 6)
    size = max(8, round(0.6 * band))
    font = ImageFont.truetype(font_file, size) if font_file else ImageFont.load_default(size=size)
    for row, segment in enumerate(segments[: height // band]):
        name, probability = segment.labels[0]
        top, bottom = height - band * (row + 1), height - band * row
        draw.rectangle((0, top, width, bottom - 1), fill=(0, 0, 0, 150))
        draw.rectangle((0, bottom - bar, round(width * probability), bottom - 1), fill=(80, 200, 120, 255))
        draw.text(
            (band // 4, top + (band - bar) / 2),
            f"{one_line(name)} {probability:.0%}",
            fill=(255, 255, 255, 255),
            font=font,
            anchor="lm",
        )
    return np.array(canvas)
