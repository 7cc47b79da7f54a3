"""The result of an evaluation, with everything it depends on written beside the numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np

from gesta.config import Between, from_json, read_json
from gesta.errors import GestaError
from gesta.evaluation.metrics import (
    ACTION,
    THRESHOLD,
    Average,
    headline,
    measure_parts,
    measure_spaces,
    metrics_in,
    predicted_classes,
)
from gesta.files import make_folder, write_text
from gesta.progress import json_text, plain_text

FORMAT = 1
"""Version of ``result.json``; files with a greater one are refused."""

MAX_BYTES = 2**30
"""Size that a ``result.json`` may have: the scores of 100,000 videos for 1,000 classes."""

FIGURES = ("precision", "recall", "f1")
"""What ``Scores.figures`` holds of each class."""

NAMED = 5
"""Classes that a line of a result names at most."""

Count = Annotated[int, Between(0)]
Percent = Annotated[float, Between(0, 100)]


class Remark(TypedDict):
    """A video of a list that failed, or of which something was missing, and why."""

    index: Count
    name: str
    reason: str


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
        squash: whether whole frames were scaled to squares before cropping, as ``ClipSpec.squash`` says.
    """

    split: str
    clips: int | str | None
    crops: int | str
    coverage: str
    sampling: str
    short_videos: str
    short_side: int | str
    size: int | str
    average: Average
    squash: bool | str = False

    @property
    def averaged(self) -> str:
        """What was averaged over the views, in words."""
        if self.average == "tokens":
            return "probabilities of each crop, whose clips were joined along their tokens,"
        return f"{self.average} of the views"

    @property
    def frame(self) -> str:
        """What is cropped, in words: ``a short side of 256 px``."""
        squashed = (
            "" if self.squash is False else f", squashed to a square{'' if self.squash is True else f': {self.squash}'}"
        )
        return f"a short side of {self.short_side} px{squashed}"

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

    listed: Count
    labelled: Count
    decoded: Count
    scored: Count
    failed: Count
    views: Count


class FusedSource(TypedDict):
    """One of several results that were fused."""

    name: str
    model: ModelSource
    data: dict[str, Any] | None
    average: str
    counts: Counts
    metrics: dict[str, Percent]


class Fused(TypedDict):
    """``ModelSource.config`` of a fused result; ``weights`` by label space, where they were learned."""

    fused: str
    weights: dict[str, list[float]] | None
    of: list[FusedSource]


