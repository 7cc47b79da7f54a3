"""Depth pictures as networks for RGB expect them: three channels of 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Encoding = Literal["jet", "repeat3", "jet_wrapped"]


@dataclass(frozen=True, slots=True)
class Depth:
    """How a depth picture becomes three channels of 8 bits.

    Depth becomes a level first: millimetres (16 bits) from ``near`` to ``far`` become 1 to 255, and what lies beyond is
    held at the border; pictures of 8 bits, as depth videos have, are levels already. Level 0 is no reading and stays
    black, but in ``jet_wrapped``.

    Attributes:
        encoding: ``jet`` colours levels from blue to red (MATLAB's jet, OpenCV's ``COLORMAP_JET``), ``repeat3`` repeats
            them. ``jet_wrapped`` is what the public code of De+Recouple and UMDR shows: the level of d millimetres is
            255 · d modulo 256, so that it runs through all colours every 256 mm (``near`` and ``far`` are not read),
            level 0 has its colour, and red and blue change places, because OpenCV's colours are taken for RGB.
        near: millimetres.
        far: millimetres.
    """

    encoding: Encoding = "jet"
    near: float = 500.0
    far: float = 4500.0

    def encode(self, picture: NDArray[Any]) -> NDArray[np.uint8]:
        """A depth picture ``(H, W)``, uint8 levels or millimetres of any other type, as ``(3, H, W)`` uint8."""
        levels = picture if picture.dtype == np.uint8 else self.levels(picture)
        if self.encoding == "jet_wrapped":
            return _OPENCV_JET[:, levels]
        if self.encoding == "repeat3":
            return np.repeat(levels[None], 3, axis=0)
        return _JET[:, levels]

    def levels(self, millimetres: NDArray[Any]) -> NDArray[np.uint8]:
        """Millimetres of any shape as levels; 0 where there is no reading."""
        if self.encoding == "jet_wrapped":
            return (255 * millimetres.astype(np.int64) % 256).astype(np.uint8)
        fraction = (millimetres.astype(np.float32) - self.near) / (self.far - self.near)
        levels = (1.5 + 254 * np.clip(fraction, 0, 1)).astype(np.uint8)
        return np.where(millimetres > 0, levels, np.uint8(0))


def _jet() -> NDArray[np.uint8]:
    """Colours of the levels, ``(3, 256)``: red, green, blue."""
    x = 4 * np.arange(256) / 255
    colours = [np.clip(1.5 - np.abs(x - peak), 0, 1) for peak in (3, 2, 1)]
    return (255 * np.stack(colours) + 0.5).astype(np.uint8)


_OPENCV_JET = _jet()[::-1].copy()
"""Blue, green, red."""
_JET = _jet()
_JET[:, 0] = 0


def resize_nearest(picture: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """A picture ``(H, W)`` at another size, each pixel the nearest one: a mean of depths is none that was there."""
    rows, columns = (
        (np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip((height, width), picture.shape, strict=True)
    )
    return picture[rows[:, None], columns]
