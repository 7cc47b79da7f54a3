"""What files from others do: mutated weights, JSON, lists, shards, pictures and videos through the verbs that take one.

    python benchmarks/robustness/given_files.py [--files 20000] [--kind KIND] [--seed 0] [--workers 1]
    python benchmarks/robustness/given_files.py [--kind KIND] [--seed 0] --again NUMBER --keep FOLDER

Small intact files of every kind are made, and each verb is run on them once, which must succeed. Then each mutant, the
same for the same seed and number, goes through one of the verbs that take its kind, in turn: the function behind the
command ``gesta`` in a forked process with limits of processor time, clock and address space, in a folder of its own,
which is the first where modules are searched. Outcomes: ``fine`` (status 0), ``refused`` (another status, and one
sentence), ``fault``: an exception, a crash, a limit exceeded, no sentence or several, JSON that is none, raw control
characters in what is printed, a program or a network connection started, or a trace of code of the mutant that ran.
Exits with 1 if there is any fault; ``--again`` makes one mutant again and keeps its folder with everything that is
printed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import math
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hostile
import mutations
import numpy as np
import safetensors.torch
import torch
from hostile import Random, one_of, write

import gesta.curation.check
import gesta.curation.prepare
import gesta.data.loader
from gesta.checkpoint import METADATA_KEY, _checksum, load, load_state, read_metadata, save_model, save_state
from gesta.cli import main as gesta_main
from gesta.data.lists import Folder
from gesta.data.shards import write_shard
from gesta.marionette.dataset import plan_clips
from gesta.marionette.encode import write_depth
from gesta.marionette.filming import render_clip
from gesta.model import ClipSpec
from gesta.models import create_model, model_config
from gesta.recipe import EvaluateConfig, Recipe, TrainConfig
from gesta.training.loop import train
from gesta.video.depth import Depth

PROCESSOR_S, CLOCK_S, ADDRESS_SPACE = 20, 120, 4 * 2**30
"""Limits of one run: seconds of processor time and of the clock, bytes more than the process that it is forked from."""

NAMED = "timesformer_tiny"
"""The model that public weights are for."""

SLOW = ("train", "analyse report", "analyse complexity")
"""Beginnings of verbs that take half a second."""

BROKEN = 70
"""Exit status of a verb that raised an exception."""

PART = 20
"""Mutants that one forked process takes."""


# --- intact files ----------------------------------------------------------------------------------------------------


@dataclass
class Intact:
    """What mutants are made of; every sandbox has a link ``intact`` to the folder.

    Attributes:
        folder: with ``data``, ``JPEG`` and ``depth`` (a folder per class), ``run``, ``shards``, a list.
        videos: content of a video by name, see :data:`mutations.CODECS`.
        frames: pictures of a folder of frames by their names, by form (JPEG, PNG, depth).
        public: named weights of :data:`NAMED`.
    """

    folder: Path
    videos: dict[str, bytes]
    frames: dict[str, dict[str, bytes]]
    public: dict[str, torch.Tensor]

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


def make_intact(folder: Path) -> Intact:
    """Tiny videos, frames, shards, lists, weights and a finished run of a model of a few thousand parameters."""
    rgb, metres = (frames[:8, 8:56] for frames in render_clip(plan_clips(1, 0)[0], 0, mutations.WIDTH))
    folder.mkdir(parents=True)
    videos = {n: mutations.encode(folder / n, codec, rgb).read_bytes() for n, codec in mutations.CODECS.items()}
    write_depth(metres[:4], folder / "metres", "M")
    frames = {
        "JPEG": {f"img_{i:05d}.jpg": mutations.image(picture, "JPEG") for i, picture in enumerate(rgb[:4])},
        "PNG": {f"{i:06d}.png": mutations.image(picture, "PNG") for i, picture in enumerate(rgb[:4])},
        "depth": {path.name: path.read_bytes() for path in (folder / "metres").iterdir()},
    }
    for number, name in enumerate(("wave/0", "wave/x", "wave/2", "jump/3", "jump/4", "jump/5")):
        path = folder / "data" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        mutations.encode(path, "libx264", np.roll(rgb, 9 * number, 2))  # no two are the same
        for form in ("JPEG", "depth"):
            (folder / form / name).mkdir(parents=True)
            for i, (file, content) in enumerate(frames[form].items()):
                picture = mutations.image(np.roll(rgb[i], 9 * number, 1), "JPEG") if form == "JPEG" else content
                (folder / form / name / file).write_bytes(picture)
    paths = sorted((folder / "data").rglob("*.mp4"))
    samples = [(f"{i:06d}", str(path), {"name": path.name, "label": i % 2}) for i, path in enumerate(paths)]
    (folder / "shards").mkdir()
    for name in "ab":
        write_shard(str(folder / "shards" / f"{name}.tar"), samples)
    (folder / "list.txt").write_text("".join(f"{path} {path.parent.name}\n" for path in paths))
    (folder / "classes.txt").write_text("jump\nwave\n")
    shutil.copy(folder / "classes.txt", folder / "shards")
    (folder / "attributes.json").write_text(
        json.dumps({"jump": {"legs": 2, "arms": 0}, "wave": {"legs": 0, "arms": 1}})
    )
    public = create_model(NAMED, classes=2).state_dict()
    torch.save(public, folder / "public.pt")
    _make_run(folder)
    return Intact(folder, videos, frames, public)


def _make_run(folder: Path) -> None:
    model = model_config(
        "r3d_tiny", width=2, stem_kernel=(1, 3, 3), time_strides=(1,) * 5, clip=ClipSpec(frames=2, stride=2, size=32)
    )
    recipe = Recipe(name="intact", model=model, data=Folder(root=str(folder / "data"), val=0.34))
    recipe.train = TrainConfig(epochs=1, batch_size=2, workers=0)
    recipe.evaluate = EvaluateConfig(split="val", clips=1, workers=0)
    with contextlib.redirect_stderr(io.StringIO()):
        train(recipe, folder / "run", quiet=True)
    shutil.rmtree(folder / "run" / "events")
    result = json.loads((folder / "run" / "result.json").read_text())
    (folder / "other.json").write_text(json.dumps(result | {"list_hash": "0" * 64}))  # that of another split
    trained = load(folder / "run")
    save_model(folder / "depth.safetensors", trained.model, trained.classes, shows=Depth())


# --- kinds of given files --------------------------------------------------------------------------------------------


def weights_of_gesta(intact: Intact, random: Random) -> str:
    content, way = intact.read("run/best.safetensors"), int(random.integers(20))
    if way == 0:
        return write(Path("given.safetensors"), hostile.payload(random), random).name
    weights, metadata = safetensors.torch.load(content), read_metadata(intact.folder / "run" / "best.safetensors")

    def seal(text: str) -> str:
        try:
            new = _checksum(weights, json.loads(text))
        except (ValueError, TypeError, AttributeError, RecursionError):
            return text
        return text.replace(metadata["checksum"], new)

    if way < 4:
        changed = hostile.changed_weights(weights, random)
        weights = {k: v.clone() for k, v in changed.items() if _is_name(k) and _can_be_saved(v)}
        content = safetensors.torch.save(weights, {METADATA_KEY: seal(json.dumps(metadata))})
    else:
        content = hostile.safetensors_bytes(content, METADATA_KEY, seal, random)
    return write(Path("given.safetensors"), content, random).name


def _is_name(key: object) -> bool:
    """Whether it is text that UTF-8 can hold."""
    return isinstance(key, str) and not re.search("[\ud800-\udfff]", key)


def _can_be_saved(value: object) -> bool:
    """Whether it is a tensor that .safetensors files can hold and that is small."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and (not value.is_quantized and value.numel() < 10**6)
    )


