"""How time and memory grow with a clip's frames and size, with a video's clips and with a list's videos.

    python benchmarks/growth.py [--out docs/images/growth.png] [--json FILE] [--models NAME …] [--smoke]

For each tiny system: CPU seconds of the forward pass of one clip, and the bytes that a training step holds at its peak
(computed by gesta.bench.memory, without running it), over 8 to 128 frames at 112 × 112 and over 112 to 448 pixels with
8 frames. For one of them: CPU seconds and the process's peak memory of predictions of 1 to 32 clips of a video, and of
4 to 64 videos. The figure shows them on logarithmic axes, and the table the exponent between the two largest: 1 where
twice as many frames take twice the time; of a side, 2 is linear in the pixels and 4 quadratic in the positions.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from side_by_side import smoke_option

from gesta.bench.memory import step_memory
from gesta.config import replace
from gesta.errors import GestaError
from gesta.model import ModelConfig
from gesta.models import model_config

MODELS = (
    "stan_mvitv2_tiny", "mvitv2_tiny", "mfst_tiny", "rpe_stdt_tiny", "ctn_tiny", "std_former_tiny",
    "ata_timesformer_tiny", "timesformer_tiny", "st_manet_tiny", "r3d_tiny", "vit_tiny",
)  # fmt: skip

FRAMES = (8, 16, 32, 64, 128)
SIDES = (112, 224, 448)
CLIPS = (1, 2, 4, 8, 16, 32)
VIDEOS = (4, 8, 16, 32, 64)

PREDICTS = "mvitv2_tiny"
"""The model whose predictions are measured: reading and batching are the same for all."""

Point = dict[str, float | None]


def with_clip(name: str, frames: int, side: int) -> ModelConfig:
    """A model for clips of another length and size."""
    config = model_config(name)
    return replace(config, clip=replace(config.clip, frames=frames, size=side))


def grow(name: str, clips: list[tuple[int, int]]) -> list[Point]:
    """Seconds and bytes for each number of frames and side; None where the model refuses it."""
    points: list[Point] = []
    for frames, side in clips:
        try:
            config = with_clip(name, frames, side)
            model = config.build().eval()
        except GestaError as error:
            print(f"{name}, {frames} frames of {side}: {error}", flush=True)
            points.append({"seconds": None, "bytes": None})
            continue
        video = torch.randn(1, config.clip.channels, frames, side, side)
        times: list[float] = []
        with torch.inference_mode():
            while len(times) < 2 or (sum(times) < 0.3 and len(times) < 8):
                begin = time.process_time()
                model(video)
                times.append(time.process_time() - begin)
        points.append({"seconds": statistics.median(times[1:]), "bytes": memory(config)})
    return points


def memory(config: ModelConfig) -> float | None:
    """Peak bytes of a training step; None for ATA, whose matching needs values."""
    try:
        return float(step_memory(config, 1).backward)
    except GestaError:
        return None


PREDICTION = """
import sys, time, warnings
from gesta.models import create_model
from gesta.prediction.predict import predict
from gesta.recipe import EvaluateConfig
warnings.filterwarnings("ignore")
name, folder, clips, videos = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
model = create_model(name)
sources = [f"{folder}/{i}.mp4" for i in range(videos)]
views = EvaluateConfig(clips=clips, crops=1, workers=0)
begin = time.process_time()
shown = sum(1 for _ in predict(model, sources, views=views, classes=[str(i) for i in range(model.config.classes)]))
elapsed = time.process_time() - begin
with open("/proc/self/status") as status:  # of this process alone: ru_maxrss begins with that of its parent
    peak = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
