"""What is read from the export of a labelling tool: segments, and an account of everything that is none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from gesta.config import suggest
from gesta.errors import GestaError
from gesta.records import class_name
from gesta.video.find import is_video_name

Unit = Literal["seconds", "frames"]


@dataclass(frozen=True, slots=True)
class LabelledSegment:
    """One label of a part of a video.

    Attributes:
        video: as the export names it.
        label: name of the class.
        start: in ``unit``, frames from 0; None if the label is of the whole video.
        end: in ``unit``; of frames, one past the last.
        unit: of both.
        split: as the export names it; empty if it does not.
    """

    video: str
    label: str
    start: float | None = None
    end: float | None = None
    unit: Unit = "seconds"
    split: str = ""


@dataclass(slots=True)
class Export:
    """An export while it is read.

    Attributes:
        path: of the file.
        skip: names of what is no segment and may be left out.
        frame_rate: what ``--frame-rate`` says; empty if nothing.
        segments: in the order of the file.
        left_out: what was left out, in words, and how often.
        notes: sentences about how the file was read.
        videos: all videos that the file names, with segments or without.
    """

    path: str
    skip: frozenset[str] = frozenset()
    frame_rate: str = ""
    segments: list[LabelledSegment] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    videos: dict[str, None] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)  # of what is no segment
    frame_rate_used: bool = False

    def add(
        self,
        video: str,
        label: Any,
        start: float | None = None,
        end: float | None = None,
        unit: Unit = "seconds",
        split: str = "",
    ) -> None:
        """Take a segment; see :class:`LabelledSegment`."""
        self.videos.setdefault(video)
        if not isinstance(label, str | int) or isinstance(label, bool) or str(label) == "":
            self.fail(f"a segment of {video!r} has the label {label!r}", "give it a class in the labelling tool")
        if unit == "frames" and not (float(start or 0).is_integer() and float(end or 0).is_integer()):
            self.fail(f"a segment of {video!r} is from frame {start} to {end}", "give whole numbers of frames")
        self.segments.append(LabelledSegment(video, class_name(str(label)), start, end, unit, split))

    def other(self, name: str, what: str, times: int = 1) -> None:
        """Take note of what is no segment: it is left out if ``--skip`` names it, and refused otherwise.

        Args:
            name: for ``--skip``.
            what: in words, in the plural.
            times: how many there are.
        """
        self._names.add(name)
        if name not in self.skip:
            self.fail(f"holds {what}, which are no segments of time", f"leave them out with --skip {name!r}")
        self.left_out[what] += times

    def number(self, value: Any, where: str) -> float:
        """A number of the file.

        Raises:
            GestaError: it is none.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(f"{where} is {value!r}, not a number", "correct it, or export again")
        return value

    def is_empty(self, start: float, end: float) -> bool:
        """Count a segment without length, or of which the end is before the start."""
        self.left_out["segments whose end is not after their start"] += not start < end
        return not start < end

    def span(self, value: Any, where: str) -> tuple[float, float]:
        """A start and an end, in a list of two numbers."""
        if not isinstance(value, list) or len(value) != 2:
            self.fail(f"{where} is {value!r}, not a start and an end", "correct it, or export again")
        return self.number(value[0], where), self.number(value[1], where)

    def known(self, item: dict[str, Any], names: frozenset[str], where: str) -> None:
        """Take note of fields that are not known, by their names; of those without content nothing is lost."""
        for name in item:
            if name not in names and item[name] not in (None, "", [], {}):
                self.other(name, f"fields {name!r} of {where}")

    def objects(self, value: Any, where: str) -> list[dict[str, Any]]:
        """A list of objects; None is an empty one."""
        if value is not None and (not isinstance(value, list) or not all(isinstance(item, dict) for item in value)):
            self.fail(f"{where} is no list of objects", "export again, or name the format with --format")
        return value or []

    def mapping(self, value: Any, where: str) -> dict[str, Any]:
        """An object."""
        if not isinstance(value, dict):
            self.fail(f"{where} is no object", "export again, or name the format with --format")
        return value

    def finish(self) -> None:
        """Refuse options that changed nothing."""
        for name in sorted(self.skip - self._names):
            others = suggest(name, self._names) or (
                f" (there are {', '.join(sorted(self._names))})" * bool(self._names)
            )
            self.fail(f"holds nothing called {name!r} that --skip could leave out{others}", "leave it out")
        if self.frame_rate and not self.frame_rate_used:
            self.fail("says its times without a frame rate", "leave --frame-rate out")

    def fail(self, wrong: str, remedy: str) -> NoReturn:
        """Say what is wrong with the file."""
        raise GestaError(f"{self.path}: {wrong}; {remedy}")


def looks_like_video(text: Any) -> bool:
    """Whether a text is the path or the address of a video."""
    return isinstance(text, str) and "\n" not in text and (is_video_name(text) or is_video_name(text.partition("?")[0]))
