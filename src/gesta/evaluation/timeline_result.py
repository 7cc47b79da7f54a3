"""The result of scoring timed actions, with the protocol and all segments beside the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gesta.evaluation.result import Environment, ModelSource, Remark
from gesta.files import make_folder, write_text
from gesta.progress import json_text, plain_text

FORMAT = 1
"""Version of the file."""

MAX_NAMED = 10
"""Videos of one kind that are printed; the others are counted, and the file has them all."""

METRICS = {
    "frame_accuracy": "frames right",
    "edit": "edit score",
    "f1@10": "F1@10",
    "f1@25": "F1@25",
    "f1@50": "F1@50",
    "mAP": "mAP@0.3:0.7",
}
"""Metrics and what tables call them, see :mod:`gesta.evaluation.localisation`."""


@dataclass(frozen=True, kw_only=True)
class TimelineProtocol:
    """How videos became segments.

    Attributes:
        split: which split.
        window: seconds of a window; None: the model's own clip.
        hop, smoothing, threshold, release, min_duration, join: as in
            :class:`gesta.prediction.timeline.TimelineConfig`; ``release`` as it was, also if it followed from the
            threshold.
        sampling: frames of a window in the field's words, as in :class:`gesta.evaluation.result.Protocol`.
        short_side, size: pixels of the short side before cropping and of the square crop.
        average: what was averaged over windows.
    """

    split: str
    window: float | None
    hop: float
    smoothing: int
    threshold: float
    release: float
    min_duration: float
    join: float
    sampling: str
    short_side: int
    size: int
    average: str

    def __str__(self) -> str:
        window = f"windows of {self.window:g} s" if self.window else "windows of the model's clip"
        return (
            f"{window} ({self.sampling}, {self.size} px of a short side of {self.short_side} px), {self.hop:g} windows "
            f"apart, {self.smoothing} averaged; segments from a probability of {self.threshold:g} to {self.release:g}, "
            f"of at least {self.min_duration:g} s" + f", joined if less than {self.join:g} s apart" * bool(self.join)
        )


@dataclass(frozen=True, kw_only=True)
class ScoredVideo:
    """One video of a timeline result.

    Attributes:
        name: its path.
        frames: number of its frames; 0 if that is not known.
        true: of each true segment start and end in seconds and its class.
        predicted: likewise, with the score last.
    """

    name: str
    frames: int
    true: list[tuple[float, float, str]]
    predicted: list[tuple[float, float, str, float]]


@dataclass(kw_only=True)
class TimelineResult:
    """Scores of timed actions and everything that they depend on.

    Attributes:
        metrics: percent, as :func:`gesta.evaluation.localisation.measure_localisation` names them.
        per_class: average precision of each class, the mean over the thresholds of the IoU; None for a class without
            true segments.
        model, environment: what was evaluated, and by what.
        data: configuration of the data set as JSON, None if the records came from elsewhere.
        list_hash: SHA-256 of names, segments and labels in order.
        protocol: how segments were found.
        failures: videos that could not be read; all of their frames and segments count as wrong, see
            :class:`gesta.evaluation.localisation.VideoSegments`.
        partial: videos whose end is missing; what was found before it is scored.
        videos: all segments.
        seconds: it took.
        remarks: sentences about what was not measured, or is to be known.
        optimistic: as in :class:`gesta.evaluation.result.Result`.
    """

    metrics: dict[str, float]
    per_class: dict[str, float | None]
    model: ModelSource
    data: dict[str, Any] | None
    list_hash: str
    protocol: TimelineProtocol
    environment: Environment
    failures: list[Remark]
    partial: list[Remark]
    videos: list[ScoredVideo]
    seconds: float
    remarks: list[str] = field(default_factory=list)
    optimistic: str = ""

    def to_json(self) -> dict[str, Any]:
        """All fields, with the kind and the version of the format in front."""
        return {"kind": "timeline", "format": FORMAT, **asdict(self)}

    def write(self, path: str | Path) -> Path:
        """Write as JSON, one field or video per line; the file is there whole or not at all."""
        make_folder(Path(path).parent)
        write_text(path, "{\n" + ",\n".join(self._lines()) + "\n}\n")
        return Path(path)

    def _lines(self) -> Iterator[str]:
        for name, value in self.to_json().items():
            text = json_text(value)
            if name == "videos":
                text = "[\n" + ",\n".join(f"  {json_text(video)}" for video in value) + "\n]"
            yield f"{json_text(name)}: {text}"

    def __str__(self) -> str:
        from rich.table import Table  # start-up time

        table = Table(title=f"{self.model.summary}, timelines of split {self.protocol.split}", title_justify="left")
        given = {key: name for key, name in METRICS.items() if key in self.metrics}
        for name in given.values():
            table.add_column(f"{name} %", justify="right")
        table.add_row(*(f"{self.metrics[key]:.2f}" for key in given))
        true, predicted = (sum(len(getattr(video, kind)) for video in self.videos) for kind in ("true", "predicted"))
        at = ", ".join(f"{key[4:]}: {value:.2f}" for key, value in self.metrics.items() if key.startswith("mAP@"))
        lines = [
            f"{len(self.videos) - len(self.failures)} of {len(self.videos)} videos scored, {len(self.failures)} failed"
            + (" (counted as wrong)" if self.failures else ""),
            f"{true} true segments, {predicted} predicted; mAP at a temporal IoU of {at}",
            str(self.protocol),
        ]
        for kind, remarks in (("failed", self.failures), ("end missing", self.partial)):
            lines += [f"  {kind}: {item['name']}: {item['reason']}" for item in remarks[:MAX_NAMED]]
            lines += [f"  … and {len(remarks) - MAX_NAMED} more"] * (len(remarks) > MAX_NAMED)
        worst = sorted((value, name) for name, value in self.per_class.items() if value is not None)
        if worst[1:] and worst[0][0] < 100:
            lines.append("weakest classes by AP: " + ", ".join(f"{n} {v:.0f} %" for v, n in worst[:5] if v < 100))
        lines += [*self.remarks, *[f"warning: {self.optimistic}"] * bool(self.optimistic)]
        return plain_text(table, *lines)
