"""The fastest way to a run's scores on a CPU: torch, or one of the exported files that lie in its folder.

``gesta bench model RUN`` measures them and notes the result in the run's folder; ``gesta predict RUN`` and
``gesta serve RUN`` go by it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from gesta.bench.timing import describe, fastest_run
from gesta.checkpoint import TrainedModel
from gesta.checkpoint.exported import ExportedNetwork, is_exported, load_exported
from gesta.config import config, read_json, to_json
from gesta.errors import GestaError
from gesta.evaluation.scoring import views_per_pass
from gesta.files import write_text
from gesta.processes import Precision, choose_device
from gesta.progress import one_line, show

NOTE = "fastest.json"
"""Name of the file in a run's folder that says which way is the fastest."""


@config
class Fastest:
    """What was the fastest way to a run's scores.

    Attributes:
        file: name of an exported file in the run's folder; empty for torch.
        checksum: of the weights that were measured.
    """

    file: str = ""
    checksum: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpeed:
    """How fast the scores of a run's model are computed on this machine's CPU.

    Attributes:
        model: in words.
        device: the CPU.
        batch: clips at once, as many as predictions take.
        clips_per_s: way (``torch``, or the name of an exported file) → clips per second.
        differences: name of an exported file → largest absolute difference of its scores, on made clips.
        left_out: name of an exported file → why it was not measured.
    """

    model: str
    device: str
    batch: int
    clips_per_s: dict[str, float]
    differences: dict[str, float]
    left_out: dict[str, str]

    to_json = asdict

    @property
    def best(self) -> str:
        """The fastest way."""
        return max(self.clips_per_s, key=lambda way: self.clips_per_s[way])

    def __str__(self) -> str:
        lines = [f"{self.model}, {self.batch} clips at once, {self.device}"]
        for way, speed in self.clips_per_s.items():
            note = f", scores differ by {self.differences[way]:.1e}" if way in self.differences else ""
            ratio = speed / self.clips_per_s["torch"]
            lines.append(f"{way:16} {speed:8.2f} clips/s, {ratio:.2f} × torch{note}")
        lines += [f"{name}: {reason}" for name, reason in self.left_out.items()]
        lines.append(f"gesta predict and gesta serve use {self.best} on a CPU from now on (--runtime torch: not)")
        return "\n".join(lines)


def measure_run(model: TrainedModel, *, seconds: float = 3.0, trust_code: bool = False) -> RunSpeed:
    """Measure a run's model and the exported files beside it on the CPU, and note in its folder which is the fastest.

    Files of other scores are left out: those of 8 bits, of other weights, and any whose scores differ by more than
    :data:`gesta.export.write.LARGEST_DIFFERENCE`.

    Args:
        model: of a run folder or a model file, as :func:`gesta.load` gives it; its network is moved to the CPU.
        seconds: of each measurement.
        trust_code: also take files of models whose classes are not part of gesta (this runs their code).

    Raises:
        GestaError: the model is an exported file itself or of no file of gesta, or the note cannot be written.
    """
    from gesta.export import write  # its torch.export takes long to import, for predict too

    folder, checksum, cpu = _folder(model), model.metadata.get("checksum"), torch.device("cpu")
    if folder is None or not checksum:
        raise GestaError(f"{model.name}: is no run and no model file of gesta; give the folder of a run")
    network, batch = model.model.cpu().eval(), views_per_pass(2, cpu)
    ways, left_out = {"torch": network}, {}
    clips = write.made_views(network.config.clip)
    nearness: dict[str, float] = {}
    for path in sorted(folder.iterdir()):
        if not is_exported(path):
            continue
        try:
            file = _same_weights(path, checksum, trust_code)
            difference, _ = write.differences(network, file, clips)
        except GestaError as error:
            left_out[path.name] = str(error)
            continue
        if difference <= write.LARGEST_DIFFERENCE:
            ways[path.name], nearness[path.name] = file, difference
        else:  # also not-a-number
            found = (
                f"its scores differ by {difference:.2g} from the model's, and {write.LARGEST_DIFFERENCE:g} is allowed"
            )
            left_out[path.name] = f"{path}: {found}; export it again"
    speeds: dict[str, float] = {}
    with torch.inference_mode():
        for way, of_way in ways.items():
            video = of_way.clips_of(clips[:batch])
            speeds[way] = batch / fastest_run(lambda: of_way(video), seconds)  # noqa: B023  # called at once
    result = RunSpeed(
        model=network.config.summary,
        device=describe(cpu),
        batch=batch,
        clips_per_s=speeds,
        differences=nearness,
        left_out=left_out,
    )
    note = Fastest(file="" if result.best == "torch" else result.best, checksum=checksum)
    write_text(folder / NOTE, json.dumps(to_json(note)) + "\n")
    return result


def with_fastest(
    model: TrainedModel, device: str | torch.device, precision: Precision, *, trust_code: bool = False
) -> TrainedModel:
    """The exported file that was the fastest way to a model's scores, if it is to be computed on a CPU; else the model.

    Says on standard error which file it is, or why that file cannot be used.

    Args:
        model: what :func:`gesta.load` gives.
        device, precision: of the forward passes.
        trust_code: also take a file of a model whose classes are not part of gesta (this runs their code).

    Raises:
        GestaError: a note that cannot be read, or names a file elsewhere.
    """
    folder = _folder(model)
    if folder is None or precision != "32-true" or not (folder / NOTE).is_file():
        return model
    if choose_device(device).type != "cpu":
        return model
    remedy = f"remove it, or make it again with gesta bench model {folder}"
    note: Fastest = read_json(folder / NOTE, Fastest, remedy=remedy)
    if not note.file or note.checksum != model.metadata.get("checksum"):
        return model
    if Path(note.file).name != note.file or not is_exported(Path(note.file)):
        raise GestaError(f"{folder / NOTE}: {note.file!r} is no exported file of this folder; {remedy}")
    try:
        network = _same_weights(folder / note.file, note.checksum, trust_code)
    except GestaError as error:
        show(one_line(f"{error}; the scores are computed by torch"), sys.stderr)
        return model
    show(f"computed by {folder / note.file}, the fastest way (--runtime torch: without it)", sys.stderr)
    return replace(model, model=network)


def _folder(model: TrainedModel) -> Path | None:
    """Where a model's file lies, if it has one that is no exported file."""
    return Path(model.path).parent if model.path and not isinstance(model.model, ExportedNetwork) else None


def _same_weights(path: Path, checksum: str, trust_code: bool) -> ExportedNetwork:
    """The network of an exported file that was made from the weights of a checksum.

    Raises:
        GestaError: it cannot be loaded, computes with 8 bits, or was made from others.
    """
    file = load_exported(path, trust_code=trust_code)
    network = file.model
    assert isinstance(network, ExportedNetwork)
    if network.exported.int8:
        raise GestaError(f"{path}: has 8 bits, whose scores differ from the model's; name it to use it")
    if file.metadata.get("source") != checksum:
        raise GestaError(f"{path}: was made from other weights than those beside it; export them again")
    return network
