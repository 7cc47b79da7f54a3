"""The runs of RPE-STDT's paper: protocol, the switches of its tables, miniatures, published numbers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from conftest import write_video
from gesta.data.samples import TrainingClips, collate
from gesta.datasets.diving48 import Diving48
from gesta.model import to_clips
from gesta.models.rpe_stdt import RPESTDTConfig
from gesta.recipe import Recipe
from gesta.recipes import rpe_stdt
from gesta.recipes.address import miniature
from gesta.records import Record
from gesta.training.optim import build_optimizer, learning_rate


def model(recipe: Recipe) -> RPESTDTConfig:
    assert isinstance(recipe.model, RPESTDTConfig)
    return recipe.model


def test_protocol() -> None:
    recipe = rpe_stdt.hmdb51()
    train, clip, views = recipe.train, recipe.model.clip, recipe.evaluate
    assert (train.epochs, train.optimizer, train.momentum, train.nesterov) == (100, "sgd", 0.9, False)
    assert (train.augment.crop, train.augment.short_side, train.augment.flip) == ("jitter", (256, 320), 0.5)
    rates = [learning_rate(train, epoch) for epoch in (0, 1.25, 2.5, 51.25, 100)]
    assert rates == pytest.approx([0, 0.0025, 0.005, 0.0025, 0], abs=1e-9)
    assert (clip.frames, clip.sampling, clip.size, clip.mean[0], clip.std[0]) == (16, "uniform", 224, 0.5, 0.5)
    assert (views.split, views.clips, views.crops, views.short_side) == ("test", 1, 1, 256)
    sizes = {run.__name__: run().model.classes for run in rpe_stdt.SETS.values()}
    assert sizes == {"ucf101": 101, "hmdb51": 51, "diving48": 48}
    assert rpe_stdt.diving48().data == Diving48(version=2)


def test_switches_of_the_tables() -> None:
    plain = model(rpe_stdt.ucf101())
    assert (plain.depth, plain.relative, plain.absolute, plain.shared, plain.rpe_on) == (12, True, "none", True, "q")
    assert (plain.temporal_depth, plain.subsample, plain.subsample_layers) == (4, "topk", (1, 3))
    assert model(rpe_stdt.ucf101("rpe_stdt_b8")).depth == 8
    assert not model(rpe_stdt.diving48(shared=False)).shared and model(rpe_stdt.hmdb51(bucket="clip")).bucket == "clip"
    assert model(rpe_stdt.diving48(layers=(0, 2))).subsample_layers == (0, 2)
    for how in ("max", "avg", "conv1d"):
        assert model(rpe_stdt.hmdb51(subsample=how)).subsample == how
    for variant, relative, depth, how in (
        ("vit_spatial", False, 0, "none"),
        ("stdt", False, 4, "none"),
        ("stdt_topk", False, 4, "topk"),
    ):
        other = model(rpe_stdt.ucf101(variant))  # type: ignore[arg-type]
        assert (other.relative, other.absolute) == (relative, "frame")
        assert (other.temporal_depth, other.subsample) == (depth, how)


def test_frames_32_apart() -> None:
    for run in rpe_stdt.SETS.values():
        recipe = run(sampling="stride32")
        clip = model(recipe).clip
        assert (clip.frames, clip.sampling, clip.stride, clip.shrink) == (16, "dense", 32, True)
        assert (clip.size, clip.mean, recipe.train.short_videos) == (224, (0.5, 0.5, 0.5), "loop")
        assert recipe.name != run().name and recipe.evaluate.short_videos == "loop"
    small = model(miniature(rpe_stdt.diving48(sampling="stride32"))).clip
    assert (small.sampling, small.shrink) == ("dense", True)


def test_runs_of_different_models_have_different_names() -> None:
    """A run's folder has its name: equal names are equal experiments."""
    found: dict[str, Recipe] = {}
    for table in rpe_stdt.TABLES.values():
        for row in table.rows:
            for make in row.recipes.values():
                recipe = make()
                assert found.setdefault(recipe.name, recipe) == recipe
    assert len(found) == 9 + 2 + 3 + 12 + 1  # Tables 3.1 to 3.5, without what earlier ones have


def test_miniatures_keep_what_is_compared() -> None:
    small = model(miniature(rpe_stdt.hmdb51(shared=False, bucket="clip", subsample="conv1d", layers=(0, 2))))
    assert (small.width, small.depth, small.clip.sampling) == (64, 2, "uniform")
    assert (small.shared, small.bucket, small.subsample, small.subsample_layers) == (False, "clip", "conv1d", (0, 2))
    image = model(miniature(rpe_stdt.ucf101("vit_spatial")))
    assert (image.temporal_depth, image.absolute, image.relative) == (0, "frame", False)


@pytest.mark.parametrize(
    "run",
    [
        rpe_stdt.ucf101,
        partial(rpe_stdt.hmdb51, "vit_spatial"),
        partial(rpe_stdt.hmdb51, "stdt", shared=False),
        partial(rpe_stdt.diving48, bucket="clip", subsample="avg", layers=(0, 2)),
    ],
    ids=lambda run: run().name,
)
def test_one_step_of_the_miniature(run: Any, tmp_path: Path) -> None:
    recipe = run()
    torch.manual_seed(0)
    paths = [write_video(tmp_path / f"{i}.mp4", frames=20, shade=60 * i) for i in range(2)]
    records = [Record(path=str(path), name=path.name, label=i) for i, path in enumerate(paths)]
    small = miniature(recipe).model
    built = small.build()
    optimizer = build_optimizer(built, recipe.train)
    clips = TrainingClips(records, small.clip, recipe.train, ["wave", "jump"])
    batch = collate([clips[epoch, i] for epoch in range(2) for i in range(2)])
    assert not batch["failures"]
    before = [parameter.detach().clone() for parameter in built.parameters()]
    scores = built(to_clips(batch["video"], small.clip))
    loss = functional.cross_entropy(scores, batch["label"]["label"])
    loss.backward()
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, built.parameters())]
    assert loss.isfinite() and sum(moved) > len(moved) / 2


def test_published_numbers() -> None:
    rows = {(name, row.label): row.published for name, table in rpe_stdt.TABLES.items() for row in table.rows}
    assert rows["table1", "Unshared RPE"] == {"params": 97.26, "UCF101": 97.61, "HMDB51": 79.25, "Diving48": 81.82}
    assert rows["table3", "RPE-STDT"] == {"GMACs": 273, "HMDB51": 79.3, "UCF101": 97.6, "Diving48": 81.8}
    assert rows["table4", "1D temporal convolution"] == {"HMDB51": 78.6, "UCF101": 96.6, "Diving48": 79.0}
    assert rows["table6", "TSM, ImageNet, RGB + flow, 3 frames"] == {"params": 24.3, "UCF101": 94.3, "Diving48": 51.1}
    assert [len(table.rows) for table in rpe_stdt.TABLES.values()] == [3, 2, 2, 5, 2, 14]


def test_counting_of_the_paper() -> None:
    """Table 3.3: 269 and, with relative positions on queries and keys, 273."""
    image, on_both = rpe_stdt.ucf101("vit_spatial"), rpe_stdt.ucf101()
    model(on_both).rpe_on = "qk"
    counts = [rpe_stdt.linear_macs(model(recipe)) / 1e9 for recipe in (image, rpe_stdt.ucf101(), on_both)]
    assert [round(macs, 1) for macs in counts] == [269.6, 271.1, 272.6]
