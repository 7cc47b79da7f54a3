"""SimMIM on videos: any model learns to rebuild hidden squares of its clips.

Source: Z. Xie et al., "SimMIM: A Simple Framework for Masked Image Modeling", CVPR 2022, with VideoMAE's tubes in
place of its masks of single images::

    hide      squares of the picture take one learned colour, the same squares in all frames of a clip
    encode    the whole clip, hidden squares included
    rebuild   one linear layer, from each position of the last map to the pixels that it covers; the loss is the mean
              absolute error of the hidden ones

VideoMAE leaves hidden tokens out, which a convolution cannot do, nor a Transformer of several stages whose tokens are
merged. This needs nothing of a model but its last map: no decoder, no sparse convolution. It saves no time: the encoder
computes all positions. SimMIM replaces tokens after the patch embedding; here pixels are replaced before the stem,
since stems of convolutions see across the borders of squares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from gesta.config import Between, Count, CountOrZero, config, replace
from gesta.errors import GestaError
from gesta.model import Grid, ModelConfig, Scores, VideoModel
from gesta.models.mfst import mfst_tiny
from gesta.pretraining.masks import mask_fault, tube_mask


@config
class SimMIMConfig(ModelConfig):
    """A model and the linear layer by which it is pretrained.

    Clips, stochastic depth and recomputation are those of the whole; what ``of`` says of them is not read.

    Attributes:
        of: the model that is pretrained.
        classes: there are none.
        square: side of the squares that are hidden, in pixels; 32 in the paper, of pictures of 192.
        ratio: of the squares of a frame, those that are hidden; 0.6 in the paper.
    """

    learns_classes: ClassVar[bool] = False

    of: ModelConfig = field(default_factory=mfst_tiny)
    classes: CountOrZero | dict[str, Count] = 0
    square: Count = 32
    ratio: Annotated[float, Between(0, 1, open="both")] = 0.6

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.classes:
            yield "classes", "and pretraining has none; leave it at 0"
        if self.clip.size % self.square:
            yield "square", f"which does not divide the clip's {self.clip.size} pixels"
        elif fault := mask_fault((self.clip.size // self.square) ** 2, self.ratio, "squares"):
            yield "ratio", fault
        for name in ("attentive", "multi_label", "dropout"):
            if getattr(self, name):
                yield name, "which is for classes, and pretraining has none"
        if self.inserts:
            yield "inserts", "and plug-ins belong to the model itself; give them as of.inserts"

    def build(self) -> SimMIM:
        return SimMIM(self)

    def encoder(self) -> ModelConfig:
        """The model alone, to be fine-tuned."""
        shared = {name: getattr(self, name) for name in ("clip", "drop_path", "activation_checkpointing")}
        return replace(self.of, **shared)


def simmim_of(of: ModelConfig, square: int = 32) -> SimMIMConfig:
    """The configuration for the pretraining of a model such as ``mfst_tiny()``, with the model's own clips."""
    shared = {name: getattr(of, name) for name in ("clip", "drop_path", "activation_checkpointing")}
    return SimMIMConfig(of=of, square=square, **shared)


class Rebuilt(NamedTuple):
    """What :meth:`SimMIM.rebuild` gives.

    Attributes:
        clip: what the linear layer makes of the clips, ``(B, 3, T, H, W)``, normalised as they are.
        state: the model's state after its last block.
    """

    clip: Tensor
    state: Any


