"""What ``gesta predict`` writes: a table, lines of text, CSV, JSON, Parquet, subtitles or pre-annotations."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, BinaryIO, Literal, TextIO

from rich.table import Column, Table
from rich.text import Text

from gesta.errors import GestaError
from gesta.files import reporting, write_atomically
from gesta.prediction.pre_annotations import TaskNames, tasks
from gesta.prediction.prediction import NO_CLASS, Prediction, clock
from gesta.progress import csv_cell, json_text, one_line, plain_console, subtitle

Format = Literal["table", "text", "csv", "json", "parquet", "srt", "label-studio"]

COLUMNS = ("path", "start", "end", "rank", "class", "probability", "error")
"""Of CSV and Parquet: a row for each class of a prediction, or one with neither rank nor class."""

_ROWS = 50_000  # of Parquet that are held in memory


def as_table(predictions: Iterable[Prediction]) -> Table:
    """A rich table: one row per prediction, the most probable class and those after it."""
    columns = [Column(name, overflow="fold") for name in ("video", "from", "to", "action", "probability", "next")]
    table = Table(*columns)
    for p in predictions:
        error = p.error.removeprefix(p.path).removeprefix(": ")
        action, probability, others = error or NO_CLASS, "", ""
        if p.labels:
            (action, best), *rest = p.labels
            probability = f"{best:.3f}"
            others = "; ".join(filter(None, (", ".join(f"{name} {v:.2f}" for name, v in rest), error)))
        times = [clock(t) if t is not None else "" for t in (p.start, p.end)]
        cells = [Text(one_line(cell)) for cell in (p.path, *times, action, probability, others)]  # without markup
        if p.error:
            cells[5 if p.labels else 3].stylize("red")
        table.add_row(*cells)
    return table


def write(
    predictions: Iterable[Prediction], format: Format, out: TextIO, names: TaskNames | None = None, keep: bool = True
) -> list[Prediction]:
    """Write predictions as they come (a table when all are complete) and return them.

    Args:
        format: ``table`` for people; ``text`` one line each; ``csv`` one row per class, rank 1 first; ``json`` an
            array of :meth:`Prediction.to_json`; ``srt`` subtitles, which need the timeline of a single video;
            ``label-studio`` tasks with pre-annotations, which need timelines and are written at the end. In each,
            names are escaped so that they stay text (:mod:`gesta.progress`).
        out: an open text file.
        names: what pre-annotations say besides the segments.
        keep: return the predictions, which are then all in memory; else nothing, unless they are written at the end.

    Raises:
        GestaError: ``srt`` of whole videos or of several videos, ``label-studio`` of whole videos.
    """
    written: list[Prediction] = []
    if format == "table":
        try:
            for p in predictions:
                written.append(p)
        finally:  # also after Ctrl-C
            # a file or pipe has no width of its own; a wide table keeps each prediction on one line
            plain_console(file=out, width=None if out.isatty() else 160).print(as_table(written))
        return written
    if format == "label-studio":
        try:
            for p in predictions:
                written.append(p)
        finally:  # also after Ctrl-C
            out.write("[\n" + ",\n".join(map(json_text, tasks(written, names or TaskNames()))) + "\n]\n")
        return written
    writer = {"text": _text, "csv": _csv, "json": _json, "srt": _srt}[format](out)
    next(writer)
    try:
        for p in predictions:
            if keep:
                written.append(p)
            writer.send(p)
            out.flush()
    finally:
        writer.close()
        out.flush()
    return written


def write_to(
    path: str | None,
    predictions: Iterable[Prediction],
    format: Format,
    live: bool = False,
    names: TaskNames | None = None,
    keep: bool = True,
) -> list[Prediction]:
    """Write predictions to a file, or print them if ``path`` is None; else as :func:`write`, and as ``parquet``.

    The file appears when all predictions are there, or with those that are there when Ctrl-C ends them; with ``live``
    it grows with them, since a camera's never end.

    Raises:
        GestaError: the file cannot be written, or ``parquet`` without pyarrow.
    """
    stopped: KeyboardInterrupt | None = None
    written: list[Prediction] = []

    def until_stopped() -> Iterator[Prediction]:
        nonlocal stopped
        try:
            yield from predictions
        except KeyboardInterrupt as error:
            stopped = error

    if format == "parquet" and path is not None:
        require_pyarrow()
        with write_atomically(path) as binary:
            written = _parquet(binary, until_stopped(), keep)
        if stopped:
            raise stopped
        return written
    if path is None:
        return write(predictions, format, sys.stdout, names, keep)
    if live:
        with reporting(path), open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            return write(predictions, format, file, names, keep)
    with write_atomically(path) as binary:
        text = io.TextIOWrapper(binary, encoding="utf-8", errors="surrogateescape", newline="")
        try:
            written = write(predictions, format, text, names, keep)
        except KeyboardInterrupt as error:
            stopped = error
        finally:
            with contextlib.suppress(OSError):  # of a disk that is full; write has raised it, too
                text.detach()
    if stopped:
        raise stopped
    return written


def in_order(predictions: Iterable[Prediction], key: Callable[[Prediction], float]) -> Iterator[Prediction]:
    """All predictions, the one of the smallest key first; after Ctrl-C those that are there."""
    found: list[Prediction] = []
    stopped: KeyboardInterrupt | None = None
    try:
        for p in predictions:
            found.append(p)
    except KeyboardInterrupt as error:
        stopped = error
    yield from sorted(found, key=key)
    if stopped:
        raise stopped


Writer = Generator[None, Prediction, None]


def _text(out: TextIO) -> Writer:
    while True:
        p = yield
        out.write(f"{p}\n")


def _csv(out: TextIO) -> Writer:
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)
    while True:
        p = yield
        times = ["" if t is None else f"{t:.3f}" for t in (p.start, p.end)]
        path, error = csv_cell(p.path), csv_cell(p.error)
        for i, (name, probability) in enumerate(p.labels):
            rows.writerow([path, *times, i + 1, csv_cell(name), f"{probability:.6f}", error])
        if not p.labels:
            rows.writerow([path, *times, "", "", "", error])


def _json(out: TextIO) -> Writer:
    separator = "[\n"
    try:
        while True:
            p = yield
            out.write(separator + json_text(p.to_json()))
            separator = ",\n"
    finally:  # also after Ctrl-C the file is a valid array
        out.write("[]\n" if separator == "[\n" else "\n]\n")


def _srt(out: TextIO) -> Writer:
    path, cue = None, 0
    while True:
        p = yield
        if path not in (None, p.path):
            raise GestaError("a subtitle file belongs to one video: give one source at a time, or take csv or json")
        path = p.path
        if p.error:
            continue
        if p.start is None or p.end is None:
            raise GestaError("subtitles need times: ask for the timeline too (--timeline), or take csv or json")
        cue += 1
        name, probability = p.labels[0]
        out.write(f"{cue}\n{clock(p.start, ',')} --> {clock(p.end, ',')}\n{subtitle(name)} ({probability:.0%})\n\n")


def require_pyarrow() -> None:
    """Refuse Parquet where it cannot be written, before anything is computed.

    Raises:
        GestaError: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401 (an extra)
    except ImportError:
        raise GestaError(
            "--format parquet needs pyarrow, which is not installed; pip install pyarrow, or use another --format"
        ) from None


