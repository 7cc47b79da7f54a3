"""Claims on ATA (Zhao et al., NeurIPS 2022): temporal attention along matches beats that at fixed positions."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gesta.alignment.chain import inverse
from gesta.checkpoint import TrainedModel
from gesta.claims.claim import TOP1, Arm, Claim, Comparison, MarionetteSet, Metric, Value
from gesta.claims.metrics import clip_of
from gesta.claims.routes import RandomRoutes, SharedShift
from gesta.config import replace
from gesta.data.clips import test_indices
from gesta.marionette.dataset import Marionette, family_of
from gesta.marionette.files import read_manifest
from gesta.marionette.filming import displacement
from gesta.model import AroundConfig, evaluating, hooked, to_clips
from gesta.models.timesformer import timesformer_tiny
from gesta.plugins.ata import ATA
from gesta.recipe import Augment, EvaluateConfig, Init, Recipe, TrainConfig
from gesta.recipes.pretrain import frames
from gesta.video.read import Selection, read_frames

JOLTED = MarionetteSet(name="jolted", settings={"clips": 360, "size": 64, "aim": "jolted"})
"""The picture of every frame is shifted by none or one patch along each axis: what moves is where things are."""

CENTRED = MarionetteSet(name="centred", settings={"clips": 360, "size": 64})


def encoder() -> Recipe:
    """The spatial encoder that all arms start from: it predicts where the puppet's joints are in single frames."""
    recipe = frames("timesformer_tiny")
    recipe.train = replace(recipe.train, epochs=20, workers=0)
    recipe.evaluate = replace(recipe.evaluate, workers=0)
    return recipe


ENCODER = Arm(name="ATA's frames", why="the start of all arms.", data=JOLTED, make=encoder)


def attending(around: AroundConfig | None) -> Recipe:
    """timesformer_tiny on 8 whole frames of 64 px, so that the patches of jolted pictures are the same in all frames.

    Temporal attention starts as a copy of the spatial one behind a last layer of zeros. Routes are found in the first
    block, in which tokens are linear features of their patches, and kept in the others.
    """
    model = replace(timesformer_tiny(), classes=12, around=around, align_every=1 if around is None else 4)
    return Recipe(
        name="ata",
        model=model,
        data=Marionette(held_out="both"),
        train=TrainConfig(
            epochs=40, batch_size=16, lr=2e-3, warmup_epochs=2, validate_every=0, workers=0,
            augment=Augment(crop="short_side", scale=(1.0, 1.0), color_jitter=0.1),
        ),
        evaluate=EvaluateConfig(clips=1, crops=1, short_side=224, workers=0),
        init=Init(min_matched=0.9, expected="an encoder of single frames"),
    )  # fmt: skip


CONTENT, NEAR = ATA(align_on="content"), ATA(align_on="content", window=1)


def arm(name: str, why: str, around: AroundConfig | None, data: MarionetteSet, is_control: bool = False) -> Arm:
    return Arm(name=name, why=why, is_control=is_control, data=data, start=ENCODER, make=partial(attending, around))


def arms(data: MarionetteSet) -> tuple[Arm, ...]:
    """Those that both sets of videos have."""
    return (
        arm("fixed positions", "the baseline: TimeSformer.", None, data),
        arm("ATA", "our variant: matches of patches one to one, without the embeddings of positions.", CONTENT, data),
        arm(
            "random routes", "what ATA moves is moved to random positions: routes that mix positions as much.",
            RandomRoutes(ata=CONTENT), data, True,
        ),
    )  # fmt: skip


