"""The table of docs/export.md: each model exported in each form, how near its scores are, and how fast it runs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from gesta.bench.timing import fastest_run
from gesta.checkpoint import TrainedModel
from gesta.checkpoint.exported import SUFFIXES, Kind, load_exported
from gesta.config import read_text
from gesta.errors import GestaError
from gesta.export.write import export, made_views
from gesta.files import write_text
from gesta.models import list_models, model_config
from gesta.progress import track

KINDS: tuple[Kind, ...] = tuple(SUFFIXES.values())

CLASSES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportCheck:
    """One row of the table.

    Attributes:
        model: name of the model.
        kind: the runtime.
        difference: largest absolute difference of scores, of one clip and of three at once; None if it was refused.
        ratio: seconds of the model in torch, eager, to those of the file, one clip at once.
        refusal: why there is no such file.
    """

    model: str
    kind: Kind
    difference: float | None = None
    ratio: float | None = None
    refusal: str = ""

    to_json = asdict

    def __str__(self) -> str:
        if self.difference is None:
            return f"| `{self.model}` | {self.kind} | refused: {self.refusal} | |"
        return f"| `{self.model}` | {self.kind} | {self.difference:.1e} | {self.ratio:.2f} |"


HEADER = "| model | format | largest difference | torch's time / the file's |\n|---|---|---|---|"

BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"
"""Marks in a page, between which the table stands."""


def checked_models() -> list[str]:
    """The models of the table: one of each system and backbone, small enough to export all of them in minutes."""
    return list_models("*_tiny")


def fresh_model(name: str) -> TrainedModel:
    """A named model with random weights, none of which is zero: a part that starts at zero hides what is before it."""
    torch.manual_seed(0)
    network = model_config(name, num_classes=CLASSES).build().eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return TrainedModel(model=network, classes=[str(index) for index in range(CLASSES)], metadata={}, name=name)


def check_export(name: str, kind: Kind, folder: Path, *, seconds: float = 0.0) -> ExportCheck:
    """Export a model for any number of clips, check it, and measure it.

    Args:
        name: of the model.
        kind: the runtime.
        folder: where the file is written.
        seconds: of each measurement; 0 leaves it out, and the ratio is not a number.
    """
    model = fresh_model(name)
    suffix = next(suffix for suffix, value in SUFFIXES.items() if value == kind)
    path = folder / f"{name}{suffix}"
    try:
        difference = export(model, path).difference
    except GestaError as error:
        return ExportCheck(model=name, kind=kind, refusal=str(error))
    if not seconds:
        return ExportCheck(model=name, kind=kind, difference=difference, ratio=float("nan"))
    times = []
    for network in (model.model, load_exported(path).model):
        clips = network.clips_of(made_views(network.config.clip)[:1])
        with torch.inference_mode():
            times.append(fastest_run(lambda: network(clips), seconds))  # noqa: B023  # called at once
    return ExportCheck(model=name, kind=kind, difference=difference, ratio=times[0] / times[1])


def check_exports(names: Sequence[str] = ()) -> list[ExportCheck]:
    """The rows of the table, each measured with one thread: the fastest pass within a second, torch's and the file's.

    Args:
        names: of models; none for all of :func:`checked_models`.

    Raises:
        GestaError: there is no such model.
    """
    chosen = list(names) or checked_models()
    for name in chosen:
        model_config(name)  # an unknown one is refused before minutes of work
    checks = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in track(chosen, "exporting"):
                checks += [check_export(name, kind, Path(folder), seconds=1.0) for kind in KINDS]
    finally:
        torch.set_num_threads(threads)
    return checks


def write_table(page: Path, checks: Sequence[ExportCheck]) -> None:
    """Put the table into a page, in place of that between its marks.

    Raises:
        GestaError: the page cannot be read or written, or lacks the marks.
    """
    before, after = around_table(page)
    write_text(page, "\n".join([f"{before}{BEGIN}", HEADER, *map(str, checks), f"{END}{after}"]))


def around_table(page: Path) -> tuple[str, str]:
    """The text of a page before and after its table; for the error see :func:`write_table`."""
    before, begin, rest = read_text(page).partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise GestaError(f"{page}: has no table of exports to replace; put {BEGIN} and {END} where it is to stand")
    return before, after
