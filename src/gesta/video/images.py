"""Folders of numbered images: the frames of one video, found by listing and never by guessing a name template."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from gesta.errors import DecodeError, VideoError
from gesta.video.boundary import decoding, explain
from gesta.video.deadline import Deadline
from gesta.video.depth import resize_nearest
from gesta.video.flow import PREFIX, STILL, Flow, is_first, partner
from gesta.video.modality import Modality, Shows, modality_of
from gesta.video.picture import FrameBuffer, Matrix, scaled_size, size_problem, upright
from gesta.video.suffixes import is_video_name

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
"""Formats of pictures that are opened, whatever their name: others reach old parsers, or start programs (EPS)."""

ORIENTATIONS: dict[int, Matrix] = {
    2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1),
    5: (0, 1, 1, 0), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0), 8: (0, -1, 1, 0),
}  # fmt: skip
"""Display matrices of the EXIF orientations, see :func:`gesta.video.picture.display_matrix`; others are upright."""

_ORIENTATION = 0x0112
"""The EXIF tag."""

_NUMBERED = re.compile(r"^(?P<prefix>.*?)(?P<number>\d+)(?P<suffix>\.[^.]+)$")
_SECONDS = re.compile(r"^(?P<prefix>)(?P<number>\d+\.\d+)(?P<suffix>\.[^.]+)$")


def image_files(folder: str, modality: Modality = "rgb") -> list[str]:
    """The frames of a folder, in the order of their numbers; of optical flow those of the displacement to the right.

    Images are grouped by what stands before the trailing number (``img_``, ``frame_``, nothing, the video's name) and
    by suffix; optical-flow images (``flow_x_``, ``flow_y_``, ``x_``, ``y_``) are left out, or only they are taken. The
    first number may be anything and numbers may be missing. Names that are seconds (``0.033.jpg``) are in the order of
    time.

    Raises:
        VideoError: no numbered images (of this modality), several sequences of which none is clearly the wanted one,
            two images of one number (``img_1.jpg`` and ``img_00001.jpg``), or flow in one direction only.
    """
    groups: dict[tuple[str, str], list[tuple[Decimal, str]]] = {}
    flow = False
    with decoding(folder, "cannot be listed"), os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    pattern = _SECONDS if _are_seconds(names) else _NUMBERED
    for name in names:
        match = pattern.match(name)
        if match is None or match["suffix"].lower() not in IMAGES:
            continue
        is_flow = PREFIX.match(match["prefix"]) is not None
        flow = flow or is_flow
        if is_flow != (modality == "flow") or (is_flow and not is_first(match["prefix"])):
            continue
        groups.setdefault((match["prefix"], match["suffix"].lower()), []).append((Decimal(match["number"]), name))
    if not groups:
        if modality == "flow":
            raise VideoError(
                f"{folder}: holds no optical flow (flow_x_00001.png and flow_y_00001.png …); "
                "make it of the videos with gesta data prepare ROOT OUT --flow"
            )
        if flow:
            raise VideoError(f"{folder}: holds optical flow images only; give the folder of RGB frames")
        if video := min(filter(is_video_name, names), default=None):
            raise VideoError(f"{folder}: holds no numbered images, so it is no video itself; give one in it ({video})")
        raise VideoError(
            f"{folder}: holds no numbered images and no file with the suffix of a video (.mp4, .avi, .mkv …); give a "
            "video file, or a folder of videos or of frames like img_00001.jpg"
        )
    if len(groups) > 1:
        matches = _is_depth_name if modality == "depth" else _is_rgb_name
        groups = {key: files for key, files in groups.items() if matches(key[0], folder)} or groups
    if len(groups) > 1:
        sequences = ", ".join(sorted(f"{prefix}*{suffix}" for prefix, suffix in groups))
        raise VideoError(f"{folder}: holds several image sequences ({sequences}); keep one sequence per folder")
    (files,) = groups.values()
    files.sort()
    for (number, name), (following, other) in itertools.pairwise(files):
        if number == following:
            raise VideoError(f"{folder}: {name} and {other} have the same number; keep one file per frame")
    if modality == "flow":
        all_names = set(names)
        incomplete = [name for _, name in files if partner(name) not in all_names]
        if incomplete:
            raise VideoError(f"{folder}: {incomplete[0]} has no {partner(incomplete[0])} beside it; make it again")
    return [os.path.join(folder, name) for _, name in files]


def _are_seconds(names: list[str]) -> bool:
    """Whether these images are named by seconds (``0.033.jpg``, ``0.1.jpg``) and not by a counter behind a dot.

    A counter goes up by ones, and is not written with leading zeros here and without there.
    """
    fractions: dict[str, list[str]] = {}
    for name in names:
        match = _NUMBERED.match(name)
        if match is None or match["suffix"].lower() not in IMAGES:
            continue
        seconds = _SECONDS.match(name)
        if seconds is None:
            return False
        whole, fraction = seconds["number"].split(".")
        fractions.setdefault(whole, []).append(fraction)
    if len(fractions) == 1:
        (digits,) = fractions.values()
        return len({len(d) for d in digits}) > 1 and any(d[0] == "0" and len(d) > 1 for d in digits)
    return any(max(map(int, digits)) - min(map(int, digits)) >= len(digits) for digits in fractions.values())


def _is_rgb_name(prefix: str, folder: str) -> bool:
    bare = prefix.lower().rstrip("_-")
    return bare in ("", "img", "image", "frame", "rgb") or bare == Path(folder).name.lower()


def _is_depth_name(prefix: str, folder: str) -> bool:
    return prefix.lower().rstrip("_-") in ("depth", "mdepth")


class ImageFolder:
    """Source of frames: the numbered images of one folder.

    Attributes:
        frames: how many there are.
        problem: why an image was left out, the last one if several were; empty if none was.
        broken: empty, as a folder has no end that could be missing.
    """

    broken = ""

    def __init__(self, path: str, deadline: Deadline, shows: Shows | None = None) -> None:
        self.problem = ""
        self._deadline = deadline
        self._shows = shows
        self._files = image_files(path, modality_of(shows))
        self.frames = len(self._files)

    def __enter__(self) -> ImageFolder:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def fill(self, buffer: FrameBuffer) -> int:
        """Read the chosen images into the buffer; one that cannot be read is left out, and the others are renumbered.

        Returns:
            how many images there are then.
        """
        for number in buffer.numbers:
            self._deadline.check()
            try:
                image = read_image(self._files[number], buffer.short_side, self._shows, buffer.enlarge)
                buffer.add_image(number, image)
            except DecodeError as error:
                self.problem = image_error(self._files[number], error)
                del self._files[number]
                self.frames -= 1
                break
        return self.frames


def holds_frames(names: list[str]) -> bool:
    """Whether these file names of one folder are the frames of a video: at least two numbered images."""
    numbered = 0
    for name in names:
        match = _NUMBERED.match(name)
        if match is not None and match["suffix"].lower() in IMAGES and not PREFIX.match(match["prefix"]):
            numbered += 1
            if numbered == 2:
                return True
    return False


def read_image(path: str, short_side: int | None, shows: Shows | None = None, enlarge: bool = True) -> np.ndarray:
    """One frame as ``(3, H, W)`` uint8, upright, its short side scaled to ``short_side`` pixels (bilinear, area-aware).

    Args:
        path: the file.
        short_side: None keeps the size.
        shows: what it shows, None for RGB. Depth, 16 or 8 bits, is scaled by taking nearest pixels. Of optical flow,
            ``path`` is the picture of the displacement to the right; that of the one downwards lies beside it.
        enlarge: False keeps the size of an image that is smaller.

    Raises:
        DecodeError: the file is not a readable image, or one of absurd size.
        VideoError: it cannot be read from the disk; or it holds more than 8 bits per channel, as depth maps do, and
            ``shows`` says nothing of it.
    """
    if isinstance(shows, Flow):
        right, down = (read_image(file, short_side, None, enlarge)[0] for file in (path, partner(path)))
        with decoding(path):
            if right.shape != down.shape:
                raise OSError(f"has another size than {os.path.basename(partner(path))}")
        return np.stack([right, down, np.full_like(right, STILL)])
    with open_image(path) as image:
        width, height = scaled_size(*image.size, short_side, enlarge)
        if shows is None and image.mode.startswith(("I", "F")):
            raise VideoError(f"{path}: is a 16-bit image (a depth map?); give the folder of 8-bit RGB frames")
        if shows is None:
            image.draft("RGB", (width, height))  # lets the JPEG decoder leave out detail that scaling would remove
        matrix = ORIENTATIONS.get(image.getexif().get(_ORIENTATION, 1))
        if shows is not None:
            deep = image.mode.startswith(("I", "F"))
            shown = shows.encode(resize_nearest(np.asarray(image if deep else image.convert("L")), width, height))
            return upright(shown, matrix)
        rgb = image.convert("RGB")
        if rgb.size != (width, height):
            rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
        return upright(np.asarray(rgb).transpose(2, 0, 1), matrix)


@contextmanager
def open_image(path: str) -> Iterator[Image.Image]:
    """An image of which no more than the header has been read.

    No more than :data:`~gesta.video.picture.MAX_PIXELS` (67 million) are read, fewer than the 89 million at which
    Pillow by itself warns of a decompression bomb and the 179 million that it refuses.

    Raises:
        DecodeError: what lies there is no file, none of :data:`FORMATS`, or of absurd size; or reading its pixels
            fails.
        VideoError: it cannot be read from the disk.
    """
    with decoding(path):
        if not os.path.isfile(path):  # opening a pipe would wait for ever
            raise OSError("is not a file")
        try:
            image = Image.open(path, formats=FORMATS)
        except UnidentifiedImageError:
            raise OSError("is no JPEG, PNG, BMP or WebP picture") from None
        with image:
            if problem := size_problem(*image.size):
                raise OSError(problem)
            yield image


def image_error(path: str, error: DecodeError) -> str:
    """Why an image of a folder could not be read."""
    return f"{os.path.basename(path)}: {explain(error)}"
