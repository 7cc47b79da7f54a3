"""One upload to the predictions that ``gesta predict`` makes of the same file."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, field
from typing import Any

import torch

from gesta.checkpoint import TrainedModel
from gesta.checkpoint.exported import device_for
from gesta.config import Count, Fraction, NotNegative, check, config
from gesta.data.transforms import test_short_side
from gesta.errors import GestaError, VideoError
from gesta.evaluation.scoring import prediction_protocol, views_per_pass
from gesta.prediction.predict import Naming, check_input
from gesta.prediction.prediction import Prediction
from gesta.prediction.segments import Window
from gesta.prediction.timeline import SegmentNaming, TimelineConfig, scored_windows
from gesta.prediction.windows import WindowFrames
from gesta.processes import Precision, choose_autocast, choose_device, limit_threads
from gesta.recipe import EvaluateConfig
from gesta.records import LABEL, by_space
from gesta.serve.batching import ModelThread
from gesta.serve.decoding import Job
from gesta.serve.limits import Limits, Refusal
from gesta.serve.pool import DecoderPool
from gesta.video.flow import Flow
from gesta.video.modality import modality_of


@config
class Serving:
    """How a model is served.

    Attributes:
        views: how a video as a whole is shown to the model; None as in ``gesta predict``.
        timeline: how windows slide over a video; its threshold is that of a request that names none.
        threshold: least probability of a label, None for that of ``gesta predict``.
        limits: what requests may cost.
        batch_size: clips in a forward pass at most, None for what suits the device.
        batch_wait: milliseconds that a forward pass waits to be full.
        decoders: decoding processes.
        grace: seconds in which accepted requests must be answered when the server is to stop.
        device, precision: of the model.
    """

    views: EvaluateConfig | None = None
    timeline: TimelineConfig = field(default_factory=TimelineConfig)
    limits: Limits = field(default_factory=Limits)
    threshold: Fraction | None = None
    batch_size: Count | None = None
    batch_wait: NotNegative = 5.0
    decoders: Count = 2
    grace: NotNegative = 30.0
    device: str = "auto"
    precision: Precision = "32-true"


def check_serving(serving: Serving) -> None:
    """Refuse settings out of their ranges, by their flags, and a protocol that no server can follow.

    Raises:
        GestaError: the first of them.
    """
    for part in (serving.limits, serving.views, serving.timeline, serving):
        if part is not None:
            check(part, flags=True)
    if serving.views is not None and serving.views.average == "tokens":
        raise GestaError(
            "views.average is 'tokens', which joins the clips of a video, and a server scores each clip by itself; "
            "choose 'probabilities'"
        )


class Service:
    """A model with its thread and its decoding processes.

    Args:
        model: what is served.
        serving: how.
        on_restart, on_pass: as of :class:`DecoderPool` and :class:`ModelThread`.

    Raises:
        GestaError: a model that takes no single videos, or settings that do not fit it.
    """

    def __init__(
        self,
        model: TrainedModel,
        serving: Serving,
        on_restart: Callable[[], None] = lambda: None,
        on_pass: Callable[[int, float], None] = lambda clips, seconds: None,
    ) -> None:
        self.model, self.serving = model, serving
        check_serving(serving)
        self.views = serving.views or prediction_protocol(model)
        if isinstance(model.shows, Flow):
            raise GestaError("the model takes folders of optical flow, and an upload is one file; give another model")
        network = model.model
        if streams := network.config.clip.streams:
            raise GestaError(f"the model takes {' and '.join(streams)}, and an upload is one video; give another model")
        check_input(network, model.shows, model.person_crop, timeline=True)  # an upload has no masked depth
        self._naming = Naming(model, views=self.views, threshold=serving.threshold)
        self._segments = SegmentNaming(model, config=serving.timeline, views=self.views)
        device = choose_device(device_for(network, serving.device, serving.precision))
        autocast = choose_autocast(device, serving.precision)
        network.to(device).eval()
        limit_threads(device, serving.decoders)
        batch_size = serving.batch_size or views_per_pass(self.views.batch_size, device)
        how = self.views.average, device, autocast, batch_size, serving.batch_wait / 1000
        self.thread = ModelThread(network, *how, on_pass)
        self.pool = DecoderPool(serving.decoders, on_restart)
        # a timeline has its process while the model scores it: one process is left for whole videos
        self._timelines = asyncio.Semaphore(max(1, serving.decoders - 1))

    def warm_up(self) -> None:
        """Score one clip, so that the first request does not wait for what is done once.

        Raises:
            Exception: whatever the model raises.
        """
        spec = self.model.model.config.clip
        self.thread.submit(torch.zeros(1, spec.frames, spec.channels, spec.size, spec.size, dtype=torch.uint8)).result()

    @property
    def is_ready(self) -> bool:
        """Whether requests can be answered."""
        return self.thread.is_alive

    def close(self) -> None:
        """End the thread and the processes."""
        self.pool.close()
        self.thread.close()

    async def predict(self, path: str, name: str, top: int | None, threshold: float | None) -> list[Prediction]:
        """The actions of a video, see :func:`gesta.predict`; one prediction.

        Args:
            path: where the video lies.
            name: what the prediction calls it.
            top, threshold: as of that function.

        Raises:
            Refusal: it cannot be answered.
        """
        naming = copy.copy(self._naming)
        naming.top = naming.top if top is None else top
        naming.threshold = naming.threshold if threshold is None else threshold
        (clips,) = await self._in_thread(lambda: list(self.pool.decode(self._job(path, name))))
        scores = await asyncio.wrap_future(self.thread.submit(torch.from_numpy(clips.pixels)))
        means = {space: rows.mean(0) for space, rows in scores.items()}
        return _answered([naming(name, means, clips.error)])

    async def timeline(self, path: str, name: str, top: int | None, threshold: float | None) -> list[Prediction]:
        """The timed actions of a video, see :func:`gesta.prediction.timeline.timeline`; arguments as of predict.

        Raises:
            Refusal: it cannot be answered.
        """
        naming = copy.copy(self._segments)
        if top is not None and naming.network.config.multi_label:
            raise Refusal(422, "top: the segments of a multi-label model have one class each; leave it out")
        naming.top = naming.top if top is None else top
        if threshold is not None:
            naming.config = copy.copy(naming.config)
            naming.config.threshold = threshold
            if naming.config.release is not None and naming.config.release > threshold:
                raise Refusal(422, f"threshold: is below {naming.config.release:g}, at which segments end; raise it")
        windows = self._windows(self._job(path, name, naming.config))
        async with self._timelines:
            return _answered(await self._in_thread(lambda: list(naming(name, windows))))

    def _windows(self, job: Job) -> Iterator[Window]:
        """Windows with their probabilities; called in a thread of the pool, which waits for the model."""
        naming = self._segments
        for clips in self.pool.decode(job):
            if clips.times:
                pixels = torch.from_numpy(clips.pixels)
                frames = [WindowFrames(*times, part) for times, part in zip(clips.times, pixels)]
                scores = self.thread.submit(pixels).result()
                yield from scored_windows(naming.network, frames, scores, naming.spaces, self.views)
            if clips.error:
                raise VideoError(clips.error)

    def _job(self, path: str, name: str, timeline: TimelineConfig | None = None) -> Job:
        serving, spec = self.serving, self.model.model.config.clip
        return Job(path, name, spec, self.views, self.model.shows, timeline, serving.limits)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool.threads, work)

    def card(self) -> dict[str, Any]:
        """What the model is, as plain values."""
        network, serving, metadata = self.model.model, self.serving, self.model.metadata
        clip, views = network.config.clip, self.views
        return {
            "model": network.config.summary,
            "classes": self.model.classes,
            "multi_label": network.config.multi_label,
            "modality": modality_of(self.model.shows),
            "clip": asdict(clip),
            "protocol": {
                "clips": views.clips,
                "crops": views.crops,
                "coverage": views.coverage,
                "short_side": test_short_side(views.short_side, clip.size),
                "average": views.average,
                "timeline": asdict(serving.timeline),
            },
            "licence": metadata.get("licence") or None,
            "limits": asdict(serving.limits),
        }

    def summary(self) -> str:
        """One line for people."""
        spaces = by_space(self.model.classes)
        names = ", ".join(f"{len(n)} classes{'' if s == LABEL else f' of {s}'}" for s, n in spaces.items())
        return f"{self.model.model.config.summary}, {names}"


def _answered(predictions: list[Prediction]) -> list[Prediction]:
    """Predictions, if there are any besides the sentence that there are none.

    Raises:
        Refusal: the video could not be read, or the scores are not finite.
    """
    if len(predictions) == 1 and predictions[0].error and not predictions[0].labels:
        raise Refusal(422, predictions[0].error)
    return predictions
