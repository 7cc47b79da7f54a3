"""The filters shown are those that see the pixels, each on its own scale, time from left to right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from gesta.analysis.filters import Filters, draw_filters, measure_filters, mosaic
from gesta.cli import main
from gesta.errors import GestaError
from gesta.models import create_model


def test_which_filters() -> None:
    for name, layer, shape in (
        ("rpe_stdt_tiny", "convolutions.0", (24, 3, 3, 3)),
        ("ctn_tiny", "video_to_tokens.conv", (16, 3, 5, 5, 5)),
        ("mvitv2_tiny", "patch_embed", (48, 3, 3, 15, 15)),
    ):
        model = create_model(name)
        found = measure_filters(name, model)
        assert found.layer.startswith(layer) and found.weights.shape == shape
        torch.testing.assert_close(found.weights, model.get_submodule(found.layer).weight.detach())
        with pytest.raises(GestaError, match="folds nothing into its filters: leave --learned out"):
            measure_filters(name, model, folded=False)
    model = create_model("mfst_tiny")  # differences of neighbours are folded into the kernel
    folded, learned = (measure_filters("mfst_tiny", model, folded=folded).weights for folded in (True, False))
    same = folded == learned
    assert not same[..., 3, 3, 3].any() and same.sum() == same.numel() - 3 * len(learned)


def test_pixels_of_the_mosaic() -> None:
    filters = torch.zeros(3, 3, 2, 4, 4)
    filters[0, 0, 0, 0, 0] = 2.0  # red at the first moment
    filters[1, :, 1, 3, 3] = -5.0  # black at the second, the greatest norm
    filters[2, 2] = 0.1
    picture = mosaic(filters, 2)
    parts = [np.unique(picture[..., c]) for c in range(3)]
    assert parts[0].tolist() == [0.0, 0.5, 1.0] and parts[1].tolist() == [0.0, 0.5, 1.0]
    # 4 rows; a slice, a gap, a slice: the greatest norm comes first
    assert picture[3, 3].tolist() == [0.5] * 3 and picture[3, 5 + 3].tolist() == [0] * 3
    red = np.argwhere((picture == [1, 0.5, 0.5]).all(2))
    assert len(red) == 1
    assert "the 2 of 3" in draw_filters(Filters(name="x", layer="conv", weights=filters), 2).axes[0].get_title()
    assert np.all(mosaic(torch.zeros(1, 3, 4, 4), 1)[:4, :4] == 0.5)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, options in (("ctn_tiny", ["--max-filters", "4"]), ("mfst_tiny", ["--learned"])):
        out = tmp_path / f"{name}.png"
        with pytest.raises(SystemExit) as end:
            main(["analyse", "filters", name, *options, "--out", str(out)])
        assert end.value.code == 0 and imread(out).std() > 0.02 and capsys.readouterr().err.strip() == str(out)