def _parquet(file: BinaryIO, predictions: Iterable[Prediction], keep: bool) -> list[Prediction]:
    """Write the rows of :data:`COLUMNS` as Parquet: times and probabilities as numbers, null for what there is not."""
    import pyarrow  # an extra
    import pyarrow.parquet

    text, number = pyarrow.string(), pyarrow.float64()
    kinds = (text, number, number, pyarrow.int32(), text, number, text)
    schema = pyarrow.schema(list(zip(COLUMNS, kinds)))
    written: list[Prediction] = []
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        rows = itertools.chain.from_iterable(map(_rows, _noting(predictions, written) if keep else predictions))
        while chunk := list(itertools.islice(rows, _ROWS)):
            columns = [pyarrow.array(values, kind) for values, kind in zip(zip(*chunk), kinds)]
            writer.write_table(pyarrow.table(columns, schema=schema))
    return written


def _noting(predictions: Iterable[Prediction], written: list[Prediction]) -> Iterator[Prediction]:
    for p in predictions:
        written.append(p)
        yield p


def _rows(p: Prediction) -> Iterator[tuple[Any, ...]]:
    """The rows of a prediction; bytes of names that are no UTF-8, which Parquet does not hold, become ``\\xff``."""
    times = [None if t is None else round(t, 3) for t in (p.start, p.end)]
    path, error = _utf8(p.path), _utf8(p.error) or None
    for rank, (name, probability) in enumerate(p.labels, 1):
        yield path, *times, rank, _utf8(name), round(probability, 6), error
    if not p.labels:
        yield path, *times, None, None, None, error


def _utf8(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
