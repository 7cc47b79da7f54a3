"""From decoded frames to training clips and test views; one random draw serves all frames of a clip."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from gesta.config import suggest
from gesta.data.clips import crop_boxes
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.recipe import Augment
from gesta.records import class_name
from gesta.video.flow import STILL
from gesta.video.modality import Modality
from gesta.video.picture import Box

SIDE_WORDS = frozenset(
    ["left", "right", "leftward", "leftwards", "rightward", "rightwards"]
    + ["clockwise", "counterclockwise", "anticlockwise"]
)
"""Words of a class name that are no longer true of the clip's mirror image."""


# --- one training clip -----------------------------------------------------------------------------------------------


def training_short_side(config: Augment, size: int) -> int:
    """Short side in pixels at which a training clip is read at most, so that no frame is larger than its crops deserve.

    ``random_resized`` reads at 256/224 of the model's size, the scale of the usual reduced copies of Kinetics; its
    smallest crops are scaled up, as they are there. ``jitter`` reads at the largest short side it may draw, and
    ``short_side`` so that its smallest square is not scaled up (but never above three times the model's size).
    """
    if config.crop == "random_resized":
        return round(256 / 224 * size)
    if config.crop == "jitter":
        return _jitter_sides(config, size)[1]
    return math.ceil(size / max(config.scale[0], 1 / 3))


def augment(
    streams: Sequence[Tensor],
    config: Augment,
    spec: ClipSpec,
    flip: bool,
    generator: torch.Generator,
    modalities: Sequence[Modality] = (),
) -> Tensor:
    """One training clip: rotation, crop, flip, colour jitter, RandAugment, erasing; every draw serves all frames
    of all its streams.

    RandAugment works on the crop, as in image training; PySlowFast applies it to the whole frame before the crop.

    Args:
        streams: ``(T, C, H, W)`` uint8 each, decoded at :func:`training_short_side`. If their pictures differ in size,
            the box of the first lies at the same fractions of the others' height and width.
        spec: the model's size; its mean fills what RandAugment moves in, its mean and deviation make erasing's noise.
        flip: mirror the clip (drawn by the caller, because it may change the label; see :func:`flip_targets`).
        generator: on the CPU; the only source of randomness.
        modalities: of the streams, all RGB if there are none. Displacements of optical flow are turned, mirrored and
            scaled as the pictures are, and have no colours to jitter.

    Returns:
        ``(T, C of all, size, size)`` uint8.
    """
    angle = draw_rotation(config, generator)
    height, width = streams[0].shape[-2:]
    box = draw_crop_box(config, height, width, spec.size, generator, spec.squash)
    state = generator.get_state()
    parts = []
    for clip, modality in zip(streams, modalities or ("rgb",) * len(streams), strict=True):
        generator.set_state(state)
        is_flow = modality == "flow"
        if angle:
            fill = [STILL] * 3 if is_flow else None
            clip = F.rotate(clip, angle, interpolation=v2.InterpolationMode.BILINEAR, fill=fill)
        top, left, down, across = _same_box(box, (height, width), clip.shape[-2:])
        short = min(clip.shape[-2:])
        change = flow_change((short / across, short / down), angle, flip) if is_flow else None
        part = clip[..., top : top + down, left : left + across]
        parts.append(augment_box(part, config, spec, flip, generator, change))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _same_box(box: Box, size: Sequence[int], other: Sequence[int]) -> Box:
    """A box (top, left, height, width) of a picture of one size, (height, width), in one of another size."""
    down, across = (other[i] / size[i] for i in (0, 1))
    top, left = min(round(box[0] * down), other[0] - 1), min(round(box[1] * across), other[1] - 1)
    return top, left, max(1, round(box[2] * down)), max(1, round(box[3] * across))


