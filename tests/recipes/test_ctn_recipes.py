"""The runs of CTN's paper: the protocol, every row of its tables, verb and noun in training and in tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from conftest import write_video
from finished import finish
from gesta.comparison.tables import fill
from gesta.config import from_json, to_json
from gesta.data.samples import TrainingClips, collate
from gesta.evaluation.metrics import headline
from gesta.model import to_clips
from gesta.models.ctn import CTNConfig
from gesta.recipe import Recipe
from gesta.recipes import ctn
from gesta.recipes.address import miniature
from gesta.records import Record
from gesta.training.optim import build_optimizer, learning_rate


def model(recipe: Recipe) -> CTNConfig:
    assert isinstance(recipe.model, CTNConfig)
    return recipe.model


def test_protocol() -> None:
    """Table 4.2 and §4.4.1."""
    for recipe in (ctn.epic_kitchens(), ctn.diving48()):
        train = recipe.train
        assert (train.optimizer, train.momentum, train.batch_size, train.epochs) == ("sgd", 0.9, 16, 100)
        assert (train.lr, train.warmup_epochs, train.schedule, train.weight_decay) == (0.005, 2.5, "cosine", 0)
        augment = train.augment
        assert (augment.color_jitter, augment.hue, augment.jitter_probability, augment.flip) == (0.4, 0.1, 0.8, 0.5)
        assert [learning_rate(train, epoch) for epoch in (0, 1.25, 2.5, 100)] == pytest.approx([0, 0.0025, 0.005, 0])
        assert (recipe.model.clip.frames, recipe.model.clip.size, recipe.model.clip.sampling) == (8, 224, "uniform")
    assert ctn.epic_kitchens().model.classes == {"verb": 97, "noun": 300}
    assert ctn.epic_kitchens().evaluate.split == "val" and ctn.diving48().evaluate.split == "test"
    vivit = ctn.epic_kitchens("vivit", "learned", schedule="vivit")
    assert (vivit.train.augment.randaugment, vivit.train.augment.magnitude) == (2, 30)
    assert (vivit.train.lr, vivit.train.batch_size, vivit.train.mixup, vivit.model.drop_path) == (0.5, 64, 0.1, 0.2)


def test_every_row_is_another_model_and_another_run() -> None:
    names, models = {}, []
    for variant in get_args(ctn.Variant):
        for positions in ("none", "learned"):
            for make in (ctn.epic_kitchens, ctn.diving48):
                recipe = make(variant, positions)
                names[recipe.name] = recipe
            assert model(recipe) not in models
            models.append(model(recipe))
            assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe
            with torch.device("meta"):
                assert recipe.model.build().grid_at(0) == (768, 4, 14, 14)
    assert len(names) == 4 * len(get_args(ctn.Variant))
    rows = [row for table in ctn.TABLES.values() for row in table.rows]
    assert {run().name for row in rows for run in row.recipes.values()} <= set(names)
    vivit = model(ctn.diving48("vivit", "learned"))
    assert (vivit.embed, vivit.mapping, vivit.positions, vivit.clip.frames) == ("tube", "linear", "learned", 8)
    assert {m.gelu for m in models} == {"exact"}  # rows differ in what they say


def test_tables_show_actions(tmp_path: Path) -> None:
    for recipe, metrics in (
        (ctn.epic_kitchens(), {"verb/top1": 1, "action/top1": 45.0}),
        (ctn.diving48(), {"top1": 78.0}),
    ):
        finish(recipe, tmp_path / recipe.name, metrics)
    cells = fill(ctn.TABLE5, tmp_path).cells
    assert [(cells[1][c].paper, cells[1][c].ours) for c in ("EK", "D-48")] == [(45.9, 45.0), (78.2, 78.0)]
    assert cells[0]["EK"].paper == 44.1 and cells[0]["EK"].ours is None


def test_the_best_weights_have_the_best_actions() -> None:
    assert headline({"verb/top1": 60.0, "noun/top1": 40.0, "action/top1": 30.0, "action/top5": 70.0}) == 30
    assert headline({"left/top1": 60.0, "right/top1": 40.0}) == 50 and headline({"top1": 7.0, "top5": 9.0}) == 7


@pytest.mark.parametrize("changes", [{}, {"variant": "vivit", "positions": "learned"}, {"schedule": "vivit"}])
def test_one_step_with_verb_and_noun(changes: dict[str, Any], tmp_path: Path) -> None:
    """The recipe's own augmentation, optimiser and losses, on the tiny model."""
    from gesta.training.step import batch_losses

    recipe = ctn.epic_kitchens(**changes)
    paths = [write_video(tmp_path / f"{i}.mp4", frames=20, shade=60 * i) for i in range(2)]
    videos = [Record(path=str(p), name=p.name, label={"verb": i, "noun": 2 - i}) for i, p in enumerate(paths)]
    torch.manual_seed(0)
    small = miniature(recipe).model
    small.classes = {"verb": 2, "noun": 3}
    net = small.build().train()
    optimizer = build_optimizer(net, recipe.train)
    clips = TrainingClips(videos, small.clip, recipe.train, {"verb": ["a", "b"], "noun": ["c", "d", "e"]})
    batch = collate([clips[epoch, i] for epoch in range(2) for i in range(2)])
    assert not batch["failures"]
    losses = batch_losses(net, batch, small, recipe.train, torch.device("cpu"))
    spaces = [value for name, value in losses.items() if name.startswith("cross_entropy/")]
    assert len(spaces) == 2 and losses["loss"].item() == pytest.approx(sum(v.item() for v in spaces) / 2)
    losses["loss"].backward()
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.step()
    with torch.no_grad():
        scores = net.eval()(to_clips(batch["video"], small.clip))
    assert {name: s.shape[1] for name, s in scores.items()} == small.classes
    assert all(s.isfinite().all() for s in scores.values())