def public_weights(intact: Intact, random: Random) -> str:
    name, way = one_of(("given.pt", "given.pth", "given.ckpt"), random), int(random.integers(10))
    if way < 2:
        content = hostile.payload(random)
    elif way < 4:
        content = hostile.other_bytes(hostile.torch_bytes(intact.public, random), random)
    else:
        content = hostile.torch_bytes(hostile.changed_weights(intact.public, random), random)
    return write(Path(name), content, random).name


def training_state(intact: Intact, random: Random) -> str:
    shutil.copytree(intact.folder / "run", "run")
    path, way = Path("run/last.ckpt"), int(random.integers(10))
    if way < 3:
        content = hostile.other_bytes(path.read_bytes(), random)
    elif way == 3:
        content = hostile.payload(random)
    else:
        state: Any = load_state(path)
        for _ in range(int(random.integers(1, 4))):
            inner: Any = state
            while isinstance(deeper := inner[one_of(list(inner), random)], dict) and deeper and int(random.integers(4)):
                inner = deeper
            inner[one_of(list(inner), random)] = one_of((*hostile.VALUES, *hostile.STRINGS, torch.zeros(2)), random)
        save_state(path, state)
        content = path.read_bytes()
    write(path, content, random)
    return "run"


def _of_run(name: str) -> Callable[[Intact, Random], str]:
    """A run folder of which one file of JSON is another."""

    def make(intact: Intact, random: Random) -> str:
        shutil.copytree(intact.folder / "run", "run")
        content: bytes | str = (Path("run") / name).read_bytes()
        if int(random.integers(8)) == 0:
            content = hostile.other_bytes((Path("run") / name).read_bytes(), random)
        elif name.endswith(".jsonl"):
            lines = (Path("run") / name).read_text().splitlines()
            at = int(random.integers(len(lines)))
            lines[at] = hostile.json_text(json.loads(lines[at]), random)
            content = "\n".join(lines)
        else:
            content = hostile.json_text(json.loads(content), random)
        write(Path("run") / name, content, random)
        return "run"

    return make


