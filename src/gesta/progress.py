"""What long work shows: a bar on a terminal, a plain line now and then elsewhere; and tables as plain text."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

T = TypeVar("T")


def track(items: Iterable[T], title: str, total: int | None = None, every_s: float = 10.0) -> Iterator[T]:
    """Iterate over ``items``, showing on standard error how many are done.

    Args:
        items: anything iterable.
        title: a few words in front of the bar.
        total: number of items, if ``items`` has no length.
        every_s: seconds between lines where standard error is not a terminal.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from rich.console import Console  # start-up time
        from rich.progress import track as rich_track

        yield from rich_track(items, title, total=total, console=Console(stderr=True), transient=True)
        return
    begin = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= every_s:
            last = now
            of_total = f" of {total}" if total else ""
            print(f"{title}: {done}{of_total} after {now - begin:.0f} s", file=sys.stderr, flush=True)
        yield item


def plain_text(*parts: Any, width: int = 120) -> str:
    """Sentences and ``rich`` tables, one below the other, as lines of text without colours.

    Args:
        parts: strings, which are not wrapped, and tables.
        width: of the tables at most, in characters.
    """
    from rich.console import Console  # imported here for start-up time

    console = Console(width=width, color_system=None, markup=False, highlight=False)
    with console.capture() as capture:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
