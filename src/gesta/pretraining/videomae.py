"""VideoMAE: a video ViT learns to rebuild the tubes of pixels that a mask hides from it.

Sources: Z. Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video
Pre-Training", NeurIPS 2022, with its public code; L. Wang et al., "VideoMAE V2", CVPR 2023, for the dual masking::

    hide      most positions of a frame, the same in all tubelets of a clip
    encode    the ViT sees the tokens that are kept, and no others
    decode    a narrow ViT sees them, and for each hidden token a learned one, all with their positions
    rebuild   the pixels of hidden tubes, each colour standardised on its own; the loss is the mean squared error

The encoder has the names of a :class:`~gesta.models.vit.ViT`, so that ``--init.weights`` takes a run of pretraining
into any model of that size. Without ``with_losses`` the model gives the encoder's features of whole clips.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from gesta.config import Between, Count, CountOrZero, config
from gesta.model import Scores
from gesta.models.vit import FOREIGN, Block, State, ViT, ViTConfig, fused, selected, without_prefixes
from gesta.pretraining.masks import mask_fault, running_cells, tube_mask

STD_FLOOR = 1e-6
"""Added to the standard deviation of a tube's colour."""


@config
class VideoMAEConfig(ViTConfig):
    """A ViT and the decoder by which it is pretrained.

    Attributes:
        classes: there are none.
        tail: the encoder's tokens are normalised before the decoder sees them.
        decoder_width: channels of the decoder.
        decoder_depth: its blocks.
        decoder_heads: its attention heads.
        ratio: of the positions of a frame, those that are hidden from the encoder; 0.9 in the paper, 0.75 for UCF-101.
        rebuilt: the decoder rebuilds all hidden tubes (``hidden``, VideoMAE), or those of them in half of all positions
            (``cells``, VideoMAE V2), which takes half the time in the decoder.
    """

    learns_classes: ClassVar[bool] = False

    classes: CountOrZero | dict[str, Count] = 0
    tail: Literal["norm_mean"] = "norm_mean"
    decoder_width: Count = 384
    decoder_depth: Count = 4
    decoder_heads: Count = 6
    ratio: Annotated[float, Between(0, 1, open="both")] = 0.9
    rebuilt: Literal["hidden", "cells"] = "hidden"

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.classes:
            yield "classes", "and pretraining has none; leave it at 0"
        if self.inserts:
            yield "inserts", "and plug-ins need whole feature maps, which masked clips have not; insert them afterwards"
        if self.positions != "sincos":
            yield "positions", "and the decoder needs 'sincos'"
        for name in ("class_token", "modality_embed", "norm_after", "attentive", "multi_label", "dropout"):
            if getattr(self, name):
                yield name, "which masked pretraining has no use for here"
        if self.decoder_width % self.decoder_heads:
            yield "decoder_heads", f"which does not divide the decoder's width of {self.decoder_width}"
        if self.rebuilt == "cells" and self.clip.size // self.patch % 2:
            yield (
                "rebuilt",
                f"whose cells of 2 × 2 positions do not tile {self.clip.size // self.patch} positions a side",
            )
        if (
            self.clip.frames % self.patch_frames
        ):  # a ViT repeats the last frame of a single tube, whose pixels are given
            yield "clip.frames", f"which tubes of {self.patch_frames} frames do not tile"
        if fault := mask_fault((self.clip.size // self.patch) ** 2, self.ratio, "positions"):
            yield "ratio", fault

    def build(self) -> VideoMAE:
        return VideoMAE(self)

    def encoder(self) -> ViTConfig:
        """The ViT alone, to be fine-tuned: its features are the mean of the tokens, normalised afterwards."""
        own = {field.name: getattr(self, field.name) for field in fields(ViTConfig)}
        return ViTConfig(**own | {"tail": "mean_norm", "classes": ViTConfig().classes})


def videomae_of(encoder: ViTConfig, **changes: Any) -> VideoMAEConfig:
    """The configuration for the pretraining of a ViT: its own fields, a last norm before the decoder, and no classes.

    Args:
        encoder: the ViT, such as ``videomae_b()``.
        changes: fields of the decoder and the masks.
    """
    own = {field.name: getattr(encoder, field.name) for field in fields(ViTConfig)}
    own |= {"tail": "norm_mean", "classes": 0, "drop_path": 0.0, "dropout": 0.0}
    return VideoMAEConfig(**own | changes)


class Decoder(nn.Module):
    """A narrow ViT without a stem: encoded tokens and learned ones for what is hidden, to pixels.

    Args:
        config: of the whole.
        width: channels of the encoder.
        pixels: numbers of a tube.
    """

    def __init__(self, config: VideoMAEConfig, width: int, pixels: int) -> None:
        super().__init__()
        sizes = ViTConfig(
            width=config.decoder_width, depth=config.decoder_depth, heads=config.decoder_heads, eps=config.eps
        )
        self.embed = nn.Linear(width, sizes.width, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, sizes.width))
        self.blocks = nn.ModuleList(Block(sizes, drop_path=0.0) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width, eps=config.eps)
        self.head = nn.Linear(sizes.width, pixels)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, encoded: Tensor, positions: Tensor, kept: Tensor, rebuilt: Tensor) -> Tensor:
        """Pixels of the tubes that are rebuilt, ``(B, M, pixels)``.

        Args:
            encoded: ``(B, K, C)``, the encoder's tokens.
            positions: ``(1, N, D)``, of all tokens of a clip.
            kept: ``(B, N)`` bool, which of them the encoder has seen.
            rebuilt: ``(B, N)`` bool, which are rebuilt.
        """
        table = positions.expand(len(encoded), -1, -1)
        masked = self.mask_token + selected(table, rebuilt)
        tokens = torch.cat([self.embed(encoded) + selected(table, kept), masked], 1)
        state = State(tokens, (tokens.shape[1], 1, 1))
        for block in self.blocks:
            state = block(state)
        return self.head(self.norm(state.tokens[:, -masked.shape[1] :]))