def list_file(intact: Intact, random: Random) -> str:
    paths = [str(path) for path in sorted((intact.folder / "data").rglob("*.mp4"))]
    rows = [{"path": path, "label": Path(path).parent.name, "start_time": 0, "end_time": 0.5} for path in paths]
    form = one_of(("txt", "csv", "json", "jsonl"), random)
    content: bytes | str
    if form == "json":
        content = hostile.json_text(
            one_of((rows, {"rows": rows}, {p: r["label"] for p, r in zip(paths, rows)}), random), random
        )
    elif form == "jsonl":
        content = "\n".join(json.dumps(row) if i else hostile.json_text(row, random) for i, row in enumerate(rows))
    elif form == "csv":
        lines = ["path,label,start_time,end_time", *(",".join(map(str, row.values())) for row in rows)]
        content = hostile.table_bytes(lines, random)
    else:
        content = hostile.table_bytes([f"{path} {Path(path).parent.name}" for path in paths], random)
    if int(random.integers(12)) == 0:
        content = hostile.other_bytes(
            content.encode("utf-8", "replace") if isinstance(content, str) else content, random
        )
    return write(Path(f"given.{form}"), content, random).name


def class_names(intact: Intact, random: Random) -> str:
    form = one_of(("txt", "csv", "json"), random)
    content: bytes | str
    if form == "json":
        content = hostile.json_text(
            one_of((["jump", "wave"], {"jump": 0, "wave": 1}, {"0": "jump", "1": "wave"}), random), random
        )
    else:
        content = hostile.table_bytes(
            one_of((["jump", "wave"], ["0 jump", "1 wave"], ["jump,0", "wave,1"]), random), random
        )
    return write(Path(f"given.{form}"), content, random).name


def attributes(intact: Intact, random: Random) -> str:
    return write(Path("given.json"), hostile.json_text(json.loads(intact.read("attributes.json")), random), random).name


def shard(intact: Intact, random: Random) -> str:
    shutil.copytree(intact.folder / "shards", "given")
    content = hostile.tar_bytes([intact.videos["h264.mp4"], intact.videos["mpeg4.mp4"]], random)
    write(Path("given/a.tar"), content, random)
    return "given"


def _in_class(intact: Intact, source: str, mutant: Path) -> str:
    """Put a mutant among intact videos, or folders of frames, in place of the video ``wave/x``."""
    shutil.copytree(intact.folder / source, "given")
    replaced = next(Path("given/wave").glob("x*"))
    shutil.rmtree(replaced) if replaced.is_dir() else replaced.unlink()
    mutant.rename(Path("given/wave") / f"x{mutant.suffix}")
    return "given"


