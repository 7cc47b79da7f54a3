"""Routes in the place of ATA's matches that could refute it: random ones, and the shift of the whole picture."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from gesta.alignment.chain import Size, compose, inverse, similarity
from gesta.config import Count, config
from gesta.model import AroundConfig
from gesta.plugins.ata import ATA, Alignment


@config
class RandomRoutes(AroundConfig):
    """Tokens that ATA moves from one frame to the next are moved, too, but to positions drawn at random.

    From frame to frame as many tokens leave their position as with ATA, and the same ones. The positions are drawn anew
    in every step; in testing they are the same for the same clips.

    Attributes:
        ata: decides which tokens move; its matches are hard.
    """

    ata: ATA = field(default_factory=ATA)

    @property
    def needs_positions(self) -> bool:
        return self.ata.needs_positions

    def build(self) -> Alignment:
        return RandomAlignment(self.ata)


class RandomAlignment(Alignment):
    """The module of :class:`RandomRoutes`."""

    def routes(self, tokens: Tensor, size: Size) -> Tensor:
        of_ata = super().routes(tokens, size)
        generator = None if self.training else torch.Generator().manual_seed(0)
        return compose(exchanged(of_ata[:, 1:].gather(2, inverse(of_ata[:, :-1])), generator))


def exchanged(matches: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Matches ``(..., N)`` in which the tokens that move are permuted by one random cycle, in which none stays."""
    count = matches.shape[-1]
    identity = torch.arange(count, device=matches.device).expand_as(matches)
    moved = matches != identity
    keys = torch.rand(matches.shape, generator=generator, device="cpu" if generator else matches.device)
    order = (keys.to(matches.device) + ~moved).argsort(-1)  # those that move come first
    last = moved.sum(-1, keepdim=True) - 1
    following = order.gather(-1, torch.where(identity < last, identity + 1, 0))
    return torch.where(identity <= last, following, order).gather(-1, inverse(order))


@config
class SharedShift(AroundConfig):
    """All tokens move as the whole picture does: by whole tokens, around the edges, the shift that fits best.

    On jolted videos it is the true one (:func:`gesta.marionette.filming.displacement`), found from the tokens alone.

    Attributes:
        reach: the largest shift from frame to frame along each axis, in tokens.
    """

    reach: Count = 2

    @property
    def needs_positions(self) -> bool:
        return True

    def build(self) -> Alignment:
        return ShiftAlignment(self.reach)


class ShiftAlignment(Alignment):
    """The module of :class:`SharedShift`."""

    def __init__(self, reach: int) -> None:
        super().__init__(ATA(align_on="content"))
        self.reach = reach

    def routes(self, tokens: Tensor, size: Size) -> Tensor:
        height, width = size
        cosines = similarity(tokens.detach())
        y, x = (torch.arange(n, device=tokens.device) for n in size)
        fits, matches = [], []
        for down in range(-self.reach, self.reach + 1):
            for across in range(-self.reach, self.reach + 1):
                to = (((y + down) % height)[:, None] * width + (x + across) % width).flatten()
                stays = ((y + down) // height == 0)[:, None] & ((x + across) // width == 0)  # inside the picture
                pairs = cosines[..., torch.arange(height * width, device=to.device), to]
                fits.append(pairs[..., stays.flatten()].mean(-1))
                matches.append(to)
        best = torch.stack(fits, -1).argmax(-1)
        return compose(torch.stack(matches)[best])
