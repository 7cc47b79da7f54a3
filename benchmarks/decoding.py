"""How fast clips are read from video files: gesta beside plain PyAV, OpenCV and decord on the same clips.

    python benchmarks/decoding.py [FOLDER] [--repeats 5] [--short-side 128]

Each reader reads one clip of 16 frames, 4 apart, from every file, scaled to the short side; the start is the same for
all. The readers are measured in turn, ``--repeats`` times, and the fastest round of each counts. "Decoding alone" stops
after the last needed frame and converts nothing: a reader that decodes every frame before it cannot be faster. "Plain
PyAV" is the first version that one writes: all frames to arrays, then index, then resize. Without a folder, 24 small
H.264 files are made (320 x 240, 120 frames). One process, one decoder thread where there is a choice; nothing is
asserted about time.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import numpy as np
import torch
from torch.nn.functional import interpolate

from gesta.video.find import find_videos
from gesta.video.picture import scaled_size
from gesta.video.probe import probe
from gesta.video.read import read

FRAMES, STRIDE = 16, 4


def make(folder: Path, count: int = 24, frames: int = 120) -> None:
    """Write small H.264 files: a textured background that drifts and a disc that moves over it."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:240, :320]
    for k in range(count):
        background = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        with av.open(str(folder / f"{k:02d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for i in range(frames):
                image = np.roll(background, (i, 2 * i), (0, 1))
                y, x = 120 + 60 * np.sin(i / 9 + k), 160 + 90 * np.cos(i / 7)
                image[(rows - y) ** 2 + (columns - x) ** 2 < 900] = 255, 40, 2 * i
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())


def resize(frames: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """``(T, H, W, C)`` to ``(T, C, h, w)`` as a user of torch would."""
    video = torch.from_numpy(frames).permute(0, 3, 1, 2)
    return interpolate(video, size[::-1], mode="bilinear", antialias=True)


def gesta(path: str, indices: list[int], size: tuple[int, int]) -> torch.Tensor:
    return read(path, lambda n: torch.tensor(indices), short_side=min(size))


def gesta_torchcodec(path: str, indices: list[int], size: tuple[int, int]) -> torch.Tensor:
    return read(path, lambda n: torch.tensor(indices), short_side=min(size), decoder="torchcodec")


def plain_pyav(path: str, indices: list[int], size: tuple[int, int]) -> torch.Tensor:
    with av.open(path) as container:
        container.streams.video[0].codec_context.thread_count = 1
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return resize(frames[indices], size)


def opencv(path: str, indices: list[int], size: tuple[int, int]) -> torch.Tensor:
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    needed, frames = set(indices), []
    for i in range(indices[-1] + 1):
        capture.grab()
        if i in needed:
            image = capture.retrieve()[1]
            frames.append(cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB))
    capture.release()
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def decord(path: str, indices: list[int], size: tuple[int, int]) -> torch.Tensor:
    import decord

    width, height = size
    frames = decord.VideoReader(path, width=width, height=height, num_threads=1).get_batch(indices)
    return torch.from_numpy(frames.asnumpy()).permute(0, 3, 1, 2)


def decoding_alone(path: str, indices: list[int], size: tuple[int, int]) -> None:
    with av.open(path) as container:
        container.streams.video[0].thread_type = "NONE"
        for i, _ in enumerate(container.decode(video=0)):
            if i == indices[-1]:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description="frames per second from video files, side by side")
    parser.add_argument("folder", nargs="?", help="videos to read (default: some are made)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default %(default)s)")
    parser.add_argument("--short-side", type=int, default=128, help="in pixels (default %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        if arguments.folder is None:
            make(Path(made))
        compare(find_videos(arguments.folder or made), arguments.short_side, arguments.repeats)


def compare(paths: list[str], short_side: int, repeats: int) -> None:
    readers: dict[str, Callable[[str, list[int], tuple[int, int]], object]] = {
        "gesta": gesta,
        "gesta, torchcodec": gesta_torchcodec,
        "plain PyAV": plain_pyav,
        "OpenCV": opencv,
        "decord": decord,
        "decoding alone": decoding_alone,
    }
    modules = {"OpenCV": "cv2", "decord": "decord", "gesta, torchcodec": "torchcodec"}
    for name, module in modules.items():
        if importlib.util.find_spec(module) is None:
            print(f"{name}: not installed")
            del readers[name]
    clips: list[tuple[str, list[int], tuple[int, int]]] = []
    rng = np.random.default_rng(0)
    for path in paths:
        info = probe(path)
        if info.kind == "file" and info.frames > FRAMES * STRIDE:
            start = int(rng.integers(info.frames - FRAMES * STRIDE + 1))
            size = scaled_size(info.width, info.height, short_side)
            clips.append((path, [start + STRIDE * i for i in range(FRAMES)], size))
    if not clips:
        raise SystemExit(f"no video of more than {FRAMES * STRIDE} frames; give another folder")
    for name in list(readers):  # warms up; a reader that fails at one file is left out
        try:
            for path, indices, size in clips:
                readers[name](path, indices, size)
        except Exception as error:
            print(f"{name}: left out ({type(error).__name__}: {str(error).splitlines()[0]})")
            del readers[name]
    fastest = dict.fromkeys(readers, float("inf"))
    for _ in range(repeats):
        for name, reader in readers.items():
            begin = time.perf_counter()
            for path, indices, size in clips:
                reader(path, indices, size)
            fastest[name] = min(fastest[name], time.perf_counter() - begin)
    print(f"{len(clips)} clips of {FRAMES} frames, {STRIDE} apart, short side {short_side}; one process")
    print(f"{'':20}{'ms/clip':>10}{'frames/s':>10}{'gesta is':>12}")
    for name, seconds in fastest.items():
        ratio = seconds / fastest["gesta"]
        print(f"{name:20}{1000 * seconds / len(clips):10.2f}{FRAMES * len(clips) / seconds:10.0f}{ratio:11.2f}x")


if __name__ == "__main__":
    main()
