"""The runs of MFST's paper: protocol, the switches of its tables, miniatures, published numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from conftest import write_video
from gesta.data.samples import TrainingClips, collate
from gesta.datasets.isogd import IsoGD
from gesta.datasets.ntu import NTU
from gesta.model import to_clips
from gesta.models.mfst import MFSTConfig
from gesta.recipe import Recipe
from gesta.recipes import mfst
from gesta.recipes.address import find_recipe, miniature
from gesta.recipes.published import judge
from gesta.records import Record
from gesta.training.optim import build_optimizer, learning_rate


def model(recipe: Recipe) -> MFSTConfig:
    assert isinstance(recipe.model, MFSTConfig)
    return recipe.model


def test_protocol() -> None:
    recipe = mfst.ntu()
    train, clip, views = recipe.train, recipe.model.clip, recipe.evaluate
    assert (train.epochs, train.optimizer, train.momentum, train.weight_decay) == (100, "sgd", 0.9, 3e-4)
    assert (train.mixup, train.mix_probability, train.label_smoothing, train.clip_grad) == (0.8, 1.0, 0.1, 5.0)
    optimizer = build_optimizer(miniature(recipe).model.build(), train)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {3e-4}  # of biases and norms, too
    assert mfst.isogd().model.clip.squash and miniature(mfst.isogd()).model.clip.squash and not clip.squash
    assert train.sync_bn and mfst.isogd().train.sync_bn and not miniature(recipe).train.sync_bn
    rates = [learning_rate(train, epoch) for epoch in (0, 1.5, 3, 51.5, 100)]
    assert rates == pytest.approx([0, 0.005, 0.01, 0.005005, 1e-5], abs=1e-9)
    assert (clip.frames, clip.sampling, clip.size) == (32, "uniform", 224)
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 1, 1, 2).expand(1, 1, 1, 3, 1, 2)
    assert to_clips(pixels, clip)[0, 0].flatten().tolist() == pytest.approx([-127.5 / 128, 127.5 / 128])
    assert (views.split, views.clips, views.crops, views.short_side, train.augment.flip) == ("test", 1, 1, 240, 0.5)
    assert (train.augment.rotate, train.augment.rotate_probability) == (10, 0.5)
    gestures = mfst.isogd("depth")
    assert (gestures.evaluate.split, gestures.train.augment.flip, gestures.model.classes) == ("val", 0.0, 249)
    assert (gestures.train.augment.rotate, gestures.train.augment.rotate_probability) == (10, 0.5)
    assert gestures.data == IsoGD(modality="depth", depth_encoding="repeat3") and gestures.train.augment.short_side == (
        256,
        256,
    )


def test_switches_of_the_tables() -> None:
    rgb, depth = model(mfst.ntu()), model(mfst.ntu("depth"))
    assert (rgb.cdc, depth.cdc, rgb.theta, len(rgb.stages), rgb.scales, rgb.residual) == (
        "st",
        "t",
        0.6,
        4,
        (1, 2, 4),
        True,
    )
    assert mfst.ntu("depth", "cross_view").data == NTU(split="cross_view", modality="depth", person_crop=True)
    assert len(model(mfst.ntu(size="base")).stages) == 3 and not model(mfst.ntu(residual=False)).residual
    baseline = model(mfst.bm())
    assert (baseline.cdc, baseline.residual, baseline.scales, baseline.knn) == ("none", False, (1,), rgb.knn)
    stems = [[model(make()) for make in row.recipes.values()] for row in mfst.TABLE4.rows]
    assert [{(m.cdc, m.theta) for m in row} for row in stems] == [
        {("none", 0.0)},
        {("st", 0.6)},
        {("t", 0.6)},
        {("st", 0.8)},
        {("t", 0.8)},
    ]


def test_runs_of_different_models_have_different_names() -> None:
    found: dict[str, Recipe] = {}
    runs = [make for table in mfst.TABLES.values() for row in table.rows for make in row.recipes.values()]
    for recipe in [*(make() for make in runs), mfst.bm(), mfst.bm(size="base")]:
        assert found.setdefault(recipe.name, recipe) == recipe
    # Tables 2.1 and 2.2, Base, Table 2.4 without its two own stems, no shortcuts, V-Trans, the baseline
    assert len(found) == 4 + 2 + 1 + 8 + 2 + 2 + 2


def test_published_numbers() -> None:
    rows = {(name, row.label): row.published for name, table in mfst.TABLES.items() for row in table.rows}
    assert rows["table1", "MFST-Large, RGB + depth"] == {"CS": 94.6, "CV": 98.2}
    assert rows["table2", "MFST-Large, RGB + depth"] == {"Accuracy": 68.47}
    assert rows["table4", "CDC-T, θ = 0.6"] == {"RGB": 89.6, "DEP": 93.8}
    assert [len(table.rows) for table in mfst.TABLES.values()] == [16, 14, 3, 5, 2, 2]


def test_sizes_are_the_papers() -> None:
    assert [(judge(figure).ours, judge(figure).same) for figure in mfst.FIGURES] == [("32.6", True), ("49.7", True)]


def test_miniatures_keep_what_is_compared() -> None:
    small = model(miniature(mfst.ntu(cdc="t", theta=0.8, residual=False, scales=(1,))))
    assert (small.cdc, small.theta, small.residual, small.scales) == ("t", 0.8, False, (1,))
    assert small.small_init and small.clip.size == 64 and small.clip.sampling == "uniform"
    assert model(find_recipe("mfst.bm", data="marionette")).cdc == "none"


@pytest.mark.parametrize("run", [mfst.ntu, partial(mfst.isogd, "depth"), mfst.bm])
def test_one_step_of_the_miniature(run: partial[Recipe], tmp_path: Path) -> None:
    """The recipe's own augmentation and optimiser, on the tiny model."""
    paths = [write_video(tmp_path / f"{i}.mp4", frames=40, shade=60 * i) for i in range(2)]
    videos = [Record(path=str(path), name=path.name, label=i) for i, path in enumerate(paths)]
    recipe = run()
    torch.manual_seed(0)
    small = miniature(recipe).model
    tiny = small.build()
    optimizer = build_optimizer(tiny, recipe.train)
    clips = TrainingClips(videos, small.clip, recipe.train, ["wave", "jump"])
    batch = collate([clips[epoch, i] for epoch in range(2) for i in range(2)])
    assert not batch["failures"]
    before = [parameter.detach().clone() for parameter in tiny.parameters()]
    loss = functional.cross_entropy(tiny(to_clips(batch["video"], small.clip)), batch["label"]["label"])
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    moved = [not torch.equal(a, b) for a, b in zip(before, tiny.parameters())]
    assert sum(moved) > len(moved) / 2
