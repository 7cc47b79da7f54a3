"""The heat is the channel mean of the right map, over the right frame, on one scale per model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from gesta.analysis.response import Response, ResponseMap, draw_response, measure_response
from gesta.analysis.sources import as_input
from gesta.cli import main
from gesta.errors import GestaError
from gesta.layers.temporal import TemporalAttention
from gesta.model import Insert
from gesta.models import create_model


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.randint(0, 256, (8, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@torch.no_grad()
def test_it_is_the_channel_mean_of_the_map_after_temporal_modelling(clip: torch.Tensor) -> None:
    inserts = [Insert(layer=TemporalAttention(), at=2)]
    for name, changes, block, tap in (
        ("timesformer_tiny", {}, None, "block.3"),
        ("ata_timesformer_tiny", {}, 2, "temporal.2"),
        ("timesformer_tiny", {"temporal": "averaging"}, 2, "block.2"),
        ("r3d_tiny", {"inserts": inserts}, 2, "insert.2"),
    ):
        model = create_model(name, **changes).eval()
        (found,) = measure_response([(name, model)], clip, block=block).maps
        assert found.tap == tap
        torch.testing.assert_close(found.map, model.taps(as_input(clip, model), [tap])[tap][0].mean(0))
        assert found.map.std() > 0
    with pytest.raises(GestaError, match="blocks 0 to 3, not 4"):
        measure_response([("x", create_model("timesformer_tiny").eval())], clip, block=4)


def test_frames_of_the_video_are_above_their_part_of_the_map(clip: torch.Tensor) -> None:
    long = clip.repeat_interleave(2, 0)  # 16 frames, of which 8 are drawn
    ramp = torch.arange(4.0).view(4, 1, 1).expand(4, 2, 2)
    noise = torch.randn(16, 8, 8, generator=torch.Generator().manual_seed(0))
    maps = [
        ResponseMap(name="runs/a/best.safetensors", tap="block.3", map=ramp),
        ResponseMap(name="other", tap="temporal.1", map=noise),
    ]
    figure = draw_response(Response(clip=long, maps=maps))
    rows = [[axes for axes in figure.axes if axes.get_subplotspec().rowspan.start == r][:8] for r in range(3)]
    assert [axes.get_title() for axes in rows[0]] == [f"frame {i}" for i in (0, 2, 4, 6, 9, 11, 13, 15)]
    assert [axes.images[1].get_array().mean() for axes in rows[1]] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert rows[1][0].get_ylabel() == "a\nblock.3"
    assert len({axes.images[1].get_clim() for axes in rows[2]}) == 1
    assert rows[1][0].images[1].get_clim() != rows[2][0].images[1].get_clim()


def test_the_verb(make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["analyse", "response", *arguments])
        return int(end.value.code or 0)

    video, out = str(make_video("video.mp4", frames=40)), str(tmp_path / "response.png")
    assert run(video, "timesformer_tiny", "ata_timesformer_tiny", "--block", "1", "--out", out) == 0
    picture = imread(out)
    assert picture.shape[1] > 1000 and picture.std() > 0.1
    for arguments, sentence in (
        (["timesformer_tiny", video], "neither a run folder"),  # the wrong way round
        ([str(tmp_path / "absent.mp4"), "timesformer_tiny"], "absent.mp4"),
        ([video, "timesformer_tiny", "--block", "-1"], "blocks 0 to 3, not -1"),
        ([video, "timesformer_tiny", "--out", str(tmp_path / "x.xyz")], "cannot be written"),
    ):
        assert run(*arguments) == 1
        assert sentence in capsys.readouterr().err


def test_models_of_other_frames_are_refused(clip: torch.Tensor) -> None:
    other = create_model("timesformer_tiny")
    other.config.clip.stride = 2
    models = [("a", create_model("timesformer_tiny")), ("b", other)]
    with pytest.raises(GestaError, match="b expects 8 frames 2 apart, a expects 8 frames 4 apart"):
        measure_response(models, clip)
