"""The runs of ST-MANet's paper: protocol, rows of its tables and figures, a step of the real recipe."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import get_args

import pytest
import torch

from conftest import write_video
from gesta.comparison.tables import fill
from gesta.data.clips import test_indices as indices_of
from gesta.data.samples import TrainingClips, collate
from gesta.data.transforms import test_short_side as side_of
from gesta.datasets.diving48 import Diving48
from gesta.models.st_manet import STMANetConfig
from gesta.recipe import Recipe
from gesta.recipes import st_manet
from gesta.recipes.address import miniature
from gesta.records import Record
from gesta.training.optim import build_optimizer, learning_rate
from gesta.training.step import batch_losses


def model(recipe: Recipe) -> STMANetConfig:
    assert isinstance(recipe.model, STMANetConfig)
    return recipe.model


def test_protocol() -> None:
    """§4.1."""
    for recipe in (st_manet.ucf101(), st_manet.hmdb51(), st_manet.diving48()):
        train, clip = recipe.train, recipe.model.clip
        assert (train.optimizer, train.momentum, train.batch_size, train.epochs) == ("sgd", 0.9, 32, 90)
        assert (train.augment.crop, train.augment.scale, train.augment.flip) == ("short_side", (0.5, 1.0), 0.5)
        assert (clip.frames, clip.stride, clip.size, clip.sampling) == (32, 2, 112, "dense")
        assert recipe.evaluate.coverage == "contiguous"
        assert side_of(recipe.evaluate.short_side, clip.size) == clip.size  # the central square is as large as it gets
        assert (model(recipe).lambda1, model(recipe).lambda2) == (0.01, 0.001)
    assert [r.model.classes for r in (st_manet.ucf101(), st_manet.hmdb51(), st_manet.diving48())] == [101, 51, 48]
    data = st_manet.diving48().data
    assert isinstance(data, Diving48) and data.version == 1


def test_learning_rate_falls_every_15_epochs() -> None:
    rates = [learning_rate(st_manet.training(), epoch) for epoch in range(90)]
    assert rates == pytest.approx([0.01 * 0.1 ** (epoch // 15) for epoch in range(90)])


@pytest.mark.parametrize("n", [1, 5, 63, 64, 65, 127, 128, 129, 200])
def test_every_piece_of_a_video_is_tested(n: int) -> None:
    """Pieces of 64 frames, of which every second is read; the last one is shifted back."""
    clips = indices_of(n, st_manet.ucf101().model.clip, 1, "contiguous", "loop")
    assert clips.shape == (max(math.ceil(n / 64), 1), 32) and clips.min() >= 0 and clips.max() < n
    if n >= 64:
        starts = clips[:, 0].tolist()
        assert starts[-1] == n - 64 and all(later - start <= 64 for start, later in itertools.pairwise(starts))
        assert torch.equal(clips - clips[:, :1], 2 * torch.arange(32).expand_as(clips))


def test_every_row_is_another_run() -> None:
    rows = [row for table in st_manet.TABLES.values() for row in table.rows]
    runs = {run().name: run() for row in rows for run in row.recipes.values()}
    settings = [(type(r.data), model(r), r.train.lr) for r in runs.values()]
    assert all(settings.count(setting) == 1 for setting in settings)
    assert len(runs) == 3 * (1 + 4 + 5 + 5 + 5) + 4 + 3  # all · stages · two λ · rates · Table 4's others · Fig. 6's
    assert {model(st_manet.ucf101(variant)).mf for variant in get_args(st_manet.Variant)} == {True, False}


def test_ledger_and_table_count_alike(tmp_path: Path) -> None:
    trunk, full = (cells["GMACs"].ours for cells in fill(st_manet.FIGURE6, tmp_path).cells)
    assert trunk and full and st_manet.more_work() == pytest.approx(100 * (full / trunk - 1), rel=1e-9)


def test_miniatures_keep_the_switches() -> None:
    small = model(miniature(st_manet.ucf101("tda")))
    assert (small.tda, small.sda, small.mf, small.width) == (True, False, False, 8)
    assert model(miniature(st_manet.hmdb51(stage=3))).head_stages == (3,)
    assert model(miniature(st_manet.hmdb51(lambda1=0.0))).lambda1 == 0


def test_one_step_with_named_losses(tmp_path: Path) -> None:
    recipe = st_manet.ucf101()
    paths = [write_video(tmp_path / f"{i}.mp4", frames=40, shade=60 * i) for i in range(2)]
    videos = [Record(path=str(p), name=p.name, label=i) for i, p in enumerate(paths)]
    torch.manual_seed(0)
    small = miniature(recipe).model
    small.classes = 2
    net = small.build().train()
    optimizer = build_optimizer(net, recipe.train)
    clips = TrainingClips(videos, small.clip, recipe.train, ["a", "b"])
    batch = collate([clips[0, i] for i in range(2)])
    assert not batch["failures"]
    losses = batch_losses(net, batch, small, recipe.train, torch.device("cpu"))
    parts = {"cross_entropy", "diversity_spatial", "diversity_temporal"}
    assert set(losses) == parts | {"loss"}
    assert losses["loss"].item() == pytest.approx(sum(losses[part].item() for part in parts))
    assert 0 < losses["diversity_spatial"] <= 0.12 + 1e-6 and 0 < losses["diversity_temporal"] <= 0.012 + 1e-6
    losses["loss"].backward()
    optimizer.step()
    assert all(p.isfinite().all() for p in net.parameters())
