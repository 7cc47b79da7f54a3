"""Displaced and jolted pictures of the synthetic data set, and the positions of the puppet's joints in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gesta.errors import GestaError
from gesta.marionette.dataset import make_set
from gesta.marionette.displacement import JOLT, ROLL, SHIFT, ZOOM
from gesta.marionette.filming import ClipName, displacement, joint_positions, puppet_boxes, render_clip
from gesta.marionette.puppet import JOINTS

SIZE, SEED = 48, 3
CLIP = ClipName(3, 5, 2, 1)


@pytest.fixture(autouse=True)
def short_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips that are rendered quickly; others have 32 to 40 frames."""
    monkeypatch.setattr("gesta.marionette.filming.FRAMES", (12, 15))


def test_a_displaced_picture_is_an_affine_image_of_the_centred_one() -> None:
    moved, centred = joint_positions(CLIP, SEED, aim="displaced"), joint_positions(CLIP, SEED)
    shift, zoom, roll = displacement(CLIP, SEED, aim="displaced")
    clockwise = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])  # y points down
    expected = 0.5 + shift[:, None] + zoom * (centred - 0.5) @ clockwise.T
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-12)
    assert moved.shape == (len(shift), len(JOINTS), 2) and np.abs(moved - centred).max() > 0.05
    (_, seen), (_, centred_depth) = render_clip(CLIP, SEED, SIZE, aim="displaced"), render_clip(CLIP, SEED, SIZE)
    head = JOINTS.index("head")
    columns, rows = (SIZE * moved[:, head]).astype(int).T
    expected_columns, expected_rows = (SIZE * centred[:, head]).astype(int).T
    frames = np.arange(len(seen))
    at_head, expected_depth = seen[frames, rows, columns], centred_depth[frames, expected_rows, expected_columns]
    np.testing.assert_allclose(at_head, expected_depth, rtol=0, atol=0.1)  # metres; of the wall it is some more


def test_joints_are_in_the_box_of_the_puppet() -> None:
    for family, action in (("coarse", 3), ("fine", 5)):  # a diver turns as a whole
        clip = CLIP._replace(action=action)
        positions, boxes = joint_positions(clip, SEED, family), puppet_boxes(clip, SEED, family)
        assert (positions >= boxes[:, None, :2]).all() and (positions <= boxes[:, None, 2:]).all()


def test_a_jolted_picture_moves_by_whole_eighths() -> None:
    shift, zoom, roll = displacement(CLIP, SEED, aim="jolted")
    steps = np.rint(shift / JOLT).astype(int)
    assert set(steps.ravel()) == {-1, 0, 1} and (zoom, roll) == (1, 0)
    np.testing.assert_array_equal(steps * JOLT, shift)
    jolted, centred = render_clip(CLIP, SEED, SIZE, aim="jolted")[0], render_clip(CLIP, SEED, SIZE)[0]
    for frame in (0, 4, 9):
        across, down = steps[frame] * SIZE // 8
        moved = np.roll(centred[frame], (down, across), (0, 1))
        rows, columns = (slice(max(n, 0), SIZE + min(n, 0)) for n in (down, across))
        difference = jolted[frame, rows, columns].astype(int) - moved[rows, columns]
        assert np.mean(np.abs(difference) > 1) < 0.002  # all but pixels at edges, which may be rounded to either side


def test_displacements_are_drawn_from_their_ranges() -> None:
    drawn = [
        displacement(ClipName(1, subject, 1, take), SEED, aim="displaced") for subject in (1, 2) for take in range(30)
    ]
    shifts, zooms, rolls = (np.array(values) for values in zip(*((d.shift[0], d.zoom, d.roll) for d in drawn)))
    for values, low, high in ((shifts, -SHIFT, SHIFT), (zooms, *ZOOM), (rolls, -ROLL, ROLL)):
        assert low <= values.min() < low + 0.1 * (high - low) and high - 0.1 * (high - low) < values.max() <= high


def test_aims_are_not_mixed(tmp_path: Path) -> None:
    how = {"clips": 1, "seed": SEED, "workers": 1, "size": 32}
    make_set(tmp_path / "set", aim="jolted", **how)  # type: ignore[arg-type]
    assert json.loads((tmp_path / "set" / "marionette.json").read_text())["aim"] == "jolted"
    with pytest.raises(GestaError, match="was made with aim jolted, not centred"):
        make_set(tmp_path / "set", **how)  # type: ignore[arg-type]
    with pytest.raises(GestaError, match="would not move by whole pixels; give a multiple of 8"):
        make_set(tmp_path / "odd", size=36, aim="jolted")
    with pytest.raises(GestaError, match="aim cannot be 'jolt'"):
        make_set(tmp_path / "odd", aim="jolt")  # type: ignore[arg-type]
