"""Training clips per second: gesta's loader beside loaders as users write them, on the same videos.

    python benchmarks/loading.py [--root FOLDER …] [--workers 2] [--seconds 8] [--rounds 3] [--json]

Every loader delivers batches of 8 clips, 16 frames 4 apart from a random start, a random resized crop of 224 x 224,
mirrored at random, uint8. ``PyAV`` decodes up to the last needed frame, keeps the needed ones and converts those;
``PyAV, whole video`` decodes and converts everything first, as tutorials do; decord, OpenCV and torchcodec take part if
they are installed. Only gesta's scales frames while converting them, survives a broken file and is reproducible.
``decoding alone`` is the pure decoding limit: the same files opened, the packets that the same clips need decoded with
as little decoding as the reader allows, in as many processes, and the frames discarded. Rates are measured in
alternation, several rounds; the medians of rates and of each round's ratios are printed; nothing is asserted about
time. Without workers rates are clips per second of CPU time, which other programs on the machine change less.

Several folders are measured one after the other. Without ``--root``, or for the folder ``made``, 16 generated H.264
videos of 340 x 256, 150 frames, are read.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from gesta.bench.loading import DecodeOnlyClips, make_videos
from gesta.data.loader import Loader, training_batches
from gesta.data.samples import TrainingClips
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.recipe import TrainConfig
from gesta.records import Record
from gesta.video.find import find_videos
from gesta.video.probe import probe

CLIP = ClipSpec(frames=16, stride=4, size=224)
BATCH = 8
MADE = "made"


class Plain(Dataset):
    """Random augmented clips of a list of files, by one library; a broken file raises an error."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.augment = v2.Compose([v2.RandomResizedCrop(CLIP.size, antialias=True), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.augment(self.frames(self.paths[index]))

    def frames(self, path: str) -> Tensor:
        """``(T, C, H, W)`` uint8 at the video's own size."""
        raise NotImplementedError

    @staticmethod
    def draw_indices(n: int) -> np.ndarray:
        """Dense indices from a random start; a short video is repeated."""
        start = int(torch.randint(max(n - CLIP.frames * CLIP.stride, 0) + 1, ()))
        return (start + CLIP.stride * np.arange(CLIP.frames)) % n


