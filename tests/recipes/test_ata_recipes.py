"""The runs of ATA's paper: the protocol, every switch of its tables, miniatures, and one step of each on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from conftest import write_video
from finished import finish, scored
from gesta.config import replace
from gesta.cost import Cost, count
from gesta.data.samples import TrainingClips, collate
from gesta.errors import GestaError
from gesta.layers.temporal import TemporalAttention
from gesta.model import to_clips
from gesta.models.timesformer import TimeSformerConfig
from gesta.plugins.ata import ATA
from gesta.recipe import Recipe
from gesta.recipes import ata, timesformer
from gesta.recipes.address import find_recipe, miniature
from gesta.records import Record
from gesta.training.optim import build_optimizer, learning_rate, parameter_groups

RUNS: list[Callable[..., Recipe]] = [
    *(timesformer.kinetics400, timesformer.something_v2, ata.kinetics400, ata.something_v2),
    partial(ata.ablation, temporal="averaging"),
    partial(ata.ablation, temporal="joint"),
    partial(ata.ablation, dealign=False, blocks=(3, 4, 5), cost_matched=True),
    partial(ata.ablation, "cyclemlp_b5", "averaging"),
    partial(ata.ablation, "cyclemlp_b5", "attention"),
    partial(ata.ablation, "convnext_b", dealign=False),
]


def vit(recipe: Recipe) -> TimeSformerConfig:
    assert isinstance(recipe.model, TimeSformerConfig)
    return recipe.model


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("videos")
    paths = [write_video(folder / f"{i}.mp4", frames=40, shade=60 * i) for i in range(2)]
    return [Record(path=str(path), name=path.name, label=i) for i, path in enumerate(paths)]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run().name)
def test_one_step_of_the_miniature(run: Callable[..., Recipe], videos: list[Record]) -> None:
    """The recipe's own augmentation and optimiser, on the tiny model."""
    recipe = run()
    torch.manual_seed(0)
    small = miniature(recipe).model
    model = small.build()
    optimizer = build_optimizer(model, recipe.train)
    clips = TrainingClips(videos, small.clip, recipe.train, ["wave", "jump"])
    batch = collate([clips[epoch, i] for epoch in range(2) for i in range(2)])
    assert not batch["failures"]
    before = [parameter.detach().clone() for parameter in model.parameters()]
    scores = model(to_clips(batch["video"], small.clip))
    loss = functional.cross_entropy(scores, batch["label"]["label"])
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters())]
    assert sum(moved) > len(moved) / 2


def test_protocol() -> None:
    recipe = ata.kinetics400()
    train, model = recipe.train, vit(recipe)
    assert (train.epochs, train.batch_size, train.optimizer, train.momentum, train.nesterov) == (
        30,
        64,
        "sgd",
        0.9,
        True,
    )
    rates = [learning_rate(train, epoch) for epoch in (0, 20.9, 21, 26.9, 27, 29.9)]
    assert rates == pytest.approx([5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5])
    assert (model.clip.frames, model.clip.stride, model.clip.size, model.drop_path) == (32, 8, 224, 0.1)
    assert (model.clip.mean[0], model.clip.std[0], train.augment.flip) == (0.45, 0.225, 0.5)
    views = recipe.evaluate
    assert (views.split, views.clips, views.crops, views.short_side, views.average) == (
        "val",
        1,
        3,
        224,
        "probabilities",
    )
    assert ata.kinetics400(clips=4).evaluate.clips == 4 and timesformer.kinetics400().model.clip.stride == 32
    other = ata.something_v2()
    assert (other.model.classes, other.model.clip.sampling, other.model.clip.frames) == (174, "uniform", 32)
    assert other.train.augment.flip == 0 and other.train.augment.inverse_uniform and not train.augment.inverse_uniform
    with torch.device("meta"):
        built = replace(miniature(recipe).model, small_init=False).build()
    groups = {group["weight_decay"]: {id(p) for p in group["params"]} for group in parameter_groups(built, train)}
    spared = {name for name, p in built.named_parameters() if id(p) in groups[0.0] and p.dim() > 1}
    assert spared == {"cls_token", "pos_embed", "time_embed"} and set(groups) == {0.0, 1e-4}


def test_switches_of_the_tables() -> None:
    assert vit(ata.ablation()).around == ATA() and vit(ata.ablation()).ata_blocks is None
    assert vit(ata.ablation(dealign=False)).around == ATA(dealign=False)
    assert vit(ata.ablation(blocks=range(3, 6))).ata_blocks == (3, 4, 5)
    for temporal in ("averaging", "joint", "attention"):
        model = vit(ata.ablation(temporal=temporal))  # type: ignore[arg-type]
        assert model.temporal == temporal and model.around is None
        assert model.readout == ("mean" if temporal == "averaging" else "class_token")
    plain, matched = vit(ata.ablation()), vit(ata.kinetics400(cost_matched=True))
    assert not (plain.temporal_cls or plain.temporal_post_norm) and matched.temporal_cls and matched.temporal_post_norm

    blocks, first = {"cyclemlp_b5": 34, "convnext_b": 36}, {"cyclemlp_b5": 31, "convnext_b": 33}
    for backbone in ("cyclemlp_b5", "convnext_b"):
        make: Any = partial(ata.ablation, backbone)
        assert not make("averaging").model.inserts
        for recipe, arounds in (
            (make("attention"), [None] * blocks[backbone]),
            (make(), [ATA()] * blocks[backbone]),
            (make(stages=[3]), [None] * first[backbone] + [ATA()] * 3),
        ):
            layers = [insert.layer for insert in recipe.model.inserts]
            assert [layer.around for layer in layers] == arounds
            assert [insert.at for insert in recipe.model.inserts] == list(range(blocks[backbone]))
            assert all(isinstance(layer, TemporalAttention) and layer.post_norm for layer in layers)
            assert (layers[0].drop_path, layers[-1].drop_path, recipe.model.drop_path) == (0.0, 0.1, 0.1)


