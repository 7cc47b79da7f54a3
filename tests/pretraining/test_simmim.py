"""SimMIM: squares that are hidden, what is rebuilt of them, and a run that others start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import gesta
from gesta.analysis.reconstruction import measure_reconstruction
from gesta.checkpoint.weights import import_weights
from gesta.cli import main
from gesta.config import check, replace
from gesta.errors import GestaError
from gesta.layers.attentive import Attentive
from gesta.model import Insert, ModelConfig
from gesta.models import list_models, model_config
from gesta.models.r3d import r3d_tiny
from gesta.models.st_manet import st_manet_tiny
from gesta.plugins.smem import SMEM
from gesta.plugins.stan import STAN
from gesta.pretraining.simmim import SimMIM, simmim_of
from gesta.recipes.own_videos import finetune
from gesta.recipes.pretrain import simmim


def built(config: ModelConfig | None = None) -> tuple[SimMIM, Tensor]:
    """A model in float64, and two clips."""
    torch.manual_seed(0)
    model = simmim_of(config or st_manet_tiny(), square=16).build().double().eval()
    clip = model.config.clip
    return model, torch.randn(2, 3, clip.frames, clip.size, clip.size, dtype=torch.double)  # type: ignore[return-value]


def test_squares_are_hidden_in_all_frames_and_take_one_colour() -> None:
    model, video = built()
    hidden = model.draw_hidden(video)
    assert hidden.shape == (2, 1, 1, 64, 64)
    squares = hidden.unflatten(3, (4, 16)).unflatten(5, (4, 16)).transpose(4, 5).flatten(5)[:, 0, 0]
    assert (squares == squares[..., :1]).all() and (squares[..., 0].sum((1, 2)) == 9).all()  # of 16, 0.6 rounded down
    other = torch.where(hidden, torch.full_like(video, 9.0), video)
    assert torch.equal(model.rebuild(video, hidden).clip, model.rebuild(other, hidden).clip)


def test_rebuilt_pixels_and_the_error_as_written_down() -> None:
    model, video = built()
    hidden = model.draw_hidden(video)
    rebuilt = model.rebuild(video, hidden)
    grid = model.encoder.to_grid(model.encoder.forward_features(torch.where(hidden, model.colour, video)))
    b, t, y, x = 1, grid.shape[2] - 1, 0, 1
    frames, rows, columns = model.cell
    expected = (model.to_pixels.weight @ grid[b, :, t, y, x] + model.to_pixels.bias).view(3, frames, rows, columns)
    part = rebuilt.clip[b, :, t * frames : (t + 1) * frames, y * rows : (y + 1) * rows, x * columns : (x + 1) * columns]
    torch.testing.assert_close(part, expected, rtol=0, atol=1e-9)
    everywhere = hidden.expand_as(video)
    mean = functional.l1_loss(rebuilt.clip[everywhere], video[everywhere])
    torch.testing.assert_close(model.error(rebuilt.clip, video, hidden), mean, rtol=0, atol=1e-12)


def test_parts_that_a_class_token_leaves_unread_are_trained() -> None:
    """CTN freezes its last convolution of the queries, since its classifier reads a class token alone."""
    model = simmim_of(model_config("ctn_tiny"), square=16).build().train()
    last = model.encoder.blocks[-1].attn.depthwise["q"]
    before = [buffer.clone() for buffer in last.buffers()]
    clip = model.config.clip
    sum(model(torch.randn(2, 3, clip.frames, clip.size, clip.size), with_losses=True)[1].values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in last.parameters() if p.dim() > 1)
    assert not all(map(torch.equal, before, last.buffers()))


def test_losses_of_the_model_are_kept_and_whole_clips_give_features() -> None:
    model, video = built()
    scores, losses = model.train()(video, with_losses=True)
    model.eval()
    assert scores == {} and {"reconstruction", "diversity_spatial", "diversity_temporal"} == set(losses)
    assert torch.equal(model(video), model.encoder(video)) and model(video).shape[0] == 2


def test_every_tiny_model_is_pretrained_or_refused_by_name() -> None:
    refused = set()
    for name in list_models("*_tiny"):
        try:
            model = simmim_of(model_config(name), square=16).build()
        except GestaError as error:
            assert "has no map of the picture" in str(error) or "expects one stream" in str(error), error
            refused.add(name)
            continue
        video = torch.zeros(1, 3, model.config.clip.frames, 64, 64)
        assert model.rebuild(video, model.draw_hidden(video)).clip.shape == video.shape
    assert refused == {"rpe_stdt_tiny", "mfst_rgbd_tiny", "fusion_tiny"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"square": 24}, "square is 24, which does not divide the clip's 64 pixels"),
        ({"ratio": 0.05}, "ratio is 0.05, which hides 0 of the 16 squares of a frame .rounded down., so that nothing"),
        ({"classes": 3}, "classes is 3, and pretraining has none"),
        ({"dropout": 0.1}, "dropout is 0.1, which is for classes"),
        ({"inserts": [Insert(layer=SMEM(), at=1)]}, "plug-ins belong to the model itself"),
    ],
)
def test_what_contradicts_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GestaError, match=sentence):
        check(replace(simmim_of(r3d_tiny(), square=16), **change))


def test_a_run_gives_its_encoder_to_others(make_video: Any, tmp_path: Path) -> None:
    for i in range(2):
        make_video(f"videos/{i}.mp4", shade=60 * i)
    run, command = tmp_path / "run", "pretrain simmim --model vit_tiny --batch-size 2 --train.epochs 1"
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--train.workers", "0", "--data.root", str(tmp_path / "videos"), "--run", str(run)])
    assert not ended.value.code
    trained = gesta.load(run).model
    assert isinstance(trained, SimMIM) and trained.config.square == 16
    network = model_config("vit_tiny", classes=2).build()
    report = import_weights(network, str(run))
    assert "to_pixels." in str(report)
    expected = {name: value for name, value in trained.encoder.state_dict().items() if "classifier" not in name}
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in expected.items())
    expected_config = replace(model_config("vit_tiny"), dropout=0.2, drop_path=0.1)
    assert finetune(root="x", weights=str(run)).model == expected_config
    assert simmim("mvitv2_s").model.square == 32  # type: ignore[attr-defined]


def test_what_is_rebuilt_is_measured() -> None:
    model, _ = built()
    clip = torch.randint(256, (16, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    measured = measure_reconstruction("run", model.float(), clip)
    seen = (measured.masked != 127).any(1, keepdim=True).expand_as(measured.clip)
    assert 0.55 < measured.hidden < 0.6 and torch.equal(measured.rebuilt[seen], measured.clip[seen])
    assert "the colour that hides it instead" in str(measured)


@torch.no_grad()
def test_plug_ins_and_readout_of_the_model_are_in_its_features() -> None:
    config = replace(r3d_tiny(), inserts=[Insert(layer=STAN(residual="none", mode="attention"), at=1)])
    model, video = built(config)
    model.encoder.inserts["1"][0].deformation.fc.bias += 1.0  # type: ignore[union-attr, operator, index]
    features = model(video)
    assert torch.equal(model.embed(video), features) and "insert.1" in model.tap_names()
    assert torch.equal(model.forward_head(model.forward_features(video)), features)
    taps, own = model.taps(video, ["insert.1", "block.3"]), model.encoder.taps(video, ["insert.1", "block.3"])
    assert all(torch.equal(taps[name], own[name]) for name in own)
    model, video = built(replace(r3d_tiny(), attentive=Attentive(heads=2, depth=1)))
    assert torch.equal(model.embed(video), model(video))
