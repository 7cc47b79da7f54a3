"""The result of an evaluation, with everything it depends on written beside the numbers."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gesta.errors import GestaError
from gesta.evaluation.metrics import ACTION
from gesta.records import LABEL


@dataclass(kw_only=True)
class Result:
    """The result of an evaluation and everything that it depends on; what ``result.json`` holds.

    A label space is called ``"label"`` where there is only one. Nothing but ``seconds`` depends on how many processes
    shared the work.

    Attributes:
        metrics: percent: ``top1``, ``top5`` (the first min(5, classes)) and ``mean_class``, over all labelled videos of
            the list, of which the failed ones count as wrong; ``top1_scored`` … without the failed ones. With several
            label spaces the names are ``verb/top1`` …; verb and noun together have ``action/top1`` and ``action/top5``.
            What ``attributes`` and ``groups`` name has its top-1 as ``attribute/twist`` …, ``unseen/verb`` ….
        gesta: version that wrote this.
        model: the system and its plug-ins in words; ``model_config`` in full, ``model_hash`` its SHA-256.
        checkpoint: file of the weights, ``checkpoint_sha256`` its hash; None if the model came from elsewhere.
        data: configuration of the data set, None if the records came from elsewhere.
        split: which split.
        list_hash: SHA-256 of names, stretches and labels in order.
        listed: videos in the list; ``labelled`` of them have a label; ``decoded`` could be read; ``scored`` have finite
            scores; ``failed`` are the others.
        failures: ``{"index", "name", "reason"}`` of every failed video.
        views: ``clips`` (None: as many as the video holds) and ``crops`` per video, both in words as ``text``, and the
            ``total`` number of views that were scored.
        sampling: frames of a clip in the field's words: ``dense 16×4``, ``dense 16×32 or less`` (its stride
            shrinks in short videos) or ``uniform 16``; of a model of several streams also which of them it saw.
        coverage, short_videos, average: as in :class:`EvaluateConfig`.
        short_side, size: pixels of the short side before cropping and of the square crop.
        decoder: name and version.
        precision: as Lightning Fabric names it.
        device: type and name of the device.
        torch: version.
        classes: class names by label space.
        names: of all listed videos, in list order; ``labels`` and ``scores`` are parallel to it.
        labels: by label space, None where unknown.
        scores: by label space, averaged over views, 7 significant digits; None where the video failed.
        per_class: by label space, percent of each class's videos, failed ones wrong; None for a class without videos.
        confusion: by label space, numbers of scored videos, rows true, columns predicted.
        seconds: it took.
        partial: scored videos of which something was missing, and why, as in ``failures``: of fused results, one of
            the results; of a model of several streams, one of the streams.
        attributes: attribute → its value for every class (Diving48: takeoff, somersault, twist, position).
        groups: part of the list → label space or ``action`` → places in it (EPIC-KITCHENS-100: unseen participants and
            tail classes).
    """

    metrics: dict[str, float]
    gesta: str
    model: str
    model_hash: str
    model_config: dict[str, Any]
    checkpoint: str | None
    checkpoint_sha256: str | None
    data: dict[str, Any] | None
    split: str
    list_hash: str
    listed: int
    labelled: int
    decoded: int
    scored: int
    failed: int
    failures: list[dict[str, Any]]
    views: dict[str, Any]
    sampling: str
    coverage: str
    short_side: int
    size: int
    short_videos: str
    average: str
    decoder: str
    precision: str
    device: str
    torch: str
    classes: dict[str, list[str]]
    names: list[str]
    labels: dict[str, list[int | None]]
    scores: dict[str, list[list[float] | None]]
    per_class: dict[str, list[float | None]]
    confusion: dict[str, list[list[int]]]
    seconds: float
    partial: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    attributes: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    groups: dict[str, dict[str, list[int]]] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def write(self, path: str | Path) -> Path:
        """Write as JSON, one field per line; the file is there whole or not at all."""
        from gesta.checkpoint import write_atomically

        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in self.to_json().items()]
        with write_atomically(path) as file:
            file.write(("{\n" + ",\n".join(lines) + "\n}\n").encode())
        return Path(path)

    @classmethod
    def read(cls, path: str | Path) -> Result:
        """Read what :meth:`write` wrote; fields of later versions are left out.

        Raises:
            GestaError: no such file, or not a result.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise GestaError(
                f"{path}: no result can be read there ({error.strerror}); gesta evaluate makes one"
            ) from None
        except ValueError:
            raise GestaError(f"{path}: this is not JSON, or it was cut short; evaluate again") from None
        fields = {f.name for f in dataclasses.fields(cls)}
        missing = (
            sorted(fields - {"partial", "attributes", "groups"} - set(found))
            if isinstance(found, dict)
            else sorted(fields)
        )
        if missing:
            raise GestaError(f"{path}: this is not a result of gesta evaluate (it has no {missing[0]!r})")
        return cls(**{name: found[name] for name in fields & set(found)})

    def right(self, space: str = LABEL) -> list[bool | None]:
        """For each listed video whether its first answer is right; a failed one is wrong, None where unlabelled."""
        return [
            None if label is None else scores is not None and int(np.argmax(scores)) == label
            for label, scores in zip(self.labels[space], self.scores[space])
        ]

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        numbers = Table(title=f"{self.model}, split {self.split}", title_justify="left")
        for column in ("", "top-1 %", "top-5 %", "mean class %"):
            numbers.add_column(column, justify="right" if column else "left")
        several = [*self.classes, ACTION] if len(self.classes) > 1 else []
        for prefix, name in [(f"{space}/", f"{space}: ") for space in several] or [("", "")]:
            for end, what in (("", "all labelled videos"), ("_scored", "without failed ones")):
                if f"{prefix}top1{end}" in self.metrics and (self.failed or not end):
                    values = (self.metrics.get(f"{prefix}{key}{end}") for key in ("top1", "top5", "mean_class"))
                    numbers.add_row(name + what, *("" if value is None else f"{value:.2f}" for value in values))
        lines = [
            f"{self.scored} of {self.listed} videos scored, {self.failed} failed"
            + (" (counted as wrong)" if self.failed else ""),
            f"{self.views['text']}, {self.sampling}, {self.size} px of {self.short_side}, mean of {self.average}",
        ]
        for attribute in self.attributes:
            lines.append(f"{attribute}: {self.metrics[f'attribute/{attribute}']:.2f} % right")
        if self.attributes:
            lines.append(f"all of {', '.join(self.attributes)}: {self.metrics['attribute/all']:.2f} % right")
        for part, spaces in self.groups.items():
            each = (f"{s} {self.metrics[f'{part}/{s}']:.2f} % of {len(at)} videos" for s, at in spaces.items())
            lines.append(f"{part}, top-1: " + ", ".join(each))
        for stream in self.model_config.get("of", []) if "fused" in self.model_config else []:
            if "scored" in stream:
                lines.append(f"{stream['name']} alone: {stream['scored']} scored, {stream['failed']} failed")
        if self.partial:
            videos = "1 video was" if len(self.partial) == 1 else f"{len(self.partial)} videos were"
            lines.append(f"{videos} scored without a part that was missing:")
            lines += [f"  {f['name']}: {f['reason']}" for f in self.partial[:10]]
        lines += [f"  failed: {f['name']}: {f['reason']}" for f in self.failures[:10]]
        if self.failed > 10:
            lines.append(f"  … and {self.failed - 10} more, all in the result")
        for space, per_class in self.per_class.items():
            worst = sorted((value, name) for value, name in zip(per_class, self.classes[space]) if value is not None)
            if worst[1:] and worst[0][0] < 100:
                where = "" if len(self.classes) == 1 else f" ({space})"
                lines.append(f"weakest classes{where}: " + ", ".join(f"{n} {v:.0f} %" for v, n in worst[:5] if v < 100))
        console = Console(width=120, color_system=None, markup=False, highlight=False)
        with console.capture() as capture:
            if numbers.rows:
                console.print(numbers)
            console.print("\n".join(lines), soft_wrap=True)
        return "\n".join(line.rstrip() for line in capture.get().splitlines())
