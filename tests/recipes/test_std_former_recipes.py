"""The runs of STD-Former's paper: the protocol, every row of its tables, mirrored labels, miniatures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from finished import finish
from gesta.comparison.tables import fill
from gesta.config import from_json, to_json
from gesta.data.samples import TrainingClips
from gesta.datasets.something import MIRRORED
from gesta.models.std_former import STDFormerConfig, _check, std_former_tiny
from gesta.recipe import Recipe
from gesta.recipes import std_former
from gesta.recipes.address import find_recipe, miniature
from gesta.records import Record
from gesta.training.optim import learning_rate

CHANGES = std_former.CHANGES


def model(recipe: Recipe) -> STDFormerConfig:
    assert isinstance(recipe.model, STDFormerConfig)
    return recipe.model


def test_protocol() -> None:
    for recipe in (std_former.something_v1(), std_former.something_v2()):
        train, clip, evaluate = recipe.train, recipe.model.clip, recipe.evaluate
        assert (train.optimizer, train.lr, train.batch_size, train.epochs) == ("adamw", 1e-4, 16, 22)
        assert (train.weight_decay, train.label_smoothing, train.mixup, train.cutmix) == (0.05, 0, 0, 0)
        assert (train.clip_grad, train.repeats, train.augment.interpolation) == (20, 2, "bicubic")
        assert [learning_rate(train, epoch) for epoch in (5, 22)] == pytest.approx([1e-4, 1e-6])
        augment = train.augment
        assert (augment.scale, augment.randaugment, augment.magnitude, augment.flip) == ((0.08, 1.0), 4, 21, 0.5)
        assert (clip.frames, clip.sampling, clip.size) == (16, "uniform", 224) and clip.mean[0] == 0.48145466
        assert (evaluate.split, evaluate.clips, evaluate.crops, evaluate.short_side) == ("val", 1, 3, 224)
        c = model(recipe)
        assert (c.classes, c.dropout, c.drop_path, c.ctm_dropout, c.ctm_drop_path) == (174, 0.5, 0.2, 0.5, 0.4)
    unflipped = std_former.something_v2(flip=False)
    assert unflipped.train.augment.flip == 0 and unflipped.name == "something_v2-full-unflipped"


def test_every_row_is_another_model_and_another_run() -> None:
    models: list[STDFormerConfig] = []
    for variant in CHANGES:
        recipe = std_former.something_v1(variant)
        assert model(recipe) not in models and model(std_former.something_v2(variant)) == model(recipe)
        models.append(model(recipe))
        assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe
        _check(model(recipe))  # the settings go together
    rows = [row for table in std_former.TABLES.values() for row in table.rows]
    used = {run().name.split("-", 1)[1] for row in rows for run in row.recipes.values()}
    assert used == set(CHANGES)
    ptm = [model(std_former.something_v1(name)).ptm_layers for name in ("full", "ctm", "ptm_4_7", "ptm_10_11")]
    assert ptm == [(8, 9, 10, 11), (), (4, 5, 6, 7), (10, 11)]


def test_tables_show_both_accuracies(tmp_path: Path) -> None:
    recipe = std_former.something_v1("smem_add")
    finish(recipe, tmp_path / recipe.name, {"top1": 56.0, "top5": 83.0})
    cells = fill(std_former.TABLE4, tmp_path).cells[1]
    assert [(cell.paper, cell.ours) for cell in cells.values()] == [(56.9, 56.0), (84.0, 83.0)]
    first, *_, last = fill(std_former.TABLE1, tmp_path).cells
    assert last["SSV2 Top-5"].paper == 92.1 and first["SSV1 Top-1"].ours is None


def test_mirrored_clips_have_the_mirrored_label() -> None:
    names = [name for pair in MIRRORED.items() for name in pair] + ["Holding something", "Pulling it right out"]
    clips = TrainingClips(
        [Record(path="", name="", label=0)], std_former_tiny().clip, std_former.something_v2().train, names
    )
    assert clips.mirror["label"] == [1, 0, 3, 2, 5, 4, 6, None]


@pytest.mark.parametrize("variant", ["full", "ptm_4_7_smem_st7", "ptm_0_3", "ctm", "weights_05", "every_frame"])
def test_miniatures_keep_the_row(variant: str) -> None:
    """Layers move in proportion, switches stay."""
    small = model(miniature(std_former.something_v1(variant)))
    assert (small.width, small.clip.sampling) == (std_former_tiny().width, "uniform")
    expected = {
        "full": STDFormerConfig(ptm_layers=(4, 5), smem=(("T", 2),)),
        "ptm_4_7_smem_st7": STDFormerConfig(ptm_layers=(2, 3), smem=(("ST", 3),)),
        "ptm_0_3": STDFormerConfig(ptm_layers=(0, 1), smem=(), stdm_layers=()),
        "ctm": STDFormerConfig(ptm_layers=(), smem=(), stdm_layers=()),
        "weights_05": STDFormerConfig(alpha=0.5, beta=0.5, ptm_layers=(4, 5), smem=(("T", 2),)),
        "every_frame": STDFormerConfig(tubelet_kernel=1, tubelet_stride=1, ptm_layers=(4, 5), smem=(("T", 2),)),
    }[variant]
    for name in ("ptm_layers", "smem", "stdm_layers", "alpha", "beta", "tubelet_kernel", "tubelet_stride"):
        assert getattr(small, name) == getattr(expected, name), name
    with torch.device("meta"):
        small.build()


def test_addresses() -> None:
    assert find_recipe("std_former.something_v1").name == "something_v1-full"
    assert find_recipe("std_former.something_v2", data="marionette").name == "something_v2-full-miniature"
