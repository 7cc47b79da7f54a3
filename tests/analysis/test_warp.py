"""The transform that a model regresses is the one that is drawn, on the raw clip and in its coordinates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread

from gesta.analysis.figures import write_figure
from gesta.analysis.sources import read_clip
from gesta.analysis.warp import LayerWarp, draw_warp, draw_warps, measure_warp
from gesta.config import replace
from gesta.errors import GestaError
from gesta.model import Insert, VideoModel
from gesta.models import create_model
from gesta.plugins.stan import STAN

FREE: dict[str, Any] = {"p_scale": 1.0, "tanh_bound": None}  # so that the last layer's bias is p itself

P = {"tt": 0, "tx": 1, "ty": 2, "t": 3, "xt": 4, "xx": 5, "xy": 6, "x": 7, "yt": 8, "yx": 9, "yy": 10, "y": 11}


def model_with(*layers: STAN, **p: float) -> VideoModel:
    """A model whose first STAN layer always regresses θ = 1 + p: its last layer's bias, as its weight is still 0."""
    inserts = [Insert(layer=layer, at=i + 1) for i, layer in enumerate(layers)]
    model = create_model("r3d_tiny", classes=3, inserts=inserts).eval()
    if layers:
        bias = model.inserts["1"][0].deformation.fc.bias  # type: ignore[index,union-attr]
        for name, value in p.items():
            bias.data[P[name]] = value  # type: ignore[union-attr,operator,index]
    return model


def warp_layers(model: VideoModel, clip: torch.Tensor, spatial_only: bool = False) -> list[LayerWarp]:
    return measure_warp("x", model, clip, spatial_only=spatial_only).layers


@pytest.fixture
def clip() -> torch.Tensor:
    """Frames of noise at another size than the model's; the frame's number is its mean grey level."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 40, (8, 3, 80, 80), generator=generator, dtype=torch.uint8)
    return noise + 20 * torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1)


def test_a_shift_on_the_map_is_the_same_fraction_of_the_raw_clip(clip: torch.Tensor) -> None:
    (warped,) = warp_layers(model_with(STAN(**FREE), x=0.5, y=-0.25), clip)
    expected = torch.eye(4)
    expected[1, 3], expected[2, 3] = 0.5, -0.25
    torch.testing.assert_close(warped.theta, expected)
    assert (warped.layer, warped.block) == ("inserts.1.0", 1)
    # x + 0.5 is 20 of 80 pixels to the right, y - 0.25 is 10 up; what lies outside is black.
    torch.testing.assert_close(warped.after[..., 10:, :60], clip[..., :70, 20:])
    assert not warped.after[..., :10, :].any() and not warped.after[..., 60:].any()


def test_spatial_only_leaves_time_alone(clip: torch.Tensor) -> None:
    model = model_with(STAN(**FREE), x=0.5, t=0.5, tx=0.3, xt=0.3)
    (both,) = warp_layers(model, clip)
    (space,) = warp_layers(model, clip, spatial_only=True)
    assert both.theta[0, 1] == pytest.approx(0.3) and both.theta[0, 3] == pytest.approx(0.5)
    assert space.theta[0].tolist() == [1, 0, 0, 0] and space.theta[:, 0].tolist() == [1, 0, 0, 0]
    torch.testing.assert_close(space.after[..., :60], clip[..., 20:])
    assert not torch.equal(both.after[..., :60], clip[..., 20:])


def test_time_of_a_map_of_one_frame_is_not_moved(clip: torch.Tensor) -> None:
    spec = replace(create_model("r3d_tiny").config.clip, frames=8)
    model = create_model("r3d_tiny", classes=3, clip=spec, inserts=[Insert(layer=STAN(**FREE), at=3)]).eval()
    assert model.grid_at(3)[1] == 1
    model.inserts["3"][0].deformation.fc.bias.data[P["t"]] = 0.5  # type: ignore[index,union-attr,operator]
    (warped,) = warp_layers(model, clip)
    torch.testing.assert_close(warped.theta, torch.eye(4))
    assert torch.equal(warped.after, clip)


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_identity_takes_each_pixel_from_its_place(clip: torch.Tensor, align_corners: bool) -> None:
    (warped,) = warp_layers(model_with(STAN(**FREE, align_corners=align_corners)), clip)
    places = (warped.source[..., 2] + 1) / 2 * len(clip) - 0.5
    torch.testing.assert_close(places, torch.arange(8.0)[:, None, None].expand_as(places), atol=1e-4, rtol=0)


def test_the_outline_is_where_the_frame_comes_from(clip: torch.Tensor) -> None:
    model = model_with(STAN(**FREE), STAN(mode="attention", **FREE), xx=-0.5, x=0.25)
    figure = draw_warp(measure_warp("x", model, clip))
    assert [row.get_suptitle() for row in figure.subfigs] == ["STAN before block 1", "STAN before block 2"]
    panel = figure.subfigs[0].axes[0]
    outline = max((line.get_xydata() for line in panel.lines), key=len)
    # Half as wide, a quarter of half the width to the right: 10 + (80 - 80 / 2) / 2 to 10 + (80 + 80 / 2) / 2.
    assert outline[:, 0].min() == pytest.approx(30 - 0.25) and outline[:, 0].max() == pytest.approx(70 - 0.75)
    assert outline[:, 1].min() == pytest.approx(0, abs=1e-3) and outline[:, 1].max() == pytest.approx(79, abs=1e-3)
    texts = [[text.get_text() for axes in row.axes for text in axes.texts] for row in figure.subfigs]
    assert "0.500" in texts[0][0] and "identity" not in texts[0][1] and "identity" in texts[1][1]


def test_clips_beside_each_other_have_one_scale(clip: torch.Tensor) -> None:
    warps = [measure_warp(name, model_with(STAN(**FREE), x=x), clip) for name, x in (("left", -0.5), ("right", 0.5))]
    figure = draw_warps(warps)
    above = figure.axes[:2]
    assert [axes.get_title() for axes in above] == ["left", "right"]
    assert len({axes.get_xlim() + axes.get_ylim() for axes in above}) == 1
    starts = [max((line.get_xydata() for line in axes.lines), key=len)[:, 0].min() for axes in above]
    assert starts[1] - starts[0] == pytest.approx(40)  # half of the 80 px
    assert above[0].get_xlim()[0] < starts[0] and above[0].get_ylim()[0] > above[0].get_ylim()[1]


def test_a_picture_of_a_video(make_video: Callable[..., Path], tmp_path: Path) -> None:
    video = make_video("video.mp4", frames=9)
    model = model_with(STAN(**FREE), xx=0.5)
    figure = draw_warp(measure_warp("x", model, read_clip(video, model.config.clip)))
    out = write_figure(figure, tmp_path / "new" / "warp.png")
    picture = imread(out)
    assert picture.shape[0] > 300 and picture.std() > 0.1
    with pytest.raises(GestaError, match=r"warp\.xyz"):
        write_figure(figure, tmp_path / "warp.xyz")


def test_a_model_without_stan_is_refused(clip: torch.Tensor) -> None:
    with pytest.raises(GestaError, match="has no STAN layer"):
        warp_layers(model_with(), clip)
