"""The predictions of one share of a list of videos, and of all shares together.

A line of ``predictions.jsonl`` is a video with all that is predicted for it. It is written whole before the next video
begins, so that a job that was killed goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from gesta.checkpoint import TrainedModel
from gesta.checkpoint.exported import ExportedNetwork
from gesta.checkpoint.formats import file_hash
from gesta.checkpoint.weights import weights_hash
from gesta.config import from_json, parse_json, to_json
from gesta.data.shares import Part, check_part, finish_part, paths_hash, write_part
from gesta.errors import GestaError, without_passwords
from gesta.files import lock_folder, reporting
from gesta.model import VideoModel
from gesta.prediction.prediction import Prediction

PREDICTIONS = "predictions.jsonl"


class _Line(TypedDict):
    path: str
    predictions: list[Prediction]


def describe_model(model: TrainedModel | VideoModel) -> dict[str, Any]:
    """What predictions depend on of a model: configuration, weights, class names."""
    network = model.model if isinstance(model, TrainedModel) else model
    path = model.path if isinstance(model, TrainedModel) else None
    classes = model.classes if isinstance(model, TrainedModel) else None
    exported = isinstance(network, ExportedNetwork)  # its weights are in its file alone; others may have another head
    weights = file_hash(path) if exported and path else weights_hash(network, ())
    return {"model": to_json(network.config), "weights": weights, "classes": classes}


def predict_part(
    folder: str | os.PathLike[str],
    part: Part,
    paths: Sequence[str],
    answer: Callable[[list[str]], Iterable[tuple[str, list[Prediction]]]],
) -> Part:
    """Compute a part, or what is left of it.

    Args:
        folder: of the part; new, empty, or of the same part.
        part: which, see :func:`gesta.data.shares.describe_part`.
        paths: the videos of this share.
        answer: gives each of some videos with all that is predicted for it, in their order.

    Returns:
        The part as it is now written.

    Raises:
        GestaError: a folder with something else in it, or lines that are not those of this part.
    """
    check_part(folder, part)
    with lock_folder(folder):
        check_part(folder, part)  # again: another process may have begun another part meanwhile
        write_part(folder, part)
        failed: dict[str, str] = {}
        incomplete: dict[str, str] = {}

        def note(path: str, predictions: list[Prediction]) -> None:
            errors = [p.error for p in predictions if p.error]
            if errors:
                has_result = any(p.labels for p in predictions)
                (incomplete if has_result else failed)[without_passwords(path)] = errors[0]

        file = Path(folder) / PREDICTIONS
        done = 0
        for done, (path, line) in enumerate(zip(paths, _whole_lines(file)), 1):
            if line["path"] != without_passwords(path):
                raise GestaError(f"{file}: line {done} is about another video; remove the folder and begin again")
            note(path, line["predictions"])
        with reporting(file), open(file, "ab") as lines:
            for path, predictions in answer(list(paths[done:])):
                values = {"path": without_passwords(path), "predictions": [asdict(p) for p in predictions]}
                lines.write(json.dumps(values).encode() + b"\n")
                lines.flush()
                note(path, predictions)
        return finish_part(folder, part, failed, incomplete)


def merged_predictions(folders: Sequence[str], parts: Sequence[Part]) -> Iterator[Prediction]:
    """The predictions of all videos in the order of the list, read as they are wanted.

    Args:
        folders: of all parts, in any order.
        parts: what they say, see :func:`gesta.data.shares.read_parts`.

    Raises:
        GestaError: the videos in the parts are not those of their list; at the end, after all predictions.
    """
    by_number = sorted(zip((part.number for part in parts), folders))
    with contextlib.ExitStack() as stack:
        files = [(Path(folder) / PREDICTIONS) for _, folder in by_number]
        readers = [_read(stack.enter_context(_open(file)), file) for file in files]
        paths: list[str] = []
        for line in itertools.chain.from_iterable(itertools.zip_longest(*readers)):
            if line is None:  # the last round, in which the later parts have no more
                continue
            paths.append(line["path"])
            yield from line["predictions"]
    if len(paths) != parts[0].videos or paths_hash(paths) != parts[0].listed:
        raise GestaError(
            f"{folders[0]} and the other parts hold {len(paths)} videos, which are not the {parts[0].videos} of their "
            "list; compute the parts again"
        )


def _open(file: Path) -> BinaryIO:
    try:
        return open(file, "rb")
    except FileNotFoundError:
        raise GestaError(f"{file}: is gone; compute the part again") from None


def _read(lines: Iterable[bytes], file: Path) -> Iterator[_Line]:
    for number, line in enumerate(lines, 1):
        source = f"{file}, line {number}"
        text = line.decode("utf-8", "surrogateescape")
        value: _Line = from_json(parse_json(text, source), _Line, source=source, remedy="compute the part again")
        yield value


def _whole_lines(file: Path) -> Iterator[_Line]:
    """The lines of a part that has begun; half a line, of a process that was killed, is cut off first."""
    if not file.is_file():
        return
    with reporting(file), open(file, "r+b") as lines:
        size = sum(len(line) for line in lines if line.endswith(b"\n"))
        lines.truncate(size)
        lines.seek(0)
        yield from _read(lines, file)