print(elapsed, peak, shown)
"""


def predictions(name: str, folder: Path, clips: int, videos: int) -> Point:
    """Seconds and peak bytes of one process that predicts so many videos with so many clips each."""
    command = [sys.executable, "-c", PREDICTION, name, str(folder), str(clips), str(videos)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout.split()
    if int(printed[2]) != videos:
        raise RuntimeError(f"{printed[2]} predictions of {videos} videos")
    return {"seconds": float(printed[0]), "bytes": float(printed[1])}


def exponent(xs: tuple[int, ...], points: list[Point], key: str) -> float | None:
    """Slope between the two largest on logarithmic axes; None where the model refuses one of them."""
    last, before = points[-1][key], points[-2][key]
    return math.log(last / before) / math.log(xs[-1] / xs[-2]) if last and before else None


def draw(results: dict[str, Any], out: Path) -> None:
    """Six panels: time above memory, over frames, side, and clips and videos of predictions."""
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(2, 3, figsize=(12, 7), sharex="col", layout="constrained")
    colours = {name: plt.get_cmap("tab20")(i) for i, name in enumerate(results["models"])}
    for row, (key, label, unit) in enumerate((("seconds", "CPU seconds", 1.0), ("bytes", "MiB", 2.0**20))):
        for column, (axis, title) in enumerate((("frames", "frames of a clip, 112 px"), ("side", "side, 8 frames"))):
            for name, of_model in results["models"].items():
                points = [p[key] / unit if p[key] else float("nan") for p in of_model[axis]]
                axes[row, column].plot(results[axis], points, "o-", ms=3, lw=1.2, color=colours[name], label=name)
            axes[1, column].set_xlabel(title)
        for axis, title in (("clips", "clips of a video"), ("videos", "videos")):
            points = [p[key] / unit for p in results["predictions"][axis]]
            axes[row, 2].plot(results[axis], points, "o-", ms=3, lw=1.2, label=title)
        axes[row, 0].set_ylabel(("forward pass and prediction, " if row == 0 else "peak, ") + label)
    axes[1, 2].set_xlabel(f"predictions of {PREDICTS}")
    axes[0, 2].legend(frameon=False)
    for panel in axes.flat:
        panel.set(xscale="log", yscale="log")
        panel.grid(alpha=0.25, lw=0.5)
    for column, axis in enumerate(("frames", "side")):
        axes[1, column].set_xticks(results[axis], labels=results[axis])
        axes[1, column].minorticks_off()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(out, dpi=110)


def table(results: dict[str, Any]) -> str:
    """The exponents as a Markdown table."""
    lines = ["| | time, frames | memory, frames | time, side | memory, side |", "|---|---:|---:|---:|---:|"]
    for name, of_model in results["models"].items():
        cells = []
        for axis in ("frames", "side"):
            for key in ("seconds", "bytes"):
                slope = exponent(results[axis], of_model[axis], key)
                cells.append("–" if slope is None else f"{slope:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for axis in ("clips", "videos"):
        points = results["predictions"][axis]
        slopes = [exponent(results[axis], points, key) for key in ("seconds", "bytes")]
        lines.append(f"| predictions, {axis} | {slopes[0]:.2f} | {slopes[1]:.2f} | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the figure")
    parser.add_argument("--json", type=Path, help="all that was measured")
    parser.add_argument("--models", nargs="+", default=MODELS, help="(default: the systems and their baselines)")
    smoke_option(parser)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    frames, sides, clips, videos = (FRAMES, SIDES, CLIPS, VIDEOS)
    if options.smoke:
        frames, sides, clips, videos = (8, 16), (64, 112), (1, 2), (1, 2)
    results: dict[str, Any] = {"frames": frames, "side": sides, "clips": clips, "videos": videos, "models": {}}
    for name in options.models:
        of_frames = grow(name, [(n, 112) for n in frames])
        of_sides = grow(name, [(8, side) for side in sides])
        results["models"][name] = {"frames": of_frames, "side": of_sides}
        print(f"{name}: measured", flush=True)
    with tempfile.TemporaryDirectory() as name:
        from gesta.bench.loading import make_videos

        folder = Path(name)
        make_videos(folder, count=4)
        made = sorted(folder.iterdir())
        for number in range(max(videos)):
            os.link(made[number % len(made)], folder / f"{number}.mp4")  # a file that is named twice is predicted once
        results["predictions"] = {
            "clips": [predictions(PREDICTS, folder, n, 1) for n in clips],
            "videos": [predictions(PREDICTS, folder, 1, n) for n in videos],
        }
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    if options.out:
        draw(results, options.out)
    print(table(results))


if __name__ == "__main__":
    main()