class Rebuilt(NamedTuple):
    """What :meth:`VideoMAE.rebuild` gives.

    Attributes:
        tubes: standardised pixels that the decoder gives, ``(B, M, pixels)``.
        targets: those of the clip.
        is_hidden: ``(B, M)`` bool, which of them the encoder has not seen.
    """

    tubes: Tensor
    targets: Tensor
    is_hidden: Tensor


class VideoMAE(ViT):
    """A ViT with a decoder; in training it gives no class scores but the loss ``reconstruction``."""

    config: VideoMAEConfig

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__(config)
        tube = (config.patch_frames, config.patch, config.patch)
        self.decoder = Decoder(config, config.width, 3 * math.prod(tube))
        for module in self.modules():  # as the public code of pretraining
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    @overload
    def forward(self, video: Tensor, with_losses: Literal[False] = False) -> Scores: ...
    @overload
    def forward(self, video: Tensor, with_losses: Literal[True]) -> tuple[Scores, dict[str, Tensor]]: ...
    def forward(self, video: Tensor, with_losses: bool = False) -> Scores | tuple[Scores, dict[str, Tensor]]:
        """Features ``(B, C)`` of whole clips, or with ``with_losses`` no scores and the loss of masked ones.

        Masks are drawn from torch's generator for the clips' device.
        """
        if not with_losses:
            return super().forward(video)
        return {}, {"reconstruction": self.reconstruction(video, *self.draw_masks(video))}

    def draw_masks(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Which tokens of clips the encoder sees, and which the decoder rebuilds, each ``(B, N)`` bool."""
        size = self._size(*video.shape[2:])
        kept = tube_mask(len(video), size, self.config.ratio, video.device)
        return kept, running_cells(len(video), size, video.device) if self.config.rebuilt == "cells" else ~kept

    def reconstruction(self, video: Tensor, kept: Tensor, rebuilt: Tensor) -> Tensor:
        """Mean squared error over the numbers of the rebuilt tubes that the encoder has not seen.

        Args:
            video: normalised clips ``(B, 3, T, H, W)``.
            kept, rebuilt: as of :meth:`draw_masks`.
        """
        tubes, targets, is_hidden = self.rebuild(video, kept, rebuilt)
        errors = (tubes.to(targets.dtype) - targets).square().mean(2)
        return (errors * is_hidden).sum() / is_hidden.sum()

    def rebuild(self, video: Tensor, kept: Tensor, rebuilt: Tensor) -> Rebuilt:
        """Encode what is kept and rebuild the rest; arguments as of :meth:`reconstruction`."""
        state = self.run_blocks(self.stem(video, kept))
        positions = self._sinusoids(state.size, width=self.config.decoder_width).to(video)
        tubes = self.decoder(self.norm(state.tokens), positions, kept, rebuilt)
        standardised, _, _ = self.tubes(video)
        targets, hidden = selected(standardised, rebuilt), selected(~kept[..., None], rebuilt)[..., 0]
        return Rebuilt(tubes, targets, hidden)

    def tubes(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels of all tubes ``(B, N, t·y·x·3)``, of which each tube's colours are standardised on their own.

        Returns:
            They, and mean and standard deviation ``(B, N, 1, 3)`` by which pixels in [0, 1] are got back.
        """
        clip, tube = self.config.clip, (self.config.patch_frames, self.config.patch, self.config.patch)
        mean, std = (video.new_tensor(values).view(3, 1, 1, 1) for values in (clip.mean, clip.std))
        pixels = (video * std + mean).to(torch.promote_types(video.dtype, torch.float32))
        for axis, length in zip((2, 4, 6), tube):  # (B, 3, t, 2, h, p, w, p)
            pixels = pixels.unflatten(axis, (-1, length))
        cubes = pixels.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(1, 3).flatten(2, 4)  # (B, N, 2·p·p, 3)
        std, mean = torch.std_mean(cubes, 2, keepdim=True)
        return ((cubes - mean) / (std + STD_FLOOR)).flatten(2), mean, std + STD_FLOOR

    def pixels(self, tubes: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` of the configured size from tubes of pixels ``(B, N, t·y·x, 3)``."""
        size, config = self._configured_size, self.config
        cubes = tubes.unflatten(2, (config.patch_frames, config.patch, config.patch)).unflatten(1, size)
        return cubes.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(2, 3).flatten(3, 4).flatten(4, 5)

    def no_weight_decay(self) -> set[str]:
        names = super().no_weight_decay()
        return names | {"decoder.mask_token"} if hasattr(self, "decoder") else names  # not while the encoder is built

    def _is_stem(self, name: str) -> bool:
        return super()._is_stem(name) and not name.startswith("decoder.")

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename public weights of pretraining, decoder included; for the encoder see :class:`ViT`."""
        names = {name: decoder_name(name) for name in weights}
        encoder = {name: value for name, value in weights.items() if names[name] is None}
        decoder = {ours: weights[name] for name, ours in names.items() if ours is not None}
        return super().convert_foreign(encoder) | fused(decoder, with_key=False)


def decoder_name(name: str) -> str | None:
    """The name here of a tensor of a public decoder; None if it is of the encoder."""
    name = without_prefixes(name)
    for pattern, ours in (
        (r"^encoder_to_decoder\.", "decoder.embed."),
        (r"^mask_token$", "decoder.mask_token"),
        (r"^decoder\.decoder_layers\.", "decoder.blocks."),
        *(pair for pair in FOREIGN if pair[0].startswith(r"\.")),
    ):
        name = re.sub(pattern, ours, name)
    return name if name.startswith("decoder.") else None
