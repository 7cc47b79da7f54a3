"""Files and folders of videos -> ranked actions: one answer per video, with the protocol of the evaluation.

Hours-long videos, cameras and timed answers are :mod:`gesta.prediction.timeline`'s.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import queue
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from gesta.data.loader import test_loader
from gesta.data.samples import TestViews
from gesta.errors import GestaError
from gesta.model import VideoModel, to_clips
from gesta.prediction.answer import Prediction
from gesta.prediction.writers import Format
from gesta.recipe import EvaluateConfig
from gesta.records import Record
from gesta.video.depth import Depth
from gesta.video.find import find_videos

T = TypeVar("T")

Classes = Sequence[str] | dict[str, list[str]]
"""Class names in label order, or one such list per label space (verb, noun)."""

MANY = 64
"""From this many videos on, loader processes are started unless a number of them is asked for."""


def find_sources(sources: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Every video meant by files, frame folders, folders of videos (searched below) and shell patterns, in order.

    What does not exist is kept: reading it gives the sentence that says so.
    """
    found: list[str] = []
    for named in sources:
        source = os.fspath(named)
        matches = [source]
        if not os.path.exists(source) and glob.has_magic(source):
            matches = sorted(glob.glob(source, recursive=True)) or matches
        for match in matches:
            found += (find_videos(match) or [match]) if os.path.isdir(match) else [match]
    return list(dict.fromkeys(found))


