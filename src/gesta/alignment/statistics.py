"""What the assignment engine did, for whoever asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Statistics:
    """Counts over all calls of :func:`gesta.alignment.assignment.assign`.

    Attributes:
        problems: assignment problems.
        certified: of these, proved optimal without a solver.
        solved: of these, by the solver whose matches were taken. ``certified`` and these add up to ``problems``.
        fallbacks: matches of another solver that were thrown away for SciPy's, because their gap was too large.
        gap: the largest certified gap of matches that were taken from another solver than SciPy (which is exact).
        seconds: of wall time, summed over calls; with an accelerator every call then waits for it.
    """

    problems: int = 0
    certified: int = 0
    solved: dict[str, int] = field(default_factory=dict)
    fallbacks: int = 0
    gap: float = 0.0
    seconds: float = 0.0


_listening: list[Statistics] = []
_lock = threading.Lock()


@contextmanager
def statistics() -> Iterator[Statistics]:
    """Count what all threads do in the meantime; may be nested."""
    counted = Statistics()
    with _lock:
        _listening.append(counted)
    try:
        yield counted
    finally:
        with _lock:
            _listening[:] = [other for other in _listening if other is not counted]


def anybody_listens() -> bool:
    """Whether :func:`record` would do anything."""
    return bool(_listening)


def record(
    *,
    problems: int = 0,
    certified: int = 0,
    solver: str = "",
    solved: int = 0,
    fallbacks: int = 0,
    gap: float = 0.0,
    seconds: float = 0.0,
) -> None:
    """Add to everybody's counts."""
    if not _listening:
        return
    with _lock:
        for counted in _listening:
            counted.problems += problems
            counted.certified += certified
            if solved:
                counted.solved[solver] = counted.solved.get(solver, 0) + solved
            counted.fallbacks += fallbacks
            counted.gap = max(counted.gap, gap)
            counted.seconds += seconds
