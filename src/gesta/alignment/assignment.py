"""Many linear assignments at once."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Solver = Literal["auto", "scipy"]


def assign(similarity: Tensor, solver: Solver = "auto") -> Tensor:
    """Best one-to-one matches, ``(..., N, N)`` to ``(..., N)``: row i goes to column ``result[..., i]``."""
    flat = similarity.detach().reshape(-1, *similarity.shape[-2:]).double().cpu().numpy()
    columns = [linear_sum_assignment(s, maximize=True)[1] for s in flat]
    return torch.from_numpy(np.stack(columns)).reshape(similarity.shape[:-1]).to(similarity.device)
