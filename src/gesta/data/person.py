"""Crops around the people in a picture, who are found in masked depth maps (NTU RGB+D): zero wherever nobody is.

As the public code of MFST's authors prepares NTU RGB+D (De+Recouple, UMDR): every frame is cropped around its own mask,
RGB to half of its width and height, depth to 320 x 240 of its 512 x 424 pixels, and scaled to 4:3. The middle of the
mask, as fractions of the depth map's width and height, is taken for the middle in the RGB picture: the two cameras see
different fields (nominally 71° and 84° across) and their calibration is not published, so this is right in the middle
and off by up to a tenth of the width near the sides, which leaves the person in the crop.

That code fails where no person is found, or a mask is missing, and cuts off what reaches over the border (and stretches
what is left); here the position is taken from the nearest frame of the clip, and the box is shifted into the picture.
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

from gesta.errors import DecodeError
from gesta.video.images import image_files, open_image
from gesta.video.modality import Modality

CROP_FRACTIONS: dict[Modality, tuple[float, float]] = {"rgb": (1 / 2, 1 / 2), "depth": (240 / 424, 320 / 512)}
"""Height and width of the crop, as fractions of the picture's."""

MIN_FRACTION = 500 / (424 * 512)
"""Fraction of a mask's pixels that a connected region must have to be taken for a person."""

Centre = tuple[float, float]
"""Row and column of a person's middle, as fractions of a picture's height and width."""


def find_person(mask: NDArray[Any]) -> Centre | None:
    """The middle of the box around the person in a masked depth map ``(H, W)``; None if there is nobody.

    Single pixels are removed and holes closed first (erosion by 3 x 3, dilation by 10 x 10). Of several people the
    topmost middle's row and the leftmost one's column are taken, as that code does.
    """
    solid = ndimage.binary_erosion(mask > 0, np.ones((3, 3)), border_value=1)
    solid = ndimage.binary_dilation(solid, np.ones((10, 10)))
    regions, _ = ndimage.label(solid, np.ones((3, 3)))
    sizes = np.bincount(regions.ravel())[1:]  # without the background
    boxes = [box for box, size in zip(ndimage.find_objects(regions), sizes) if size > MIN_FRACTION * mask.size]
    if not boxes:
        return None
    row, column = (min((box[axis].start + box[axis].stop) / 2 for box in boxes) for axis in (0, 1))
    return row / mask.shape[0], column / mask.shape[1]


def find_people(folder: str, indices: Tensor) -> list[Centre]:
    """Where the person is in each of the frames of ``indices``, by the folder's map of the same number or its last one.

    Where nobody is found it is that of the nearest frame with somebody, and the picture's middle if there is none.
    """
    files = image_files(folder, "depth")
    numbers = indices.flatten().clamp(max=len(files) - 1).tolist()
    centres = {number: centre for number in sorted(set(numbers)) if (centre := _person_in(files[number])) is not None}
    if not centres:
        return [(0.5, 0.5)] * len(numbers)
    return [centres[min(centres, key=lambda other: abs(other - number))] for number in numbers]


def crop_to_people(frames: Tensor, centres: list[Centre], modality: Modality) -> Tensor:
    """Crop each frame around its person and scale the crop to 4:3: ``(T, C, H, W)`` to ``(T, C, h, 4/3 h)``."""
    height, width = frames.shape[-2:]
    down, across = round(height * CROP_FRACTIONS[modality][0]), round(width * CROP_FRACTIONS[modality][1])
    crops = []
    for frame, (row, column) in zip(frames, centres, strict=True):
        top = min(max(round(row * height - down / 2), 0), height - down)
        left = min(max(round(column * width - across / 2), 0), width - across)
        crops.append(frame[:, top : top + down, left : left + across])
    # nearest pixels for depth: a mean of two colours of the depth map is the colour of another depth
    mode = v2.InterpolationMode.BILINEAR if modality == "rgb" else v2.InterpolationMode.NEAREST_EXACT
    return F.resize(torch.stack(crops), [down, round(down * 4 / 3)], interpolation=mode, antialias=modality == "rgb")


def whole_side(short_side: int, modality: Modality) -> int:
    """Short side of the whole picture, wider than high, whose crop has the given short side."""
    return round(short_side / CROP_FRACTIONS[modality][0])


def _person_in(file: str) -> Centre | None:
    try:
        with open_image(file) as image:
            return find_person(np.asarray(image))
    except DecodeError:
        return None
