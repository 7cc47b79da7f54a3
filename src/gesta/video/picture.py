"""One picture: how large it may be, turning it upright, scaling, cropping, conversion to RGB.

:class:`FrameConverter` does all of that for a decoded frame, :class:`FrameBuffer` collects the pictures of a clip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import av
import numpy as np
import torch
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter
from torch.nn.functional import interpolate

from gesta.video.depth import Depth, resize_nearest

MAX_PIXELS = 2**26
"""Of one picture (8192 x 8192, twice 8K): a header that claims more is damaged, or would exhaust the memory."""

MAX_ASPECT = 64
"""How many times longer than its short side a picture may be: scaled by the short side, its pixels grow with that."""

Matrix = tuple[int, int, int, int]
"""See :func:`display_matrix`."""

Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

CropTo = Callable[[int, int], Box]
"""Gets height and width of the frames, scaled and upright, and says which box of them to keep."""

CROPPED_BEFORE_RGB = frozenset({"yuv420p", "yuvj420p"})
"""Pixel formats whose conversion to RGB at their own size treats each block of 2 x 2 pixels (which share their colour
samples) by itself, so that a box can be cropped first and converted alone, with the same result."""


def size_problem(width: int, height: int) -> str:
    """Why pictures of this size are not read, as a damaged or hostile header may claim it; empty if they are."""
    if width * height <= MAX_PIXELS and max(width, height) <= MAX_ASPECT * min(width, height):
        return ""
    limits = f"{MAX_PIXELS // 10**6} million pixels and sides of 1 to {MAX_ASPECT}"
    return f"pictures of {width} x {height} pixels are not read, only up to {limits}"


def scaled_size(width: int, height: int, short_side: int | None, enlarge: bool = True) -> tuple[int, int]:
    """Width and height after scaling the short side to ``short_side``, aspect kept, sides rounded to whole pixels."""
    short = min(width, height)
    if short_side is None or (short < short_side and not enlarge):
        return width, height
    return max(1, (2 * width * short_side + short) // (2 * short)), max(
        1, (2 * height * short_side + short) // (2 * short)
    )


def squared_size(width: int, height: int, pixel_aspect: float) -> tuple[int, int]:
    """Width and height with square pixels, of a picture whose pixels are ``pixel_aspect`` times as wide as high."""
    return (round(width * pixel_aspect), height) if pixel_aspect > 1 else (width, round(height / pixel_aspect))


class FrameConverter:
    """Turns decoded frames upright, scales them and converts them to RGB.

    Args:
        short_side: length of the short side in pixels, None keeps the size.
        depth: take their luma for depth, and show it so; it is scaled by taking nearest pixels.
        enlarge: False keeps the size of frames that are smaller.
    """

    def __init__(self, short_side: int | None, depth: Depth | None = None, enlarge: bool = True) -> None:
        self.short_side = short_side
        self.enlarge = enlarge
        self.depth = depth
        self._scaler = VideoReformatter()
        self._part: av.VideoFrame | None = None
        self._part_planes: list[np.ndarray] = []

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """A frame as ``(3, H, W)`` uint8."""
        return self.picture(frame, display_matrix(frame))

    def size(self, frame: av.VideoFrame, matrix: Matrix | None) -> tuple[int, int]:
        """Height and width of a frame, scaled and upright."""
        width, height = self._scaled(frame)
        return (width, height) if matrix is not None and abs(matrix[1]) > abs(matrix[0]) else (height, width)

    def picture(self, frame: av.VideoFrame, matrix: Matrix | None, box: Box | None = None) -> np.ndarray:
        """A frame with its display matrix, or the same pixels of a box of it, as ``(3, H, W)`` uint8.

        A box without pixels costs nothing.
        """
        if box is not None and not box[2] * box[3]:
            return np.empty((3, *box[2:]), dtype=np.uint8)
        width, height = self._scaled(frame)
        if self.depth is not None:
            image = self.depth.encode(resize_nearest(self._luma(frame), width, height))
        elif (width, height) != (frame.width, frame.height):
            # planar RGB: faster, already channels first, and with one chroma sample per pixel instead of one per two;
            # the planes of "gbrp" are green, blue, red
            scaled = self._scaler.reformat(frame, width=width, height=height, format="gbrp", threads=1)
            image = np.stack([_pixels(scaled.planes[plane], height, width) for plane in (2, 0, 1)])
        elif box is not None and matrix is None and frame.format.name in CROPPED_BEFORE_RGB and not height % 2:
            return self._box_to_rgb(frame, box)
        else:
            image = self._to_rgb(frame)
        image = upright(image, matrix)
        return image if box is None else crop_picture(image, box)

    def _scaled(self, frame: av.VideoFrame) -> tuple[int, int]:
        return scaled_size(frame.width, frame.height, self.short_side, self.enlarge)

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """RGB at the frame's size: the conversion torchcodec uses; libswscale's planar one leaves columns out here."""
        packed = self._scaler.reformat(frame, format="rgb24", threads=1).planes[0]
        image = _pixels(packed, frame.height, 3 * frame.width)
        return image.reshape(frame.height, frame.width, 3).transpose(2, 0, 1)

    def _box_to_rgb(self, frame: av.VideoFrame, box: Box) -> np.ndarray:
        """The same for a box alone: the whole 2 x 2 blocks around it are copied and converted, with equal results."""
        top, left, height, width = box
        # the box widened to even borders: a block is cut by none of them
        even_top, even_left = top // 2 * 2, left // 2 * 2
        rows, columns = top - even_top + height, left - even_left + width
        rows, columns = rows + rows % 2, min(columns + columns % 2, frame.width - even_left)
        part = self._part
        if part is None or (part.width, part.height, part.format.name) != (columns, rows, frame.format.name):
            # kept between frames, because all frames of a clip have the same box
            part = self._part = av.VideoFrame(columns, rows, frame.format.name)
            self._part_planes = [_pixels(plane, plane.height, plane.width) for plane in part.planes]
        part.colorspace, part.color_range = frame.colorspace, frame.color_range
        # luma has one sample per pixel, the two chroma planes one per block
        for source, target, pixels_per_sample in zip(frame.planes, self._part_planes, (1, 2, 2)):
            samples = _pixels(source, source.height, source.line_size)
            corner = even_top // pixels_per_sample, even_left // pixels_per_sample
            target[:] = crop_picture(samples, (*corner, *target.shape))
        return crop_picture(self._to_rgb(part), (top - even_top, left - even_left, height, width))

    def _luma(self, frame: av.VideoFrame) -> np.ndarray:
        """The stored luma ``(H, W)``, uint8 or uint16: a conversion to grey would stretch and clip it (16 to 235)."""
        bits = frame.format.components[0].bits
        luma_is_first_plane = frame.format.name.startswith(("yuv", "gray", "nv"))
        if not luma_is_first_plane or 8 < bits < 16 or "be" in frame.format.name:
            frame, bits = self._scaler.reformat(frame, format="gray", threads=1), 8
        if bits == 16:
            return _pixels(frame.planes[0], frame.height, 2 * frame.width).copy().view("<u2")
        return _pixels(frame.planes[0], frame.height, frame.width)


def _pixels(plane: Any, height: int, row_bytes: int) -> np.ndarray:
    """One plane as ``(height, row_bytes)``, without the padding at the end of its lines."""
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:height, :row_bytes]


def crop_picture(image: np.ndarray, box: Box) -> np.ndarray:
    """A view of a box of a picture ``(..., H, W)``."""
    top, left, height, width = box
    return image[..., top : top + height, left : left + width]


def display_matrix(frame: av.VideoFrame) -> Matrix | None:
    """(a, b, c, d) by which a stored picture's (x, y) is shown at (a x + c y, b x + d y); None: as it is stored."""
    # frame.side_data would tie the frame into a reference cycle: pictures would pile up until Python's collector runs
    data: Any = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]
    if data is None:
        return None
    a, b, _, c, d, *_ = np.frombuffer(data, "=i4").tolist()
    return a, b, c, d


