"""What an analysis starts from: a model, the middle clip of a video, labelled videos, and features of many videos."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.checkpoint.hub import names_trained_model
from gesta.config import suggest
from gesta.data.batch import Failure
from gesta.data.clips import test_indices
from gesta.data.loader import test_loader
from gesta.data.samples import TestViews
from gesta.data.transforms import squashed
from gesta.errors import GestaError
from gesta.model import ClipSpec, VideoModel, to_clips
from gesta.models import MODELS, create_model
from gesta.models.public import load as load_trained
from gesta.plugins.ata import Alignment
from gesta.prediction.background import reading_workers
from gesta.processes import choose_device
from gesta.progress import show, track
from gesta.recipe import EvaluateConfig
from gesta.recipes.address import read_recipe
from gesta.records import DataConfig, Record, SplitName, by_space, label_in
from gesta.video.flow import Flow
from gesta.video.modality import Shows
from gesta.video.probe import probe
from gesta.video.read import read

SHORT_SIDE = 360
"""Pixels of the short side at which raw frames are drawn, if the video has as many."""


def is_model(source: str) -> bool:
    """Whether this names a model, a ``.safetensors`` file, a run folder or a hub's repository, rather than videos."""
    return source in MODELS or names_trained_model(source)


def check_model(source: str) -> None:
    """Refuse what is not a model, with the names that are near it.

    Raises:
        GestaError: it is none.
    """
    if not is_model(source):
        kinds = f"neither a run folder, a .safetensors file nor a model{suggest(source, MODELS)}"
        raise GestaError(f"{source} is {kinds} (all names: gesta models)")


def load(source: str, *, trust_code: bool = False, runs: bool = True) -> tuple[str, VideoModel]:
    """A model and what to call it.

    Args:
        source: a run folder (its best weights), a ``.safetensors`` file, a repository of a hub (``hf:owner/name``), or
            a model's name (always the same random weights).
        trust_code: see :func:`gesta.load`.
        runs: the model will see clips: say so if the running statistics of its batch norms are not trained.

    Returns:
        The name and the model, in evaluation mode.

    Raises:
        GestaError: none of these, or a file that cannot be read.
    """
    name, model, _ = load_with_encoding(source, trust_code=trust_code, runs=runs)
    return name, model


def load_with_encoding(
    source: str, *, trust_code: bool = False, runs: bool = True
) -> tuple[str, VideoModel, Shows | None]:
    """As :func:`load`, and how depth or optical flow was shown to the model in training; None for RGB."""
    shows: Shows | None = None
    if source in MODELS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            name, model = f"{source} (random weights)", create_model(source).eval()
    else:
        check_model(source)
        trained = load_trained(source, trust_code=trust_code)
        name, model, shows = source.rstrip("/"), trained.model, trained.shows
    # those of pooled features are behind every map
    norms = [norm for norm in model.modules() if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d)]
    if runs and norms and not any(norm.running_mean.any() for norm in norms if norm.running_mean is not None):
        reason = "the running statistics of its batch norms are not trained, so that feature maps and attention"
        show(f"warning: {name}: {reason} are not those of a training step; give the folder of a run", sys.stderr)
    return name, model, shows


# --- one clip --------------------------------------------------------------------------------------------------------


