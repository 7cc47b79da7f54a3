"""Spatial encoders pretrained on single frames: labels that are positions of joints, and starting from such a run."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gesta.checkpoint.weights import import_weights
from gesta.config import check, replace
from gesta.errors import GestaError
from gesta.evaluation.result import Result
from gesta.marionette.dataset import make_set
from gesta.marionette.filming import ClipName, joint_positions
from gesta.marionette.joint_frames import MarionetteJoints
from gesta.marionette.puppet import JOINTS
from gesta.models import model_config
from gesta.recipes.pretrain import frame_encoder, frames
from gesta.training.loop import train

SEED = 3


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A jolted set of two clips, short ones, of which both are for training."""
    monkeypatch.setattr("gesta.marionette.filming.FRAMES", (5, 6))
    make_set(tmp_path / "set", clips=2, seed=SEED, workers=1, size=32, aim="jolted")
    return tmp_path / "set"


def test_labels_are_the_strips_that_joints_are_in(root: Path) -> None:
    data = MarionetteJoints(root=str(root), frames=2, strips=16)
    records, names = data.records("train"), data.classes()
    assert len(records) == 4 and not data.records("test")
    for record in records:
        clip = ClipName(*(int(part[1:]) for part in Path(record.path).stem.split("_")))
        assert record.start is not None and (record.end, record.name[-2:]) == (record.start + 1, f"#{record.start}")
        position = joint_positions(clip, SEED, aim="jolted")[record.start, JOINTS.index("left_wrist")]
        for axis, fraction in zip("xy", np.clip(position, 0, 1 - 1e-9)):
            low = float(names[f"left_wrist_{axis}"][record.label[f"left_wrist_{axis}"]])  # type: ignore[index,call-overload]
            assert low - 1e-3 <= fraction < low + 1 / 16 + 1e-3
    assert {record.start for record in records} == {1, 3, 4} or {record.start for record in records} == {1, 3}


def test_joints_counted_from_the_hips_do_not_depend_on_where_the_puppet_is(root: Path) -> None:
    """Every frame of the set is shifted by another jolt; the middle between the hips is always the same strip."""
    places, from_hips = (
        MarionetteJoints(root=str(root), frames=6, strips=32, origin=origin).records("train")
        for origin in ("picture", "hips")
    )
    for place, counted in zip(places, from_hips):
        clip = ClipName(*(int(part[1:]) for part in Path(place.path).stem.split("_")))
        position = joint_positions(clip, SEED, aim="jolted")[place.start]
        hips = position[[JOINTS.index("right_hip"), JOINTS.index("left_hip")]].mean(0)
        expected = np.clip(((position[JOINTS.index("head")] - hips + 0.5) * 32).astype(int), 0, 31)
        assert [counted.label[f"head_{axis}"] for axis in "xy"] == expected.tolist()  # type: ignore[index,call-overload]
        for axis in "xy":
            left, right = (counted.label[f"{side}_hip_{axis}"] for side in ("left", "right"))  # type: ignore[index,call-overload]
            assert abs(left + right - 31) <= 1
    assert [r.label for r in places] != [r.label for r in from_hips]


def test_what_moves_the_picture_is_refused() -> None:
    recipe = frames()
    check(recipe)
    recipe.train.augment.flip = 0.5
    with pytest.raises(GestaError, match=r"train\.augment\.flip is 0\.5, which moves the picture, and the labels"):
        check(recipe)
    check(replace(recipe, data=frames(labels="classes").data))  # labels that are classes may be mirrored
    with pytest.raises(GestaError, match="has no spatial encoder that can be trained alone"):
        frames("mfst_tiny")


@pytest.mark.parametrize("name", ["timesformer_tiny", "std_former_tiny", "rpe_stdt_tiny"])
def test_a_model_starts_as_its_spatial_encoder_on_every_frame(name: str) -> None:
    """Parts that model time change nothing at first, so that a still clip has the features of its frame."""
    config = model_config(name, classes=5)
    if name == "std_former_tiny":  # from CLIP's blocks; PTMs compute the same parts side by side
        config = replace(config, ctm_residual="query", ptm_layers=())
    torch.manual_seed(0)
    encoder, model = frame_encoder(config).build().eval(), config.build()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "time_embed was made for another clip")
        report = import_weights(model, encoder.state_dict(), min_matched=0.3)
    assert not report.unexpected and not report.mismatched
    if name == "rpe_stdt_tiny":  # the frames' vectors go through an encoder of their own, which is random
        return
    frame = torch.randn(2, 3, 1, 64, 64)
    with torch.no_grad():
        expected, features = encoder.embed(frame), model.embed(frame.expand(-1, -1, 8, -1, -1))
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-4)


@pytest.mark.full  # the fast suite has labels, checks and the start above, and trainings of several label spaces
def test_a_run_on_joints_starts_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesta.marionette.filming.FRAMES", (5, 6))
    make_set(tmp_path / "set", clips=36, seed=SEED, workers=1, size=32)  # the least with all splits
    recipe = frames("timesformer_tiny", root=str(tmp_path / "set"))
    recipe.data = replace(recipe.data, frames=1)
    recipe.train = replace(recipe.train, epochs=1, warmup_epochs=0, workers=0)
    run = train(recipe, tmp_path / "run", device="cpu")
    assert {"head_x/top1", "left_ankle_y/top1"} <= Result.read(run / "result.json").metrics.keys()
    model = model_config("timesformer_tiny").build()
    with pytest.warns(UserWarning, match="time_embed was made for another clip"):
        assert import_weights(model, str(run)).matched_fraction > 0.9
