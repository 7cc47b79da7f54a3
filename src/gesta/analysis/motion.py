"""SMEM's output magnitude per position; :func:`gesta.analysis.response.draw_response` overlays it on the frames.

SMEM is §3.5 of "Spatio-temporal diffusion transformer for action recognition" (OpenReview ICR3swcnaa), part of
STD-Former and a plug-in of any backbone; the paper shows no such maps.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from gesta.analysis.response import Response, ResponseMap
from gesta.analysis.sources import as_input
from gesta.errors import GestaError
from gesta.model import VideoModel, hooked
from gesta.plugins.smem import MotionExcitation


@torch.inference_mode()
def measure_motion(name: str, model: VideoModel, clip: Tensor) -> Response:
    """The motion map of every SMEM of a model, in the order of the forward pass.

    Args:
        name, model, clip: as in :mod:`gesta.analysis`.

    Raises:
        GestaError: a model without SMEM, or with one that is not trained.
    """
    maps: list[ResponseMap] = []

    def save_map(label: str, layer: MotionExcitation, inputs: tuple[Tensor]) -> None:
        maps.append(ResponseMap(name=name, tap=label, map=layer.motion(inputs[0])[0].float().cpu()))

    layers = [(_label(path), layer) for path, layer in model.named_modules() if isinstance(layer, MotionExcitation)]
    if not layers:
        raise GestaError(f"{name} has no SMEM; give an std_former, or a model with Insert(layer=SMEM(), at=k)")
    with hooked(pre={layer: partial(save_map, label) for label, layer in layers}):
        model(as_input(clip, model))
    if not any(response.map.any() for response in maps):
        raise GestaError(f"the SMEM of {name} adds nothing, which is normal before training; give a trained model")
    return Response(clip=clip, maps=maps)


def _label(path: str) -> str:
    """A short name of the module ``blocks.4.motion.T`` or ``inserts.2.0``."""
    parts = path.split(".")
    return f"SMEM {parts[3]}[{parts[1]}]" if parts[0] == "blocks" else f"SMEM[{parts[1]}]"
