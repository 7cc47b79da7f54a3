"""The attention shown is the forward pass's own, over the right frames; dropped frames are marked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from gesta.analysis.attention import Attention, FrameDrop, class_token_weights, draw_attention, measure_attention
from gesta.analysis.sources import as_input
from gesta.cli import main
from gesta.errors import GestaError
from gesta.models import create_model


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.randint(0, 256, (8, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_the_recorded_weights_are_the_models_own(clip: torch.Tensor) -> None:
    model = create_model("rpe_stdt_tiny", classes=3, depth=4).eval()
    video = as_input(clip, model)
    recorded = class_token_weights(model, video, range(len(model.blocks)))
    assert sorted(recorded) == [0, 1, 2, 3]  # temporal blocks attend to no patches
    for block, (weights, per_frame) in recorded.items():
        torch.testing.assert_close(weights, model.patch_attention(video, block)[0].mean(0))  # type: ignore[operator]
        assert per_frame and weights.shape == (8, 8, 8)
    found = measure_attention("x", model, clip)
    assert found.block == 3 and torch.equal(found.map, recorded[3][0])
    assert [(d.block, len(d.frames), len(d.kept)) for d in found.drops] == [(5, 8, 4), (7, 4, 2)]
    for drop, expected in zip(found.drops, model.kept_frames(video)):  # type: ignore[operator]
        assert drop.deviation == expected.deviation[0].tolist()
        order = sorted(range(len(drop.frames)), key=lambda i: -drop.deviation[i])[: len(drop.kept)]
        assert sorted(drop.frames[i] for i in order) == drop.kept
    assert found.drops[1].frames == found.drops[0].kept
    assert [drop.matters for drop in found.drops] == [True, False] and str(found).count("no score depends on it") == 1
    titles = [axes.get_title() for axes in draw_attention(found).axes]  # marked by the choice that changes scores
    assert [title for title in titles if "✓" in title] == [f"frame {i:g} ✓" for i in found.drops[0].kept]


def test_frames_that_any_head_keeps(clip: torch.Tensor) -> None:
    model = create_model("rpe_stdt_tiny", classes=3, depth=4, topk_per_head=True).eval()
    found = measure_attention("x", model, clip)
    kept = model.kept_frames(as_input(clip, model))[0].kept[0]  # type: ignore[operator]
    assert found.drops[0].kept == sorted({float(i) for i in kept.flatten().tolist()})
    assert "the heads of block 5 together keep" in str(found)
    titles = [axes.get_title() for axes in draw_attention(found).axes]
    assert "frame 0" in titles and not any("✓" in title for title in titles)


def test_a_class_token_of_the_clip_spreads_over_its_frames(clip: torch.Tensor) -> None:
    model = create_model("ctn_tiny", classes=3).eval()
    recorded = measure_attention("ctn", model, clip)
    assert recorded.map.shape == (4, 8, 8) and not recorded.per_frame
    assert (
        0.9 < recorded.map.sum() < 1
        and recorded.map_of(0).equal(recorded.map_of(1))
        and recorded.map_of(7).equal(recorded.map[3])
    )
    # by hand: the last block's input, the class token past the convolution, the keys through it
    state: list = []
    handle = model.blocks[3].register_forward_pre_hook(lambda _, inputs: state.append(inputs[0]))
    with torch.no_grad():
        model(as_input(clip, model))
    handle.remove()
    block = model.blocks[3]
    tokens = block.norm1(state[0].tokens)
    grid = block.attn.depthwise["k"](tokens[:, 1:].unflatten(1, (4, 8, 8))).flatten(1, 3)
    query, key, _ = block.attn.qkv.weight.chunk(3)
    b_query, b_key, _ = block.attn.qkv.bias.chunk(3)
    q = (tokens[:, :1] @ query.T + b_query).view(2, 32)
    k = (torch.cat([tokens[:, :1], grid], 1) @ key.T + b_key).view(257, 2, 32)
    weights = (torch.einsum("hd,nhd->hn", q, k) / 32**0.5).softmax(1).mean(0)[1:]
    with torch.no_grad():
        torch.testing.assert_close(class_token_weights(model, as_input(clip, model), [3])[3][0].flatten(), weights)


def test_time_before_space_and_both_at_once(clip: torch.Tensor) -> None:
    divided = measure_attention("x", create_model("timesformer_tiny", classes=3).eval(), clip, block=1)
    assert divided.per_frame and divided.block == 1 and divided.map.shape == (8, 8, 8)
    torch.testing.assert_close(divided.map.sum((1, 2)), torch.ones(8), rtol=0, atol=0.2)
    joint = measure_attention("x", create_model("timesformer_tiny", classes=3, temporal="joint").eval(), clip)
    assert not joint.per_frame and 0.8 < joint.map.sum() < 1 and not joint.drops
    still = clip[:1].expand(8, -1, -1, -1)
    model = create_model("timesformer_tiny", classes=3, temporal="averaging").eval()
    model.time_embed.data.zero_()  # type: ignore[operator,union-attr]
    standing = measure_attention("x", model, still)
    torch.testing.assert_close(standing.map, standing.map[:1].expand(8, -1, -1))


def test_models_without_are_refused(clip: torch.Tensor) -> None:
    for name, block, message in (
        ("mfst_tiny", None, "no class token that attends to patches;"),
        ("r3d_tiny", None, "no class token"),
        ("rpe_stdt_tiny", 4, "patches in block 4"),
        ("rpe_stdt_tiny", 6, "blocks 0 to 5, not 6"),
    ):
        with pytest.raises(GestaError, match=message):
            measure_attention(name, create_model(name, classes=3).eval(), clip, block=block)


def test_the_figure_marks_what_stays(clip: torch.Tensor) -> None:
    drops = [
        FrameDrop(block=5, frames=[0, 1, 2, 3, 4, 5, 6, 7], deviation=[0.1 * i for i in range(8)], kept=[4, 5, 6, 7]),
        FrameDrop(block=7, frames=[4, 5, 6, 7], deviation=[0.4, 0.1, 0.3, 0.2], kept=[4, 6]),
    ]
    weights = torch.rand(8, 4, 4, generator=torch.Generator().manual_seed(0))
    figure = draw_attention(Attention(name="x", block=3, clip=clip, map=weights, per_frame=True, drops=drops))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [f"frame {i}" + " ✓" * (i in (4, 6)) for i in range(8)]
    heats = [axes.images[1].get_array() for axes in figure.axes if len(axes.images) == 2]
    assert len(heats) == 8 and all((heat == weights[i].numpy()).all() for i, heat in enumerate(heats))
    bars = [axes.patches for axes in figure.axes if len(axes.patches) in (8, 4) and axes.get_ylabel().startswith("σ")]
    assert [[bar.get_height() for bar in row] for row in bars] == [d.deviation for d in drops]
    assert bars[1][0].get_facecolor() == bars[1][2].get_facecolor() != bars[1][1].get_facecolor()


def test_the_verb(make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video, out = make_video("video.mp4", frames=40), tmp_path / "new" / "attention.png"
    with pytest.raises(SystemExit) as end:
        main(["analyse", "attention", "rpe_stdt_tiny", str(video), "--json", "--out", str(out)])
    assert end.value.code == 0 and imread(out).std() > 0.1
    found = json.loads(capsys.readouterr().out)
    assert found["block"] == 1 and len(found["drops"][1]["kept"]) == 2 and len(found["attention"]) == 8
    with pytest.raises(SystemExit) as end:
        main(["analyse", "attention", "mfst_tiny", str(video)])
    assert end.value.code == 1 and "no class token" in capsys.readouterr().err
