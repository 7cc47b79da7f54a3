"""The model with the inputs and outputs of an exported file."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from gesta.checkpoint.exported import input_names
from gesta.errors import GestaError
from gesta.model import ClipSpec, VideoModel, to_clips
from gesta.records import by_space

_TRACED_CLIPS = 3
"""With one clip or two, sizes that are one less or half as many would be taken for constants."""

_REMARKS = (torch.ops.aten._assert_tensor_metadata.default, torch.ops.aten.promote_types.default)
"""Operators that torch notes down while it traces, and that compute nothing of the scores."""


class ExportedForm(nn.Module):
    """A model that takes one tensor for each stream and gives one for each label space.

    Args:
        model: in evaluation mode, on the CPU.
        uint8: each input is ``(B, T, H, W, 3)`` uint8, else ``(B, 3, T, H, W)`` float32; see
            :class:`gesta.checkpoint.exported.Exported`.
    """

    def __init__(self, model: VideoModel, uint8: bool) -> None:
        super().__init__()
        self.model, self.uint8 = model, uint8

    def forward(self, *streams: Tensor) -> tuple[Tensor, ...]:
        """Scores before softmax or sigmoid, ``(B, K)`` of each label space."""
        if self.uint8:
            views = torch.cat(streams, -1).movedim(-1, 2)
            video = to_clips(views[:, None], self.model.config.clip)
        else:
            video = torch.cat(streams, 1)
        return tuple(by_space(self.model(video)).values())


def example_inputs(clip: ClipSpec, uint8: bool, count: int) -> tuple[Tensor, ...]:
    """Clips of noise as a file takes them."""
    generator = torch.Generator().manual_seed(0)
    size = (clip.frames, clip.size, clip.size)
    streams = range(max(1, len(clip.streams)))
    if uint8:
        return tuple(torch.randint(0, 256, (count, *size, 3), generator=generator, dtype=torch.uint8) for _ in streams)
    return tuple(torch.randn(count, 3, *size, generator=generator) for _ in streams)


def trace(model: VideoModel, *, uint8: bool = False, dynamic: bool = True) -> ExportedProgram:
    """The operators that a model computes its scores with, as ``torch.export`` sees them.

    Args:
        model: with float32 weights, in evaluation mode, on the CPU.
        uint8: see :class:`ExportedForm`.
        dynamic: for any number of clips, else for one.

    Raises:
        GestaError: the model computes something that depends on its clips or their number otherwise than by operators.
    """
    clip = model.config.clip
    inputs = example_inputs(clip, uint8, _TRACED_CLIPS if dynamic else 1)
    sizes = ({0: Dim("batch")},) * len(input_names(model.config)) if dynamic else None
    try:
        with torch.no_grad():
            program = torch.export.export(
                ExportedForm(model, uint8), inputs, dynamic_shapes=None if sizes is None else (sizes,), strict=False
            )
    except Exception as error:  # whatever a model's code and torch raise about it
        reason = str(error).strip().partition("\n")[0][:200]
        raise GestaError(
            f"{model.config.summary} cannot be exported ({reason}); export it for one clip at a time (--no-dynamic)"
            if dynamic
            else f"{model.config.summary} cannot be exported ({reason}); mend the part of the model that this names"
        ) from error
    for node in reversed(program.graph.nodes):
        if node.target in _REMARKS and not node.users:
            program.graph.erase_node(node)
        for name in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "custom"):
            node.meta.pop(name, None)  # a file for others says nothing of the folders of this machine
    return program
