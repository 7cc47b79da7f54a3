"""What a training on many GPUs needs, on paper: the figures of a model that is small enough to add up by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gesta.bench.memory import step_memory
from gesta.bench.scale import estimate_scale
from gesta.cost import count
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models.vit import ViTConfig

TINY = ViTConfig(classes=5, clip=ClipSpec(frames=4, size=32), width=32, depth=2, heads=2, patch=8)


def test_the_figures_add_up() -> None:
    table = estimate_scale(TINY, "tiny", gpus=(1, 4), per_node=2, batch=3, rate=10.0, link=1e-3)
    parts = count(TINY).parts
    weights = 4 * sum(part.params for part in parts)
    rows = {(row.gpus, row.strategy, row.checkpointing): row for row in table.rows}
    alone = step_memory(TINY, 3, precision="bf16-mixed")
    ddp, fsdp = rows[4, "ddp", False], rows[4, "fsdp", False]
    assert ddp.memory == max(alone.backward, alone.update) + weights
    gathered = 3 * 4 * max(part.params for part in parts)
    assert fsdp.memory == max(alone.backward - 3 * weights * 3 // 4 + gathered, alone.update / 4)
    assert (ddp.wire, fsdp.wire) == (2 * 3 / 4 * weights, 3 * 3 / 4 * weights)
    assert ddp.slowest == pytest.approx(4 * 3 / (0.3 + ddp.wire / 1e6))
    assert ddp.fastest == pytest.approx(4 * 3 / max(0.3, ddp.wire / 1e6))
    assert ddp.loaded == pytest.approx(ddp.fastest / 2)
    assert rows[1, "ddp", False].wire == 0 and rows[1, "ddp", False].fastest == pytest.approx(10)
    assert rows[1, "ddp", True].fastest == pytest.approx(7.5)
    assert "| 4 | fsdp, checkpointing | " in str(table)
    with pytest.raises(GestaError, match="--rate is measured"):
        estimate_scale(TINY, "tiny", rate=1.0, share=0.5)


def test_float32_has_no_peak_of_16_bits() -> None:
    with pytest.raises(GestaError, match="precision 32-true: the default peak is an H100's in 16 bits"):
        estimate_scale(TINY, "tiny", precision="32-true")
    how: dict[str, Any] = {"precision": "32-true", "gpus": (1,)}
    slow, fast = (estimate_scale(TINY, "tiny", tflops=tflops, **how) for tflops in (67.0, 989.0))
    assert fast.rows[0].fastest == pytest.approx(slow.rows[0].fastest * 989 / 67)


@pytest.mark.parametrize(
    "numbers", [{"gpus": (8, -8)}, {"gpus": (0,)}, {"per_node": 0}, {"batch": 0}, {"rate": math.nan}, {"link": 0.0}]
)
def test_numbers_that_are_not_above_0_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(GestaError, match="give such numbers"):
        estimate_scale(TINY, "tiny", **numbers)
