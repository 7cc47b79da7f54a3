"""Arithmetic that half precision would spoil."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off on the device of ``x``; exported programs have no autocast."""
    if torch.compiler.is_exporting():
        return nullcontext()
    kind = x.device.type
    # named, because torch 2.11 cannot compile the question whether a device has autocast
    return torch.autocast(kind, enabled=False) if kind in ("cpu", "cuda", "mps", "xpu") else nullcontext()