class SimMIM(VideoModel):
    """A model and a linear layer to pixels; in training it gives no scores but the loss ``reconstruction``."""

    config: SimMIMConfig

    def __init__(self, config: SimMIMConfig) -> None:
        super().__init__(config)
        self.encoder = replace(config.encoder(), classes=0).build()
        self.encoder.requires_grad_(True)  # CTN freezes what its class token does not read; here all of the map is read
        width, *cells = self.encoder.grid_at(len(self.encoder.blocks))
        spans = [config.clip.frames, config.clip.size, config.clip.size]
        name = type(self.encoder).__name__
        if min(cells[1:]) < 2:
            raise GestaError(
                f"{name} has no map of the picture after its last block, from which pixels could be rebuilt; choose "
                "another model, or larger clips (model.clip.size)"
            )
        if any(span % cell for span, cell in zip(spans, cells)):
            raise GestaError(
                f"{name} has {' × '.join(map(str, cells))} positions after its last block, which do not divide clips "
                f"of {' × '.join(map(str, spans))}; choose another model.clip"
            )
        self.cell = [span // cell for span, cell in zip(spans, cells)]
        self.colour = nn.Parameter(torch.zeros(3, 1, 1, 1))
        self.to_pixels = nn.Linear(width, 3 * self.cell[0] * self.cell[1] * self.cell[2])
        self.classifier = nn.Identity()
        self.finish()

    @property
    def blocks(self) -> Any:
        return self.encoder.blocks

    @overload
    def forward(self, video: Tensor, with_losses: Literal[False] = False) -> Scores: ...
    @overload
    def forward(self, video: Tensor, with_losses: Literal[True]) -> tuple[Scores, dict[str, Tensor]]: ...
    def forward(self, video: Tensor, with_losses: bool = False) -> Scores | tuple[Scores, dict[str, Tensor]]:
        """Features ``(B, C)`` of whole clips, or with ``with_losses`` no scores and the losses of masked ones.

        The model's own losses are added. Masks are drawn from torch's generator for the clips' device.
        """
        if not with_losses:
            return self.encoder(video)
        hidden = self.draw_hidden(video)
        result = self.rebuild(video, hidden)
        return {}, {"reconstruction": self.error(result.clip, video, hidden), **self.encoder.losses(result.state)}

    def draw_hidden(self, video: Tensor) -> Tensor:
        """Which pixels of clips are hidden, ``(B, 1, 1, H, W)`` bool: in all frames the same."""
        side = self.config.square
        squares = (video.shape[3] // side, video.shape[4] // side)
        kept = tube_mask(len(video), (1, *squares), self.config.ratio, video.device).unflatten(1, squares)
        return ~kept.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, None, None]

    def rebuild(self, video: Tensor, hidden: Tensor) -> Rebuilt:
        """Replace what is hidden by the learned colour, and rebuild all pixels.

        Args:
            video: normalised clips ``(B, 3, T, H, W)``.
            hidden: as of :meth:`draw_hidden`.
        """
        last = f"block.{len(self.blocks) - 1}"  # read out, so that CTN computes all of its map
        state = self.encoder._run(torch.where(hidden, self.colour.to(video), video), {last: None})
        size = [span // cell for span, cell in zip(video.shape[2:], self.cell)]
        pixels = self.to_pixels(VideoModel.tokens(self.encoder, state)).unflatten(2, (3, *self.cell)).unflatten(1, size)
        clip = pixels.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(2, 3).flatten(3, 4).flatten(4, 5)
        return Rebuilt(clip, state)

    def error(self, rebuilt: Tensor, video: Tensor, hidden: Tensor) -> Tensor:
        """Mean absolute error of the hidden pixels; arguments as of :meth:`rebuild`, and what it gave."""
        errors = functional.l1_loss(rebuilt.to(video.dtype), video, reduction="none") * hidden
        return errors.sum() / (hidden.sum() * errors[0, :, :, 0, 0].numel())

    # the model's plug-ins, taps and readout are its own, and this has none beside them

    def _run(self, video: Tensor, taps: dict[str, Any] | None) -> Any:
        return self.encoder._run(video, taps)

    def _tapped(self) -> dict[str, Any]:
        return self.encoder._tapped()

    def tap_names(self) -> list[str]:
        return self.encoder.tap_names()

    def tokens(self, state: Any, block: int | None = None) -> Tensor:
        return self.encoder.tokens(state, block)

    def forward_head(self, state: Any, pre_logits: bool = False, tapped: Mapping[str, Any] | None = None) -> Any:
        """Features ``(B, D)``, as the model pools them; see :class:`VideoModel`."""
        return self.encoder.forward_head(state, pre_logits=True, tapped=tapped)

    def forward_features(self, video: Tensor) -> Any:
        """The model's state after its last block, see :class:`VideoModel`."""
        return self.encoder.forward_features(video)

    def stem(self, video: Tensor) -> Any:
        return self.encoder.stem(video)

    def pool(self, state: Any) -> Tensor:
        return self.encoder.pool(state)

    def to_grid(self, state: Any) -> Tensor:
        return self.encoder.to_grid(state)

    def from_grid(self, grid: Tensor, state: Any) -> Any:
        return self.encoder.from_grid(grid, state)

    def grid_at(self, block: int) -> Grid:
        return self.encoder.grid_at(block)

    def no_weight_decay(self) -> set[str]:
        return {"colour"} | {f"encoder.{name}" for name in self.encoder.no_weight_decay()}

    def depth_of(self, name: str) -> int:
        encoder = name.removeprefix("encoder.")
        return self.encoder.depth_of(encoder) if encoder != name else 0 if name == "colour" else len(self.blocks) + 1