def augment_box(
    clip: Tensor,
    config: Augment,
    spec: ClipSpec,
    flip: bool,
    generator: torch.Generator,
    change: Tensor | None = None,
) -> Tensor:
    """What :func:`augment` does with a clip ``(T, C, h, w)`` that is cropped to its :func:`draw_crop_box`; if it is
    optical flow, ``change`` is what happens to its displacements."""
    mode = v2.InterpolationMode(config.interpolation)
    clip = F.resize(clip, [spec.size, spec.size], interpolation=mode, antialias=True)
    # NumPy brings channels that lie last to the front in half of torch's time, but not while it mirrors
    clip = torch.from_numpy(np.ascontiguousarray(clip.numpy()))
    if flip:
        clip = F.horizontal_flip(clip)
    if change is not None:
        clip = change_flow(clip, change)
    jitter = config.color_jitter or config.hue
    if jitter and config.jitter_probability < 1:
        jitter = _uniform(0, 1, generator) < config.jitter_probability
    if jitter or config.randaugment:
        with _global_generator(generator):
            if jitter and change is None:
                clip = v2.ColorJitter(*[config.color_jitter] * 3, hue=config.hue)(clip)
            if config.randaugment:
                fill = [255 * mean for mean in spec.mean]
                bilinear = v2.InterpolationMode.BILINEAR
                clip = v2.RandAugment(config.randaugment, config.magnitude, interpolation=bilinear, fill=fill)(clip)
    if config.erasing and _uniform(0, 1, generator) < config.erasing:
        clip = _erase(clip, spec, generator)
    return clip


def draw_rotation(config: Augment, generator: torch.Generator) -> float:
    """Draw the angle in degrees, counter-clockwise, by which all frames of a clip are turned; 0 for none.

    It does not depend on the video, so RGB and depth of one sample are turned alike by generators in the same state.
    """
    if not config.rotate:
        return 0.0
    chance, angle = _uniform(0, 1, generator), _uniform(-config.rotate, config.rotate, generator)
    return angle if chance < config.rotate_probability else 0.0


def draw_crop_box(
    config: Augment, height: int, width: int, size: int, generator: torch.Generator, squash: bool = False
) -> Box:
    """Draw the box of a training crop as (top, left, height, width) in a picture of ``height`` x ``width`` pixels.

    ``random_resized`` draws area and log aspect ratio up to ten times until the box fits, and falls back to the largest
    centred box of an allowed ratio (Szegedy et al. 2015 as all libraries have it). With ``squash`` the box is drawn
    in a square picture and stretched to the given one, so that scaling it to the model's size squashes the picture.
    """
    short = min(height, width)
    if squash and height != width:
        return _same_box(draw_crop_box(config, short, short, size, generator), (short, short), (height, width))
    if config.crop == "random_resized":
        low, high = config.ratio
        for _ in range(10):
            area = height * width * _uniform(*config.scale, generator)
            ratio = math.exp(_uniform(math.log(low), math.log(high), generator))
            down, across = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < down <= height and 0 < across <= width:
                return (*_random_corner(height - down, width - across, generator), down, across)
        ratio = min(max(width / height, low), high)
        down, across = min(height, round(width / ratio)), min(width, round(height * ratio))
        return (height - down) // 2, (width - across) // 2, down, across
    if config.crop == "jitter":  # scaling to a short side and taking `size` pixels is taking more or fewer pixels now
        low, high = _jitter_sides(config, size)
        scale = _uniform(1 / high, 1 / low, generator) if config.inverse_uniform else 1 / _uniform(low, high, generator)
        down = across = round(size * short * scale)
    else:
        down = across = round(short * _uniform(*config.scale, generator))
        if config.independent_sides:
            across = round(short * _uniform(*config.scale, generator))
    down, across = (min(max(side, 1), short) for side in (down, across))
    return (*_random_corner(height - down, width - across, generator), down, across)


def flip_targets(classes: Sequence[str], pairs: dict[str, str]) -> list[int | None]:
    """The label of each class seen in a mirror: its own, its partner's, or None if it must not be mirrored.

    Args:
        classes: names in label order.
        pairs: names that a mirror exchanges, each pair in either order; see :class:`Augment`.

    Raises:
        GestaError: a pair names a class that does not exist, or a class is in two pairs.
    """
    targets: list[int | None] = [None if names_a_side(name) else label for label, name in enumerate(classes)]
    partners: dict[str, str] = {}
    labels = {class_name(name): label for label, name in enumerate(classes)}
    for pair in pairs.items():
        one, other = map(class_name, pair)
        for name, partner in ((one, other), (other, one)):
            if name not in labels:
                raise GestaError(f"augment.flip_labels names {name!r}, which is no class{suggest(name, classes)}")
            if partners.setdefault(name, partner) != partner:
                raise GestaError(f"augment.flip_labels puts {name!r} into two pairs; a class has one mirror image")
            targets[labels[name]] = labels[partner]
    return targets


