"""Crops, flips, colour, erasing and test views: one draw serves all frames, and labels follow."""

from __future__ import annotations

import math

import pytest
import torch

from gesta.data.transforms import (
    augment,
    crop_views,
    draw_crop_box,
    draw_rotation,
    flip_targets,
    names_a_side,
    test_short_side,
    training_short_side,
)
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.recipe import Augment

SPEC = ClipSpec(frames=4, size=32)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def still(height: int = 40, width: int = 52) -> torch.Tensor:
    """Four equal frames of noise: whatever differs between frames afterwards was not one draw for the clip."""
    image = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator())
    return image.repeat(4, 1, 1, 1)


@pytest.mark.parametrize(
    "config",
    [
        Augment(crop="random_resized", interpolation="bicubic"),
        Augment(crop="jitter"),
        Augment(crop="short_side", scale=(0.5, 1.0)),
        Augment(rotate=30, rotate_probability=1.0),
        Augment(color_jitter=0.4, hue=0.1),
        Augment(randaugment=4, magnitude=21),
    ],
)
def test_one_draw_serves_all_frames(config: Augment) -> None:
    seen = set()
    for seed in range(6):
        clip = augment([still()], config, SPEC, False, generator(seed))
        assert clip.shape == (4, 3, 32, 32) and clip.dtype == torch.uint8
        assert all(torch.equal(clip[0], frame) for frame in clip)
        seen.add(clip.numpy().tobytes())
        assert torch.equal(clip, augment([still()], config, SPEC, False, generator(seed)))
    assert len(seen) == 6  # six seeds, six clips


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = augment([still()], Augment(color_jitter=0.4, randaugment=2, erasing=1.0), SPEC, False, generator(1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(
        first, augment([still()], Augment(color_jitter=0.4, randaugment=2, erasing=1.0), SPEC, False, generator(1))
    )


def test_flip_mirrors_the_finished_crop() -> None:
    plain, mirrored = (augment([still()], Augment(), SPEC, flip, generator(3)) for flip in (False, True))
    assert torch.equal(plain.flip(-1), mirrored) and not torch.equal(plain, mirrored)


def test_rotation_turns_the_whole_picture_before_the_crop() -> None:
    bar = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    bar[..., 28:36, :] = 255
    whole = Augment(crop="short_side", scale=(1.0, 1.0), rotate=90, rotate_probability=1.0)
    spec = ClipSpec(frames=4, size=64)
    for seed in range(4):
        angle = draw_rotation(whole, generator(seed))
        turned = augment([bar], whole, spec, False, generator(seed))[0, 0].float()
        rows, columns = (turned > 200).nonzero().float().sub(31.5).T
        # the bar's direction, counter-clockwise: of its points, and rows run downwards
        along = 0.5 * math.degrees(math.atan2(-2 * float((rows * columns).sum()), float((columns**2 - rows**2).sum())))
        assert abs((along - angle + 90) % 180 - 90) < 2
    none = Augment(crop="short_side", scale=(1.0, 1.0), rotate=0.0, rotate_probability=1.0)
    assert torch.equal(augment([bar], none, spec, False, generator()), bar)


def test_angles_reach_both_limits_in_half_of_the_clips() -> None:
    draw, config = generator(), Augment(rotate=10)
    angles = [draw_rotation(config, draw) for _ in range(2000)]
    turned = [angle for angle in angles if angle]
    assert 900 < len(turned) < 1100
    assert -10 <= min(turned) < -9.9 and 9.9 < max(turned) <= 10 and abs(sum(turned)) < 0.5 * len(turned)
    state = draw.get_state()
    assert draw_rotation(Augment(), draw) == 0 and torch.equal(draw.get_state(), state)  # no angle, no draw


def test_hue_turns_colours_and_leaves_grey_and_the_strongest_channel() -> None:
    clip = torch.tensor([[200, 40, 40], [90, 90, 90]], dtype=torch.uint8).view(1, 2, 3, 1, 1).expand(4, 2, 3, 32, 32)
    red, grey = clip.unbind(1)
    shifts = []
    for seed in range(150):
        turned = augment([red], Augment(hue=0.1), SPEC, False, generator(seed))[:, :, 0, 0]
        assert (turned == turned[0]).all()
        r, g, b = turned[0].tolist()
        assert (r, min(g, b)) == (200, 40)  # at most 0.1 of the circle: still the reds, as light and as colourful
        shifts.append((g - b) / 160 / 6)
        assert torch.equal(augment([grey], Augment(hue=0.1), SPEC, False, generator(seed)), grey)
    assert -0.1 <= min(shifts) < -0.09 and 0.09 < max(shifts) <= 0.1


def test_a_share_of_the_clips_is_jittered() -> None:
    for config in (Augment(hue=0.1, jitter_probability=0.8), Augment(color_jitter=0.4, jitter_probability=0.8)):
        clip = torch.tensor([200, 40, 40], dtype=torch.uint8).view(1, 3, 1, 1).expand(4, 3, 32, 32)
        same = [torch.equal(augment([clip], config, SPEC, False, generator(seed)), clip) for seed in range(200)]
        assert 20 <= sum(same) <= 60


def test_random_resized_boxes_keep_area_and_ratio() -> None:
    config, draw = Augment(scale=(0.2, 0.6), ratio=(0.75, 1.3333)), generator()
    areas, ratios = [], []
    for _ in range(300):
        top, left, height, width = draw_crop_box(config, 240, 320, 224, draw)
        assert 0 <= top <= 240 - height and 0 <= left <= 320 - width
        areas.append(height * width / (240 * 320))
        ratios.append(width / height)
    assert 0.19 < min(areas) < 0.22 and 0.56 < max(areas) < 0.61
    assert 0.74 < min(ratios) < 0.8 and 1.25 < max(ratios) < 1.35


def test_random_resized_falls_back_to_the_largest_centred_box() -> None:
    config = Augment(scale=(1.0, 1.0), ratio=(0.75, 1.3333))  # the whole area of a long picture never fits
    assert draw_crop_box(config, 100, 400, 224, generator()) == (0, 133, 100, 133)
    assert draw_crop_box(config, 400, 100, 224, generator()) == (133, 0, 133, 100)


def test_jitter_takes_the_share_of_the_short_side_that_slowfast_takes() -> None:
    config, draw = Augment(crop="jitter", short_side=(256, 320)), generator()
    sides = {draw_crop_box(config, 320, 420, 224, draw)[2] for _ in range(400)}
    assert min(sides) == 224 and max(sides) == 280  # 224 of a short side of 320, 224 of 256
    # the range is stated at size 224: half of everything for a model of size 112
    assert training_short_side(config, 112) == 160
    sides = {draw_crop_box(config, 160, 210, 112, draw)[2] for _ in range(400)}
    assert min(sides) == 112 and max(sides) == 140
    with pytest.raises(GestaError, match=r"augment\.short_side"):
        draw_crop_box(Augment(crop="jitter", short_side=(200, 320)), 320, 420, 224, draw)


def test_jitter_draws_the_short_side_or_its_inverse_evenly() -> None:
    for inverse, mean in ((False, 224 * 320 * math.log(320 / 256) / (320 - 256)), (True, (224 + 280) / 2)):
        config, draw = Augment(crop="jitter", inverse_uniform=inverse), generator()
        sides = [draw_crop_box(config, 320, 420, 224, draw)[2] for _ in range(4000)]
        assert min(sides) == 224 and max(sides) == 280
        assert sum(sides) / 4000 == pytest.approx(mean, abs=0.7)  # the two means are 2.1 apart


def test_short_side_takes_squares_of_half_to_all_of_it() -> None:
    config, draw = Augment(crop="short_side", scale=(0.5, 1.0)), generator()
    boxes = [draw_crop_box(config, 200, 300, 112, draw) for _ in range(300)]
    assert all(height == width for _, _, height, width in boxes)
    assert 100 <= min(b[2] for b in boxes) < 104 and 196 < max(b[2] for b in boxes) <= 200
    assert max(b[1] for b in boxes) > 150  # also the right edge is reached
    assert training_short_side(config, 112) == 224  # its smallest square is not scaled up


def test_sides_of_a_crop_can_be_drawn_apart() -> None:
    config, draw = Augment(crop="short_side", scale=(0.5, 1.0), independent_sides=True), generator()
    boxes = [draw_crop_box(config, 200, 300, 112, draw) for _ in range(300)]
    assert sum(height == width for _, _, height, width in boxes) < 20
    for side in (2, 3):
        assert 100 <= min(box[side] for box in boxes) < 104 and 196 < max(box[side] for box in boxes) <= 200
    assert all(top + down <= 200 and left + across <= 300 for top, left, down, across in boxes)


def test_erasing_takes_one_box_and_fills_it_with_normal_noise() -> None:
    spec = ClipSpec(frames=4, size=96)
    clip = torch.zeros(4, 3, 100, 100, dtype=torch.uint8)
    erased = augment([clip], Augment(erasing=1.0), spec, False, generator(2))
    changed = erased.amax(1) > 0  # (T, H, W)
    box = changed.any(0)
    rows, columns = box.any(1).nonzero().flatten(), box.any(0).nonzero().flatten()
    assert len(rows) == rows[-1] - rows[0] + 1 and len(columns) == columns[-1] - columns[0] + 1
    assert 0.01 < len(rows) * len(columns) / 96**2 < 0.35
    inside = erased[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].float() / 255
    assert changed[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].float().mean() > 0.95
    assert not torch.equal(inside[0], inside[1])  # the box is the same, the noise is not
    assert abs(inside.mean() - 0.45) < 0.02 and abs(inside.std() - 0.215) < 0.02
    none = augment([clip], Augment(erasing=0.0), spec, False, generator(2))
    assert none.max() == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TurnLeft", True), ("swipe_right", True), ("Pushing something from left to right", True), ("left", True),
        ("Turning Hand Clockwise", True), ("HandLEFT", True), ("bright", False), ("Leftover", False),
        ("CopyrightCheck", False), ("PlayingCello", False),
    ],
)  # fmt: skip
def test_words_of_sides(name: str, expected: bool) -> None:
    assert names_a_side(name) is expected


