"""What broken files do: mutated videos and folders of frames in ``gesta data check``, an evaluation and a training.

    python benchmarks/robustness/mutations.py [--files 1000] [--seed 0] [--workers 2] [--keep FOLDER]

A Marionette clip is encoded by several codecs, written as JPEG, PNG and depth images, and broken in many ways, the same
for the same seed. Each file is first read alone and timed. Then the three programs get all of them: the check must name
what cannot be decoded, the evaluation must score a file or count it as failed, the training must name what it left out,
they must agree, and nothing may crash or hang. Prints how many files of each kind had which outcome: ``fine`` (decoded
without an error, also where the changed bits mean something else), ``damaged`` (scored; the check names it), ``failed``
(named by all three), ``missing`` (anything else, and what should have failed and did not). Exits with 1 if any is
missing.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import sys
import tempfile
import time
import wave
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import torch
from PIL import Image

from gesta.config import config
from gesta.curation.check import check
from gesta.data.workers import run_each
from gesta.errors import VideoError
from gesta.evaluation.evaluate import evaluate
from gesta.marionette.dataset import plan_clips
from gesta.marionette.encode import write_depth
from gesta.marionette.filming import render_clip
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.recipe import EvaluateConfig, Recipe, TrainConfig
from gesta.records import DataConfig, Record, SplitName
from gesta.training.loop import train
from gesta.video.depth import Depth
from gesta.video.find import VIDEOS
from gesta.video.probe import probe
from gesta.video.read import read

Random = np.random.Generator

CODECS = {
    "h264.mp4": "libx264", "mpeg4.mp4": "mpeg4", "hevc.mp4": "libx265", "mjpeg.avi": "mjpeg", "mpeg4.avi": "mpeg4",
    "vp8.webm": "libvpx", "vp9.webm": "libvpx-vp9", "h264.mkv": "libx264", "ffv1.mkv": "ffv1", "h264.ts": "libx264",
}  # fmt: skip
FRAMES, WIDTH, HEIGHT = 12, 64, 48
HOSTILE = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
DAMAGED = {"damaged", "wrong header", "one frame"}
"""Kinds of the check's findings about files of which some frames can be decoded."""
BATCH = 10
LIMIT = 90.0
"""Seconds after which reading one file counts as hanging."""


@dataclass(frozen=True)
class Mutant:
    """One mutated file; ``unreadable`` if it holds nothing that any reader could show."""

    path: Path
    kind: str
    unreadable: bool = False
    depth: Depth | None = None


# --- intact videos ---------------------------------------------------------------------------------------------------


def encode(path: Path, codec: str, pictures: np.ndarray) -> Path:
    """A small video; its suffix chooses the container."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:  # no random identifiers
        options = {"preset": "ultrafast"} if "x26" in codec else {"cpu-used": "8"} if "vpx" in codec else {}
        if codec == "libx265":
            options["x265-params"] = "log-level=none:pools=none"
        stream = container.add_stream(codec, rate=12, options=options)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 6
        stream.codec_context.thread_count = 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    return path


def audio_only(kind: str) -> bytes:
    """A file that holds nothing but audio."""
    file = io.BytesIO()
    if kind == "wav":
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(8000)
            out.writeframes(bytes(8000))
        return file.getvalue()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def image(picture: np.ndarray, form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form)
    return file.getvalue()


# --- mutations of bytes ----------------------------------------------------------------------------------------------


def truncated(content: bytes, random: Random) -> bytes:
    return content[: int(random.integers(1, len(content)))]


def flipped(content: bytes, random: Random, last: int | None = None) -> bytes:
    changed = bytearray(content)
    for _ in range(int(2 ** random.integers(0, 8))):
        changed[int(random.integers(min(len(changed), last or len(changed))))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def flipped_header(content: bytes, random: Random) -> bytes:
    return flipped(content, random, 400)


def extreme(content: bytes, random: Random) -> bytes:
    """Some 32-bit words of the header, or of the index at the end, become extreme."""
    changed = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        end = min(len(changed), 1600)
        at = int(random.integers(0, end - 4)) + (len(changed) - end) * int(random.integers(2))
        changed[at : at + 4] = struct.pack(random.choice([">I", "<I"]), HOSTILE[int(random.integers(len(HOSTILE)))])
    return bytes(changed)


def holed(content: bytes, random: Random) -> bytes:
    """A range of bytes becomes zeros or noise, or is cut out."""
    begin, end = sorted(int(at) for at in random.integers(0, len(content), 2))
    hole = (bytes(end - begin), random.bytes(end - begin), b"")[int(random.integers(3))]
    return content[:begin] + hole + content[end:]


def sized(content: bytes, sizes: list[tuple[int, int]], random: Random) -> bytes:
    """The size of the picture, wherever the container's header has it, becomes another."""
    width, height = sizes[int(random.integers(len(sizes)))]
    for form, most in ((">HH", 2**16), ("<II", 2**32), (">II", 2**32), ("<HH", 2**16)):
        content = content.replace(struct.pack(form, WIDTH, HEIGHT), struct.pack(form, width % most, height % most))
    matroska = b"\xb0\x81" + bytes([WIDTH]) + b"\xba\x81" + bytes([HEIGHT])
    return content.replace(matroska, b"\xb0\x82" + struct.pack(">H", width % 2**16) + b"\xba\x81\x30")