def names_a_side(name: str) -> bool:
    """Whether a class name holds a word that a mirror makes wrong (``TurnLeft``, ``swipe_right``; not ``bright``)."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return any(word.lower() in SIDE_WORDS for word in words)


# --- test views ------------------------------------------------------------------------------------------------------


def test_short_side(short_side: int, size: int) -> int:
    """The short side in pixels of a protocol that is stated at size 224, for a model of another size."""
    return round(short_side * size / 224)


test_short_side.__test__ = False  # type: ignore[attr-defined]  # pytest would take the imported name for a test


def crop_views(
    clips: Tensor, size: int, crops: Literal[1, 3], squash: bool = False, modality: Modality = "rgb"
) -> Tensor:
    """All crops of all clips: ``(clips, T, C, H, W)`` to ``(clips * crops, T, C, size, size)``, clip by clip."""
    height, width = clips.shape[-2:]
    short = min(height, width)
    scale = (short * short / (size * width), short * short / (size * height)) if squash else (short / size,) * 2
    clips = squashed(clips) if squash else clips
    clips = change_flow(clips, flow_change(scale)) if modality == "flow" else clips
    height, width = clips.shape[-2:]
    boxes = crop_boxes(height, width, size, crops)
    views = [clips[..., top : top + down, left : left + across] for top, left, down, across in boxes]
    return torch.stack(views, dim=1).flatten(0, 1)


def squashed(frames: Tensor) -> Tensor:
    """Frames ``(…, C, H, W)`` scaled to squares of their short side."""
    return F.resize(frames, [min(frames.shape[-2:])] * 2, antialias=True)


# --- optical flow ----------------------------------------------------------------------------------------------------


def flow_change(scale: tuple[float, float], angle: float = 0.0, flip: bool = False) -> Tensor:
    """What becomes of displacements (right, down) in a picture that is turned, scaled and mirrored: a 2 × 2 matrix.

    Args:
        scale: of the width and the height, each relative to the short sides of which displacements are fractions.
        angle: in degrees, counter-clockwise.
        flip: the picture is mirrored.
    """
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    across, down = scale
    sign = -1 if flip else 1
    return torch.tensor([[sign * across * c, sign * across * s], [-down * s, down * c]])


def change_flow(clip: Tensor, change: Tensor) -> Tensor:
    """Optical flow ``(…, 3, H, W)`` uint8 with changed displacements; those beyond the range are held at its border."""
    moved = torch.einsum("ij,...jhw->...ihw", change, clip[..., :2, :, :].float() - STILL)
    levels = (moved.clamp(1 - STILL, STILL - 1) + STILL).round().to(torch.uint8)
    return torch.cat([levels, clip[..., 2:, :, :]], -3)


# --- draws -----------------------------------------------------------------------------------------------------------


def _erase(clip: Tensor, spec: ClipSpec, generator: torch.Generator) -> Tensor:
    """Fill one box with noise: area 0.02 to 1/3, aspect ratio 0.3 to 1/0.3 (timm's, hence PySlowFast's, values).

    The box is the same in all frames. The noise is new in every pixel of every frame and normal once the clip is
    normalised (both libraries' ``pixel`` mode).
    """
    height, width = clip.shape[-2:]
    for _ in range(10):
        area = height * width * _uniform(0.02, 1 / 3, generator)
        ratio = math.exp(_uniform(math.log(0.3), -math.log(0.3), generator))
        down, across = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < down < height and 0 < across < width:
            top, left = _random_corner(height - down, width - across, generator)
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
            noise = torch.randn((len(clip), 3, down, across), generator=generator) * std + mean
            clip = clip.clone()
            clip[..., top : top + down, left : left + across] = (255 * noise).round().clamp(0, 255).to(torch.uint8)
            break
    return clip


def _jitter_sides(config: Augment, size: int) -> tuple[int, int]:
    low, high = (test_short_side(side, size) for side in config.short_side)
    if not size <= low <= high:
        raise GestaError(
            f"augment.short_side {config.short_side} must be two rising lengths from 224 on (as stated at size 224)"
        )
    return low, high


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _random_corner(down: int, across: int, generator: torch.Generator) -> tuple[int, int]:
    """A random corner (top, left), up to ``down`` rows and ``across`` columns from the first."""
    return (
        int(torch.randint(down + 1, (), generator=generator)),
        int(torch.randint(across + 1, (), generator=generator)),
    )


@contextmanager
def _global_generator(generator: torch.Generator) -> Iterator[None]:
    """Let torchvision's transforms, which know the global generator only, draw from ours; it is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