def test_flip_targets() -> None:
    classes = ["wave", "swipe left", "swipe right", "turn left"]
    assert flip_targets(classes, {}) == [0, None, None, None]
    assert flip_targets(classes, {"swipe left": "swipe right"}) == [0, 2, 1, None]
    assert flip_targets(classes, {"swipe left": "swipe right", "swipe right": "swipe left"}) == [0, 2, 1, None]
    with pytest.raises(GestaError, match="did you mean 'swipe left'"):
        flip_targets(classes, {"swipe lft": "swipe right"})
    with pytest.raises(GestaError, match="two pairs"):
        flip_targets(classes, {"swipe left": "swipe right", "turn left": "swipe right"})


def test_views_are_clip_by_clip_and_cut_along_the_longer_side() -> None:
    columns = torch.arange(64, dtype=torch.uint8).expand(2, 5, 3, 32, 64) + torch.tensor([0, 100]).view(2, 1, 1, 1, 1)
    views = crop_views(columns.to(torch.uint8), 32, 3)
    assert views.shape == (6, 5, 3, 32, 32)
    assert views[:, 0, 0, 0, 0].tolist() == [0, 16, 32, 100, 116, 132]
    assert crop_views(columns.to(torch.uint8), 32, 1)[:, 0, 0, 0, 0].tolist() == [16, 116]
    assert test_short_side(256, 112) == 128