def pictures(intact: Intact, random: Random) -> str:
    way = int(random.integers(10))
    if way < 5:
        mutant = mutations.frames(int(random.integers(10**6)), Path(), intact.frames, random).path
    else:
        mutant = Path("frames")
        mutant.mkdir()
        sources = dict(intact.frames["JPEG"])
        name = one_of(sorted(sources), random)
        if way < 7:
            sources[name] = hostile.picture_bytes(random)
        elif way < 9:
            sources[name] = hostile.with_exif(sources[name], random)
        else:
            odd = one_of(hostile.STRINGS, random).replace("/", "").replace("\0", "")[:50] + ".jpg"
            sources[odd] = sources.pop(name)
        for file, content in sources.items():
            (mutant / os.fsdecode(file.encode("utf-8", "replace"))).write_bytes(content)
    return _in_class(intact, "JPEG", mutant)


def depth_pictures(intact: Intact, random: Random) -> str:
    mutant = mutations.frames(int(random.integers(10**6)), Path(), {"depth": intact.frames["depth"]}, random)
    return _in_class(intact, "depth", mutant.path)


def video(intact: Intact, random: Random) -> str:
    number, way = int(random.integers(10**6)), int(random.integers(10))
    if way == 0:
        path = mutations.wrong_file(number, Path(), intact.videos, random).path
    elif way < 3:
        name = one_of(sorted(intact.videos), random)
        path = write(Path(f"v{Path(name).suffix}"), hostile.other_bytes(intact.videos[name], random), random)
    else:
        path = mutations.video(number, Path(), intact.videos, random).path
    return _in_class(intact, "data", path)


V = "intact/data/wave/0.mp4"
SHORT = ("--train.workers", "0", "--evaluate.workers", "0", "--evaluate.clips", "1", "--train.epochs", "2")
EVALUATE = ("--evaluate.workers", "0", "--evaluate.clips", "1", "--evaluate.split", "val", "--out", "out.json")
FOLDER = ("--data", "folder", "--data.root", "intact/data", "--data.val", "0.34")
TRAIN = ("train", "intact/run/recipe.json", "--run", "new", *SHORT)


class Kind(NamedTuple):
    """A kind of given file.

    Attributes:
        make: writes a mutant into the current folder and returns its name, ``GIVEN`` in the commands.
        intact: the name of an intact one in the folder of :class:`Intact`.
        commands: by verb.
    """

    make: Callable[[Intact, Random], str]
    intact: str
    commands: dict[str, tuple[str, ...]]


_VIDEOS_OF_A_FOLDER = {
    "data list": ("data", "list", "GIVEN"),
    "data check": ("data", "check", "GIVEN", "--json"),
    "data prepare": ("data", "prepare", "GIVEN", "out", "--workers", "0", "--short-side", "32", "--lists"),
    "data prepare --shards": ("data", "prepare", "GIVEN", "out", "--workers", "0", "--fps", "15", "--shards", "2"),
    "evaluate": ("evaluate", "intact/run", "--data", "folder", "--data.root", "GIVEN", "--data.val", "0.5", *EVALUATE),
    "train": (*TRAIN, "--data", "folder", "--data.root", "GIVEN", "--data.val", "0.3"),
}

