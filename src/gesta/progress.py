"""What people see: how far long work is, tables as plain text, and text from elsewhere made harmless by kind of output.

Names of files and classes, and sentences about them, come from others. What a terminal, a spreadsheet or a player takes
for more than text is escaped where it is written: for a terminal by :func:`one_line` and :func:`visible`, for a
spreadsheet by :func:`csv_cell`, for subtitles by :func:`subtitle`, for JSON by :func:`json_text`, for Markdown by
:func:`markdown`. Pages escape in their template. None of them shows a password of an address.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from gesta.errors import without_passwords

if TYPE_CHECKING:  # for start-up time
    from rich.console import Console
    from rich.progress import Progress

T = TypeVar("T")


def track(items: Iterable[T], title: str, total: int | None = None, every_s: float = 10.0) -> Iterator[T]:
    """Iterate over ``items``, showing on standard error how many are done.

    Args:
        items: anything iterable.
        title: a few words in front of the bar.
        total: number of items, if ``items`` has no length.
        every_s: seconds between lines where standard error is not a terminal.
    """
    title = one_line(title)
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        with progress_bar() as bar:
            task = bar.add_task(title, total=total, text="")
            for item in items:
                yield item
                bar.advance(task)
        return
    begin = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= every_s:
            last = now
            of_total = f" of {total}" if total else ""
            show(f"{title}: {done}{of_total} after {now - begin:.0f} s", sys.stderr)
        yield item


def progress_bar() -> Progress:
    """A bar on standard error that vanishes at its end; the description of a task is shown as it is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # start-up time

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeRemainingColumn(),
        console=plain_console(stderr=True),
        transient=True,
    )


def plain_console(**settings: Any) -> Console:
    """The only way to a ``rich`` console: ``[red]`` and ``:fire:`` in a text are text, not a colour and a picture."""
    from rich.console import Console  # start-up time

    return Console(markup=False, emoji=False, highlight=False, **settings)


# --- text from elsewhere ---------------------------------------------------------------------------------------------

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (colours, cursor, bell), line and paragraph separators, changes of direction, and the surrogates
that stand for bytes of names that are no UTF-8."""


def one_line(text: str) -> str:
    """Text on one line of a terminal, file or error: line breaks become ``\\n``, other control characters ``\\x1b``."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), without_passwords(text))


def visible(text: str) -> str:
    """The same of text of several lines, whose line breaks and tabs stay."""
    return _CONTROL.sub(lambda match: match[0] if match[0] in "\n\t" else one_line(match[0]), without_passwords(text))


def join_lines(lines: Iterable[str]) -> str:
    """Lines of text from elsewhere, one below the other; none of them can pass for two."""
    return "\n".join(map(one_line, lines))


def show(text: object, file: TextIO | None = None) -> None:
    """Print text from elsewhere, on standard output or ``file``."""
    print(visible(str(text)), file=file, flush=True)


def csv_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe goes before ``=``, ``+``, ``-`` and ``@``."""
    text = one_line(text)
    return f"'{text}" if text.lstrip()[:1] in tuple("=+-@") else text


def subtitle(text: str) -> str:
    """A line of a subtitle, without the characters of tags, styles (``{\\an8}``) and times (``-->``)."""
    return one_line(text).translate(str.maketrans("<>{}", "‹›()"))


def markdown(text: str) -> str:
    """Text in a page of Markdown, in which it can neither begin a link, a heading or a table cell, nor HTML."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", one_line(text))


def json_text(value: Any) -> str:
    """JSON on one line, letters as they are, control characters and surrogates as ``\\u`` and four digits."""
    text = without_passwords(json.dumps(value, ensure_ascii=False))
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def plain_text(*parts: Any, width: int = 120) -> str:
    """Sentences and ``rich`` tables, one below the other, as lines of text without colours or control characters.

    Args:
        parts: strings, each of which is one line, and tables.
        width: of the tables at most, in characters.
    """
    console = plain_console(width=width, color_system=None)
    with console.capture() as capture:
        for part in parts:
            console.print(one_line(part) if isinstance(part, str) else part, soft_wrap=isinstance(part, str))
    return visible("\n".join(line.rstrip() for line in capture.get().split("\n")).removesuffix("\n"))
