"""Controls of the claims on ATA: random routes move as much, and the shift of a jolted picture is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gesta.checkpoint import TrainedModel
from gesta.claims.ata import attending, follows_jolts
from gesta.claims.routes import RandomAlignment, SharedShift, exchanged
from gesta.marionette.dataset import Marionette, make_set
from gesta.plugins.ata import ATA, Alignment


def test_random_routes_move_the_same_tokens_to_other_positions() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 5, 16, 8, dtype=torch.float64)
    found, drawn = Alignment(ATA()).routes(tokens, (4, 4)), RandomAlignment(ATA()).eval().routes(tokens, (4, 4))
    assert torch.equal(drawn.sort(-1).values, found.sort(-1).values) and not torch.equal(drawn, found)
    assert torch.equal(drawn, RandomAlignment(ATA()).eval().routes(tokens, (4, 4)))
    matches = torch.tensor([[0, 2, 1, 3, 5, 6, 4], [0, 1, 2, 3, 4, 5, 6], [1, 0, 2, 3, 4, 5, 6]])
    here = torch.arange(7)
    for _ in range(20):
        others = exchanged(matches)
        assert torch.equal(others != here, matches != here)  # the same tokens move, and no others
        assert torch.equal(others.sort(-1).values, here.expand(3, 7))
    assert len({tuple(exchanged(matches)[0].tolist()) for _ in range(300)}) == 24  # all orders of five tokens


def test_the_shift_of_a_jolted_picture_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a video as a claim has it, by a network of random weights."""
    monkeypatch.setattr("gesta.marionette.filming.FRAMES", (8, 9))
    make_set(tmp_path / "set", clips=1, seed=5, workers=1, size=64, aim="jolted")  # whose subject is held out
    torch.manual_seed(0)
    right = {}
    for name, around in (("shift", SharedShift()), ("still", ATA(window=0))):
        recipe = attending(around)
        recipe.data = Marionette(root=str(tmp_path / "set"), held_out="subjects")
        recipe.model.clip.stride = 1
        trained = TrainedModel(model=recipe.model.build(), classes=[], metadata={})
        right[name] = follows_jolts(trained, recipe, torch.device("cpu"))
    assert right["shift"] == 100 and right["still"] < 30  # few frames follow one of the same shift