KINDS: dict[str, Kind] = {
    "weights (.safetensors)": Kind(
        weights_of_gesta,
        "run/best.safetensors",
        {
            "predict": ("predict", "GIVEN", V, "--clips", "1", "--json"),
            "predict --timeline": ("predict", "GIVEN", V, "--timeline", "--format", "srt"),
            "evaluate": ("evaluate", "GIVEN", *FOLDER, *EVALUATE),
            "train --init.weights": (*TRAIN, "--init.weights", "GIVEN"),
            "analyse filters": ("analyse", "filters", "GIVEN", "--json"),
            "analyse response": ("analyse", "response", V, "GIVEN"),
            "analyse mi": ("analyse", "mi", "GIVEN", V, "--block", "0"),
        },
    ),
    "weights (.pt, .pth, .ckpt)": Kind(
        public_weights,
        "public.pt",
        {
            "predict": ("predict", "--model", NAMED, "--weights", "GIVEN", V, "--clips", "1", "--format", "csv"),
            "evaluate": ("evaluate", "--model", NAMED, "--weights", "GIVEN", *FOLDER, *EVALUATE),
            "train --init.weights": (
                "train",
                "finetune",
                "--model",
                NAMED,
                "--run",
                "new",
                *SHORT,
                "--init.weights",
                "GIVEN",
                "--data.root",
                "intact/data",
                "--train.epochs",
                "1",
            ),
        },
    ),
    "training state": Kind(
        training_state,
        "run",
        {
            "train --resume": ("train", "--resume", "--run", "GIVEN", *SHORT),
            "train --init.weights": (*TRAIN, "--init.weights", "GIVEN/last.ckpt"),
        },
    ),
    "recipe.json": Kind(
        _of_run("recipe.json"),
        "run",
        {
            "show": ("show", "GIVEN/recipe.json"),
            "train": ("train", "GIVEN/recipe.json", "--run", "new", *SHORT),
            "train --resume": ("train", "--resume", "--run", "GIVEN", *SHORT),
            "evaluate": ("evaluate", "GIVEN", *EVALUATE),
            "analyse complexity": ("analyse", "complexity", "GIVEN", "--seconds", "0"),
            "analyse report": ("analyse", "report", "GIVEN"),
            "analyse stages": ("analyse", "stages", "GIVEN", "--split", "val"),
        },
    ),
    "result.json": Kind(
        _of_run("result.json"),
        "run",
        {
            "analyse report": ("analyse", "report", "GIVEN"),
            "analyse confusion": ("analyse", "confusion", "GIVEN", "intact/run", "--json"),
            "analyse complexity": ("analyse", "complexity", "GIVEN/result.json", "--seconds", "0"),
            "compare": ("compare", "GIVEN", "intact/run", "--json"),
            "mean": ("mean", "GIVEN", "intact/other.json", "--json"),
            "fuse": ("fuse", "GIVEN", "intact/run", "--out", "out.json"),
        },
    ),
    "log.jsonl": Kind(
        _of_run("log.jsonl"),
        "run",
        {
            "analyse report": ("analyse", "report", "GIVEN"),
            "train --resume": ("train", "--resume", "--run", "GIVEN", *SHORT),
        },
    ),
    "list (txt, csv, json, jsonl)": Kind(
        list_file,
        "list.txt",
        {
            "data list": ("data", "list", "GIVEN", "--json"),
            "data check": ("data", "check", "GIVEN"),
            "evaluate": ("evaluate", "intact/run", "--data", "lists", "--data.val", "GIVEN", *EVALUATE),
            "train": (*TRAIN, "--data", "lists", "--data.train", "GIVEN"),
            "analyse mi": ("analyse", "mi", "--block", "0", "intact/run", "--data", "GIVEN", "--split", "train"),
        },
    ),
    "class names (txt, csv, json)": Kind(
        class_names,
        "classes.txt",
        {
            "predict --classes": (
                "predict",
                "--model",
                NAMED,
                "--weights",
                "intact/public.pt",
                "--classes",
                "GIVEN",
                V,
            ),
            "evaluate --classes": (
                "evaluate",
                "--model",
                NAMED,
                "--weights",
                "intact/public.pt",
                "--classes",
                "GIVEN",
                *FOLDER,
                *EVALUATE,
            ),
            "data list": ("data", "list", "shards", "--root", "intact/shards", "--class-names", "GIVEN"),
            "train": (*TRAIN, "--data", "shards", "--data.root", "intact/shards", "--data.class-names", "GIVEN"),
        },
    ),
    "attributes of classes (json)": Kind(
        attributes,
        "attributes.json",
        {
            "analyse confusion --by": ("analyse", "confusion", "intact/run", "--by", "GIVEN"),
        },
    ),
    "shard (tar)": Kind(
        shard,
        "shards",
        {
            "data list": ("data", "list", "shards", "--root", "GIVEN", "--json"),
            "data check": ("data", "check", "shards", "--root", "GIVEN"),
            "evaluate": (
                "evaluate",
                "intact/run",
                "--data",
                "shards",
                "--data.root",
                "GIVEN",
                "--data.val",
                "0.5",
                *EVALUATE,
            ),
            "train": (*TRAIN, "--data", "shards", "--data.root", "GIVEN"),
            "predict": ("predict", "intact/run", "GIVEN/a.tar#000001.mp4", "--clips", "1"),
        },
    ),
    "pictures (folders of frames)": Kind(
        pictures,
        "JPEG",
        {
            "predict": ("predict", "intact/run", "GIVEN/wave/x", "--clips", "1", "--json"),
            "predict --timeline": ("predict", "intact/run", "GIVEN/wave/x", "--timeline", "--json"),
            **_VIDEOS_OF_A_FOLDER,
            "analyse mi": ("analyse", "mi", "--block", "0", "intact/run", "GIVEN/wave/x"),
        },
    ),
    "depth pictures": Kind(
        depth_pictures,
        "depth",
        {
            "predict": ("predict", "intact/depth.safetensors", "GIVEN/wave/x", "--clips", "1", "--format", "text"),
            "predict --timeline": ("predict", "intact/depth.safetensors", "GIVEN/wave/x", "--timeline"),
        },
    ),
    "video": Kind(
        video,
        "data",
        {
            "predict": ("predict", "intact/run", "GIVEN/wave", "--clips", "1", "--json"),
            "predict --timeline": ("predict", "intact/run", "GIVEN/wave", "--timeline", "--json", "--threshold", "0"),
            **_VIDEOS_OF_A_FOLDER,
            "analyse mi": ("analyse", "mi", "--block", "0", "intact/run", "GIVEN/wave"),
        },
    ),
}


