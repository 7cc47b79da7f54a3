"""What is predicted for one video or one segment of it, and how times are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gesta.errors import GestaError, without_passwords
from gesta.progress import one_line

NO_CLASS = "(no class reaches the threshold)"

TOP = 5
"""Classes that are named of a video or segment, unless another number is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The actions in one video or one segment of it.

    Attributes:
        path: the video as it was named; of an address without its password.
        labels: (class, probability), most probable first; with several label spaces the classes are joint ("open door")
            and their probabilities products. Empty with an error, or where no class reaches the threshold.
        start: beginning of the segment in seconds, None for the whole video.
        end: its end in seconds, None for the whole video.
        error: one sentence that says why there are no labels, or, beside labels or at the end of a timeline, that the
            end of the video is missing; empty if all went well.
    """

    path: str
    labels: tuple[tuple[str, float], ...] = ()
    start: float | None = None
    end: float | None = None
    error: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", without_passwords(self.path))

    def __str__(self) -> str:
        if self.error and not self.labels:
            return one_line(self.error if self.path in self.error else f"{self.path}: {self.error}")
        times = "" if self.start is None or self.end is None else f"  {clock(self.start)} - {clock(self.end)}"
        remark = f"  ({self.error.removeprefix(f'{self.path}: ')})" if self.error else ""
        labels = ", ".join(f"{name} {p:.3f}" for name, p in self.labels) or NO_CLASS
        return one_line(f"{self.path}{times}  {labels}{remark}")

    @property
    def certainty(self) -> float:
        """How far the class of a segment is ahead of all others: the margin ``p₁ - p₂`` of its probability before the
        greatest other one (Scheffer et al., IDA 2001), means over the windows of the segment.

        A class that is named alone, as in segments of multi-label models, is compared with its absence:
        ``p - (1 - p)``. Without any class it is -1, so that what could not be read comes first.
        """
        (_, first), *others = self.labels or (("", 0.0),)
        return first - max((p for _, p in others), default=1 - first)

    def to_json(self) -> dict[str, Any]:
        """Plain values: path, start and end (seconds or null), labels, error (null if none)."""
        return {
            "path": self.path,
            "start": None if self.start is None else round(self.start, 3),
            "end": None if self.end is None else round(self.end, 3),
            "labels": [{"class": name, "probability": round(p, 6)} for name, p in self.labels],
            "error": self.error or None,
        }


def check_top(top: int | None) -> None:
    """Refuse a number of classes to name that names none; None is the usual one.

    Raises:
        GestaError: it is below 1.
    """
    if top is not None and top < 1:
        raise GestaError(f"{top} classes are to be named (--top); give a number from 1 on")


def clock(seconds: float, comma: str = ".") -> str:
    """Seconds as ``00:01:02.345``."""
    ms = max(0, round(seconds * 1000))
    return f"{ms // 3600000:02d}:{ms // 60000 % 60:02d}:{ms // 1000 % 60:02d}{comma}{ms % 1000:03d}"
