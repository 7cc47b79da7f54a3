"""Training clips per second: our loader beside loaders as users write them, on the same videos in one run.

    python benchmarks/loading.py [--root FOLDER] [--workers 2] [--seconds 8] [--rounds 3] [--json]

Every loader delivers batches of 8 clips, 16 frames 4 apart from a random place, a random resized crop of 224 x 224,
mirrored at random, uint8. ``PyAV`` decodes up to the last wanted frame, keeps the wanted ones and converts those;
``PyAV, whole video`` decodes and converts everything first, as tutorials do; decord, OpenCV and torchcodec are there if
they are installed. None but ours scales frames while converting them, survives a broken file or draws reproducibly.
``decoding alone`` is the pure decoding limit: the same files opened, the packets that the same clips need decoded along
our reader's shortest way, in as many processes, and nothing done with the frames. Rates are taken in turns, several
rounds; the medians of rates and of each round's ratios are printed; nothing is asserted about time. Without workers
rates are clips per second of the processor's time, which other programs on the machine change less.

Without ``--root`` 16 made H.264 videos of 340 x 256, 150 frames, are read.
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
from gesta.data.loader import training_batches, training_loader
from gesta.data.samples import TrainingClips
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.recipe import TrainConfig
from gesta.records import Record
from gesta.video.find import find_videos
from gesta.video.probe import probe

CLIP = ClipSpec(frames=16, stride=4, size=224)
BATCH = 8


class Plain(Dataset):
    """Random augmented clips of a list of files, by one library, without a care for broken files."""

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
    def wanted(n: int) -> np.ndarray:
        """Dense indices from a random place; a short video is played again."""
        start = int(torch.randint(max(n - CLIP.frames * CLIP.stride, 0) + 1, ()))
        return (start + CLIP.stride * np.arange(CLIP.frames)) % n


def stacked(images: Iterable[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(list(images))).permute(0, 3, 1, 2)


class PyAV(Plain):
    def frames(self, path: str) -> Tensor:
        with av.open(path, metadata_errors="replace") as container:
            video = container.streams.video[0]
            indices = self.wanted(video.frames or sum(p.size > 0 for p in container.demux(video)))
            container.seek(0)
            kept = {}
            for i, frame in enumerate(container.decode(video)):
                if i in indices:
                    kept[i] = frame.to_ndarray(format="rgb24")
                if i >= indices.max():
                    break
        last = max(kept)  # headers promise more frames than there are
        return stacked(kept.get(int(i), kept[last]) for i in indices)


class WholePyAV(Plain):
    def frames(self, path: str) -> Tensor:
        with av.open(path, metadata_errors="replace") as container:
            images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return stacked(images[i] for i in self.wanted(len(images)))


class Decord(Plain):
    def frames(self, path: str) -> Tensor:
        import decord

        reader = decord.VideoReader(path, num_threads=1)
        return torch.from_numpy(reader.get_batch(self.wanted(len(reader))).asnumpy()).permute(0, 3, 1, 2)


class OpenCV(Plain):
    def frames(self, path: str) -> Tensor:
        import cv2

        cv2.setNumThreads(0)
        capture = cv2.VideoCapture(path)
        indices = self.wanted(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        kept: dict[int, np.ndarray] = {}
        for i in range(int(indices.max()) + 1):
            if not capture.grab():
                break
            if i in indices:
                kept[i] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
        capture.release()
        return stacked(kept.get(int(i), kept[max(kept)]) for i in indices)


class TorchCodec(Plain):
    def frames(self, path: str) -> Tensor:
        from torchcodec.decoders import VideoDecoder

        reader = VideoDecoder(path, num_ffmpeg_threads=1)
        return reader.get_frames_at(self.wanted(len(reader)).tolist()).data


LIBRARIES = {"decord": (Decord, "decord"), "OpenCV": (OpenCV, "cv2"), "torchcodec": (TorchCodec, "torchcodec")}


def ours(paths: list[str], workers: int, kind: type[TrainingClips]) -> Iterator[Tensor]:
    records = [Record(path=path, name=path, label=0) for path in paths]
    config = TrainConfig(batch_size=BATCH)
    batches = itertools.chain.from_iterable(training_batches(records, config, epoch) for epoch in itertools.count())
    for batch in training_loader(kind(records, CLIP, config, ["any"]), batches, workers):
        yield batch["video"]


def plain(dataset: Plain, workers: int) -> Iterator[Tensor]:
    order = (int(i) for _ in itertools.count() for i in torch.randperm(len(dataset)))
    yield from DataLoader(
        dataset,
        batch_size=BATCH,
        sampler=order,  # type: ignore[arg-type]
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
    )


def rate(batches: Iterator[Tensor], workers: int, seconds: float) -> float:
    """Clips per second after the batches that were loaded ahead, and those that pay for the process's first memory.

    Without workers, seconds of the processor's time.
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
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of videos (default: some are made)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="av|torch")
    with tempfile.TemporaryDirectory() as folder:
        if options.root is None:
            make_videos(Path(folder))
        paths = readable(options.root or Path(folder))
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
                own = issubclass(kind, TrainingClips)
                batches = ours(paths, options.workers, kind) if own else plain(kind(paths), options.workers)
                try:
                    rates.setdefault(name, []).append(rate(batches, options.workers, options.seconds))
                except Exception as error:  # a library that is installed need not load, nor read every video
                    if own:
                        raise
                    kinds.pop(name)
                    rates.pop(name, None)
                    print(f"{name}: {type(error).__name__}: {str(error).strip().splitlines()[0]}")
                finally:
                    batches.close()  # type: ignore[attr-defined]
    found = {name: statistics.median(values) for name, values in rates.items()}
    # of neighbours in time: a machine that others use, too, changes its speed by more than loaders differ
    ratios = {name: statistics.median(g / v for g, v in zip(rates["gesta"], values)) for name, values in rates.items()}
    if options.json:
        result = {"videos": len(paths), "workers": options.workers, "clips_per_s": found, "gesta_is": ratios}
        print(json.dumps(result, indent=2))
        return
    print(f"{len(paths)} videos, {options.workers} workers, {torch.__version__}")
    print(f"{'loader':20} {'clips/s':>8}   gesta / this")
    for name, value in found.items():
        print(f"{name:20} {value:8.1f}   {ratios[name]:.2f}")
    print(f"gesta comes to {ratios['decoding alone']:.0%} of the pure decoding limit")


if __name__ == "__main__":
    main()
