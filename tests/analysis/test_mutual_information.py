"""Estimators against known values, and measurements against their control."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gesta.analysis.mutual_information import (
    codebook,
    cosines,
    estimate,
    gaussian,
    infonce,
    match_tokens,
    measure_maps,
    measure_mutual_information,
    softmax_entropy,
)
from gesta.analysis.sources import load
from gesta.cli import main
from gesta.errors import GestaError
from gesta.model import VideoModel
from gesta.models import create_model
from gesta.records import Record

SIZE = (14, 14)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shifted(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features of a scene that moves by one token, with noise; the edge that comes in is new."""
    scene = noise(1, 64, 14, 15, seed=seed)
    earlier, later = (scene[..., x : x + 14].flatten(2).mT for x in (0, 1))
    return earlier, later + 0.8 * noise(1, 196, 64, seed=seed + 1)


def aligned(earlier: Tensor, later: Tensor) -> Tensor:
    return later.gather(1, match_tokens(earlier, later, SIZE)[..., None].expand_as(later))


@pytest.mark.parametrize("tau", [0.05, 0.1, 1.0])
def test_infonce_gains_what_the_cosines_gain(tau: float) -> None:
    pairs = [shifted(), (noise(1, 196, 64, seed=2), noise(1, 196, 64, seed=3))]
    earlier, later = (torch.cat(frames).double() for frames in zip(*pairs))
    best = aligned(earlier, later)
    gain = infonce(earlier, best, tau) - infonce(earlier, later, tau)
    diagonals = [cosines(earlier, x).diagonal(dim1=1, dim2=2).mean(1) for x in (best, later)]
    torch.testing.assert_close(gain, (diagonals[0] - diagonals[1]) / tau, atol=1e-6, rtol=0)
    assert (gain > 0.1).all()
    assert (infonce(earlier, best, tau) <= math.log(196)).all()


def test_infonce_gains_nothing_where_staying_is_best() -> None:
    earlier = noise(2, 196, 64)
    later = earlier + 0.1 * noise(2, 196, 64, seed=1)
    assert torch.equal(aligned(earlier, later), later)
    sure = infonce(earlier, later, tau=0.01)
    assert (sure > 5.27).all() and (sure <= math.log(196)).all(), "every token finds its own: all of log N"


def test_softmax_entropy_does_not_depend_on_positions() -> None:
    earlier, later = (x.double() for x in shifted())
    shuffled = later[:, torch.randperm(196, generator=torch.Generator().manual_seed(0))]
    values = [softmax_entropy(earlier, x) for x in (later, shuffled)]
    torch.testing.assert_close(*values, atol=1e-12, rtol=0)
    flat = torch.ones(1, 196, 4)
    assert softmax_entropy(flat, flat).abs() < 1e-5, "all equal: uniform conditionals, no information"
    # A few tokens that all find the same partner: peaked conditionals, yet the partner says nothing about the token.
    one = torch.zeros(1, 196, 8)
    one[:, :, 0] = 1
    other = -one.clone()
    other[:, 0] *= -1
    assert softmax_entropy(one, other, tau=0.05).item() == pytest.approx(math.log(196), abs=1e-3)


def test_gaussian_of_known_correlation() -> None:
    earlier = noise(1, 20_000, 8).double()
    later = 0.6 * earlier + 0.8 * noise(1, 20_000, 8, seed=1)
    assert gaussian(earlier, later).item() == pytest.approx(-0.5 * math.log(1 - 0.36), rel=0.05)
    assert gaussian(earlier, torch.zeros_like(earlier)) == 0
    earlier, later = shifted()
    assert gaussian(earlier, later) < 0.02 and gaussian(earlier, aligned(earlier, later)) > 0.35


def test_codebook_of_known_codes() -> None:
    """Codes that are distinguished without error: identical, independent and half-way noisy ones."""
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(4)
    codes = torch.arange(4).repeat(1000)
    other = torch.where(
        torch.rand(4000, generator=generator) < 0.5, torch.randint(4, (4000,), generator=generator), codes
    )
    earlier, later = (centres[x][None] + 0.1 * noise(1, 4000, 4, seed=1) for x in (codes, other))
    assert codebook(earlier, earlier, 4).item() == pytest.approx(math.log(4), abs=0.01)
    right, wrong = 0.625, 0.125  # half of the codes are drawn again, a quarter of these as before
    expected = math.log(4) + right * math.log(right) + 3 * wrong * math.log(wrong)
    assert codebook(earlier, later, 4).item() == pytest.approx(expected, abs=0.04)
    free = codebook(noise(7, 196, 32), noise(7, 196, 32, seed=1)).item()
    assert abs(free) < 0.03, "the plug-in estimate alone would give 225 / 2744 = 0.08 nats"
    few = codebook(noise(7, 4, 32), noise(7, 4, 32, seed=1)).item()
    assert abs(few) < 0.3, "28 tokens cannot distinguish 16 × 16 pairs of codes"


def test_matching_raises_the_information_of_independent_features() -> None:
    """The caveat that the control is for: mean over three draws, N = 196, C = 64, tau = 0.1."""
    earlier, later = noise(3, 196, 64), noise(3, 196, 64, seed=1)
    best = aligned(earlier, later)
    assert estimate(earlier, later) == pytest.approx(-0.8, abs=0.2)
    assert estimate(earlier, best) == pytest.approx(2.4, abs=0.2)
    for estimator in ("gaussian", "codebook"):
        assert estimate(earlier, best, estimator) > estimate(earlier, later, estimator) + 0.04