@dataclass(kw_only=True)
class Scores:
    """The scores of every listed video, in list order, and what follows from them. A single label space is ``label``.

    Attributes:
        classes: class names by label space.
        names: of the videos; ``labels`` and ``values`` are parallel to it.
        labels: by label space, None where unknown; of multi-label data a rising list of all classes of each video.
        values: scores by label space, averaged over views, 7 significant digits; None where the video failed.
        per_class: by label space, percent of each class's videos, failed ones wrong, or of multi-label data its average
            precision; None for a class without videos.
        confusion: by label space, numbers of scored videos, rows true, columns predicted; empty for multi-label data.
        figures: by label space ``precision``, ``recall`` and ``f1`` of each class, as
            :func:`gesta.evaluation.metrics.class_figures` gives them.
        attributes: attribute → its value for every class (Diving48: takeoff, somersault, twist, position).
        groups: part of the list → label space or ``action`` → positions in it (EPIC-KITCHENS-100: unseen participants
            and tail classes).
        multi_label: a video may have any number of classes; a value is then that class's alone (sigmoid).
        segments: of the videos, parallel to ``names``: frames ``12-40`` or seconds ``1.5-3.2 s``, nothing for a whole
            video; empty if all are whole videos, None in a result of a version that did not note them.
    """

    classes: dict[str, list[str]]
    names: list[str]
    labels: dict[str, list[int | list[int] | None]]
    values: dict[str, list[list[float] | None]]
    per_class: dict[str, list[Percent | None]] = field(default_factory=dict)
    confusion: dict[str, list[list[int]]] = field(default_factory=dict)
    figures: dict[str, dict[str, list[Percent | None]]] = field(default_factory=dict)
    attributes: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    multi_label: bool = False
    segments: list[str] | None = None

    def __post_init__(self) -> None:
        """Sort the classes of each video, in which lists and other programs may have any order."""
        if self.multi_label:
            self.labels = {
                space: [sorted(label) if isinstance(label, list) else label for label in column]
                for space, column in self.labels.items()
            }

    def measure(self, average: Average) -> dict[str, float]:
        """Compute accuracies of classes and confusion matrices from the values; give the metrics.

        Args:
            average: what the values are.
        """
        measured = measure_spaces(self.values, self.labels, self.classes, average, self.multi_label)
        self.per_class, self.figures, self.confusion = measured.per_class, measured.figures, measured.confusion
        return measured.metrics | measure_parts(self.values, self.labels, average, self.attributes, self.groups)

    def counts(self, decoded: int, views: int) -> Counts:
        """The numbers of videos; a video without values has failed."""
        listed, (values, *_) = len(self.names), self.values.values()
        scored = sum(row is not None for row in values)
        labelled = sum(any(column[i] is not None for column in self.labels.values()) for i in range(listed))
        return Counts(
            listed=listed, labelled=labelled, decoded=decoded, scored=scored, failed=listed - scored, views=views
        )

    def fault(self) -> str:
        """What does not fit the rest, in a result from elsewhere; empty if all fits."""
        videos = len(self.names)
        if not self.classes or not all(self.classes.values()):
            return "classes are empty"
        by_space: dict[str, dict[str, list[Any]]] = {"labels": self.labels, "values": self.values}
        by_space |= {"per_class": self.per_class} | ({} if self.multi_label else {"confusion": self.confusion})
        for name in FIGURES if self.figures else ():
            by_space[f"figures.{name}"] = {space: of.get(name, []) for space, of in self.figures.items()}
        for column, lists in by_space.items():
            if lists.keys() != self.classes.keys():
                return f"{column} are of {list(lists)}, classes of {list(self.classes)}"
        for space, names in self.classes.items():
            for column in [name for name in by_space if name != "confusion"]:
                length = videos if column in ("labels", "values") else len(names)
                if len(by_space[column][space]) != length:
                    return f"{column}.{space} has {len(by_space[column][space])} entries, not {length}"
            for label in self.labels[space]:
                if label is not None and isinstance(label, list) is not self.multi_label:
                    return f"labels.{space} holds {label}, and multi_label is {json.dumps(self.multi_label)}"
                classes_of_video = label if isinstance(label, list) else [] if label is None else [label]
                if not all(0 <= k < len(names) for k in classes_of_video):
                    return f"labels.{space} holds a label that is none of {len(names)} classes"
            if any(row is not None and len(row) != len(names) for row in self.values[space]):
                return f"values.{space} holds a row that has not {len(names)} scores"
            rows = self.confusion.get(space, [])
            if (not self.multi_label and {len(names)} != {len(rows), *map(len, rows)}) or any(
                n < 0 for row in rows for n in row
            ):
                return f"confusion.{space} is not a table of {len(names)} by {len(names)} numbers of videos"
        if self.segments and len(self.segments) != videos:
            return f"segments has {len(self.segments)} entries, not {videos}"
        first = len(next(iter(self.classes.values())))
        if any(len(of_class) != first for of_class in self.attributes.values()):
            return f"attributes have not {first} values each"
        for part, of_spaces in self.groups.items():
            for space, positions in of_spaces.items():
                spaces = ("verb", "noun") if space == ACTION else (space,)
                if not positions or not self.labels.keys() >= set(spaces):
                    return f"groups.{part}.{space} holds no videos or is of a label space that is not there"
                if any(not 0 <= i < videos or self.labels[s][i] is None for i in positions for s in spaces):
                    return f"groups.{part}.{space} names a video beyond the list of {videos}, or one without label"
        return ""

    def without_figures(self, space: str) -> tuple[list[str], list[str]]:
        """Classes without videos, and those with videos that are never predicted, which have no precision."""
        figures = zip(self.classes[space], self.figures[space]["recall"], self.figures[space]["precision"])
        lacking = [(name, recall) for name, recall, precision in figures if precision is None]
        absent = [name for name, recall in lacking if recall is None]
        return absent, [name for name, recall in lacking if recall is not None]

    def right(self, space: str, average: Average) -> list[bool | None]:
        """For each video whether its most probable class is right, or of multi-label data whether all predicted classes
        are its own; a failed one is wrong, None where unlabelled.

        Args:
            space: label space.
            average: what the values are.
        """
        answers = (
            None if row is None else predicted_classes(row, average) if self.multi_label else int(np.argmax(row))
            for row in self.values[space]
        )
        labels = self.labels[space]
        return [None if label is None else answer == label for label, answer in zip(labels, answers)]


