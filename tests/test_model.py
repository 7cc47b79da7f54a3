"""What all systems share, on a block made for the purpose."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gesta.model import _checkpoint


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
