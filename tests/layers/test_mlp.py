"""The MLP of Transformer blocks: its hidden width, in every model that has one."""

from __future__ import annotations

import pytest

from gesta.errors import GestaError
from gesta.layers.mlp import hidden_width
from gesta.models import create_model


@pytest.mark.parametrize(
    ("width", "ratio", "expected"),
    [(64, 4.0, 256), (1408, 6144 / 1408, 6144), (768, 2048 / 768, 2048), (8, 0.1, 1)],
)
def test_a_ratio_read_from_weights_gives_their_hidden_width_back(width: int, ratio: float, expected: int) -> None:
    assert hidden_width(width, ratio) == expected


def test_every_hidden_width_is_its_own_ratios() -> None:
    """int() instead of round() lost one unit of some of these."""
    assert [h for h in range(1, 4097) if hidden_width(1408, h / 1408) != h] == []


@pytest.mark.parametrize(
    "name",
    ["timesformer_tiny", "ctn_tiny", "cyclemlp_tiny", "hiera_tiny", "mvitv2_tiny", "rpe_stdt_tiny",
     "std_former_tiny", "vit_tiny"],
)  # fmt: skip
def test_an_mlp_without_hidden_units_is_refused(name: str) -> None:
    with pytest.raises(GestaError, match=r"an MLP of 0.001 times a width of \d+ has no hidden units"):
        create_model(name, mlp_ratio=0.001)
