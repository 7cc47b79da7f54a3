"""The matches that are drawn are those of the pixels that moved, and of the model that aligns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.image import imread
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from gesta.analysis.matches import ARROWS, Matches, draw_matches, measure_matches
from gesta.analysis.sources import load, read_clip
from gesta.checkpoint import save_model
from gesta.cli import main
from gesta.errors import GestaError
from gesta.layers.temporal import TemporalAttention
from gesta.model import Insert, VideoModel
from gesta.models import create_model
from gesta.plugins.ata import ATA


def without_positions(name: str = "timesformer_tiny") -> VideoModel:
    """A model whose first block sees patches alone, not their positions: equal pixels match."""
    _, model = load(name)
    with torch.no_grad():
        model.pos_embed.zero_()  # type: ignore[operator,union-attr]
        model.time_embed.zero_()  # type: ignore[operator,union-attr]
    return model


def matched(model: VideoModel, clip: Tensor, **options: Any) -> Matches:
    return measure_matches("x", model, clip, **options)


@pytest.fixture
def shuffled() -> tuple[Tensor, Tensor]:
    """Eight frames of 8 × 8 patches of noise, each the one before under the same permutation; that permutation."""
    draws = torch.Generator().manual_seed(0)
    patches = torch.randint(0, 256, (64, 3, 8, 8), generator=draws, dtype=torch.uint8)
    to = torch.randperm(64, generator=draws)
    frames = []
    for _ in range(8):
        frames.append(patches.view(8, 8, 3, 8, 8).permute(2, 0, 3, 1, 4).reshape(3, 64, 64))
        patches = torch.empty_like(patches).index_copy_(0, to, patches)
    return torch.stack(frames), to


def test_patches_are_found_where_they_went(shuffled: tuple[Tensor, Tensor]) -> None:
    clip, to = shuffled
    for frame in (1, 6):
        found = matched(without_positions(), clip, block=0, frame=frame)
        assert torch.equal(found.match, to)
        assert torch.equal(found.earlier, clip[frame - 1]) and torch.equal(found.later, clip[frame])
    assert found.aligned == pytest.approx(1, abs=1e-5) and found.unaligned < 0.9 and not found.aligns
    assert found.unmoved == (to == torch.arange(64)).float().mean()
    assert found.gain == pytest.approx((found.aligned - found.unaligned) / 0.1, abs=1e-3)


def test_a_model_that_aligns_matches_by_its_own_method(shuffled: tuple[Tensor, Tensor]) -> None:
    clip, to = shuffled
    model = without_positions("ata_timesformer_tiny")
    assert matched(model, clip, block=0).aligns
    position = torch.arange(64)
    for change, same in ({"window": 0}, True), ({"alignment": "sinkhorn"}, False), ({"align_on": "norm"}, False):
        for block in model.blocks:
            for name, value in {"window": None, "alignment": "hard", "align_on": "input", **change}.items():
                setattr(block.temporal.around.config, name, value)
        assert torch.equal(matched(model, clip, block=0).match, position if same else to)
    with torch.no_grad():  # a norm that keeps one channel only: tokens become their signs
        weight = model.blocks[0].temporal.norm.weight
        weight.zero_()
        weight[0] = 1
    cosines = matched(model, clip, block=0).similarity
    torch.testing.assert_close(cosines.abs(), torch.ones(64, 64))


def test_inserts_align_at_their_block(shuffled: tuple[Tensor, Tensor]) -> None:
    layer = TemporalAttention(around=ATA(window=0))
    model = create_model("r3d_tiny", inserts=[Insert(layer=layer, at=1)]).eval()
    aligned, plain = (matched(model, shuffled[0], block=i) for i in (1, 0))
    assert aligned.aligns and aligned.unmoved == 1
    assert not plain.aligns and plain.unmoved < 1


def test_the_moves_that_gain_most_are_drawn(shuffled: tuple[Tensor, Tensor]) -> None:
    found = matched(without_positions(), shuffled[0], block=0)
    figure = draw_matches(found)
    moves = next(axes for axes in figure.axes if "moves" in axes.get_title())
    arrows = [patch for patch in moves.patches if isinstance(patch, FancyArrowPatch)]
    assert len(arrows) == ARROWS and f"{ARROWS} of {round(64 * (1 - found.unmoved))}" in moves.get_title()
    targets = [(end[1] // 8 * 8 + end[0] // 8) for end in (arrow._posA_posB[1] for arrow in arrows)]
    assert set(map(int, targets)) <= set(found.match.tolist())
    still = draw_matches(matched(without_positions(), shuffled[0][:1].expand(8, -1, -1, -1), block=0))
    assert any("no patch moved" in axes.get_title() for axes in still.axes)


def test_bad_options_get_a_sentence(shuffled: tuple[Tensor, Tensor]) -> None:
    model = create_model("timesformer_tiny").eval()
    for options, message in (
        ({"block": 4}, "blocks 0 to 3, not 4"),
        ({"frame": 0}, "the later of two is 1 to 7, not 0"),
        ({"frame": 8}, "not 8"),
        ({"tau": -1.0}, "temperature"),
    ):
        with pytest.raises(GestaError, match=message):
            matched(model, shuffled[0], **options)


def test_the_verb(make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["analyse", "alignment", *arguments])
        return int(end.value.code or 0)

    video, out = str(make_video("video.mp4")), str(tmp_path / "new" / "matches.png")
    weights = save_model(tmp_path / "best.safetensors", create_model("ata_timesformer_tiny", classes=2), ["a", "b"])
    for source in (str(tmp_path), str(weights), "mvitv2_tiny"):
        assert run(source, video, "--out", out) == 0
        assert "patches stay" in capsys.readouterr().out
        assert imread(out).std() > 0.1
    for arguments, sentence in (
        (["ata_timesformer_tinny", video], "did you mean 'ata_timesformer_tiny'"),
        (["timesformer_tiny", str(tmp_path / "absent.mp4")], "absent.mp4"),
        (["timesformer_tiny", video, "--out", str(tmp_path / "x.xyz")], "cannot be written"),
        (["timesformer_tiny", video, "--block", "7"], "blocks 0 to 3"),
    ):
        assert run(*arguments) == 1
        assert sentence in capsys.readouterr().err


def test_a_name_always_means_the_same_weights() -> None:
    state = torch.random.get_rng_state()
    (name, first), (_, again) = load("timesformer_tiny"), load("timesformer_tiny")
    assert name == "timesformer_tiny (random weights)" and torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))


def test_a_genuine_video(shared: Path) -> None:
    video = shared / "videos/kinetics400/val/using segway/R6llTwEh07w_000000_000010.mp4"
    model = without_positions("ata_timesformer_tiny")
    found = matched(model, read_clip(video, model.config.clip), block=0)
    assert found.aligned > found.unaligned + 0.05 and 0 < found.unmoved < 0.9