@dataclass(kw_only=True)
class Result:
    """The result of an evaluation and everything that it depends on; what ``result.json`` holds.

    Nothing but ``seconds`` and ``faults`` depends on how many processes shared the work.

    Attributes:
        metrics: percent: ``top1``, ``top5`` (the first min(5, classes)), ``mean_class`` (the mean recall), and the mean
            precision and F1 ``macro_precision`` and ``macro_f1``, over all labelled videos of the list, of which the
            failed ones count as wrong; ``top1_scored`` … without the failed ones. Means are over the classes that have
            videos; the precision of a class that is never predicted counts as 0. With several
            label spaces the names are ``verb/top1`` …; verb and noun together have ``action/top1`` and ``action/top5``.
            Multi-label data have ``mAP`` (the mean average precision), ``macro_precision``, ``macro_recall``,
            ``macro_f1`` and ``exact`` instead, see :func:`gesta.evaluation.metrics.measure_multi_label`.
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
        faults: parts of the model that do nothing, a sentence each, found on a few of the videos that the first process
            scored; see :mod:`gesta.evaluation.health`.
        ended_early: why the training of the model ended before its last epoch, a sentence; empty if it did not, or if
            that is not known.
        optimistic: why the metrics are probably higher than those of other videos would be, a sentence; empty if no
            reason is known.
        input_differs: how what the videos show, or how it was shown, differs from what the model was trained on, a
            sentence; empty if it does not, if that is not known, and for a model of several streams.
    """

    metrics: dict[str, Percent]
    model: ModelSource
    data: dict[str, Any] | None
    list_hash: str
    protocol: Protocol
    environment: Environment
    counts: Counts
    failures: list[Remark]
    partial: list[Remark]
    seconds: float
    scores: Scores
    faults: list[str] = field(default_factory=list)
    ended_early: str = ""
    optimistic: str = ""
    input_differs: str = ""

    def fault(self) -> str:
        """What does not fit the rest, in a result from elsewhere; empty if all fits."""
        if self.data is not None and not isinstance(self.data.get("class"), str):
            return 'data names no "class"'
        if fault := self.scores.fault():
            return f"scores: {fault}"
        if self.counts != self.scores.counts(self.counts.decoded, self.counts.views):
            return "counts are not those of its scores"
        named = {f"attribute/{name}" for name in [*self.scores.attributes, *["all"] * bool(self.scores.attributes)]}
        named |= {f"{part}/{space}" for part, spaces in self.scores.groups.items() for space in spaces}
        return f"metrics lack {min(missing)}" if (missing := named - self.metrics.keys()) else ""

    @property
    def headline(self) -> float | None:
        """Top-1 accuracy in percent, of multi-label data mAP (see :func:`gesta.evaluation.metrics.headline`); None if
        nothing is labelled."""
        return headline(self.metrics)

    @property
    def doubts(self) -> list[str]:
        """Why the metrics may not be what they seem to be, a sentence each."""
        return [sentence for sentence in (self.optimistic, self.input_differs) if sentence]

    def to_json(self) -> dict[str, Any]:
        """All fields, with the version of the format in front."""
        fields = {name: dict(vars(value)) if name in PARTS else value for name, value in vars(self).items()}
        return {"format": FORMAT, **fields}

    def write(self, path: str | Path) -> Path:
        """Write as JSON, one field per line; the file is there whole or not at all."""
        make_folder(Path(path).parent)
        write_text(path, "{\n" + ",\n".join(self._lines()) + "\n}\n")
        return Path(path)

    def _lines(self) -> Iterator[str]:
        for name, value in self.to_json().items():
            text = json_text(value)
            if name == "scores":  # the long ones
                inner = (f"  {json.dumps(k)}: {json_text(v)}" for k, v in value.items())
                text = "{\n" + ",\n".join(inner) + "\n}"
            yield f"{json.dumps(name)}: {text}"

    @classmethod
    def read(cls, path: str | Path) -> Result:
        """Read what :meth:`write` wrote.

        Raises:
            GestaError: no such file, not a result, one of a later version, or one whose parts do not fit together.
        """
        fields = read_json(path, Any, limit=MAX_BYTES, remedy="gesta evaluate writes a result")
        if isinstance(fields, dict) and fields.get("kind") == "timeline":
            raise GestaError(
                f"{path}: is of gesta evaluate --timeline, which scores segments, not videos; give a result without it"
            )
        if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
            raise GestaError(f"{path}: this is not a result of gesta evaluate, or one without a format number")
        if fields.pop("format") > FORMAT:
            raise GestaError(f"{path}: written by a later version of gesta; upgrade gesta")
        result: Result = from_json(fields, cls, source=str(path), remedy="evaluate again")
        if "fused" in result.model.config:
            from_json(result.model.config, Fused, source=f"{path}: model.config", remedy="evaluate again")
        if fault := result.fault():
            raise GestaError(f"{path}: its {fault}; evaluate again")
        if not result.scores.figures:  # written before there were any
            result.metrics = result.scores.measure(result.protocol.average) | result.metrics
        return result

    def __str__(self) -> str:
        from rich.table import Table

        scores, counts, how = self.scores, self.counts, self.protocol
        numbers = Table(title=f"{self.model.summary}, split {self.protocol.split}", title_justify="left")
        metrics = metrics_in(self.metrics)
        for column in ("", *metrics.values()):
            numbers.add_column(f"{column} %" if column else "", justify="right" if column else "left")
        several = [*scores.classes, ACTION] if len(scores.classes) > 1 else []
        for prefix, name in [(f"{space}/", f"{space}: ") for space in several] or [("", "")]:
            for end, what in (("", "all labelled videos"), ("_scored", "without failed ones")):
                values = [self.metrics.get(f"{prefix}{key}{end}") for key in metrics]
                if any(value is not None for value in values) and (counts.failed or not end):
                    numbers.add_row(name + what, *("" if value is None else f"{value:.2f}" for value in values))
        lines = [
            f"{counts.scored} of {counts.listed} videos scored, {counts.failed} failed"
            + (" (counted as wrong)" if counts.failed else ""),
            f"{how.views}, {how.sampling}, {how.size} px of {how.frame}, mean of the {how.averaged}",
        ]
        if scores.multi_label:
            lines.append(f"classes are predicted from a probability of {THRESHOLD} on; mAP depends on no threshold")
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
        lines += [f"warning: {fault}" for fault in [*self.faults, *self.doubts]]
        lines += [self.ended_early] * bool(self.ended_early)
        for space, per_class in scores.per_class.items():
            worst = sorted((value, name) for value, name in zip(per_class, scores.classes[space]) if value is not None)
            where = "" if len(scores.classes) == 1 else f" ({space})"
            where = " by average precision" if scores.multi_label else where
            if worst[1:] and worst[0][0] < 100:
                lines.append(f"weakest classes{where}: " + ", ".join(f"{n} {v:.0f} %" for v, n in worst[:5] if v < 100))
            absent, unpredicted = scores.without_figures(space) if worst else ([], [])
            if absent:
                lines.append(f"without videos{where}, so left out of the means: {_some(absent)}")
            if unpredicted:
                lines.append(f"never predicted{where}, so with a precision of 0 in its mean: {_some(unpredicted)}")
        return plain_text(*[numbers] * bool(numbers.rows), *lines)


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


@dataclass(kw_only=True)
class Summary:
    """A result without what it says of single videos; fields as of :class:`Result`."""

    metrics: dict[str, Percent]
    model: ModelSource
    data: dict[str, Any] | None
    protocol: Protocol
    list_hash: str = ""


def read_summary(path: str | Path) -> Summary:
    """What a result measured, and how.

    Raises:
        GestaError: the file cannot be read, or lacks something.
    """
    remedy = "evaluate again"
    fields = read_json(path, dict[str, Any], limit=MAX_BYTES, remedy=remedy)
    parts = {name: fields[name] for name in Summary.__dataclass_fields__ if name in fields}
    summary: Summary = from_json(parts, Summary, source=str(path), remedy=remedy)
    return summary


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
