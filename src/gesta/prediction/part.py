"""The predictions of one share of a list of videos, and of all shares together.

A line of ``predictions.jsonl`` is a video with all that is predicted for it. It is written whole before the next video
begins, so that a job that was killed goes on where it stopped. A line also says what the video was then: of one that
has been replaced since, and of one that could not be read, a new line is written behind the others, and at the end all
stand in the order of the videos.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypedDict

from gesta.checkpoint import TrainedModel
from gesta.checkpoint.exported import ExportedNetwork
from gesta.checkpoint.formats import file_hash
from gesta.checkpoint.weights import weights_hash
from gesta.config import from_json, parse_json, to_json
from gesta.data.shares import Part, check_part, finish_part, paths_hash, write_part
from gesta.errors import GestaError, without_passwords
from gesta.files import lock_folder, reporting, write_atomically
from gesta.model import VideoModel
from gesta.prediction.prediction import Prediction
from gesta.video.archive import state_hash

PREDICTIONS = "predictions.jsonl"


class _Required(TypedDict):
    path: str
    predictions: list[Prediction]


class _Line(_Required, total=False):
    """A line of the file.

    Attributes:
        state: hash of the video's size and time of change; not in lines of earlier versions, empty of addresses.
    """

    state: str


class _Answer(NamedTuple):
    """What a line holds, and the bytes of it."""

    begin: int
    end: int
    error: str
    has_result: bool


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
    """Compute a part, or what is left of it, has changed or could not be read.

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
        file = Path(folder) / PREDICTIONS
        states = [state_hash(path) for path in paths]  # before they are read, as they may change meanwhile
        answers = _current(file, paths, states)
        todo = [position for position in range(len(paths)) if position not in answers]
        with reporting(file), open(file, "ab") as lines:
            for (_, predictions), position in zip(answer([paths[position] for position in todo]), todo):
                values = _Line(path=without_passwords(paths[position]), state=states[position], predictions=predictions)
                begin = lines.tell()
                lines.write(json.dumps(values | {"predictions": [asdict(p) for p in predictions]}).encode() + b"\n")
                lines.flush()
                answers[position] = _answered(begin, lines.tell(), predictions)
        _put_in_order(file, [answers[position] for position in sorted(answers)])
        failed: dict[str, str] = {}
        incomplete: dict[str, str] = {}
        for position, found in sorted(answers.items()):
            if found.error:
                (incomplete if found.has_result else failed)[without_passwords(paths[position])] = found.error
        return finish_part(folder, part, failed, incomplete)


def _answered(begin: int, end: int, predictions: Sequence[Prediction]) -> _Answer:
    error = next((p.error for p in predictions if p.error), "")
    return _Answer(begin, end, error, any(p.labels for p in predictions))


def _current(file: Path, paths: Sequence[str], states: Sequence[str]) -> dict[int, _Answer]:
    """The answers of a part that has begun, by the positions of their videos, that need not be computed again.

    Those are left out that are errors alone, as what caused them may be mended, and those of videos that have been
    replaced. What cannot be seen just now is not known to be replaced.

    Raises:
        GestaError: a line is about another video.
    """
    positions: dict[str, list[int]] = defaultdict(list)
    for position, path in enumerate(paths):
        positions[without_passwords(path)].append(position)
    answers: dict[int, _Answer] = {}
    seen = Counter[str]()  # two addresses may differ in their passwords alone
    for number, (begin, end, line) in enumerate(_whole_lines(file), 1):
        path = line["path"]
        if path not in positions:
            raise GestaError(f"{file}: line {number} is about another video; remove the folder and begin again")
        position = positions[path][seen[path] % len(positions[path])]
        seen[path] += 1
        answers.pop(position, None)  # an earlier line of it
        found, state = _answered(begin, end, line["predictions"]), states[position]
        is_same = not state or line.get("state", state) == state
        if is_same and (found.has_result or not found.error):
            answers[position] = found
    return answers


def _put_in_order(file: Path, answers: Sequence[_Answer]) -> None:
    """Leave the lines of these answers alone, in their order."""
    ends = [0, *(found.end for found in answers)]
    if [found.begin for found in answers] == ends[:-1] and os.path.getsize(file) == ends[-1]:
        return
    with reporting(file), write_atomically(file) as ordered, open(file, "rb") as lines:
        for found in answers:
            lines.seek(found.begin)
            ordered.write(lines.read(found.end - found.begin))


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


def _whole_lines(file: Path) -> Iterator[tuple[int, int, _Line]]:
    """The lines of a part that has begun, and where they begin and end; half a line, of a process that was killed, is
    cut off first."""
    if not file.is_file():
        return
    with reporting(file), open(file, "r+b") as lines:
        sizes = [len(line) for line in lines if line.endswith(b"\n")]
        lines.truncate(sum(sizes))
        lines.seek(0)
        ends = list(itertools.accumulate(sizes))
        yield from zip([0, *ends], ends, _read(lines, file))
