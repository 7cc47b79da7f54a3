"""What claims measure beside accuracy: that changed clips are what they are said to be, and what θ is compared with."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import write_video
from gesta.checkpoint import TrainedModel
from gesta.claims import metrics, st_manet
from gesta.claims.controls import PlainLayers, STANControl
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.marionette.dataset import Marionette
from gesta.model import ClipSpec
from gesta.models.r3d import R3DConfig
from gesta.plugins.stan import STAN, warp
from gesta.recipe import EvaluateConfig, Recipe
from gesta.records import Record

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


def toy(root: Path) -> tuple[TrainedModel, Recipe]:
    model = R3DConfig(depths=(1, 1, 1, 1), width=2, classes=2, clip=ClipSpec(frames=2, stride=1, size=16))
    data = Folder(root=str(root))
    recipe = Recipe(name="toy", model=model, data=data, evaluate=EvaluateConfig(clips=1, short_side=300))
    return TrainedModel(model=model.build(), classes=["dark", "light"], metadata={}), recipe


def test_a_moved_crop_shows_the_same_pixels_elsewhere(tmp_path: Path) -> None:
    for name in ("dark", "light"):
        write_video(tmp_path / "test" / name / "0.mp4", frames=4, size=(36, 30))
        write_video(tmp_path / "train" / name / "0.mp4", frames=4, size=(36, 30))
    trained, recipe = toy(tmp_path)
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda clips: seen.setdefault(name, clips)[..., :16, :16]

    metrics.correct(trained, recipe, CPU, {"plain": keep("plain")})
    wide, short_side = metrics._wider(trained.model.config.clip, recipe.evaluate, 2)
    metrics.correct(trained, recipe, CPU, {"wide": keep("wide")}, wide, short_side)
    assert seen["wide"].shape[-2:] == (20, 20)
    assert torch.equal(metrics._window(seen["wide"], top=2, left=2, size=16), seen["plain"])
    found = metrics.displaced(0, 2)(trained, recipe, CPU)
    assert isinstance(found, dict) and found["0"] == metrics.accuracies(trained, recipe, CPU, {"": lambda c: c})[""]
    assert list(found) == ["0", "2"] and all(0 <= value <= 100 for value in found.values())
    with pytest.raises(GestaError, match="cannot be moved by 9 in frames of 21; give a larger"):
        metrics.displaced(9)(trained, recipe, CPU)


def test_theta_is_compared_with_the_place_to_which_it_would_have_to_shift(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bright square stands for the puppet; a θ that finds it correlates fully, and puts it into the middle."""
    rng, size = np.random.default_rng(1), 32
    places = {f"A01_S01_C01_R{i:02d}.mp4": rng.uniform(0.35, 0.65, 2) for i in range(1, 13)}
    records = [Record(path=name, name=name, label=0) for name in places]
    clip = ClipSpec(frames=2, stride=1, size=size)

    def frames_of(path: str, select: Any) -> Any:
        frames = torch.zeros(2, 3, 96, 96, dtype=torch.uint8)
        across, down = (int(96 * place) for place in places[path])
        frames[:, :, down - 5 : down + 6, across - 5 : across + 6] = 255
        return frames, select(2), 0, 0

    def boxes(name: Any, *_: Any) -> np.ndarray:
        across, down = places[f"{name}.mp4"]
        return np.tile([across - 0.05, down - 0.05, across + 0.05, down + 0.05], (2, 1))

    warped: list[Tensor] = []

    def thetas(_: Any, video: Tensor) -> Any:
        bright = (video - video.amin()).mean((0, 1, 2))
        axis = (torch.arange(size) + 0.5) / size * 2 - 1
        theta = torch.eye(4)[None].clone()
        theta[0, 1, 3], theta[0, 2, 3] = (bright.sum(0) @ axis) / bright.sum(), (bright.sum(1) @ axis) / bright.sum()
        warped.append(warp(video, theta)[0, 0, 0])
        return {"insert": (theta, (2, size, size))}

    monkeypatch.setattr(metrics, "read_frames", frames_of)
    monkeypatch.setattr(metrics, "puppet_boxes", boxes)
    monkeypatch.setattr(metrics, "thetas", thetas)
    monkeypatch.setattr(metrics, "read_manifest", lambda _: {"seed": 0})
    monkeypatch.setattr(Marionette, "records", lambda *_: records)
    recipe: Any = SimpleNamespace(data=Marionette(), evaluate=EvaluateConfig(clips=1, short_side=300))
    model = R3DConfig(depths=(1, 1, 1, 1), width=2, classes=2, clip=clip).build()
    trained = TrainedModel(model=model, classes=[], metadata={})
    found = metrics.theta_follows(trained, recipe, CPU)
    assert isinstance(found, float) and found > 0.98
    share = metrics.theta_centres(trained, recipe, CPU)
    assert isinstance(share, float) and abs(share - 1) < 0.05  # all of the way
    for picture in warped:
        rows, columns = (picture > picture.amin() + 0.5 * (picture.amax() - picture.amin())).nonzero().T.double()
        assert abs(rows.mean() - 15.5) < 1.5 and abs(columns.mean() - 15.5) < 1.5


