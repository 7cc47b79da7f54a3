"""Motion maps are the lengths of what each SMEM adds, in the order of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from gesta.analysis.motion import measure_motion
from gesta.analysis.sources import as_input
from gesta.cli import main
from gesta.errors import GestaError
from gesta.model import Insert
from gesta.models import create_model
from gesta.plugins.smem import SMEM


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.randint(0, 256, (8, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@torch.no_grad()
def test_maps_are_what_is_added(clip: torch.Tensor) -> None:
    inserts = [Insert(layer=SMEM(), at=at) for at in (0, 2)]
    model = create_model("r3d_tiny", inserts=inserts).eval()
    for layer in model.inserts.values():
        torch.nn.init.normal_(layer[0].excite.weight, std=0.1)  # type: ignore[index]
    found = measure_motion("a", model, clip).maps
    assert [(r.name, r.tap) for r in found] == [("a", "SMEM[0]"), ("a", "SMEM[2]")]
    taps = model.taps(as_input(clip, model), ["block.1", "insert.2"])
    torch.testing.assert_close(found[1].map, (taps["insert.2"] - taps["block.1"])[0].norm(dim=0))
    assert found[1].map.std() > 0


def test_both_branches_of_std_former_are_shown(clip: torch.Tensor) -> None:
    model = create_model("std_former_tiny", smem=(("ST", 2), ("T", 1))).eval()
    assert [r.tap for r in measure_motion("a", model, clip).maps] == ["SMEM T[1]", "SMEM ST[2]"]
    with pytest.raises(GestaError, match="r3d_tiny has no SMEM; give an std_former"):
        measure_motion("r3d_tiny", create_model("r3d_tiny").eval(), clip)


def test_the_verb(make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["analyse", "motion", *arguments])
        return int(end.value.code or 0)

    video, out = str(make_video("video.mp4", frames=40)), str(tmp_path / "motion.png")
    assert run("std_former_tiny", video, "--out", out) == 0
    picture = imread(out)
    assert picture.shape[1] > 1000 and picture.std() > 0.1
    assert run("ctn_tiny", video) == 1 and "has no SMEM" in capsys.readouterr().err


def test_an_untrained_smem_shows_nothing(clip: torch.Tensor) -> None:
    model = create_model("r3d_tiny", inserts=[Insert(layer=SMEM(), at=1)]).eval()
    with pytest.raises(GestaError, match="adds nothing, which is normal before training; give a trained model"):
        measure_motion("a", model, clip)
