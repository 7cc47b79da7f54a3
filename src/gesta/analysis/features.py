"""Features of many videos by a model, and which videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gesta.config import suggest
from gesta.data.batch import Failure
from gesta.data.loader import test_loader
from gesta.data.samples import TestViews
from gesta.errors import GestaError
from gesta.model import VideoModel, to_clips
from gesta.prediction.background import reading_workers
from gesta.processes import choose_device
from gesta.progress import track
from gesta.recipe import EvaluateConfig
from gesta.recipes.address import read_recipe
from gesta.records import DataConfig, Record, SplitName, by_space, label_in


def run_data(source: str, *, trust_code: bool = False) -> DataConfig:
    """The data set that a run was trained on.

    Args:
        source: run folder, or a file in one.
        trust_code: as in :func:`gesta.checkpoint.load`.

    Raises:
        GestaError: no ``recipe.json`` there.
    """
    path = Path(source)
    recipe = (path if path.is_dir() else path.parent) / "recipe.json"
    if not recipe.is_file():
        raise GestaError(f"{source}: no recipe.json beside it, so say which videos: --data folder --data.root DIR")
    return read_recipe(recipe, trust_code=trust_code).data


def labelled(
    data: DataConfig, split: SplitName, *, n: int | None = None, space: str | None = None, seed: int = 0
) -> tuple[list[Record], list[int], list[str]]:
    """Labelled videos of a split.

    Args:
        data: the data set.
        split: of it.
        n: videos at most, drawn at random; None for all.
        space: label space, by default the first.
        seed: of the draw.

    Returns:
        Records in the data set's order, their labels, and the names of the classes.

    Raises:
        GestaError: an unknown label space.
    """
    spaces = by_space(data.classes())
    space = next(iter(spaces)) if space is None else space
    if space not in spaces:
        raise GestaError(f"the data set has no label space {space!r}{suggest(space, spaces)}")
    every = [(record, label) for record in data.records(split) if (label := label_in(record, space)) is not None]
    draw = np.random.default_rng(seed).permutation(len(every))[:n]
    chosen = [every[i] for i in sorted(draw.tolist())]
    return [record for record, _ in chosen], [label for _, label in chosen], spaces[space]


@torch.inference_mode()
def features(
    model: VideoModel,
    records: Sequence[Record],
    look: Callable[[Tensor], dict[str, Tensor]],
    *,
    device: str = "auto",
    batch_size: int = 16,
    workers: int = -1,
) -> tuple[dict[int, dict[str, np.ndarray]], list[Failure]]:
    """Features of the centre crop of every video's middle clip.

    Args:
        model: it is moved to the device and put in evaluation mode.
        records: the videos.
        look: normalised clips ``(B, 3, T, H, W)`` → name → features ``(B, D)``, by means of the model.
        device: ``auto`` takes the first accelerator there is.
        batch_size: videos per forward pass.
        workers: loader processes; -1 chooses by the numbers of videos and processors.

    Returns:
        Position in ``records`` → name → ``(D,)`` float32, and the videos that could not be read.
    """
    place = choose_device(device)
    model.to(place).eval()
    spec = model.config.clip
    workers = reading_workers(workers, len(records))
    views = TestViews(records, spec, EvaluateConfig(clips=1, crops=1))
    found: dict[int, dict[str, np.ndarray]] = {}
    failures: list[Failure] = []
    for batch in track(test_loader(views, range(len(records)), batch_size, workers), "features"):
        failures += batch["failures"]
        if len(batch["index"]):
            seen = look(to_clips(batch["video"].to(place, non_blocking=True), spec))
            columns = {name: values.float().cpu().numpy() for name, values in seen.items()}
            for row, index in enumerate(batch["index"].tolist()):
                found[index] = {name: values[row] for name, values in columns.items()}
    return found, failures