def moving_clips(model: VideoModel, count: int) -> list[Tensor]:
    """Smooth scenes that move by one patch per frame (8 pixels)."""
    spec = model.config.clip
    wide = spec.size + 8 * spec.frames
    scenes = torch.nn.functional.interpolate(noise(count, 3, 24, 24), (wide, wide), mode="bicubic", align_corners=False)
    frames = [scenes[..., : spec.size, 8 * t : 8 * t + spec.size] for t in range(spec.frames)]
    return list(torch.stack(frames, 2).split(1))


def test_a_model_is_measured_beside_its_control() -> None:
    _, model = load("timesformer_tiny")
    with torch.no_grad():
        model.pos_embed.zero_()
        model.time_embed.zero_()
    stem, last = measure_maps("x", model, moving_clips(model, 3))
    assert (stem.tap, last.tap, stem.size, stem.clips) == ("stem", "last", (8, 8), 3)
    assert stem.aligned > stem.unaligned + 0.5 and stem.unmoved < 0.5 and stem.cosine_aligned > 0.85
    assert stem.aligned - stem.unaligned == pytest.approx((stem.cosine_aligned - stem.cosine_unaligned) / 0.1, abs=1e-4)
    assert stem.control_aligned is not None and stem.control_unaligned is not None
    assert stem.control_unaligned < stem.control_aligned < stem.aligned - 0.5
    (alone,) = measure_maps("x", model, moving_clips(model, 1), taps=["block.1"], estimator="gaussian")
    assert alone.control_aligned is None and alone.aligned > 0


def test_the_last_map_is_normalised_as_the_classifier_sees_it() -> None:
    model = create_model("mvitv2_tiny").eval()
    with torch.no_grad():
        model.norm.weight.zero_()  # type: ignore[union-attr,operator]
        model.norm.bias[0] = 1  # type: ignore[union-attr,index]
    spec = model.config.clip
    clip = noise(1, 3, spec.frames, spec.size, spec.size)
    (found,) = measure_maps("x", model, [clip], taps=["last"])
    assert found.unaligned == pytest.approx(0, abs=1e-5) and found.cosine_unaligned == pytest.approx(1)


def test_maps_without_neighbours_are_refused() -> None:
    model = create_model("r3d_tiny").eval()
    model.config.clip.frames = 1
    with pytest.raises(GestaError, match="no neighbouring frames"):
        measure_maps("x", model, [noise(1, 3, 1, 64, 64)], taps=["block.0"])
    with pytest.raises(GestaError, match="temperature"):
        measure_maps("x", create_model("timesformer_tiny"), [noise(1, 3, 8, 64, 64)], tau=0)
    with pytest.raises(GestaError, match="no clip"):
        measure_maps("x", model, [])


def test_broken_videos_are_named_and_left_out(make_video: Callable[..., Path], tmp_path: Path) -> None:
    paths = [str(make_video(f"{shade}.mp4", shade=shade)) for shade in (0, 60)] + [str(tmp_path / "absent.mp4")]
    records = [Record(path=path, name=path) for path in paths]
    models = [("a", load("timesformer_tiny")[1]), ("b", load("ata_timesformer_tiny")[1])]
    found = measure_mutual_information(models, records, device="cpu")
    assert [(row.model, row.tap, row.clips) for row in found.rows] == [
        ("None", "stem", 2),
        ("a", "last", 2),
        ("b", "last", 2),
    ]
    assert [failure.name for failure in found.failures] == [paths[2]]
    text = str(found)
    assert "absent.mp4" in text and "shuffled" in text and "4.159" in text
    segments = [Record(path=paths[2], name=paths[2], start=start, end=start + 4) for start in (0, 4)]
    with pytest.raises(GestaError, match="none of 2 videos"):
        measure_mutual_information(models, segments, device="cpu")
    with pytest.raises(GestaError, match="blocks 0 to 3, not 9"):
        measure_mutual_information(models, records, block=9, device="cpu")


def test_the_verb(make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["analyse", "mi", *arguments])
        return int(end.value.code or 0)

    for shade in (0, 60, 120, 180):
        make_video(f"videos/{'dark' if shade < 100 else 'bright'}/{shade}.mp4", shade=shade)
    folder = str(tmp_path / "videos")
    quick = ["--estimator", "gaussian", "--block", "1", "--device", "cpu", "--json"]
    assert run("timesformer_tiny", "ata_timesformer_tiny", folder, *quick) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["tap"] for row in found["rows"]] == ["stem", "temporal.1", "temporal.1"] and found["tau"] is None
    assert run("timesformer_tiny", "--data", folder, "--data.val", "0.5", *quick) == 0
    assert [row["clips"] for row in json.loads(capsys.readouterr().out)["rows"]] == [2, 2]
    for arguments, sentence in (
        (["timesformer_tinny", folder], "did you mean 'timesformer_tiny'"),
        (["timesformer_tiny", "ata_timesformer_tinny", folder], "did you mean 'ata_timesformer_tiny'"),
        (["timesformer_tiny"], "which videos"),
        ([folder], "neither a run folder"),
        (["timesformer_tiny", str(tmp_path / "absent.mp4")], "absent.mp4"),
        (["timesformer_tiny", folder, "--tau", "0"], "temperature"),
        (["timesformer_tiny", folder, "--estimator", "gaussian", "--tau", "1"], "gaussian has no temperature: leave"),
        (["timesformer_tiny", folder, "--split", "test"], "--split is one of a data set: give it with --data"),
    ):
        assert run(*arguments) == 1
        printed = capsys.readouterr().err
        assert sentence in printed and "Traceback" not in printed
    assert run("timesformer_tiny", folder, "--data.val", "0.5") == 2
    assert run("timesformer_tiny", folder, "--max-videos", "0") == 2
