"""Optical flow: how far each pixel of a frame has moved in the next one, as pictures of 8 bits.

The pictures are those of two-stream networks (Simonyan & Zisserman, NeurIPS 2014; TSN): one grey picture of the
displacement to the right, ``flow_x_00001.png``, and one of that downwards, ``flow_y_00001.png``, in a folder per video.
Picture t belongs to frames t and t + 1; the last one is repeated, so that there are as many as frames.

A level l stands for a displacement of ``(l - 128) / 127 · RANGE`` of the picture's short side, so it stays right when
the picture is scaled. Eight bits lose steps of less than 1/1600 of the short side (0.16 pixels of 256), and what moves
further than ``RANGE`` between two frames is clipped to it. Level 128 is no motion, and so is the third channel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gesta.errors import GestaError, VideoError

RANGE = 20 / 256
"""Displacement of the levels 1 and 255, in short sides of the picture: 20 pixels of 256, as TSN's pictures have it."""

STILL = 128
"""The level of no motion."""

PREFIX = re.compile(r"^(?P<flow>(?:flow_)?)(?P<axis>[xyuv])(?P<end>_?)$", re.IGNORECASE)
"""What stands before the number in the name of a flow picture: ``flow_x_``, ``y_``, ``u`` …"""

_OTHER = {"x": "y", "u": "v", "X": "Y", "U": "V"}


@dataclass(frozen=True, slots=True)
class Flow:
    """A stream shows optical flow: its two pictures of a moment become the channels right, down and 128."""


def is_first(prefix: str) -> bool:
    """Whether pictures with this prefix show the displacement to the right."""
    match = PREFIX.match(prefix)
    return match is not None and match["axis"] in _OTHER


def partner(file: str) -> str:
    """The picture of the displacement downwards that belongs to one of the displacement to the right."""
    folder, name = os.path.split(file)
    prefix, rest = re.split(r"(?=\d)", name, maxsplit=1)
    match = PREFIX.match(prefix)
    assert match is not None
    return os.path.join(folder, f"{match['flow']}{_OTHER[match['axis']]}{match['end']}{rest}")


def check_is_folder(path: str) -> None:
    """Refuse to read optical flow from a video, or from nothing.

    Raises:
        VideoError: ``path`` is no folder.
    """
    if not os.path.isdir(path):
        raise VideoError(
            f"{path}: is no folder of optical flow (flow_x_00001.png and flow_y_00001.png …); make such folders of "
            "videos with gesta data prepare ROOT OUT --flow"
        )


def flow_of(frames: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    """The flow of frames ``(H, W, 3)`` by OpenCV's DIS (Kroeger et al., ECCV 2016): levels ``(H, W, 2)`` for each.

    A frame of another size than the first is scaled to it; a single frame has no motion.

    Raises:
        GestaError: OpenCV is not installed.
    """
    cv2 = require_opencv()
    cv2.setNumThreads(1)  # the other CPU cores have videos of their own
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    previous: Image.Image | None = None
    levels: NDArray[np.uint8] | None = None
    for frame in frames:
        grey = Image.fromarray(frame).convert("L")
        if previous is not None:
            grey = grey if grey.size == previous.size else grey.resize(previous.size)
            levels = to_levels(dis.calc(np.asarray(previous), np.asarray(grey), None))
            yield levels
        previous = grey
    if previous is not None:
        yield np.full((*previous.size[::-1], 2), STILL, np.uint8) if levels is None else levels


def require_opencv() -> Any:
    """The module of OpenCV.

    Raises:
        GestaError: it is not installed.
    """
    try:
        import cv2  # an extra
    except ImportError:
        raise GestaError("optical flow needs OpenCV: pip install 'gesta[flow]'") from None
    return cv2


def describe_flow() -> dict[str, str | float]:
    """How the pictures are made and what they mean, for those who read the folder without gesta."""
    return {
        "files": "flow_x_00001.png (to the right) and flow_y_00001.png (downwards) per frame t: from t to t + 1",
        "displacement": "(level - 128) / 127 * range * short side of the picture",
        "range": RANGE,
        "method": "OpenCV DIS, preset medium",
    }


def to_levels(displacement: NDArray[Any]) -> NDArray[np.uint8]:
    """Displacements ``(H, W, 2)`` in pixels as levels."""
    scaled = 127 / (RANGE * min(displacement.shape[:2])) * displacement
    return (np.clip(scaled, -127, 127) + (STILL + 0.5)).astype(np.uint8)


def write_flow(frames: Iterable[NDArray[np.uint8]], folder: str | os.PathLike[str]) -> int:
    """Write the pictures of frames' flow into an existing folder; returns how many frames there are."""
    number = 0
    for number, levels in enumerate(flow_of(frames), 1):
        for axis, name in enumerate("xy"):
            picture = Image.fromarray(np.ascontiguousarray(levels[..., axis]))
            picture.save(os.path.join(folder, f"flow_{name}_{number:05d}.png"))
    return number
