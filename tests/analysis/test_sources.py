"""One clip of a video, as the models of an analysis see it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from gesta.analysis.sources import check_places, read_clip
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models import create_model
from gesta.plugins.ata import ATA
from gesta.video.depth import Depth
from gesta.video.flow import Flow
from gesta.video.read import read


def test_a_clip_of_depth_is_shown_as_in_training(tmp_path: Path) -> None:
    for number in range(8):
        Image.new("L", (64, 64), 200).save(tmp_path / f"img_{number:05d}.png")
    spec = ClipSpec(frames=8, stride=1, size=32)
    assert read_clip(tmp_path, spec).unique().tolist() == [200]
    jet = read_clip(tmp_path, spec, Depth())
    shown = read(tmp_path, lambda n: list(range(n)), short_side=64, shows=Depth())
    assert (jet == shown[..., :1, :1]).all() and len(jet[0, :, 0, 0].unique()) == 3
    with pytest.raises(GestaError, match="the model sees optical flow"):
        read_clip(tmp_path, spec, Flow())


def test_maps_that_stay_permuted_are_refused() -> None:
    check_places("one", create_model("ata_timesformer_tiny"))
    with pytest.raises(GestaError, match="two: its maps stay permuted by ATA"):
        check_places("two", create_model("ata_timesformer_tiny", around=ATA(dealign=False)))