def upright(image: np.ndarray, matrix: Matrix | None) -> np.ndarray:
    """Apply a display matrix to a picture ``(..., H, W)``: turns by quarters and mirrorings, other angles rounded."""
    if matrix is None or not any(matrix):
        return image
    a, b, c, d = matrix
    if abs(b) > abs(a):  # x and y are exchanged
        image = image.swapaxes(-1, -2)
        a, d = c, b
    if a < 0:
        image = image[..., ::-1]
    if d < 0:
        image = image[..., ::-1, :]
    return image


class FrameBuffer:
    """Chosen frames of a video, or one box of all of them, on their way into one array.

    Args:
        numbers: of the frames, rising.
        short_side: length of the short side in pixels, None keeps the size.
        depth: the video shows depth, and how it is shown to the model.
        crop: called once, when the first frame comes; None keeps whole frames.
        enlarge: False keeps the size of frames that are smaller.

    Attributes:
        missing: numbers of the frames that have not come yet.
        images: ``(T, 3, H, W)`` uint8; of a box the channels lie last in memory, as resizing on a CPU likes them.
        doubtful: whether other frames than the chosen ones may change the pixels: those of another size are scaled to
            the first chosen one's, and a damaged one may be patched from what was decoded before it.
    """

    def __init__(
        self,
        numbers: list[int],
        short_side: int | None,
        depth: Depth | None = None,
        crop: CropTo | None = None,
        enlarge: bool = True,
    ) -> None:
        self.numbers = numbers
        self.short_side = short_side
        self.enlarge = enlarge
        self.positions = {number: position for position, number in enumerate(numbers)}
        self.missing = set(numbers)
        self.images: np.ndarray | None = None
        self.doubtful = False
        self._convert = FrameConverter(short_side, depth, enlarge)
        self._crop = crop
        self._size = (0, 0)  # height and width of whole frames, as the first one has them
        self._box: Box | None = None

    def add_frame(self, number: int, frame: av.VideoFrame) -> None:
        """Convert a decoded frame into its position, if it is one of the chosen."""
        if number not in self.missing:
            return
        self.doubtful |= frame.is_corrupt
        matrix = display_matrix(frame)
        size = self._convert.size(frame, matrix)
        images = self._allocate(size) if self.images is None else self.images
        if size == self._size:
            images[self.positions[number]] = self._convert.picture(frame, matrix, self._box)
            self.missing.discard(number)
        else:
            self.add_image(number, self._convert.picture(frame, matrix))

    def add_image(self, number: int, image: np.ndarray) -> None:
        """Put a whole RGB image ``(3, H, W)`` into its position."""
        images = self._allocate(image.shape[1:]) if self.images is None else self.images
        if image.shape[1:] != self._size:  # the picture's size changes within the video
            self.doubtful = True
            pixels = torch.from_numpy(np.ascontiguousarray(image))[None]
            image = interpolate(pixels, self._size, mode="bilinear", antialias=True)[0].numpy()
        images[self.positions[number]] = image if self._box is None else crop_picture(image, self._box)
        self.missing.discard(number)

    def _allocate(self, size: tuple[int, ...]) -> np.ndarray:
        height, width = self._size = size[0], size[1]
        if self._crop is None:
            self.images = np.empty((len(self.numbers), 3, height, width), dtype=np.uint8)
        else:
            self._box = self._crop(height, width)
            self.images = np.empty((len(self.numbers), *self._box[2:], 3), dtype=np.uint8).transpose(0, 3, 1, 2)
        return self.images