def predict(
    model: VideoModel,
    classes: Classes,
    sources: Sequence[str | os.PathLike[str]],
    *,
    views: EvaluateConfig | None = None,
    top: int = 5,
    device: str | torch.device = "auto",
    depth: Depth | None = None,
    person_crop: bool = False,
) -> Iterator[Prediction]:
    """One ranked list of actions per video, in the order of the sources.

    Args:
        model: a trained model; it is moved to ``device`` and put into evaluation mode.
        classes: class names in label order.
        sources: see :func:`find_sources`.
        views: the protocol, as in evaluation: clips, crops, short side, averaging, batch size, workers, decoder.
        top: number of classes to name.
        device: ``auto`` takes the first accelerator there is.
        depth: the sources show depth, and how it was shown to the model in training: ``Loaded.depth`` of its file.
        person_crop: crop folders of masked depth maps to the person, as in training: ``Loaded.person_crop``. Of
            anything else nobody knows where the person is; it is shown whole.

    Yields:
        One :class:`Prediction` per video; for a video that cannot be read, one with ``error``.

    Raises:
        GestaError: the class names do not fit the model.
    """
    views = views or EvaluateConfig()
    spec = model.config.clip
    spaces = class_names(model, classes)
    names = joint_names(spaces)
    place = choose_device(device)
    model.to(place).eval()
    paths = find_sources(sources)
    masked = person_crop and depth is not None
    records = [
        Record(path=path, name=path, depth=depth, masks=path if masked and os.path.isdir(path) else "")
        for path in paths
    ]
    dataset = TestViews(records, spec, views)
    contiguous = views.coverage == "contiguous"
    batch = 1 if contiguous else max(1, views.batch_size // (views.clips * views.crops))
    # Loader processes take seconds to start; for few videos a thread, which is there at once, decodes beside the model.
    workers = 0 if views.workers < 0 and len(paths) < MANY else views.workers
    for loaded in in_background(test_loader(dataset, range(len(paths)), batch, workers), size=2):
        answers = {f.index: Prediction(path=paths[f.index], error=f.reason) for f in loaded["failures"]}
        for index, video in zip(loaded["index"].tolist(), loaded["video"], strict=True):
            scores = score_views(model, video, views.batch_size, place)
            labels = rank(average_views(scores, spaces, views.average), names, top)
            answers[index] = Prediction(path=paths[index], labels=labels)
        for index in sorted(answers):
            yield answers[index]


# --- from pixels to ranked names; shared with the timeline -----------------------------------------------------------


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The named device, or with ``auto`` the first accelerator there is, else the processor."""
    if device != "auto":
        return torch.device(device)
    found = torch.accelerator.current_accelerator(check_available=True) if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def class_names(model: VideoModel, classes: Classes) -> dict[str, list[str]]:
    """Class names by label space (a single one is called ``label``), checked against the model's classifier."""
    names = {k: list(v) for k, v in classes.items()} if isinstance(classes, dict) else {"label": list(classes)}
    wanted = model.config.classes
    sizes = wanted if isinstance(wanted, dict) else {"label": wanted}
    if not all(sizes.values()):
        raise GestaError("this model gives features, not classes (classes=0): train a classifier before predicting")
    if {k: len(v) for k, v in names.items()} != sizes:
        have, want = (
            ", ".join(f"{count} {space}s" for space, count in counts.items())
            for counts in ({k: len(v) for k, v in names.items()}, sizes)
        )
        raise GestaError(f"names are given for {have}, but the model has {want}: use the list it was trained with")
    return names


def joint_names(names: dict[str, list[str]]) -> list[str]:
    """Names of all combinations of the label spaces, in the order of :func:`average_views`."""
    return [" ".join(parts) for parts in itertools.product(*names.values())]


@torch.inference_mode()
def score_views(model: VideoModel, video: Tensor, batch_size: int, device: torch.device) -> dict[str, Tensor]:
    """Logits of all views of one video (or of any clips).

    Args:
        video: ``(V, T, C, H, W)`` uint8.
        batch_size: views per forward pass; on a processor 2 at most, as more are hardly faster and take memory.

    Returns:
        Per label space ``(V, K)`` float32 on the processor.
    """
    if device.type == "cpu":
        batch_size = min(batch_size, 2)
    parts: dict[str, list[Tensor]] = {}
    for chunk in video.split(batch_size):
        scores = model(to_clips(chunk.to(device, non_blocking=True).unsqueeze(0), model.config.clip))
        for space, values in (scores if isinstance(scores, dict) else {"label": scores}).items():
            parts.setdefault(space, []).append(values.float())
    return {space: torch.cat(values).cpu() for space, values in parts.items()}


def average_views(
    scores: dict[str, Tensor], spaces: Iterable[str], average: Literal["probabilities", "logits"]
) -> Tensor:
    """``(V, K)`` logits per label space -> joint probabilities ``(K,)``, K being the product of the spaces' sizes.

    Views are averaged before or after the softmax; label spaces are taken as independent, so their probabilities
    multiply.
    """
    joint = torch.ones(1)
    for space in spaces:
        logits = scores[space]
        p = logits.mean(0).softmax(-1) if average == "logits" else logits.softmax(-1).mean(0)
        joint = torch.outer(joint, p).flatten()
    return joint


def rank(probabilities: Tensor, names: Sequence[str], top: int) -> tuple[tuple[str, float], ...]:
    """The ``top`` most probable of the named classes, best first."""
    p, index = probabilities.topk(min(top, len(probabilities)))
    return tuple((names[i], v) for i, v in zip(index.tolist(), p.tolist()))


def in_background(items: Iterable[T], size: int, drop: bool = False) -> Generator[T, None, None]:
    """Run an iteration in a thread, at most ``size`` items ahead; with ``drop`` the oldest waiting item makes room."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(size)
    stop = threading.Event()

    def put(item: T | None, error: BaseException | None = None, keep: bool = False) -> None:
        while not stop.is_set():
            try:
                return ready.put((item, error), timeout=0.1 if keep or not drop else 0)
            except queue.Full:
                if drop and not keep:
                    with contextlib.suppress(queue.Empty):
                        ready.get_nowait()

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    break
            put(None, keep=True)
        except Exception as error:
            put(None, error, keep=True)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stop.set()


def run(
    model: VideoModel,
    classes: Classes,
    sources: Sequence[str],
    *,
    views: EvaluateConfig | None = None,
    top: int = 5,
    device: str = "auto",
    timeline: bool = False,
    window: float | None = None,
    hop: float = 0.5,
    smoothing: int = 3,
    threshold: float = 0.5,
    min_duration: float = 0.0,
    format: Format = "table",
    out: str | None = None,
    draw: str | None = None,
    depth: Depth | None = None,
    person_crop: bool = False,
) -> int:
    """What ``gesta predict`` does: answer, write the answers to ``out`` (or print them), draw them onto a copy.

    Cameras and streams have no end, so they always get a timeline; its lines appear as they are decided.

    Returns:
        The exit status: 1 if any source had no answer, else 0.
    """
    from gesta.prediction.annotate import annotate
    from gesta.prediction.timeline import is_live
    from gesta.prediction.timeline import timeline as segments
    from gesta.prediction.writers import write

    live = any(is_live(source) for source in sources)
    paths = list(sources) if live else find_sources(sources)
    if person_crop and (depth is None or timeline or live):
        print("the model was trained on pictures cropped to the person; these are shown to it whole", file=sys.stderr)
    if draw and not (timeline and len(paths) == 1 and not live):
        raise GestaError("--draw needs --timeline and exactly one video that can be read twice")
    answers: Iterator[Prediction]
    if timeline or live:
        answers = itertools.chain.from_iterable(
            segments(
                model,
                classes,
                path,
                views=views,
                top=top,
                device=device,
                window=window,
                hop=hop,
                smoothing=smoothing,
                threshold=threshold,
                min_duration=min_duration,
                depth=depth,
            )
            for path in paths
        )
    else:
        answers = predict(
            model, classes, paths, views=views, top=top, device=device, depth=depth, person_crop=person_crop
        )
    if live and format == "table":
        format = "text"
    if out:
        try:
            file = open(out, "w", encoding="utf-8", newline="")  # noqa: SIM115
        except OSError as error:
            raise GestaError(f"{out}: cannot be written ({error.strerror}); choose another place") from None
        with file:
            done = write(answers, format, file)
    else:
        done = write(answers, format, sys.stdout)
    for path in paths:
        if not any(p.path == path for p in done):
            print(f"{path}: no action reaches a probability of {threshold} (--threshold)", file=sys.stderr)
    if draw:
        annotate(paths[0], done, draw)
    return int(any(p.error for p in done))
