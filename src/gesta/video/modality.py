"""What the streams of a data set show: RGB, depth or optical flow."""

from __future__ import annotations

from typing import Literal, get_args

from gesta.config import check_choice
from gesta.errors import GestaError
from gesta.video.depth import Depth, Encoding
from gesta.video.flow import Flow

Modality = Literal["rgb", "depth", "flow"]
RGBD = Literal["rgb", "depth", "rgbd"]
"""What a data set of RGB and depth is to give; ``rgbd`` are pairs."""
RGBFlow = Literal["rgb", "flow", "rgb+flow"]
"""The same of RGB and optical flow."""
Modalities = Literal["rgb", "depth", "flow", "rgbd", "rgb+flow", "depth+flow", "rgbd+flow"]
"""The same of all three."""

Shows = Depth | Flow
"""What a stream shows other than RGB, and how it becomes three channels."""


def modality_of(shows: Shows | None) -> Modality:
    """The name of what a stream shows."""
    return "rgb" if shows is None else "flow" if isinstance(shows, Flow) else "depth"


def in_words(shows: Shows | None) -> str:
    """What a stream shows, and of depth how; the same words are the same input."""
    if isinstance(shows, Depth):
        limits = "" if shows.encoding == "jet_wrapped" else f" from {shows.near:g} to {shows.far:g} mm"
        return f"depth as {shows.encoding}{limits}"
    return "RGB" if shows is None else "optical flow"


def modalities_of(modality: Modalities) -> tuple[Modality, ...]:
    """The streams of a modality.

    Raises:
        GestaError: there is none of this name.
    """
    check_choice("data.modality", modality, Modalities)
    names = modality.replace("rgbd", "rgb+depth").split("+")
    return tuple(name for name in get_args(Modality) if name in names)


def depth_settings(modality: Modalities, encoding: str, limits: tuple[float, float]) -> Depth | None:
    """How a data set's depth is read: None where it is not.

    Args:
        modality: what is read of it.
        encoding: see :class:`gesta.video.depth.Depth`.
        limits: its ``near`` and ``far``.

    Raises:
        GestaError: one of them is impossible.
    """
    check_choice("data.depth_encoding", encoding, Encoding)
    if not 0 <= limits[0] < limits[1]:
        raise GestaError(f"data.depth_range {limits} must be two rising distances in millimetres")
    return Depth(encoding, *limits) if "depth" in modalities_of(modality) else None  # type: ignore[arg-type]