def test_controls_are_as_large_as_stan_and_start_alike() -> None:
    grid = (96, 4, 4, 4)
    torch.manual_seed(0)
    x = torch.randn(3, *grid)
    stan = STAN().build(grid)
    assert torch.allclose(STANControl(theta="constant").build(grid)(x), stan.eval()(x), atol=1e-5)  # θ is the identity
    other = STANControl(theta="other", stan=STAN(fc_init_std=0.5)).build(grid).eval()
    plain = STAN(fc_init_std=0.5).build(grid).eval()
    plain.load_state_dict(other.state_dict())
    assert torch.allclose(other.theta(x), plain.theta(x).roll(1, 0)) and not torch.allclose(other(x), plain(x))
    parameters = [sum(p.numel() for p in layer.build(grid).parameters()) for layer in (STAN(), PlainLayers())]
    assert 0.95 < parameters[1] / parameters[0] < 1.05


def test_order_is_right_if_the_score_is_above_that_of_the_reversed_action(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ["sit_down", "stand_up", "wave"]
    records = [Record(name=name, path=name, label=i) for i, name in enumerate(names)]
    monkeypatch.setattr(Marionette, "classes", lambda self: names)
    monkeypatch.setattr(Marionette, "records", lambda self, split: records)
    monkeypatch.setattr(metrics, "REVERSED_PAIRS", {"coarse": (("sit_down", "stand_up"),)})
    monkeypatch.setattr(metrics, "_test_clips", lambda *_: iter([([0, 1, 2], 1, torch.zeros(3, 3, 2, 16, 16))]))
    scores = torch.tensor([[1.0, 0.0, 9.0], [1.0, 0.0, 9.0], [9.0, 0.0, 0.0]])  # all are said to sit down: 50 %
    trained, recipe = toy(tmp_path)
    monkeypatch.setattr(trained.model, "forward", lambda clips: scores)
    recipe.data = Marionette(root=str(tmp_path))
    assert metrics.right_order(trained, recipe, CPU) == 50
    scores[1] = torch.tensor([0.0, 0.1, 9.0])  # wave, which has no reverse, may have the highest score
    assert metrics.right_order(trained, recipe, CPU) == 100


def test_modules_that_give_their_mean_and_likeness_of_stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    recipe = st_manet.ALL.make()
    network = recipe.model.build().eval()
    trained = TrainedModel(model=network, classes=[str(i) for i in range(12)], metadata={})
    clips = torch.randn(2, 3, 8, 48, 48)
    added: dict[str, list[Tensor]] = {"TDA": [], "SDA": []}

    def top1(trained: TrainedModel, recipe: Recipe, device: torch.device, changes: dict[str, Any]) -> dict[str, float]:
        (name,) = changes
        x, branch = torch.randn(2, 32, 8, 12, 12), torch.randn(2, 16, 8, 12, 12)
        if name == "TDA":
            added[name].append(network.aggregation2.tda.aggregate(x, branch).residual)
        else:
            added[name].append(network.aggregation2.sda.aggregate(x).residual)
        return {name: 1.0}

    monkeypatch.setattr(st_manet, "accuracies", top1)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm3d):  # else what modules add starts at zero
            torch.nn.init.normal_(layer.weight)
    assert st_manet.as_means(trained, recipe, CPU) == {"TDA": 1.0, "SDA": 1.0}
    for of_kind in added.values():
        (residual,) = of_kind
        assert residual.abs().max() > 0
        torch.testing.assert_close(residual, residual[..., :1, :1, :1].expand_as(residual))
    assert "aggregate" not in vars(network.aggregation2.tda)  # as it was

    monkeypatch.setattr(st_manet, "clips_to_test", lambda *_: iter([clips]))
    values = st_manet.alike(trained, recipe, CPU)
    stages = network.attention_maps(clips).values()
    matrices = [stage.temporal.flatten(1) for stage in stages if stage.temporal is not None]  # all of 8 × 8 frames
    cosines = [F.cosine_similarity(a, b).mean().item() for a, b in itertools.combinations(matrices, 2)]
    assert isinstance(values, dict) and values["temporal"] == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)
