"""What stages attend to: the right rows of the right matrices, cosines of known matrices, several checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gesta.analysis.sources import as_input, load
from gesta.analysis.stage_attention import (
    CheckpointCosines,
    cosines_over_training,
    draw_stage_attention,
    measure_stage_attention,
    stage_cosines,
)
from gesta.checkpoint import save_model
from gesta.cli import main
from gesta.config import replace
from gesta.errors import GestaError
from gesta.model import ClipSpec, VideoModel
from gesta.models import create_model, model_config


@dataclass(frozen=True)
class Maps:
    temporal: Tensor | None
    spatial: Tensor | None
    size: tuple[int, int, int]


def rows(*shape: int) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(sum(shape))).softmax(-1)


def small(seed: int = 0, **changes: object) -> VideoModel:
    torch.manual_seed(seed)
    return replace(model_config("st_manet_tiny", classes=2), **changes).build().eval()


CLIP = torch.randint(0, 256, (16, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_untrained_running_statistics_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("st_manet_tiny")
    fresh = "warning: st_manet_tiny (random weights): the running statistics of its batch norms are not trained"
    assert capsys.readouterr().err.startswith(fresh)
    model = small()
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 16, 64, 64))
    save_model(tmp_path / "best.safetensors", model, ["a", "b"])
    load(str(tmp_path))
    load("timesformer_tiny")  # which has none before its maps
    assert capsys.readouterr().err == ""


def test_a_position_gets_the_mean_of_its_column_and_gives_its_row() -> None:
    model = create_model("r3d_tiny", classes=2, clip=ClipSpec(frames=4, size=32)).eval()
    with pytest.raises(GestaError, match="no attention by stage; st_manet"):
        measure_stage_attention("toy", model, CLIP)
    spatial, temporal = rows(8, 8), torch.eye(4)[None]
    model.attention_maps = lambda video: {3: Maps(temporal, None, (4, 4, 8)), 2: Maps(None, spatial, (4, 2, 4))}  # type: ignore[assignment]
    found = measure_stage_attention("toy", model, CLIP)
    assert [s.stage for s in found.stages] == [2, 3]
    torch.testing.assert_close(found.stages[0].spatial, 8 * spatial[0].mean(0).reshape(2, 4))
    assert found.stages[1].spatial is None and found.stages[1].entropy == {"temporal": 0.0}
    assert found.cosines == {}  # no kind that two stages have
    # pixel 20,9 of 32 lies in row 1 of 2 and column 1 of 4
    given = measure_stage_attention("toy", model, CLIP, position=(20, 9)).stages[0].spatial
    torch.testing.assert_close(given, 8 * spatial[0, 5].reshape(2, 4))
    with pytest.raises(GestaError, match=r"position 32,0: toy sees 32 × 32 pixels"):
        measure_stage_attention("toy", model, CLIP, position=(32, 0))
    model.attention_maps = lambda video: {2: Maps(None, None, (4, 2, 4))}  # type: ignore[assignment]
    with pytest.raises(GestaError, match="no stage that attends"):
        measure_stage_attention("toy", model, CLIP)


def test_cosines_of_pooled_matrices() -> None:
    """Of grids: neighbouring positions are pooled in both directions, on the side that attends and on the other."""
    big, little = rows(16, 16), rows(4, 4)
    pooled = torch.zeros(4, 4)
    for y, x, v, u in torch.cartesian_prod(*[torch.arange(4)] * 4).tolist():
        pooled[y // 2 * 2 + x // 2, v // 2 * 2 + u // 2] += big[0, 4 * y + x, 4 * v + u] / 16
    expected = torch.nn.functional.cosine_similarity(pooled.flatten(), little[0].flatten(), dim=0)
    uniform, identity = torch.full((1, 4, 4), 0.25), torch.eye(2)[None]
    pooled_to, cosines = stage_cosines({2: Maps(uniform, big, (4, 4, 4)), 5: Maps(identity, little, (2, 2, 2))})
    assert pooled_to == {"temporal": (2,), "spatial": (2, 2)} and cosines["spatial"][0] == [2, 5]
    assert float(cosines["spatial"][1][0, 1]) == pytest.approx(float(expected), abs=1e-6)
    assert float(cosines["temporal"][1][1, 0]) == pytest.approx(math.sqrt(0.5))
    # with one frame all attention is on it: nothing to compare
    assert (
        "temporal"
        not in stage_cosines({2: Maps(uniform, big, (4, 4, 4)), 5: Maps(torch.ones(1, 1, 1), little, (1, 2, 2))})[1]
    )


def test_the_model_itself_and_its_losses() -> None:
    """The cosines are those which the losses add up: 12 ordered pairs, weighted."""
    model = small(lambda1=0.5, lambda2=0.25)
    found = measure_stage_attention("tiny", model, CLIP)
    assert [s.stage for s in found.stages] == [2, 3, 4, 5]
    assert all(s.temporal is not None and s.spatial is not None for s in found.stages)
    assert all(s.temporal.sum(1) == pytest.approx([1.0] * s.size[0], abs=1e-5) for s in found.stages)  # type: ignore[union-attr]
    assert all(s.spatial.mean() == pytest.approx(1, abs=1e-5) for s in found.stages)  # type: ignore[union-attr]
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    _, losses = model(as_input(CLIP, model), with_losses=True)
    for kind, weight in (("spatial", 0.5), ("temporal", 0.25)):
        matrix = found.cosines[kind][1]
        assert losses[f"diversity_{kind}"].item() == pytest.approx(weight * float(matrix.sum() - 4), rel=1e-4)
    without = measure_stage_attention("tiny", small(sda=False), CLIP)
    assert list(without.cosines) == ["temporal"] and without.stages[0].spatial is None
    assert len(draw_stage_attention(without).get_axes()) == 4 * 10 + 1


def test_over_training_and_from_the_command_line(
    make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, video, out = tmp_path / "run", make_video("v.mp4", frames=20), tmp_path / "picture.png"
    run.mkdir()
    models = {4: small(0), 9: small(1)}
    for name, epoch in (("best", 9), ("early", 4)):
        save_model(run / f"{name}.safetensors", models[epoch], ["a", "b"], notes={"epoch": epoch})
    checkpoints = cosines_over_training(str(run), CLIP)
    assert [m.epoch for m in checkpoints] == [4, 9]
    for m in checkpoints:
        matrix = measure_stage_attention("x", models[m.epoch], CLIP).cosines["spatial"][1]
        assert m.cosines["spatial"] == pytest.approx(float((matrix.sum() - 4) / 12), rel=1e-6)
    assert cosines_over_training("st_manet_tiny", CLIP) == []
    with pytest.raises(SystemExit) as end:
        main(["analyse", "stage-attention", str(run), str(video), "--at", "3,60", "--json", "--out", str(out)])
    found = json.loads(capsys.readouterr().out)
    assert not end.value.code and out.stat().st_size > 20_000
    assert found["position"] == [3, 60] and [m["epoch"] for m in found["checkpoints"]] == [4, 9]
    assert found["cosines"]["spatial"]["stages"] == [2, 3, 4, 5] and len(found["stages"]) == 4
    (run / "early.safetensors").unlink()
    one = measure_stage_attention("x", models[9], CLIP, checkpoints=cosines_over_training(str(run), CLIP))
    assert "there is one checkpoint" in str(one) and isinstance(one.checkpoints[0], CheckpointCosines)
