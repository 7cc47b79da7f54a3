"""The result of an evaluation, with everything it depends on written beside the numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gesta.checkpoint import write_atomically
from gesta.errors import GestaError
from gesta.evaluation.metrics import ACTION, headline, measure_parts, measure_spaces
from gesta.progress import plain_text
from gesta.records import LABEL

FORMAT = 1
"""Version of ``result.json``; files with a greater one are refused."""


@dataclass(kw_only=True)
class ModelSource:
    """Which model was evaluated.

    Attributes:
        summary: the system and its plug-ins in one line; of a fused result those of all models.
        config: its configuration as JSON; of a fused result how it was fused (``fused``, ``weights``) and, under
            ``of``, what.
        config_sha256: hash of it.
        checkpoint: file of the weights, ``checkpoint_sha256`` its hash; None if the model was not read from a file.
    """

    summary: str
    config: dict[str, Any]
    config_sha256: str
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None


@dataclass(kw_only=True)
class Protocol:
    """How videos became scores. A field in which fused results differ holds all of their values as text.

    Attributes:
        split: which split.
        clips: per video; None: as many as it holds.
        crops: per clip.
        coverage, short_videos, average: as in :class:`gesta.recipe.EvaluateConfig`.
        sampling: frames of a clip in the field's words: ``dense 16×4``, ``dense 16×32 or less`` (its stride shrinks in
            short videos) or ``uniform 16``; of a model of several streams also which of them it saw.
        short_side, size: pixels of the short side before cropping and of the square crop.
    """

    split: str
    clips: int | str | None
    crops: int | str
    coverage: str
    sampling: str
    short_videos: str
    short_side: int | str
    size: int | str
    average: str

    @property
    def views(self) -> str:
        """The views of a video in words, ``4 clips × 3 crops``."""
        clips = "whole video" if self.clips is None else f"{self.clips} clip" + "s" * (self.clips != 1)
        return f"{clips} × {self.crops} crop" + "s" * (self.crops != 1)


@dataclass(kw_only=True)
class Environment:
    """Software and hardware that computed the scores.

    Attributes:
        decoder: name and version.
        precision: as Lightning Fabric names it.
        device: type and name of the device.
        torch, gesta: versions.
    """

    decoder: str
    precision: str
    device: str
    torch: str
    gesta: str


@dataclass(kw_only=True)
class Counts:
    """Numbers of videos, and of views.

    Attributes:
        listed: videos in the list; ``labelled`` of them have a label; ``decoded`` could be read; ``scored`` have finite
            scores; ``failed`` are the others.
        views: all that were scored.
    """

    listed: int
    labelled: int
    decoded: int
    scored: int
    failed: int
    views: int


@dataclass(kw_only=True)
class Scores:
    """The scores of every listed video, in list order, and what follows from them. A single label space is ``label``.

    Attributes:
        classes: class names by label space.
        names: of the videos; ``labels`` and ``values`` are parallel to it.
        labels: by label space, None where unknown.
        values: scores by label space, averaged over views, 7 significant digits; None where the video failed.
        per_class: by label space, percent of each class's videos, failed ones wrong; None for a class without videos.
        confusion: by label space, numbers of scored videos, rows true, columns predicted.
        attributes: attribute → its value for every class (Diving48: takeoff, somersault, twist, position).
        groups: part of the list → label space or ``action`` → positions in it (EPIC-KITCHENS-100: unseen participants
            and tail classes).
    """

    classes: dict[str, list[str]]
    names: list[str]
    labels: dict[str, list[int | None]]
    values: dict[str, list[list[float] | None]]
    per_class: dict[str, list[float | None]] = field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    attributes: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def measure(self, average: Literal["probabilities", "logits"]) -> dict[str, float]:
        """Compute accuracies of classes and confusion matrices from the values; give the metrics.

        Args:
            average: what the values are.
        """
        metrics, self.per_class, self.confusion = measure_spaces(self.values, self.labels, self.classes, average)
        return metrics | measure_parts(self.values, self.labels, average, self.attributes, self.groups)

    def counts(self, decoded: int, views: int) -> Counts:
        """The numbers of videos; a video without values has failed."""
        listed, (values, *_) = len(self.names), self.values.values()
        scored = sum(row is not None for row in values)
        labelled = sum(any(column[i] is not None for column in self.labels.values()) for i in range(listed))
        return Counts(
            listed=listed, labelled=labelled, decoded=decoded, scored=scored, failed=listed - scored, views=views
        )

    def right(self, space: str = LABEL) -> list[bool | None]:
        """For each video whether its most probable class is right; a failed one is wrong, None where unlabelled."""
        return [
            None if label is None else values is not None and int(np.argmax(values)) == label
            for label, values in zip(self.labels[space], self.values[space])
        ]


@dataclass(kw_only=True)
class Result:
    """The result of an evaluation and everything that it depends on; what ``result.json`` holds.

    Nothing but ``seconds`` depends on how many processes shared the work.

    Attributes:
        metrics: percent: ``top1``, ``top5`` (the first min(5, classes)) and ``mean_class``, over all labelled videos of
            the list, of which the failed ones count as wrong; ``top1_scored`` … without the failed ones. With several
            label spaces the names are ``verb/top1`` …; verb and noun together have ``action/top1`` and ``action/top5``.
            What attributes and groups name has its top-1 as ``attribute/twist`` …, ``unseen/verb`` ….
        model, protocol, environment: what was evaluated, how, and by what.
        data: configuration of the data set as JSON, None if the records came from elsewhere.
        list_hash: SHA-256 of names, segments and labels in order.
        counts: numbers of videos and views.
        failures: ``{"index", "name", "reason"}`` of every failed video.
        partial: likewise scored videos of which something was missing: of fused results, one of the results; of a
            model of several streams, one of the streams.
        seconds: it took.
        scores: of every video.
    """

    metrics: dict[str, float]
    model: ModelSource
    data: dict[str, Any] | None
    list_hash: str
    protocol: Protocol
    environment: Environment
    counts: Counts
    failures: list[dict[str, Any]]
    partial: list[dict[str, Any]]
    seconds: float
    scores: Scores

    @property
    def top1(self) -> float | None:
        """Top-1 accuracy in percent (see :func:`gesta.evaluation.metrics.headline`), None if nothing is labelled."""
        return headline(self.metrics)

    def to_json(self) -> dict[str, Any]:
        """All fields, with the version of the format in front."""
        fields = {name: dict(vars(value)) if name in PARTS else value for name, value in vars(self).items()}
        return {"format": FORMAT, **fields}

    def write(self, path: str | Path) -> Path:
        """Write as JSON, one field per line; the file is there whole or not at all."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as file:
            file.write(("{\n" + ",\n".join(self._lines()) + "\n}\n").encode())
        return Path(path)

    def _lines(self) -> Iterator[str]:
        for name, value in self.to_json().items():
            text = json.dumps(value, ensure_ascii=False)
            if name == "scores":  # the long ones
                inner = (f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items())
                text = "{\n" + ",\n".join(inner) + "\n}"
            yield f"{json.dumps(name)}: {text}"

    @classmethod
    def read(cls, path: str | Path) -> Result:
        """Read what :meth:`write` wrote.

        Raises:
            GestaError: no such file, not a result, or one of a later version.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise GestaError(f"{path}: cannot be read ({error.strerror}); gesta evaluate writes a result") from None
        except ValueError:
            raise GestaError(f"{path}: this is not JSON, or it was cut short; evaluate again") from None
        if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
            raise GestaError(f"{path}: this is not a result of gesta evaluate, or one without a format number")
        if fields.pop("format") > FORMAT:
            raise GestaError(f"{path}: written by a later version of gesta; upgrade gesta")
        try:
            return cls(**{name: PARTS[name](**value) if name in PARTS else value for name, value in fields.items()})
        except TypeError as error:
            raise GestaError(
                f"{path}: this is not a complete result ({str(error).partition('() ')[2]}); evaluate again"
            ) from None

    def __str__(self) -> str:
        from rich.table import Table

        scores, counts, how = self.scores, self.counts, self.protocol
        numbers = Table(title=f"{self.model.summary}, split {self.protocol.split}", title_justify="left")
        for column in ("", "top-1 %", "top-5 %", "mean class %"):
            numbers.add_column(column, justify="right" if column else "left")
        several = [*scores.classes, ACTION] if len(scores.classes) > 1 else []
        for prefix, name in [(f"{space}/", f"{space}: ") for space in several] or [("", "")]:
            for end, what in (("", "all labelled videos"), ("_scored", "without failed ones")):
                if f"{prefix}top1{end}" in self.metrics and (counts.failed or not end):
                    values = (self.metrics.get(f"{prefix}{key}{end}") for key in ("top1", "top5", "mean_class"))
                    numbers.add_row(name + what, *("" if value is None else f"{value:.2f}" for value in values))
        lines = [
            f"{counts.scored} of {counts.listed} videos scored, {counts.failed} failed"
            + (" (counted as wrong)" if counts.failed else ""),
            f"{how.views}, {how.sampling}, {how.size} px of {how.short_side}, mean of {how.average}",
        ]
        for attribute in scores.attributes:
            lines.append(f"{attribute}: {self.metrics[f'attribute/{attribute}']:.2f} % right")
        if scores.attributes:
            lines.append(f"all of {', '.join(scores.attributes)}: {self.metrics['attribute/all']:.2f} % right")
        for part, spaces in scores.groups.items():
            each = (f"{s} {self.metrics[f'{part}/{s}']:.2f} % of {len(at)} videos" for s, at in spaces.items())
            lines.append(f"{part}, top-1: " + ", ".join(each))
        for stream in self.model.config.get("of", []):
            alone = stream["counts"]
            lines.append(f"{stream['name']} alone: {alone['scored']} scored, {alone['failed']} failed")
        if self.partial:
            videos = "1 video was" if len(self.partial) == 1 else f"{len(self.partial)} videos were"
            lines.append(f"{videos} scored without a part that was missing:")
            lines += [f"  {f['name']}: {f['reason']}" for f in self.partial[:10]]
        lines += [f"  failed: {f['name']}: {f['reason']}" for f in self.failures[:10]]
        if counts.failed > 10:
            lines.append(f"  … and {counts.failed - 10} more, all in the result")
        for space, per_class in scores.per_class.items():
            worst = sorted((value, name) for value, name in zip(per_class, scores.classes[space]) if value is not None)
            if worst[1:] and worst[0][0] < 100:
                where = "" if len(scores.classes) == 1 else f" ({space})"
                lines.append(f"weakest classes{where}: " + ", ".join(f"{n} {v:.0f} %" for v, n in worst[:5] if v < 100))
        return plain_text(*[numbers] * bool(numbers.rows), *lines)


PARTS: dict[str, type] = {
    "model": ModelSource,
    "protocol": Protocol,
    "environment": Environment,
    "counts": Counts,
    "scores": Scores,
}
"""Fields of a result that are records of their own."""


def json_hash(value: Any) -> str:
    """SHA-256 of a JSON value, the same for any order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
