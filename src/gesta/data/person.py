"""A picture's part around the people in it, found in masked depth maps (NTU RGB+D): zero wherever nobody is.

As the public code of MFST's authors prepares NTU RGB+D (De+Recouple, UMDR): every frame is cropped around its own mask,
colour to half of its width and height, depth to 320 x 240 of its 512 x 424 pixels, and scaled to 4:3. The place of the
mask's middle in the depth map, as shares of width and height, is taken for its place in the colour picture: the two
cameras see different fields (nominally 71° and 84° across) and their calibration is not published, so this is right in
the middle and off by up to a tenth of the width near the sides, which leaves the person in the part.

That code fails where no person is found, or a mask is missing, and cuts off what reaches over the border (and stretches
the rest); here the place is taken from the nearest frame of the clip, and the box is shifted into the picture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from gesta.video.depth import Modality
from gesta.video.images import image_files, open_image

SHARES: dict[Modality, tuple[float, float]] = {"rgb": (1 / 2, 1 / 2), "depth": (240 / 424, 320 / 512)}
"""Height and width of the part, of the picture's."""

LEAST = 500 / (424 * 512)
"""Share of a mask's pixels that a spot must have to be taken for a person."""

Place = tuple[float, float]
"""Row and column, as shares of a picture's height and width."""


def find_person(mask: NDArray[Any]) -> Place | None:
    """The middle of the box around the person in a masked depth map ``(H, W)``; None if there is nobody.

    Single pixels are removed and holes closed first (erosion by 3 x 3, dilation by 10 x 10). Of several people the
    topmost middle's row and the leftmost one's column are taken, as that code does.
    """
    solid = ndimage.binary_erosion(mask > 0, np.ones((3, 3)), border_value=1)
    solid = ndimage.binary_dilation(solid, np.ones((10, 10)))
    spots, _ = ndimage.label(solid, np.ones((3, 3)))
    sizes = np.bincount(spots.ravel())[1:]
    boxes = [box for box, size in zip(ndimage.find_objects(spots), sizes) if size > LEAST * mask.size]
    if not boxes:
        return None
    row, column = (min((box[axis].start + box[axis].stop) / 2 for box in boxes) for axis in (0, 1))
    return row / mask.shape[0], column / mask.shape[1]


def find_people(folder: str, indices: Tensor) -> list[Place]:
    """Where the person is in each of the frames of ``indices``, by the folder's map of the same number or its last one.

    Where nobody is found it is the place in the nearest frame with somebody, and the picture's middle if there is none.
    """
    files = image_files(folder, depth=True)
    wanted = indices.flatten().clamp(max=len(files) - 1).tolist()
    seen = {number: place for number in sorted(set(wanted)) if (place := _look(files[number])) is not None}
    if not seen:
        return [(0.5, 0.5)] * len(wanted)
    return [seen[min(seen, key=lambda other: abs(other - number))] for number in wanted]


def crop_to_people(frames: Tensor, places: list[Place], modality: Modality) -> Tensor:
    """Cut a part of the same size out of each frame and scale it to 4:3: ``(T, C, H, W)`` to ``(T, C, h, 4/3 h)``."""
    height, width = frames.shape[-2:]
    down, across = round(height * SHARES[modality][0]), round(width * SHARES[modality][1])
    parts = []
    for frame, (row, column) in zip(frames, places, strict=True):
        top = min(max(round(row * height - down / 2), 0), height - down)
        left = min(max(round(column * width - across / 2), 0), width - across)
        parts.append(frame[:, top : top + down, left : left + across])
    # no new colours, hence depths, between those of the map
    how = v2.InterpolationMode.BILINEAR if modality == "rgb" else v2.InterpolationMode.NEAREST_EXACT
    return F.resize(torch.stack(parts), [down, round(down * 4 / 3)], interpolation=how, antialias=modality == "rgb")


def whole_side(short_side: int, modality: Modality) -> int:
    """Short side of the whole picture, wider than high, for a part of the given short side."""
    return round(short_side / SHARES[modality][0])


def _look(file: str) -> Place | None:
    try:
        with open_image(file) as image:
            return find_person(np.asarray(image))
    except OSError:
        return None
