"""What a measurement's ``to_json`` is made of."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

from gesta.data.batch import Failure


def plain(value: Any, *without: str) -> Any:
    """A measurement as JSON-able values; its ``name`` is called ``model``.

    Args:
        value: dataclasses, tensors, arrays, lists and plain values, inside each other.
        without: fields left out, such as the frames that were shown, wherever they occur.
    """
    if is_dataclass(value):
        kept = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in without}
        return {"model" if name == "name" else name: plain(item, *without) for name, item in kept.items()}
    if isinstance(value, Failure):
        return {"name": value.name, "reason": value.reason}
    if isinstance(value, Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item, *without) for item in value]
    return value