def stack(images: Iterable[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2)


class PyAV(Plain):
    def frames(self, path: str) -> Tensor:
        with av.open(path, metadata_errors="replace") as container:
            video = container.streams.video[0]
            indices = self.draw_indices(video.frames or sum(p.size > 0 for p in container.demux(video)))
            container.seek(0)
            kept = {}
            for i, frame in enumerate(container.decode(video)):
                if i in indices:
                    kept[i] = frame.to_ndarray(format="rgb24")
                if i >= indices.max():
                    break
        last = max(kept)  # headers may count more frames than the file has
        return stack(kept.get(int(i), kept[last]) for i in indices)


class WholePyAV(Plain):
    def frames(self, path: str) -> Tensor:
        with av.open(path, metadata_errors="replace") as container:
            images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return stack(images[i] for i in self.draw_indices(len(images)))


class Decord(Plain):
    def frames(self, path: str) -> Tensor:
        import decord

        reader = decord.VideoReader(path, num_threads=1)
        return torch.from_numpy(reader.get_batch(self.draw_indices(len(reader))).asnumpy()).permute(0, 3, 1, 2)


class OpenCV(Plain):
    def frames(self, path: str) -> Tensor:
        import cv2

        cv2.setNumThreads(0)
        capture = cv2.VideoCapture(path)
        indices = self.draw_indices(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        kept: dict[int, np.ndarray] = {}
        for i in range(int(indices.max()) + 1):
            if not capture.grab():
                break
            if i in indices:
                kept[i] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
        capture.release()
        return stack(kept.get(int(i), kept[max(kept)]) for i in indices)


class TorchCodec(Plain):
    def frames(self, path: str) -> Tensor:
        from torchcodec.decoders import VideoDecoder

        reader = VideoDecoder(path, num_ffmpeg_threads=1)
        return reader.get_frames_at(self.draw_indices(len(reader)).tolist()).data


LIBRARIES = {"decord": (Decord, "decord"), "OpenCV": (OpenCV, "cv2"), "torchcodec": (TorchCodec, "torchcodec")}


def gesta_batches(paths: list[str], workers: int, kind: type[TrainingClips]) -> Iterator[Tensor]:
    records = [Record(path=path, name=path, label=0) for path in paths]
    config = TrainConfig(batch_size=BATCH)
    batches = itertools.chain.from_iterable(training_batches(records, config, epoch) for epoch in itertools.count())
    for batch in Loader(kind(records, CLIP, config, ["any"]), batches, workers):
        yield batch["video"]


def plain_batches(dataset: Plain, workers: int) -> Iterator[Tensor]:
    order = (int(i) for _ in itertools.count() for i in torch.randperm(len(dataset)))
    yield from DataLoader(
        dataset,
        batch_size=BATCH,
        sampler=order,  # type: ignore[arg-type]
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
    )


def rate(batches: Iterator[Tensor], workers: int, seconds: float) -> float:
    """Clips per second after the batches that were loaded ahead, and those in which the process first allocates.

    Without workers, seconds of CPU time.
    """
    clock = time.perf_counter if workers else time.process_time
    for _ in range(3 + 2 * workers):
        next(batches)
    begin, clips = clock(), 0
    while clock() - begin < seconds:
        clips += len(next(batches))
    return clips / (clock() - begin)


def readable(root: Path) -> list[str]:
    paths = []
    for path in find_videos(root):
        try:
            info = probe(path)
        except GestaError:
            continue
        if info.kind == "file" and info.rotation == 0:
            paths.append(path)
    if not paths:
        raise GestaError(f"{root}: no video in this folder can be read; give another folder")
    return paths


def measure(paths: list[str], options: argparse.Namespace) -> tuple[dict[str, float], dict[str, float]]:
    """Clips per second of every loader, and how many times that gesta's is: medians over the rounds."""
    kinds: dict[str, type[Dataset]] = {
        "gesta": TrainingClips,
        "decoding alone": DecodeOnlyClips,
        "PyAV": PyAV,
        "PyAV, whole video": WholePyAV,
    }
    for name, (kind, module) in LIBRARIES.items():
        if importlib.util.find_spec(module):
            kinds[name] = kind
    rates: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for name, kind in list(kinds.items()):
            is_gesta = issubclass(kind, TrainingClips)
            batches = (
                gesta_batches(paths, options.workers, kind) if is_gesta else plain_batches(kind(paths), options.workers)
            )
            try:
                rates.setdefault(name, []).append(rate(batches, options.workers, options.seconds))
            except Exception as error:  # an installed library may fail to load, or to read a video
                if is_gesta:
                    raise
                kinds.pop(name)
                rates.pop(name, None)
                print(f"{name}: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
            finally:
                batches.close()  # type: ignore[attr-defined]
    medians = {name: statistics.median(values) for name, values in rates.items()}
    # within a round: a shared machine changes its speed by more than the loaders differ
    ratios = {name: statistics.median(g / v for g, v in zip(rates["gesta"], values)) for name, values in rates.items()}
    return medians, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", nargs="+", default=[MADE], help=f"folders of videos, or {MADE!r} for made ones (default: {MADE})"
    )
    parser.add_argument("--workers", type=int, default=2, help="loader processes (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="av|torch")
    sets: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if MADE in options.root:
            make_videos(Path(folder))
        try:
            found = {root: readable(Path(folder if root == MADE else root)) for root in options.root}
        except GestaError as error:
            parser.error(str(error))
        for root, paths in found.items():
            medians, ratios = measure(paths, options)
            sets[root] = {"videos": len(paths), "clips_per_s": medians, "gesta_is": ratios}
            if options.json:
                continue
            print(f"{root}: {len(paths)} videos, {options.workers} workers, torch {torch.__version__}")
            print(f"{'loader':20} {'clips/s':>8}   gesta / this")
            for name, value in medians.items():
                print(f"{name:20} {value:8.1f}   {ratios[name]:.2f}")
            print(f"gesta reaches {ratios['decoding alone']:.0%} of the pure decoding limit\n", flush=True)
    if options.json:
        print(json.dumps({"workers": options.workers, "sets": sets}, indent=2))


if __name__ == "__main__":
    main()