# --- one mutant through one verb -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What one run did; ``fault`` is empty unless it was one."""

    number: int
    kind: str
    verb: str
    status: int
    seconds: float
    fault: str


@dataclass
class Fuzz:
    """Mutants of a seed.

    Attributes:
        kinds: of files, in turn.
        seed: of the mutations.
        keep: a folder for what is printed and for the sandbox, which is then kept.
    """

    intact: Intact
    kinds: Sequence[str]
    seed: int = 0
    keep: Path | None = None

    def task(self, number: int) -> tuple[str, str]:
        """Kind and verb of a mutant; verbs that take long have a third of the turns of the others."""
        kind = self.kinds[number % len(self.kinds)]
        verbs = [v for turn in range(3) for v in KINDS[kind].commands if not turn or not v.startswith(SLOW)]
        return kind, verbs[number // len(self.kinds) % len(verbs)]

    def run(self, numbers: Sequence[int]) -> list[Outcome]:
        """Put mutants through their verbs, one after the other in forked processes; one that ends is replaced."""
        outcomes: list[Outcome] = []
        while len(outcomes) < len(numbers):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
                folder = self.keep or Path(temporary)
                reader, writer = multiprocessing.Pipe(duplex=False)
                sys.stdout.flush()
                if (process := os.fork()) == 0:
                    self._serve(folder, numbers[len(outcomes) :], writer)
                writer.close()
                outcomes += self._receive(folder, numbers[len(outcomes) :], reader, process)
        return outcomes

    def _receive(self, folder: Path, numbers: Sequence[int], reader: Connection, process: int) -> Iterator[Outcome]:
        """Outcomes until the forked process is done or ends itself, which is the outcome of the current mutant."""
        for number in numbers:
            kind, verb = self.task(number)
            status, seconds = -signal.SIGALRM, CLOCK_S  # unless it says otherwise in time
            with contextlib.suppress(EOFError):
                if alive := reader.poll(CLOCK_S):
                    status, seconds = reader.recv()
            if status < 0:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)
                _, code = os.waitpid(process, 0)
                status = os.waitstatus_to_exitcode(code) if alive else status
            texts = [folder / f"{number}.{name}" for name in ("out", "errors")]
            printed, errors = (text.read_text(errors="replace") if text.exists() else "" for text in texts)
            fault = _fault(status, printed, errors, folder / str(number), "--json" in KINDS[kind].commands[verb])
            yield Outcome(number, kind, verb, status, seconds, fault)
            if status < 0:
                return
            if not self.keep:
                shutil.rmtree(folder / str(number), ignore_errors=True)
        os.waitpid(process, 0)

    def _serve(self, folder: Path, numbers: Sequence[int], writer: Connection) -> NoReturn:
        """The forked process: for each mutant a sandbox, limits, and its verb."""
        os.setsid()
        gc.disable()
        settle(self.intact)
        _limit()
        _watch()
        for number in numbers:
            kind, verb = self.task(number)
            sandbox, status, begin = folder / str(number), BROKEN, time.process_time()
            try:
                make_sandbox(sandbox, self.intact)
                os.chdir(sandbox)
                sys.path[0] = str(sandbox)  # where modules are searched first
                for name, descriptor in (("/dev/null", 0), (f"../{number}.out", 1), (f"../{number}.errors", 2)):
                    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), descriptor)
                sys.stdin, sys.stdout, sys.stderr = (os.fdopen(i, "rww"[i], closefd=False) for i in range(3))
                used = int(time.process_time())
                resource.setrlimit(resource.RLIMIT_CPU, (used + PROCESSOR_S, resource.RLIM_INFINITY))
                given = KINDS[kind].make(self.intact, np.random.default_rng([self.seed, number]))
                status = run_verb([word.replace("GIVEN", given) for word in KINDS[kind].commands[verb]])
            except BaseException:
                traceback.print_exc()
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            writer.send((status, time.process_time() - begin))
        os._exit(0)