def test_a_squashed_frame_shows_the_same_fraction_of_both_sides() -> None:
    """IsoGD's 320 × 240, squashed to 256 × 256: a crop of 224 sees 87.5 % of the width; of the frame itself, 66 %."""
    config, draw = Augment(crop="jitter", short_side=(256, 256)), generator()
    boxes = [draw_crop_box(config, 240, 320, 224, draw, squash=True) for _ in range(300)]
    assert {box[2:] for box in boxes} == {(210, 280)} and {box[2:] for box in boxes} != {(210, 210)}
    assert {box[0] for box in boxes} == set(range(31)) and (min(b[1] for b in boxes), max(b[1] for b in boxes)) == (
        0,
        40,
    )
    assert {draw_crop_box(config, 240, 320, 224, draw)[2:] for _ in range(9)} == {(210, 210)}
    columns = torch.arange(0, 256, 4, dtype=torch.uint8).expand(1, 2, 3, 32, 64)
    shown = [crop_views(columns, 28, 1, squash)[0, 0, 0, 0] for squash in (False, True)]
    assert [len(view) for view in shown] == [28, 28] and shown[0].tolist() == columns[0, 0, 0, 0, 18:46].tolist()
    assert shown[1][0] < 24 and shown[1][-1] > 230  # nearly the whole width
