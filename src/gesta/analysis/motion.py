"""What SMEM excites: how much it adds at each place of each frame, over the frames.

SMEM is §3.5 of "Spatio-temporal diffusion transformer for action recognition" (OpenReview ICR3swcnaa), part of
STD-Former and a plug-in of any backbone; the paper shows no such maps.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from gesta.analysis.response import Response, draw
from gesta.analysis.sources import as_input, read_clip, write_figure
from gesta.errors import GestaError
from gesta.model import VideoModel
from gesta.plugins.smem import MotionExcitation


@torch.inference_mode()
def motions(name: str, model: VideoModel, clip: Tensor) -> list[Response]:
    """The motion map of every SMEM of a model, in the order of the forward pass.

    Args:
        name: what to call the model.
        model: in evaluation mode.
        clip: square raw frames ``(T, 3, S, S)`` uint8 of any size; the model sees them at its own size.

    Raises:
        GestaError: a model without SMEM.
    """
    found: list[Response] = []

    def listen(place: str, layer: MotionExcitation) -> None:
        def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
            found.append(Response(name, place, layer.motion(inputs[0])[0].float().cpu()))

        handles.append(layer.register_forward_pre_hook(note))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for place, layer in model.named_modules():
        if isinstance(layer, MotionExcitation):
            listen(_words(place), layer)
    if not handles:
        raise GestaError(f"{name} has no SMEM; give an std_former, or a model with Insert(layer=SMEM(), at=k)")
    try:
        model(as_input(clip, model))
    finally:
        for handle in handles:
            handle.remove()
    return found


def motion_figure(name: str, model: VideoModel, video: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Draw the motion maps of the middle clip of a video into a picture.

    Args:
        name: what to call the model.
        model: in evaluation mode.
        video: file or folder of frames.
        out: the picture; its ending says the kind (.png, .svg, .pdf).

    Raises:
        GestaError: no SMEM, one that adds nothing yet, an unreadable video, a picture that cannot be written.
    """
    clip = read_clip(video, model.config.clip)
    maps = motions(name, model, clip)
    if not any(response.map.any() for response in maps):
        raise GestaError(f"the SMEM of {name} adds nothing, as a fresh one does; give a trained model")
    return write_figure(draw(clip, maps), out)


def _words(place: str) -> str:
    """Where a module is: ``blocks.4.motion.T`` or ``inserts.2.0``."""
    parts = place.split(".")
    return f"SMEM {parts[3]}[{parts[1]}]" if parts[0] == "blocks" else f"SMEM[{parts[1]}]"
