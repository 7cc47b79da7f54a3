"""What is measured of a trained network beside its accuracy: test clips that are changed, and what STAN's θ follows.

Functions here make the ``measure`` of a :class:`~gesta.claims.claim.Metric`. Accuracies are of the recipe's own
protocol on its test clips; a video that cannot be read counts as wrong.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gesta.checkpoint import TrainedModel
from gesta.claims.claim import Value
from gesta.config import replace
from gesta.data.clips import test_indices
from gesta.data.frame_cache import FrameCache
from gesta.data.transforms import test_short_side
from gesta.errors import GestaError
from gesta.evaluation.scoring import as_probabilities, view_loader
from gesta.marionette.dataset import Marionette, family_of
from gesta.marionette.files import read_manifest
from gesta.marionette.filming import ClipName, displacement, puppet_boxes
from gesta.marionette.motions import REVERSED_PAIRS
from gesta.model import ClipSpec, evaluating, to_clips
from gesta.plugins.stan import STANLayer, thetas
from gesta.recipe import EvaluateConfig, Recipe
from gesta.records import Record, by_space, label_in
from gesta.video.read import Selection, read_frames

Change = Callable[[Tensor], Tensor]
"""From clips as the network expects them, ``(B, C, T, H, W)``, to other ones."""

Measure = Callable[[TrainedModel, Recipe, torch.device], Value]


# --- accuracy on changed clips ---------------------------------------------------------------------------------------


def correct(
    trained: TrainedModel,
    recipe: Recipe,
    device: torch.device,
    changes: Mapping[str, Change],
    spec: ClipSpec | None = None,
    short_side: int | None = None,
) -> dict[str, list[bool]]:
    """Whether each of the test clips is recognised under each of the changes; every clip is read once.

    Args:
        trained: the network.
        recipe: whose data and protocol are taken.
        device: of the network.
        changes: by name.
        spec: how clips are cut, instead of the model's own.
        short_side: of the frames before, at size 224, instead of the protocol's.
    """
    network, spec = trained.model.to(device), spec or trained.model.config.clip
    how = replace(recipe.evaluate, workers=0, short_side=short_side or recipe.evaluate.short_side)
    records = recipe.data.records(how.split)
    hits = {name: [False] * len(records) for name in changes}
    with evaluating(network), torch.inference_mode():
        for indices, views, clips in _test_clips(records, spec, how, device):
            for name, change in changes.items():
                scores = by_space(network(change(clips)))
                if how.average != "logits":  # as gesta.evaluation.scoring, which reads clips that nothing changes
                    scores = {space: as_probabilities(values, multi_label=False) for space, values in scores.items()}
                for index, hit in zip(indices, _hits(scores, records, indices, views)):
                    hits[name][index] = hit
    return hits


def _test_clips(
    records: Sequence[Record], spec: ClipSpec, how: EvaluateConfig, device: torch.device
) -> Iterator[tuple[list[int], int, Tensor]]:
    """Batches of test clips: the indices of their videos, the views of each, and the clips, ``(B, C, T, H, W)``."""
    for batch in view_loader(records, spec, how, range(len(records)), 0, FrameCache()):
        if indices := batch["index"].tolist():
            yield indices, batch["video"].shape[1], to_clips(batch["video"].to(device), spec)


def clips_to_test(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Iterator[Tensor]:
    """The test clips of a recipe as its network expects them, ``(B, C, T, H, W)``."""
    how = replace(recipe.evaluate, workers=0)
    for _, _, clips in _test_clips(recipe.data.records(how.split), trained.model.config.clip, how, device):
        yield clips


def _hits(scores: Mapping[str, Tensor], records: Sequence[Record], indices: list[int], views: int) -> list[bool]:
    """Whether the first class is right in all label spaces, by the mean of the views' scores."""
    alike = []
    for space, values in scores.items():
        answers = values.unflatten(0, (len(indices), views)).mean(1).argmax(1)
        alike.append([answer == label_in(records[i], space) for i, answer in zip(indices, answers.tolist())])
    return [all(of_clip) for of_clip in zip(*alike)]


def accuracies(*arguments: Any, **options: Any) -> dict[str, float]:
    """Top-1 in percent under each of the changes; arguments as of :func:`correct`."""
    return {name: 100 * fmean(hits) for name, hits in correct(*arguments, **options).items()}