def test_impossible_combinations_are_refused() -> None:
    for arguments in (
        {"backbone": "convnext_b", "temporal": "joint"},
        {"backbone": "cyclemlp_b5", "cost_matched": True},
        {"temporal": "averaging", "cost_matched": True},
        {"temporal": "attention", "dealign": False},
        {"temporal": "attention", "blocks": (0,)},
        {"stages": (0,)},
        {"backbone": "convnext_b", "blocks": (0,)},
    ):
        with pytest.raises(GestaError, match=r"ata\.ablation: .*leave one"):
            ata.ablation(**arguments)  # type: ignore[arg-type]


def test_runs_of_different_models_have_different_names() -> None:
    """A run's folder has its name: equal names are equal experiments."""
    runs: dict[str, Recipe] = {}
    for table in ata.TABLES.values():
        for row in table.rows:
            for make in row.recipes.values():
                recipe = make()
                first = runs.setdefault(recipe.name, recipe)
                assert (first.model, first.data, first.train, first.evaluate) == (
                    *(recipe.model, recipe.data),
                    *(recipe.train, recipe.evaluate),
                )
    assert len(runs) == 5 + 5 + 12 - 1 + 3 + 4 - 1 + 1 + 2  # Tables 1 to 7, without what earlier ones have


def test_miniatures_keep_what_is_compared() -> None:
    small = vit(miniature(ata.ablation(dealign=False, blocks=(3, 4, 5, 9), cost_matched=True)))
    assert small.around == ATA(dealign=False) and small.ata_blocks == (1, 3) and small.depth == 4
    assert small.temporal_cls and small.temporal_post_norm and small.small_init
    assert [vit(miniature(ata.ablation(blocks=b))).ata_blocks for b in (range(3), range(12))] == [(0,), (0, 1, 2, 3)]
    assert vit(miniature(ata.ablation(temporal="joint"))).temporal == "joint"
    assert miniature(ata.something_v2()).model.clip.sampling == "uniform"
    other = find_recipe("ata.ablation", model="ata_convnext_b", data="marionette").model  # from the command line
    assert other == find_recipe("ata.ablation", model="ata_convnext_tiny", data="marionette").model
    sizes = [miniature(find_recipe(f"ata.table1.{row}")).model.clip for row in (4, 5, 6, 13)]
    assert [(clip.frames, clip.stride, clip.size) for clip in sizes] == [
        (8, 4, 64),
        (26, 1, 64),
        (10, 3, 128),
        (16, 2, 64),
    ]
    inserts = miniature(ata.ablation("convnext_b", dealign=False)).model.inserts
    assert [insert.at for insert in inserts] == [0, 1, 2, 3, 4]
    assert all(insert.layer.around == ATA(dealign=False) for insert in inserts)  # type: ignore[attr-defined]


def test_published_numbers_are_where_the_paper_has_them() -> None:
    rows = {(name, row.label): row.published for name, table in ata.TABLES.items() for row in table.rows}
    swapped = rows["table3", "CycleMLP-B5, averaging"]
    assert (swapped["GMACs"], swapped["params"]) == (82.4, 75.3)
    assert [rows["table5", f"blocks {b}"]["Top-1"] for b in ("0-2", "3-5", "6-8", "9-11", "0-11")] == [
        *(79.3, 79.6, 79.3, 79.2, 79.6)
    ]
    assert [rows["table7", f"blocks {b}"]["Top-1"] for b in ("0-2", "0-5", "0-8", "0-11")] == [79.3, 79.2, 79.4, 79.6]
    assert rows["table4", "ATA"] == {"Kinetics-400": 1.373, "Something-Something V2": 1.29}
    assert [len(table.rows) for table in ata.TABLES.values()] == [14, 12, 12, 4, 6, 4, 5]


def test_top5_of_a_run_fills_its_own_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gesta.comparison.tables import fill

    assert count(ata.kinetics400().model, "fvcore").macs / 1e9 == pytest.approx(786.818, abs=1e-3)
    cost = Cost("", "fvcore", (1, 1, 1), (), {})  # that of all rows takes long
    monkeypatch.setattr("gesta.comparison.tables.count", lambda *_, **__: cost)
    finish(ata.kinetics400(), tmp_path / "a", {"top1": 81.25, "top5": 95.5})
    cells = fill(ata.TABLE1, tmp_path).cells
    assert (cells[12]["Top-1"].ours, cells[12]["Top-5"].ours) == (81.25, 95.5)
    assert cells[13]["Top-1"].ours is None and cells[0]["GMACs"].ours is None
    four = find_recipe("ata.table1.14")  # another evaluation of the same weights, beside the first
    scored(four, {"top1": 81.5, "top5": 95.75}).write(tmp_path / "a" / "result-val.json")
    cells = fill(ata.TABLE1, tmp_path).cells
    assert (cells[12]["Top-1"].ours, cells[13]["Top-1"].ours) == (81.25, 81.5)