def zero_size(content: bytes, random: Random) -> bytes:
    return sized(content, [(0, 0), (0, HEIGHT), (WIDTH, 0)], random)


def huge_size(content: bytes, random: Random) -> bytes:
    return sized(content, [(65535, 65535), (30000, 30000), (16000, 2), (2**31 - 1, 2**31 - 1)], random)


BYTES: dict[str, Callable[[bytes, Random], bytes]] = {
    "truncated": truncated, "bits flipped": flipped, "bits flipped in the header": flipped_header,
    "extreme numbers in the header": extreme, "hole": holed, "picture of size zero": zero_size,
    "picture of huge size": huge_size,
}  # fmt: skip


# --- mutants ---------------------------------------------------------------------------------------------------------


def video(number: int, folder: Path, sources: dict[str, bytes], random: Random) -> Mutant:
    """A video file with other bytes."""
    kind = list(BYTES)[number % len(BYTES)]
    name = sorted(sources)[int(random.integers(len(sources)))]
    path = folder / f"{number:04d}{Path(name).suffix}"
    path.write_bytes(BYTES[kind](sources[name], random))
    return Mutant(path, kind)


def wrong_file(number: int, folder: Path, sources: dict[str, bytes], random: Random) -> Mutant:
    """Something else than its name says."""
    mp4 = sources["h264.mp4"]
    contents = {
        "empty": [b""], "wrong suffix: text": [b"walk 0\n" * 99, b"<!DOCTYPE html><html>404</html>", b'{"a": [1]}'],
        "wrong suffix: image": [image(np.zeros((48, 64, 3), np.uint8), form) for form in ("JPEG", "PNG")],
        "noise or zeros": [random.bytes(5000), bytes(5000), b"\0"],
        "audio only": [audio_only("wav"), audio_only("mp4")],
    }  # fmt: skip
    special = ["pipe", "device", "link to itself", "link to nothing", "folder in place of a file", "mostly a hole"]
    kinds = [*contents, *special, "wrong suffix: other container", "strange name"]
    kind = kinds[number % len(kinds)]
    path = folder / f"o{number:04d}{sorted(VIDEOS - {'.gif'})[int(random.integers(len(VIDEOS) - 1))]}"
    if kind in contents:
        path.write_bytes(contents[kind][int(random.integers(len(contents[kind])))])
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to(("/dev/zero", "/dev/null", "/dev/tty")[int(random.integers(3))])
    elif kind == "link to itself":
        path.symlink_to(path.name)
    elif kind == "link to nothing":
        path.symlink_to("gone.mp4")
    elif kind == "folder in place of a file":
        path.mkdir()
    elif kind == "mostly a hole":
        path.write_bytes(mp4[: len(mp4) // 3])
        os.truncate(path, 2**26)
    else:
        name = sorted(sources)[int(random.integers(len(sources)))]
        path = path if kind.startswith("wrong") else folder / f"o{number:04d} 50% [a]:'b' \u00fc{Path(name).suffix}"
        path.write_bytes(sources[name])
    return Mutant(path, kind, kind in contents or kind in special[:-1])


def png_of_size(content: bytes, width: int, height: int) -> bytes:
    """A PNG whose header has another size than its data."""
    head = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def frames(number: int, folder: Path, sources: dict[str, dict[str, bytes]], random: Random) -> Mutant:
    """A folder of images of which two or all are broken."""
    form = list(sources)[number % len(sources)]
    kinds = ["truncated", "bits flipped", "empty", "text", "huge size", "60000 x 2", "pipe", "device", "folder"]
    kind = kinds[number // len(sources) % len(kinds)]
    path = folder / f"f{number:04d}"
    path.mkdir()
    for name, content in sources[form].items():
        (path / name).write_bytes(content)
    all_broken = bool(number // len(sources) // len(kinds) % 2)
    for name in sorted(sources[form]) if all_broken else random.choice(sorted(sources[form]), 2, replace=False):
        file, content = path / name, sources[form][name]
        if kind in ("pipe", "device", "folder"):
            file.unlink()
            {"pipe": os.mkfifo, "device": lambda at: at.symlink_to("/dev/zero"), "folder": os.mkdir}[kind](file)
            continue
        png = image(np.zeros((48, 64), np.uint8), "PNG")
        new = {
            "truncated": truncated(content, random)[: len(content) // 2], "bits flipped": flipped(content, random),
            "empty": b"", "text": b"no picture", "huge size": png_of_size(png, 50_000, 50_000),
            "60000 x 2": image(np.zeros((2, 60_000), np.uint8), "PNG"),
        }[kind]  # fmt: skip
        file.write_bytes(new)
    unreadable = all_broken and kind not in ("truncated", "bits flipped")
    return Mutant(path, f"{form} folder: {kind}", unreadable, Depth() if form == "depth" else None)


def mutate(folder: Path, files: int, seed: int) -> list[Mutant]:
    """Write intact videos, and so many mutants, below a folder; the same for the same seed."""
    intact, target = folder / "intact", folder / "mutants"
    intact.mkdir(parents=True)
    target.mkdir()
    rgb, metres = (frames[:FRAMES, 8:56] for frames in render_clip(plan_clips(1, seed)[0], seed, WIDTH))
    videos = {name: encode(intact / name, codec, rgb).read_bytes() for name, codec in CODECS.items()}
    write_depth(metres[:6], folder / "depth", "M")
    folders = {
        "JPEG": {f"img_{i:05d}.jpg": image(picture, "JPEG") for i, picture in enumerate(rgb[:6])},
        "PNG": {f"{i:06d}.png": image(picture, "PNG") for i, picture in enumerate(rgb[:6])},
        "depth": {path.name: path.read_bytes() for path in (folder / "depth").iterdir()},
    }
    mutants = []
    for number in range(files):
        random = np.random.default_rng([seed, number])
        if number % 10 in (3, 7):
            mutants.append(wrong_file(number // 5, target, videos, random))
        elif number % 10 in (1, 5):
            mutants.append(frames(number // 5, target, folders, random))
        else:
            mutants.append(video(number, target, videos, random))
    return mutants


# --- through check, evaluation and training --------------------------------------------------------------------------


@config
class Mutants(DataConfig):
    """The mutants and half as many intact videos, so that training finds substitutes; validation is intact."""

    mutants: tuple[tuple[str, bool], ...]
    intact: tuple[str, ...]

    def records(self, split: SplitName) -> list[Record]:
        intact = [Record(path=path, name=Path(path).name, label=i % 2) for i, path in enumerate(self.intact)]
        if split != "train":
            return intact
        half = len(self.mutants) // 2
        return self.broken() + [intact[i % len(intact)] for i in range(half + -(len(self.mutants) + half) % BATCH)]

    def broken(self) -> list[Record]:
        return [
            Record(path=path, name=Path(path).name, label=i % 2, shows=Depth() if depth else None)
            for i, (path, depth) in enumerate(self.mutants)
        ]

    def classes(self) -> list[str]:
        return ["even", "odd"]


@dataclass
class Outcome:
    """The outcome of all files.

    Attributes:
        kinds: counts by kind.
        slowest: seconds of the slowest file of each kind.
        seconds: that each part took.
        missing: a sentence about each file that a report does not name, or that should have failed.
    """

    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    slowest: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        columns = ("files", "fine", "damaged", "failed", "missing")
        rows = [(kind, counts, self.slowest[kind]) for kind, counts in sorted(self.kinds.items())]
        rows.append(("all", sum(self.kinds.values(), Counter()), max(self.slowest.values())))
        lines = [f"| kind | {' | '.join(columns)} | slowest, s |", "|---|" + "---:|" * 6]
        for kind, counts, slowest in rows:
            lines.append(f"| {kind} | {' | '.join(str(counts[column]) for column in columns)} | {slowest:.2f} |")
        lines += ["", "seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in self.seconds.items())]
        return "\n".join([*lines, *self.missing])

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begin


def read_alone(mutant: Mutant) -> float:
    """Seconds for reading a file from its beginning to its end, and a clip of it."""
    begin = time.monotonic()
    try:
        probe(mutant.path, exact=True, shows=mutant.depth)
        read(mutant.path, lambda n: torch.linspace(0, n - 1, 4).long(), short_side=32, shows=mutant.depth)
    except (VideoError, OSError, RuntimeError, MemoryError):
        pass
    return time.monotonic() - begin


def judge(folder: Path, mutants: list[Mutant], workers: int) -> Outcome:
    """Read every file alone, then run the three programs on all of them and compare their reports."""
    outcome = Outcome()
    with outcome.timed("each alone"):
        for position, seconds, why in run_each(read_alone, mutants, workers, lambda _: LIMIT):
            kind = mutants[position].kind
            outcome.slowest[kind] = max(outcome.slowest.get(kind, 0.0), LIMIT if seconds is None else seconds)
            if why:
                outcome.missing.append(f"{kind}: {mutants[position].path} {why}")
    model = model_config("r3d_tiny", clip=ClipSpec(frames=4, stride=2, size=32), classes=2)
    data = Mutants(
        mutants=tuple((str(mutant.path), mutant.depth is not None) for mutant in mutants),
        intact=tuple(sorted(str(path) for path in (folder / "intact").iterdir())),
    )
    records = data.broken()

    with outcome.timed("check"):
        report = check(records, workers=workers, progress=False)
    named: dict[str, set[str]] = {}
    for finding in report.findings:
        named.setdefault(finding.text.split(": ")[0], set()).add(finding.kind)

    with outcome.timed("evaluation"):
        result = evaluate(
            model.build(), records, classes=data.classes(), views=EvaluateConfig(clips=2, workers=workers)
        )
    failed = {failure["index"]: failure["reason"] for failure in result.failures}

    with outcome.timed("training"):
        recipe = Recipe(name="mutations", model=model, data=data)
        recipe.train = TrainConfig(epochs=1, batch_size=BATCH, workers=workers)
        recipe.evaluate = EvaluateConfig(split="val", clips=1, workers=0)
        train(recipe, folder / "run", trust_code=True, quiet=True)
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    left_out = next(entry["failures"] for entry in log if entry["kind"] == "epoch")

    for i, mutant in enumerate(mutants):
        kinds = named.get(str(mutant.path), set())
        by_check = bool(kinds & {"missing", "cannot be decoded"})
        scored = all(column[i] is not None for column in result.scores.values.values())
        failed_in = (by_check, i in failed, not scored, mutant.path.name in left_out)
        kind = "failed" if all(failed_in) else "missing" if any(failed_in) else "damaged" if kinds & DAMAGED else "fine"
        if mutant.unreadable and kind != "failed":
            kind = "missing"
        if kind == "missing":
            by_program = dict(zip(("check", "evaluation", "not scored", "training"), failed_in))
            outcome.missing.append(f"{mutant.kind}: {mutant.path} failed: {by_program} {failed.get(i, '')}")
        outcome.kinds.setdefault(mutant.kind, Counter()).update(["files", kind])
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000, help="(default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default %(default)s)")
    parser.add_argument("--keep", type=Path, help="folder to make the files in; they are not deleted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        outcome = judge(folder, mutate(folder, options.files, options.seed), options.workers)
    print(outcome)
    return int(bool(outcome.missing))


if __name__ == "__main__":
    sys.exit(main())