def shuffled(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
    """Top-1 with the frames of each clip in one random order: what it does not lose needs no order."""
    frames = trained.model.config.clip.frames
    order = torch.randperm(frames, generator=torch.Generator().manual_seed(0)).to(device)
    return accuracies(trained, recipe, device, {"": lambda clips: clips[:, :, order]})[""]


def frozen(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
    """Top-1 with the middle frame of each clip in place of all: what a single picture tells."""
    middle = trained.model.config.clip.frames // 2
    change: Change = lambda clips: clips[:, :, middle : middle + 1].expand_as(clips)  # noqa: E731
    return accuracies(trained, recipe, device, {"": change})[""]


def right_order(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
    """Of test clips whose action played backwards is another class: percent with a higher score than that class.

    Half of them are right by chance, and for a network that does not see the order of frames.
    """
    assert isinstance(recipe.data, Marionette)
    names = list(recipe.data.classes())
    family = family_of(read_manifest(Path(recipe.data.root)) or {})
    reverse = {a: b for pair in REVERSED_PAIRS[family] for a, b in (pair, pair[::-1])}
    records, spec = recipe.data.records(recipe.evaluate.split), trained.model.config.clip
    how, right = replace(recipe.evaluate, workers=0), list[bool]()
    with evaluating(trained.model.to(device)), torch.inference_mode():
        for indices, views, clips in _test_clips(records, spec, how, device):
            (scores,) = by_space(trained.model(clips)).values()
            mean = scores.unflatten(0, (len(indices), views)).mean(1)
            for index, of_clip in zip(indices, mean):
                name = names[records[index].label]  # type: ignore[index]
                if name in reverse:
                    right.append(bool(of_clip[names.index(name)] > of_clip[names.index(reverse[name])]))
    return 100 * fmean(right)


def displaced(*pixels: int) -> Measure:
    """Top-1 with the crop moved by so many pixels left, right, up and down, the mean of the four, for each distance.

    The frames have to be so much larger than the crop (``evaluate.short_side``): nothing is filled in.
    """

    def measure(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
        spec, margin = trained.model.config.clip, max(pixels)
        wide, short_side = _wider(spec, recipe.evaluate, margin)
        changes: dict[str, Change] = {}
        for distance in pixels:
            for down, across in ((0, distance), (0, -distance), (distance, 0), (-distance, 0)):
                window = partial(_window, top=margin + down, left=margin + across, size=spec.size)
                changes[f"{distance} {down} {across}"] = window
        top1 = accuracies(trained, recipe, device, changes, wide, short_side)
        by_distance = {str(pixel): [v for k, v in top1.items() if k.split()[0] == str(pixel)] for pixel in pixels}
        return {distance: sum(values) / len(values) for distance, values in by_distance.items()}

    return measure


def _window(clips: Tensor, top: int, left: int, size: int) -> Tensor:
    return clips[..., top : top + size, left : left + size]


def _wider(spec: ClipSpec, how: EvaluateConfig, margin: int) -> tuple[ClipSpec, int]:
    """Clips with a margin around the crop, and the short side at size 224 that leaves the scale as it is."""
    wide = replace(spec, size=spec.size + 2 * margin)
    wanted = test_short_side(how.short_side, spec.size)
    short_side = round(wanted * 224 / wide.size)
    if test_short_side(short_side, wide.size) != wanted or wide.size > wanted:
        raise GestaError(
            f"a crop of {spec.size} pixels cannot be moved by {margin} in frames of {wanted}; give a larger "
            "--evaluate.short-side"
        )
    return wide, short_side


def at_sizes(*sizes: int) -> Measure:
    """Top-1 with the same part of the frame shown at other sizes in pixels."""

    def measure(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
        spec = trained.model.config.clip
        how: list[ClipSpec] = [replace(spec, size=size) for size in sizes]
        return {str(s.size): accuracies(trained, recipe, device, {"": lambda clips: clips}, spec=s)[""] for s in how}

    return measure


def at_strides(*strides: int) -> Measure:
    """Top-1 with clips of frames so far apart, which show a shorter or longer part of the action in as many frames."""

    def measure(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
        spec = trained.model.config.clip
        how: list[ClipSpec] = [replace(spec, stride=stride) for stride in strides]
        return {str(s.stride): accuracies(trained, recipe, device, {"": lambda clips: clips}, spec=s)[""] for s in how}

    return measure


SHIFTS = (0.1, 0.2)
"""Between the groups of :func:`by_shift`, in sides of the picture; the largest shift is 0.28."""


def by_shift(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
    """Top-1 on test clips of a displaced set in groups of how far their pictures are shifted."""
    assert isinstance(recipe.data, Marionette)
    manifest = read_manifest(Path(recipe.data.root)) or {}
    groups: dict[int, list[bool]] = {0: [], 1: [], 2: []}
    hits = correct(trained, recipe, device, {"": lambda clips: clips})[""]
    for record, hit in zip(recipe.data.records(recipe.evaluate.split), hits):
        shift = displacement(clip_of(record), manifest["seed"], family_of(manifest), manifest["aim"]).shift[0]
        groups[bisect(SHIFTS, float(np.hypot(*shift)))].append(hit)
    names = (f"< {SHIFTS[0]}", f"{SHIFTS[0]} to {SHIFTS[1]}", f"> {SHIFTS[1]}")
    return {name: 100 * fmean(of_group) for name, of_group in zip(names, groups.values()) if of_group}


def clip_of(record: Record) -> ClipName:
    return ClipName(*(int(part[1:]) for part in Path(record.path).stem.split("_")))


# --- STAN's θ --------------------------------------------------------------------------------------------------------


def theta_follows(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
    """Correlation of θ's shift with where the puppet is in the crop, however small the shift; the mean of both axes."""
    shifts, positions = _shifts_and_positions(trained, recipe, device)
    return fmean(_correlation(shifts[:, axis], positions[:, axis]) for axis in (0, 1))


def theta_centres(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
    """Share of the puppet's way to the centre of the crop that θ's shift goes; the mean of both axes.

    It is the slope of the least-squares line of shifts over positions: 1 if θ puts every puppet into the centre (or all
    of them at the same distance from it).
    """
    shifts, positions = _shifts_and_positions(trained, recipe, device)
    return fmean(float(np.polyfit(positions[:, axis], shifts[:, axis], 1)[0]) for axis in (0, 1))


def _shifts_and_positions(trained: TrainedModel, recipe: Recipe, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """θ's shift and where the puppet is, ``(clips, 2)`` each, across and down, for test clips whose crops are moved at
    random; in the coordinates of the crop, from −1 to 1.

    θ takes positions of the output to those of the input, so a shift to the puppet's position puts the puppet into
    the centre. Where the puppet is, is known from its geometry, not from its pixels.
    """
    assert isinstance(recipe.data, Marionette)
    records, spec = recipe.data.records(recipe.evaluate.split), trained.model.config.clip
    manifest = read_manifest(Path(recipe.data.root)) or {}
    rng = np.random.default_rng(0)
    scale = test_short_side(recipe.evaluate.short_side, spec.size)
    shifts: list[Tensor] = []
    positions: list[tuple[float, float]] = []
    with evaluating(trained.model), torch.inference_mode():
        for record in records:
            frames, selection, *_ = read_frames(
                record.path, lambda n: Selection(test_indices(n, spec, 1, "even", "loop")[0])
            )
            aim = manifest.get("aim", "centred")
            boxes = puppet_boxes(clip_of(record), manifest["seed"], family_of(manifest), aim)
            left_edge, top_edge, right_edge, bottom_edge = boxes[selection.indices.numpy()].mean(0)
            centre = np.array([(left_edge + right_edge) / 2, (top_edge + bottom_edge) / 2])  # as fractions
            corner = rng.integers(0, scale - spec.size + 1, 2)  # across, down
            scaled = F.interpolate(frames.float(), (scale, scale), mode="bilinear", antialias=True)
            clip = _window(scaled, int(corner[1]), int(corner[0]), spec.size).round().byte()
            ((theta, _),) = thetas(trained.model, to_clips(clip[None, None].to(device), spec)).values()
            shifts.append(theta[0, 1:3, 3].cpu())
            positions.append(tuple(2 * (centre * scale - corner) / spec.size - 1))
    return torch.stack(shifts).double().numpy(), np.array(positions)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 if one of them does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else 0.0


def theta_matters(trained: TrainedModel, recipe: Recipe, device: torch.device) -> Value:
    """Points of top-1 that are lost when every test clip is warped with another one's θ."""
    (layer,) = (module for module in trained.model.modules() if isinstance(module, STANLayer))
    own = layer.theta
    plain = accuracies(trained, recipe, device, {"": lambda clips: clips})[""]
    try:
        layer.theta = lambda x: own(x).roll(1, 0)  # type: ignore[method-assign]
        return plain - accuracies(trained, recipe, device, {"": lambda clips: clips})[""]
    finally:
        del layer.theta
