"""What all systems share, on a block made for the purpose."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gesta.errors import GestaError
from gesta.model import Grid, Insert, _checkpoint
from gesta.models import model_config
from gesta.plugins.st_manet import SDA


class Skipping(nn.Module):
    """Two batch norms of which one is not run."""

    def __init__(self) -> None:
        super().__init__()
        self.run, self.idle = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x).square()


def test_recomputation_counts_no_batches() -> None:
    """Neither of a norm that runs twice nor of one that does not run at all; statistics are those of one run."""
    block, once = Skipping(), Skipping()
    x = torch.randn(4, 3, requires_grad=True)
    for step in range(1, 3):
        _checkpoint(block, x).sum().backward()
        once(x)
        assert (block.run.num_batches_tracked, block.idle.num_batches_tracked) == (step, 0)
        assert torch.equal(block.run.running_mean, once.run.running_mean)  # type: ignore[arg-type]


@pytest.mark.parametrize("fault", ["order", "size", "channels"])
def test_a_map_that_a_plug_in_was_not_built_for_is_refused(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention over frames of a map whose axes are in another order would compute something all the same."""
    config = model_config("r3d_tiny", classes=3, inserts=[Insert(layer=SDA(), at=1)])
    kind = type(config.build())
    right = kind.grid_at

    def wrong(model: Any, block: int) -> Grid:
        channels, frames, height, width = right(model, block)
        return (channels + 8 * (fault == "channels"), frames, height, width + (fault == "size"))

    if fault == "order":
        monkeypatch.setattr(kind, "to_grid", lambda _, state: state.permute(0, 1, 3, 4, 2))
    else:
        monkeypatch.setattr(kind, "grid_at", wrong)
    model = config.build()
    clip = torch.randn(1, 3, config.clip.frames, config.clip.size, config.clip.size)
    with pytest.raises(GestaError, match=r"before block 1 to_grid gives a map \(1, .*grid_at says \(B, "):
        model(clip)
    if fault == "size":
        model(clip[:, :, :-4])  # of clips of another size grid_at says nothing
