"""Masked pretraining: what is hidden, what is rebuilt, the original class, and a run that others start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gesta
from gesta.analysis.reconstruction import draw_reconstruction, measure_reconstruction
from gesta.checkpoint.weights import import_weights
from gesta.cli import main
from gesta.config import check, replace
from gesta.data.lists import Folder, Videos
from gesta.data.parts import Unlabelled
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.models.vit import MEAN, STD, ViTConfig, vit_tiny
from gesta.pretraining.masks import running_cells, tube_mask
from gesta.pretraining.videomae import VideoMAE, videomae_of
from gesta.recipes.pretrain import simmim, videomae

CPU = torch.device("cpu")


def small(**changes: Any) -> VideoMAE:
    torch.manual_seed(0)
    clip = ClipSpec(frames=8, size=32, mean=MEAN, std=STD)
    encoder = ViTConfig(width=24, depth=2, heads=3, patch=8, position_size=32, clip=clip)
    config = videomae_of(encoder, decoder_width=16, decoder_depth=2, decoder_heads=2, **changes)
    return config.build().double().eval()  # type: ignore[return-value]


def test_a_tube_hides_the_same_positions_in_every_tubelet() -> None:
    torch.manual_seed(0)
    kept = tube_mask(50, (4, 14, 14), 0.9, CPU).unflatten(1, (4, 196))
    assert (kept == kept[:, :1]).all() and (kept.sum((1, 2)) == 4 * 20).all()  # 176 of 196 positions are hidden
    often = kept[:, 0].float().mean(0)
    assert often.min() > 0 and often.max() < 0.4  # all positions, none much more often than others
    assert not torch.equal(kept[0], kept[1])


def test_running_cells_rebuild_half_of_each_cell_and_move_on() -> None:
    rebuilt = running_cells(20, (8, 4, 6), CPU).unflatten(1, (8, 2, 2, 3, 2))
    assert (rebuilt.sum((3, 5)) == 2).all()  # of each cell's four positions
    cells = rebuilt[:, :, 0, :, 0, :].flatten(2)
    assert (cells[:, 1:] == cells[:, :-1].roll(-1, 2)).all()
    assert (rebuilt.sum(1) == 4).all()  # over eight tubelets every position as often
    assert len({tuple(cell.tolist()) for cell in cells[:, 0]}) > 1  # clips begin in different positions


def test_targets_are_tubes_whose_colours_are_standardised() -> None:
    model = small()
    video = torch.randn(2, 3, 8, 32, 32, dtype=torch.double)
    tubes, mean, std = model.tubes(video)
    assert tubes.shape == (2, 4 * 4 * 4, 2 * 8 * 8 * 3)
    of_colours = [torch.tensor(values, dtype=torch.double).view(3, 1, 1, 1) for values in (STD, MEAN)]
    pixels = video * of_colours[0] + of_colours[1]
    t, y, x = 3, 1, 2
    cube = pixels[1, :, 2 * t : 2 * t + 2, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].reshape(3, -1)
    expected = (cube - cube.mean(1, keepdim=True)) / (cube.var(1, keepdim=True).sqrt() + 1e-6)
    token = (t * 4 + y) * 4 + x
    torch.testing.assert_close(tubes[1, token].unflatten(0, (-1, 3)).T, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close((tubes.unflatten(2, (-1, 3)) * std + mean)[1, token].T, cube, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def original() -> Any:
    """The class of ``transformers``; its decoder's last norm has another eps than the public code's 1e-6."""
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=8, tubelet_size=2, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=3, intermediate_size=96, decoder_num_attention_heads=2, decoder_hidden_size=16,
        decoder_num_hidden_layers=2, decoder_intermediate_size=64, use_mean_pooling=False, layer_norm_eps=1e-6,
    )  # fmt: skip
    torch.manual_seed(1)
    model = transformers.VideoMAEForPreTraining(config).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.decoder.norm.eps = 1e-6
    return model


def test_the_loss_and_what_is_rebuilt_are_those_of_the_original(original: Any) -> None:
    model = small()
    model.load_state_dict(model.convert_foreign(dict(original.state_dict())))
    video = torch.randn(3, 3, 8, 32, 32, dtype=torch.double)
    kept, rebuilt = model.draw_masks(video)
    theirs = original(video.transpose(1, 2), bool_masked_pos=~kept)
    torch.testing.assert_close(model.rebuild(video, kept, rebuilt).tubes, theirs.logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(model.reconstruction(video, kept, rebuilt), theirs.loss, rtol=0, atol=1e-9)


def test_only_tokens_that_were_hidden_count() -> None:
    model = small(rebuilt="cells", ratio=0.5)
    video = torch.randn(2, 3, 8, 32, 32, dtype=torch.double)
    kept, rebuilt = model.draw_masks(video)
    result = model.rebuild(video, kept, rebuilt)
    assert result.tubes.shape[1] == kept.shape[1] // 2 and 0 < result.is_hidden.float().mean() < 1
    errors: list[Tensor] = []
    for clip in range(2):
        asked = rebuilt[clip].nonzero()[:, 0].tolist()
        errors += [
            (result.tubes[clip, i] - result.targets[clip, i]).square().mean()
            for i, token in enumerate(asked)
            if not kept[clip, token]
        ]
    torch.testing.assert_close(model.reconstruction(video, kept, rebuilt), torch.stack(errors).mean())


def test_what_the_encoder_does_not_see_changes_nothing() -> None:
    model = small()
    video = torch.randn(1, 3, 8, 32, 32, dtype=torch.double)
    kept, rebuilt = model.draw_masks(video)
    other = video.clone()
    for token in (~kept[0]).nonzero()[:, 0].tolist():
        t, y, x = token // 16, token // 4 % 4, token % 4
        other[0, :, 2 * t : 2 * t + 2, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 9.0
    assert torch.equal(model.rebuild(video, kept, rebuilt).tubes, model.rebuild(other, kept, rebuilt).tubes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": 3}, "classes is 3, and pretraining has none"),
        ({"class_token": True}, "class_token is True, which masked pretraining has no use for"),
        ({"dropout": 0.5}, "dropout is 0.5, which masked pretraining has no use for"),
        ({"tail": "mean_norm"}, 'tail is "mean_norm", not "norm_mean"'),
        ({"decoder_heads": 3}, "decoder_heads is 3, which does not divide the decoder's width of 16"),
        ({"positions": "learned"}, "positions is learned, and the decoder needs"),
        ({"rebuilt": "cells", "patch": 32}, "rebuilt is cells, whose cells of 2 × 2 positions do not tile 1 positions"),
        (
            {"ratio": 0.05},
            "ratio is 0.05, which hides 0 of the 16 positions of a frame .rounded down., so that nothing",
        ),
        ({"patch": 32}, "ratio is 0.9, which hides 0 of the 1 positions"),
        ({"clip": ClipSpec(frames=1, size=32)}, "clip.frames is 1, which tubes of 2 frames do not tile"),
    ],
)
def test_what_contradicts_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GestaError, match=sentence):
        check(replace(small().config, **change))


@pytest.mark.parametrize("recipe", [videomae, simmim])
@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("train", "mixup", 0.8),
        ("train", "class_weights", "balanced"),
        ("train", "focal_gamma", 2.0),
        ("train", "label_smoothing", 0.1),
        ("train", "balanced", True),
        ("train", "patience", 2),
        ("evaluate", "clips", 3),
    ],
)
def test_what_needs_classes_is_refused(recipe: Any, part: str, field: str, value: Any, tmp_path: Path) -> None:
    made = recipe(root=str(tmp_path))
    setattr(getattr(made, part), field, value)
    with pytest.raises(GestaError, match=rf"{part}[.]{field}\b.* changes nothing without classes"):
        gesta.train(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("recipe", "ratio"), [(videomae, 0.01), (simmim, 0.05)])
def test_masks_that_hide_nothing_are_refused(recipe: Any, ratio: float, tmp_path: Path) -> None:
    """Of 64 positions and of 16 squares; the loss would be the mean of no pixels."""
    made = recipe(root=str(tmp_path))
    made.model.ratio = ratio
    with pytest.raises(GestaError, match=rf"model\.ratio is {ratio}, which hides 0 of the"):
        gesta.train(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_models_are_refused() -> None:
    with pytest.raises(GestaError, match="mvitv2_tiny is no plain video ViT"):
        videomae("mvitv2_tiny")
    with pytest.raises(GestaError, match="leave one of them out"):
        videomae(root="x", data=Videos(root="y"))
    assert isinstance(videomae(data=Folder(root="x")).data, Unlabelled)


def test_a_run_needs_no_labels_and_gives_its_encoder_to_others(make_video: Any, tmp_path: Path) -> None:
    for i in range(4):
        make_video(f"videos/{'ab'[i % 2]}/deep/{i}.mp4", shade=60 * i)
    run = tmp_path / "run"
    flags = f"--data.root {tmp_path / 'videos'} --batch-size 2 --train.epochs 2 --train.workers 0 --model.clip.size 32"
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", "videomae", "--run", str(run), *flags.split()])
    assert not ended.value.code
    pretrained = gesta.load(run)
    assert pretrained.classes == [] and not (run / "result.json").exists()
    model = vit_tiny()
    model.classes, model.clip.size = 2, 32
    torch.manual_seed(0)
    network = model.build()
    fresh = network.state_dict()["blocks.0.attn.qkv.weight"].clone()
    report = import_weights(network, str(run))
    assert "decoder." in str(report) and not torch.equal(network.state_dict()["blocks.0.attn.qkv.weight"], fresh)
    with torch.inference_mode():
        assert network.eval()(torch.zeros(1, 3, 8, 32, 32)).isfinite().all()


def test_the_encoder_of_a_run_is_the_model_that_is_fine_tuned() -> None:
    for name in ("vit_tiny", "videomae_b", "vjepa2_l"):
        encoder = model_config(name)
        if isinstance(encoder, ViTConfig) and encoder.positions == "sincos":
            assert videomae(name).model.encoder() == replace(encoder, drop_path=0.0)  # type: ignore[attr-defined]


def test_what_is_rebuilt_is_drawn() -> None:
    model = small(ratio=0.75).float()
    clip = torch.randint(256, (8, 3, 40, 40), generator=torch.Generator().manual_seed(0)).byte()
    measured = measure_reconstruction("run", model, clip)
    assert measured.hidden == 0.75 and "75 % hidden" in str(measured)
    grey = (measured.masked == 127).all(1)
    assert 0.7 < grey.float().mean() < 0.8  # as often as tubes are hidden
    seen = ~grey[:, None].expand_as(measured.clip)
    assert torch.equal(measured.masked[seen], measured.clip[seen])
    assert torch.equal(measured.rebuilt[seen], measured.clip[seen])
    assert (measured.rebuilt[~seen] != measured.clip[~seen]).float().mean() > 0.5
    assert torch.equal(measured.masked, measure_reconstruction("run", model, clip).masked)
    assert len(draw_reconstruction(measured).axes) == 3 * 8
    with pytest.raises(GestaError, match="has no decoder to rebuild pixels with"):
        measure_reconstruction("vit", vit_tiny().build(), clip)