def make_sandbox(sandbox: Path, intact: Intact) -> None:
    """The folder in which a verb runs, with what hostile paths and names point to."""
    sandbox.mkdir(parents=True)
    (sandbox / "intact").symlink_to(intact.folder)
    os.mkfifo(sandbox / "pipe")
    (sandbox / "loop").mkdir()
    (sandbox / "loop" / "again").symlink_to(".")
    (sandbox / "canary_module.py").write_text(hostile.RUN)
    (sandbox / "evil.pt").write_bytes(hostile.payload(np.random.default_rng(0)))


def run_verb(arguments: list[str]) -> int:
    """``gesta``'s exit status."""
    try:
        gesta_main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _limit() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**28,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watch() -> None:
    """Note programs and connections that a verb starts."""
    sys.path.insert(0, "")

    def note(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"):
            with open("started", "a") as file:
                file.write(f"{event} {arguments!r}"[:300] + "\n")

    sys.addaudithook(note)


CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _fault(status: int, printed: str, errors: str, sandbox: Path, is_json: bool) -> str:
    """What is wrong with an outcome, in a few words."""
    started = sandbox / "started"
    sentences = [line for line in errors.splitlines() if line.startswith("gesta: ")]
    last = (errors.strip() or "nothing printed").splitlines()[-1][:200]
    if list(sandbox.rglob(hostile.CANARY)):
        return f"code ran: {last}"
    if started.exists():
        return f"started {started.read_text()[:200]!r}"
    if status in (-signal.SIGALRM, -signal.SIGXCPU):
        return f"hangs: more than {PROCESSOR_S} s of processor time or {CLOCK_S} s"
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    if status == BROKEN or "Traceback (most recent call last)" in errors:
        return f"exception: {last}"
    if len(sentences) > 1 or (sentences and not status):
        return f"{len(sentences)} sentences, status {status}: {sentences[0][:200]}"
    if status and not (sentences or printed.strip() or "error: " in errors):
        return f"status {status} without a sentence: {last}"
    if CONTROL.search(printed + errors):
        return f"prints raw control characters: {CONTROL.findall(printed + errors)[:5]}"
    if is_json and printed.strip():
        try:
            json.loads(printed, parse_constant=_no_constant)
        except ValueError as error:
            return f"prints JSON that is none: {error}"
    return ""


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# --- all -------------------------------------------------------------------------------------------------------------


@dataclass
class Table:
    """Counts by kind and verb, the slowest run of each, and every fault."""

    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    slowest: dict[tuple[str, str], float] = field(default_factory=dict)
    faults: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        row = (outcome.kind, outcome.verb)
        word = "faults" if outcome.fault else "refused" if outcome.status else "fine"
        self.counts.setdefault(row, Counter()).update(["files", word])
        self.slowest[row] = max(self.slowest.get(row, 0.0), outcome.seconds)
        if outcome.fault:
            self.faults.append(outcome)

    def __str__(self) -> str:
        columns = ("files", "fine", "refused", "faults")
        rows = [(*row, self.counts[row], self.slowest[row]) for kind in KINDS for row in self.counts if row[0] == kind]
        rows.append(("all", "", sum(self.counts.values(), Counter()), max(self.slowest.values(), default=0.0)))
        lines = ["| kind | verb | files | fine | refused | faults | slowest, s |", "|---|---|" + "---:|" * 5]
        for kind, verb, counts, slowest in rows:
            lines.append(f"| {kind} | {verb} | {' | '.join(str(counts[c]) for c in columns)} | {slowest:.1f} |")
        return "\n".join(lines)


def settle(intact: Intact) -> None:
    """Settings of a process that runs verbs: one thread, no worker processes, nothing from a network, its own cache."""
    torch.set_num_threads(1)
    for module in (gesta.curation.check, gesta.data.loader):
        module.loader_workers = lambda workers=0, shared=False: 0  # type: ignore[attr-defined]
    os.environ |= {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(intact.folder / "cache")}


def run_on_intact(intact: Intact, kinds: Sequence[str]) -> None:
    """Run every verb on intact files in this process, which imports what forked processes then need not import again.

    Raises:
        RuntimeError: one does not succeed.
    """
    settle(intact)
    for kind in kinds:
        for verb, command in KINDS[kind].commands.items():
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                Path("intact").symlink_to(intact.folder)
                given = Path("given" + Path(KINDS[kind].intact).suffix)
                source = intact.folder / KINDS[kind].intact
                (shutil.copytree if source.is_dir() else shutil.copy)(source, given)
                with contextlib.redirect_stdout(printed := io.StringIO()), contextlib.redirect_stderr(printed):
                    status = run_verb([word.replace("GIVEN", str(given)) for word in command])
            if status:
                raise RuntimeError(f"{kind}, {verb}: fails on intact files: {printed.getvalue()}")
    gc.freeze()


def fuzz_files(
    fuzz: Fuzz, numbers: Sequence[int], workers: int = 1, show: bool = False, minutes: float = math.inf
) -> Table:
    """All outcomes, or those of so many minutes; with ``show`` each fault is printed as it comes."""
    table, begin = Table(), time.monotonic()
    parts = [numbers[i : i + PART] for i in range(0, len(numbers), PART)]
    with contextlib.ExitStack() as stack:
        run: Callable[..., Iterator[list[Outcome]]] = map
        if workers > 1:
            context = multiprocessing.get_context("fork")
            run = stack.enter_context(ProcessPoolExecutor(workers, context)).map
        for outcomes in run(fuzz.run, parts):
            for outcome in outcomes:
                table.add(outcome)
                if show and outcome.fault:
                    print(f"{outcome.number}: {outcome.kind}, {outcome.verb}: {outcome.fault}", file=sys.stderr)
            if time.monotonic() - begin > 60 * minutes:
                break
            if show and outcomes[-1].number % 1000 > 1000 - PART:
                print(f"up to {outcomes[-1].number}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000, help="(default %(default)s)")
    parser.add_argument("--kind", choices=list(KINDS), action="append", help="these alone (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many (default: never)")
    parser.add_argument("--again", type=int, metavar="NUMBER", help="one mutant again; give the same --kind and --seed")
    parser.add_argument("--keep", type=Path, help="with --again: folder that is kept, with what is printed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        fuzz = Fuzz(make_intact(Path(temporary) / "intact"), options.kind or list(KINDS), options.seed, options.keep)
        run_on_intact(fuzz.intact, fuzz.kinds)
        numbers = range(options.files) if options.again is None else [options.again]
        table = fuzz_files(fuzz, numbers, options.workers, show=True, minutes=options.minutes)
    print(table)
    for outcome in table.faults:
        print(f"{outcome.number}: {outcome.kind}, {outcome.verb}: {outcome.fault}")
    return int(bool(table.faults))


if __name__ == "__main__":
    sys.exit(main())
