"""Files and folders of videos -> ranked actions: one prediction per video, of pictures at the scale of the evaluation.

Hours-long videos, cameras and timed actions are :mod:`gesta.prediction.timeline`'s.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from gesta.checkpoint import TrainedModel
from gesta.checkpoint.exported import device_for
from gesta.errors import GestaError
from gesta.evaluation.metrics import THRESHOLD
from gesta.evaluation.scoring import (
    check_average,
    joint_names,
    joint_probabilities,
    named_classes,
    prediction_protocol,
    protocol,
    rank,
    score_videos,
    view_loader,
    views_per_pass,
    why_not_finite,
)
from gesta.model import VideoModel
from gesta.prediction.background import in_background, reading_workers
from gesta.prediction.prediction import TOP, Prediction, check_top
from gesta.processes import Autocast, Precision, choose_autocast, choose_device
from gesta.recipe import EvaluateConfig
from gesta.records import ClassNames, Record
from gesta.video.depth import Depth
from gesta.video.find import find_videos, unknown_files
from gesta.video.modality import Shows, modality_of

Source = str | os.PathLike[str]


def find_sources(sources: Source | Sequence[Source]) -> list[str]:
    """Every video meant by files, frame folders, folders of videos (searched below) and shell patterns, in order.

    What does not exist is kept: reading it gives the sentence that says so.
    """
    paths: list[str] = []
    for match in _matches(sources):
        paths += (find_videos(match) or [match]) if os.path.isdir(match) else [match]
    return list(dict.fromkeys(paths))


def find_left_out(sources: Source | Sequence[Source]) -> list[str]:
    """The files in the same folders that :func:`find_sources` leaves out, since their suffixes are of no videos."""
    folders = filter(os.path.isdir, _matches(sources))
    return list(dict.fromkeys(path for folder in folders for path in unknown_files(folder)))


def _matches(sources: Source | Sequence[Source]) -> Iterator[str]:
    for source in [sources] if isinstance(sources, str | os.PathLike) else sources:
        pattern = os.fspath(source)
        matches = [pattern]
        if not os.path.exists(pattern) and glob.has_magic(pattern):
            matches = sorted(glob.glob(pattern, recursive=True)) or matches
        yield from matches


def predict(
    model: TrainedModel | VideoModel,
    sources: Source | Sequence[Source],
    *,
    classes: ClassNames | None = None,
    views: EvaluateConfig | None = None,
    clips: int | None = None,
    crops: Literal[1, 3] | None = None,
    top: int | None = None,
    threshold: float | None = None,
    device: str | torch.device = "auto",
    precision: Precision = "32-true",
    shows: Shows | None = None,
    person_crop: bool | None = None,
) -> Iterator[Prediction]:
    """One ranked list of actions per video, in the order of the sources.

    Args:
        model: what :func:`gesta.load` gives, or a network; it is moved to ``device`` and put into evaluation mode.
        sources: one or several, see :func:`find_sources`.
        classes: class names in label order, by label space if there are several. None takes those of the trained
            model; a network's classes are then called ``"0"``, ``"1"`` ….
        views: the protocol, as in evaluation: clips, crops, short side, averaging, batch size, workers, decoder.
            None is :func:`gesta.evaluation.scoring.prediction_protocol`, as in ``gesta predict``.
        clips, crops: change these fields of ``views``.
        top: number of classes to name; None is 5, or for a multi-label model all that reach the threshold.
        threshold: least probability of a class that is named; None is 0, or 0.5 for a multi-label model.
        device: ``auto`` takes the first accelerator there is.
        precision: of the forward passes.
        shows: what the sources show, and how it was shown to the model in training; None takes it from the trained
            model, or is RGB.
        person_crop: crop folders of masked depth maps to the person, as in training; None takes it from the trained
            model. In anything else it is not known where the person is, so it is shown whole.

    Returns:
        One :class:`Prediction` per video, computed as they are asked for; for a video that cannot be read, one with
        ``error``, for one whose end is missing one with labels and ``error``.

    Raises:
        GestaError: at once, the class names do not fit the model; a device or precision that it cannot be computed
            with; a model of several streams of which none is what the sources show.
    """
    views = protocol(views or prediction_protocol(model), clips=clips, crops=crops)
    naming = Naming(model, classes=classes, views=views, top=top, threshold=threshold)
    network = naming.network
    if isinstance(model, TrainedModel):
        shows = model.shows if shows is None else shows
        person_crop = model.person_crop if person_crop is None else person_crop
    device = choose_device(device_for(network, device, precision))
    autocast = choose_autocast(device, precision)
    check_input(network, shows, bool(person_crop))
    paths = find_sources(sources)
    records = [record_of(path, shows, bool(person_crop)) for path in paths]
    return _predict(naming, records, views, device, autocast)


def _predict(
    naming: Naming, records: list[Record], views: EvaluateConfig, device: torch.device, autocast: Autocast
) -> Iterator[Prediction]:
    network, paths = naming.network, [record.path for record in records]
    network.to(device).eval()
    # For few videos a thread, which is there at once, decodes beside the model.
    workers = reading_workers(views.workers, len(paths))
    loader = view_loader(records, network.config.clip, views, range(len(paths)), workers)
    batch_size = views_per_pass(views.batch_size, device)
    for batch in in_background(loader, size=2):
        predictions = {f.index: Prediction(path=paths[f.index], error=f.reason) for f in batch["failures"]}
        broken = {f.index: f.reason for f in batch["partial"]}
        for video in score_videos(network, [batch], views, batch_size, device, autocast):
            predictions[video.index] = naming(paths[video.index], video.scores, broken.get(video.index, ""))
        yield from (predictions[index] for index in sorted(predictions))


def check_input(network: VideoModel, shows: Shows | None, person_crop: bool, timeline: bool = False) -> None:
    """Warn of videos that show a model less than it was trained on: one of its streams, or no crops around the person.

    Args:
        network: the model.
        shows: what the videos show, see :func:`predict`.
        person_crop: it was trained on crops around the person, which only masked depth gives, and no timeline.
        timeline: windows of the videos are shown.

    Raises:
        GestaError: videos that show none of the model's streams.
    """
    streams, shown = network.config.clip.streams, modality_of(shows)
    if streams and shown not in streams:
        raise GestaError(f"the model takes {' and '.join(streams)}, and these videos show {shown}: give another model")
    if missing := [stream for stream in streams if stream != shown]:
        text = f"the model takes {' and '.join(streams)}, and these videos show {shown} alone: it is scored without "
        warnings.warn(text + " and ".join(missing), stacklevel=3)
    if person_crop and (timeline or shown != "depth"):
        text = "the model was trained on crops around the person; these videos are shown to it whole"
        warnings.warn(text, stacklevel=3)


class Naming:
    """How the scores of a video become its prediction.

    Args:
        model, classes, views, top, threshold: as of :func:`predict`.

    Raises:
        GestaError: class names or a protocol that do not fit the model, a threshold that is no probability, or
            ``top`` below 1.
    """

    def __init__(
        self,
        model: TrainedModel | VideoModel,
        *,
        views: EvaluateConfig,
        classes: ClassNames | None = None,
        top: int | None = None,
        threshold: float | None = None,
    ) -> None:
        self.network, self.spaces = named_classes(model, classes)
        check_average(self.network, views)
        self.average, self.multi_label = views.average, self.network.config.multi_label
        self.names = joint_names(self.spaces)
        self.top = top if top is not None else len(self.names) if self.multi_label else TOP
        check_top(top)
        self.threshold = threshold if threshold is not None else THRESHOLD if self.multi_label else 0.0
        if not 0 <= self.threshold <= 1:
            raise GestaError(
                f"the threshold is {self.threshold:g}, and probabilities are from 0 to 1; give another (--threshold)"
            )
        self._not_finite = ""

    def __call__(self, path: str, scores: dict[str, Tensor], error: str = "") -> Prediction:
        """The prediction of a video.

        Args:
            path: of the video.
            scores: by label space ``(K,)``, the mean over its views.
            error: why its end is missing.
        """
        probabilities = joint_probabilities(scores, self.spaces, self.average, self.multi_label)
        if not probabilities.isfinite().all():
            self._not_finite = self._not_finite or why_not_finite(self.network)
            return Prediction(path=path, error=self._not_finite)
        labels = rank(probabilities, self.names, self.top, self.threshold)
        return Prediction(path=path, labels=labels, error=error)


def record_of(path: str, shows: Shows | None, person_crop: bool) -> Record:
    """A video to be read as the videos of a training were: ``shows`` and ``person_crop`` of the trained model."""
    masked = person_crop and isinstance(shows, Depth) and os.path.isdir(path)
    return Record(path=path, name=path, shows=shows, masks=path if masked else "")