def follows_jolts(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
    """Percent of the moves from frame to frame that are the jolt, of tokens that it leaves in the picture."""
    assert isinstance(recipe.data, Marionette)
    manifest, network = read_manifest(Path(recipe.data.root)) or {}, trained.model.to(device)
    spec, found, alike = network.config.clip, list[Tensor](), list[Tensor]()
    note = {network.blocks[0].temporal: lambda _module, _inputs, result: found.append(result[1])}
    with evaluating(network), torch.inference_mode(), hooked(note):
        for record in recipe.data.records(recipe.evaluate.split):
            images, selection, *_ = read_frames(
                record.path, lambda n: Selection(test_indices(n, spec, 1, "even", "loop")[0])
            )
            state = network.stem(to_clips(images[None, None].to(device), spec))
            network.blocks[0](state)
            aim = manifest.get("aim", "centred")
            shift = displacement(clip_of(record), manifest["seed"], family_of(manifest), aim).shift
            steps = np.rint(np.diff(shift[selection.indices.numpy()], axis=0) * state.size[1]).astype(int)
            matches = found[-1][:, 1:].gather(2, inverse(found[-1][:, :-1]))[0].cpu()
            alike += [moved_so(match, state.size[1:], *step) for match, step in zip(matches, steps.tolist())]
    return 100 * torch.cat(alike).float().mean().item()


def moved_so(match: Tensor, size: tuple[int, int], across: int, down: int) -> Tensor:
    """Whether tokens are matched as a shift of the picture moves them, of those that it leaves inside: bools."""
    y, x = (torch.arange(n) for n in size)
    inside = ((y + down) // size[0] == 0)[:, None] & ((x + across) // size[1] == 0)
    to = (y + down)[:, None] * size[1] + x + across
    return (match.view(size) == to)[inside]


_WHERE = (
    "timesformer_tiny (0.30 M parameters, 8 frames of 64 px, patches of 8 × 8) on 228 clips of Marionette's 12 coarse "
    "actions; tested on 96 clips of subjects and cameras that training never saw. All arms start from an encoder that "
    "was trained to predict where the puppet's joints are in single frames of the jolted clips, instead of the paper's "
    "ImageNet-21K weights; temporal attention starts without effect. Routes are found in the first block, in which "
    "tokens are linear features of their patches, and kept in the others, where the paper finds them in every block."
)
AS_PRINTED = "ATA, positions compared"
_MORE = "an encoder of real images, whose features tell patches of one colour apart, and videos of moving cameras."

JOLTS = Claim(
    name="ata.jolts",
    statement="Aligned temporal attention is better than plain temporal attention where things move in the picture.",
    source="Zhao et al. 2022, §1, §3 and Table 3: ViT-B on Kinetics-400, 78.0 → 79.6",
    experiment=_WHERE + " The picture of every frame is shifted by none or one whole patch along each axis, so that a "
    "patch is at another position in the next frame. The arm with the true shift shows how much matches could gain.",
    arms=(
        *arms(JOLTED),
        arm(AS_PRINTED, "the paper's Algorithm 1: tokens as they enter are matched.", ATA(), JOLTED),
        arm(
            "true shift",
            "all tokens move by the one shift that fits best: about the best that matches could do.",
            SharedShift(),
            JOLTED,
        ),
    ),
    comparisons=(
        Comparison(better="ATA", worse="fixed positions"),
        Comparison(better=AS_PRINTED, worse="fixed positions"),
        Comparison(better="ATA", worse="random routes", kind="control"),
    ),
    metrics=(
        TOP1,
        Metric(
            name="follows_jolts",
            title="matches that are the true shift",
            measure=follows_jolts,
            arms=("ATA", "random routes", AS_PRINTED, "true shift"),
        ),
    ),
    learn_more=_MORE,
    minutes=5.0,
)

USUAL = Claim(
    name="ata.usual",
    statement="Aligned temporal attention is better than plain temporal attention, whatever moves.",
    source=JOLTS.source,
    experiment=_WHERE + " The camera aims at the puppet, and most patches stay where they are. The paper's own "
    "matching, of tokens with their positions, is an arm of ata.jolts alone.",
    arms=(*arms(CENTRED), arm("ATA, window 1", "no match is further than one patch along each axis.", NEAR, CENTRED)),
    comparisons=tuple(c for c in JOLTS.comparisons if c.better == "ATA"),
    learn_more="matches of tokens with their positions, as in the paper's Algorithm 1; " + _MORE,
    minutes=5.0,
)

CLAIMS = (JOLTS, USUAL)