def read_clip(video: str | os.PathLike[str], spec: ClipSpec, shows: Shows | None = None) -> Tensor:
    """The frames of a test's middle clip, cut to the square that its centre crop shows, in more pixels.

    Args:
        video: file or folder of frames.
        spec: frames, sampling and squashing of the model.
        shows: how the model was shown depth in training; None for RGB.

    Returns:
        ``(T, 3, S, S)`` uint8, S at most 224/256 of :data:`SHORT_SIDE`.

    Raises:
        GestaError: an unreadable video, or optical flow, whose numbers depend on the size at which it is shown.
    """
    if isinstance(shows, Flow):
        raise GestaError(
            f"{video}: the model sees optical flow, of which this figure is not drawn; give a model of RGB"
        )
    info = probe(video, shows=shows)
    short = min(info.width, info.height, SHORT_SIDE)
    frames = read(video, lambda n: test_indices(n, spec, 1, "even", "loop")[0], short_side=short, shows=shows)
    frames = squashed(frames) if spec.squash else frames
    side = round(min(frames.shape[-2:]) * 224 / 256)
    top, left = ((length - side) // 2 for length in frames.shape[-2:])
    return frames[..., top : top + side, left : left + side]


def as_input(clip: Tensor, model: VideoModel) -> Tensor:
    """Raw square frames ``(T, 3, S, S)`` uint8 of any size as the model expects them, ``(1, 3, T, size, size)``."""
    spec = model.config.clip
    raw = clip.to(next(model.parameters()).device).float()
    small = F.interpolate(raw, (spec.size, spec.size), mode="bilinear", antialias=True, align_corners=False)
    return to_clips(small[None, None], spec)


def after_time(model: VideoModel, block: int) -> str:
    """The tap after the temporal modelling of a block: inside it, before it by an insert, or else the block's end.

    Raises:
        GestaError: no such block.
    """
    check_block(model, block)
    known = model.tap_names()
    taps = (f"temporal.{block}", f"insert.{block}", f"block.{block}")
    return next(name for name in taps if name in known)


def check_block(model: VideoModel, block: int) -> None:
    """Refuse a block that a model does not have.

    Raises:
        GestaError: it has none of this number.
    """
    if not 0 <= block < len(model.blocks):
        name, last = type(model).__name__, len(model.blocks) - 1
        raise GestaError(f"{name} has blocks 0 to {last}, not {block}; choose another --block")


def check_places(name: str, model: VideoModel) -> None:
    """Refuse a model whose maps are not in the frames' own layout.

    Raises:
        GestaError: ATA leaves its tokens where their routes lead.
    """
    if any(isinstance(module, Alignment) and not module.config.dealign for module in model.modules()):
        raise GestaError(
            f"{name}: its maps stay permuted by ATA (dealign False), so that nothing can be said of places in them; "
            "give a model that puts them back"
        )


# --- many videos -----------------------------------------------------------------------------------------------------


def run_data(source: str, *, trust_code: bool = False) -> DataConfig:
    """The data set that a run was trained on.

    Args:
        source: run folder, or a file in one.
        trust_code: as in :func:`gesta.load`.

    Raises:
        GestaError: no ``recipe.json`` there.
    """
    path = Path(source)
    recipe = (path if path.is_dir() else path.parent) / "recipe.json"
    if not recipe.is_file():
        raise GestaError(f"{source}: no recipe.json beside it, so say which videos: --data folder --data.root DIR")
    return read_recipe(recipe, trust_code=trust_code).data


def labelled_videos(
    data: DataConfig, split: SplitName, *, max_videos: int | None = None, space: str | None = None, seed: int = 0
) -> tuple[list[Record], list[int], list[str]]:
    """Labelled videos of a split.

    Args:
        data: the data set.
        split: of it.
        max_videos: videos at most, drawn at random; None for all.
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
    if data.is_multi_label():
        raise GestaError("this analysis needs one class per video, and the data set is multi-label; give another")
    labels = ((record, label_in(record, space)) for record in data.records(split))
    labelled = [(record, label) for record, label in labels if isinstance(label, int)]
    drawn = np.random.default_rng(seed).permutation(len(labelled))[:max_videos]
    chosen = [labelled[i] for i in sorted(drawn.tolist())]
    return [record for record, _ in chosen], [label for _, label in chosen], spaces[space]


@torch.inference_mode()
def extract_features(
    model: VideoModel,
    records: Sequence[Record],
    features_of: Callable[[Tensor], dict[str, Tensor]],
    *,
    device: str = "auto",
    batch_size: int = 16,
) -> tuple[dict[int, dict[str, np.ndarray]], list[Failure]]:
    """Features of the centre crop of every video's middle clip.

    Args:
        model: it is moved to the device and put in evaluation mode.
        records: the videos.
        features_of: normalised clips ``(B, 3, T, H, W)`` → name → features ``(B, D)``, by means of the model.
        device: ``auto`` takes the first accelerator there is.
        batch_size: videos per forward pass.

    Returns:
        Position in ``records`` → name → ``(D,)`` float32, and the videos that could not be read.
    """
    chosen_device = choose_device(device)
    model.to(chosen_device).eval()
    spec, workers = model.config.clip, reading_workers(-1, len(records))
    views = TestViews(records, spec, EvaluateConfig(clips=1, crops=1))
    features: dict[int, dict[str, np.ndarray]] = {}
    failures: list[Failure] = []
    for batch in track(test_loader(views, range(len(records)), batch_size, workers), "features"):
        failures += batch["failures"]
        if len(batch["index"]):
            computed = features_of(to_clips(batch["video"].to(chosen_device, non_blocking=True), spec))
            columns = {name: values.float().cpu().numpy() for name, values in computed.items()}
            for row, index in enumerate(batch["index"].tolist()):
                features[index] = {name: values[row] for name, values in columns.items()}
    return features, failures


def list_failures(failures: Sequence[Failure]) -> list[str]:
    """A line for each of the first ten videos that could not be read, and one for the number of the others."""
    lines = [f"failed: {failure.name}: {failure.reason}" for failure in failures[:10]]
    return lines + [f"… and {len(failures) - 10} more"] * (len(failures) > 10)
