"""Feature extraction beside what model and loader allow, and a training step with a frozen beginning beside its parts.

    python benchmarks/features.py [--model r3d_tiny] [--videos 48] [--rounds 3] [--device auto] [--json]

On made videos of 340 x 256, in alternation: views per second of the model alone on views that are loaded, of the loader
alone, and of the extraction; what is possible is the slower of the first two (on a CPU the loader's processes and the
model's threads have cores of their own, if nothing else runs). Since other programs change these, also the CPU time of
the first two together over that of the extraction, all in one process. Then the time of a training step of which
stem and blocks up to the last one are frozen (``--train.freeze``), beside the sum of its parts: the frozen blocks under
``torch.inference_mode`` and a training step of what is left. The medians of the rounds' ratios are printed; no time is
asserted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from gesta.bench.loading import make_videos
from gesta.evaluation.scoring import view_loader, views_per_pass
from gesta.features.extract import extract, features_of
from gesta.model import VideoModel, to_clips
from gesta.models import create_model
from gesta.processes import choose_device, limit_threads, make_fabric
from gesta.recipe import EvaluateConfig
from gesta.records import Record
from gesta.training.optim import freeze
from gesta.video.find import find_videos

Clock = Callable[[], float]


def seconds(work: Callable[[], Any], device: torch.device, clock: Clock = time.perf_counter) -> float:
    """How long a piece of work takes, the device's part included."""
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def extraction(
    model: VideoModel, records: list[Record], device: torch.device, rounds: int, workers: int, clock: Clock
) -> list[dict[str, float]]:
    """Views per second of each round, by a clock."""
    views = EvaluateConfig(clips=4, crops=1, workers=workers)
    clip, everything = model.config.clip, range(len(records))
    loaded = [batch["video"] for batch in view_loader(records, clip, views, everything, workers)]
    size, count = views_per_pass(views.batch_size, device), 4 * len(records)

    def model_alone() -> None:
        for batch in loaded:
            for part in batch.flatten(0, 1).split(size):
                features_of(model, to_clips(part[None].to(device), clip)).cpu()

    def loader_alone() -> None:
        for _ in view_loader(records, clip, views, everything, workers):
            pass

    def together() -> None:
        for _ in extract(model, records, views, device=device):
            pass

    model.to(device).eval()
    model_alone()
    works = {"model alone": model_alone, "loader alone": loader_alone, "extraction": together}
    return [{name: count / seconds(work, device, clock) for name, work in works.items()} for _ in range(rounds)]


def frozen_step(model: VideoModel, device: torch.device, rounds: int) -> list[dict]:
    """Seconds of a step with a frozen beginning, and of its parts alone."""
    last = len(model.blocks) - 1
    freeze(model, tuple(name for name, _ in model.named_parameters() if model.depth_of(name) <= last))
    model.to(device).train()
    clip = model.config.clip
    clips = torch.randn(4, clip.channels, clip.frames, clip.size, clip.size, device=device)
    labels = torch.zeros(4, dtype=torch.long, device=device)

    def beginning() -> Any:
        state = model.stem(clips)
        for block in model.blocks[:last]:
            state = block(state)
        return state

    with torch.no_grad():
        kept = beginning()

    def step() -> None:
        functional.cross_entropy(model(clips), labels).backward()

    def frozen_part() -> None:
        with torch.inference_mode():
            beginning()

    def trained_part() -> None:
        functional.cross_entropy(model.forward_head(model.blocks[last](kept)), labels).backward()

    def timed(work: Callable[[], None]) -> float:
        return seconds(work, device, time.process_time if device.type == "cpu" else time.perf_counter)

    for work in (step, frozen_part, trained_part):
        work()
    return [{"step": timed(step), "parts": timed(frozen_part) + timed(trained_part)} for _ in range(10 * rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="r3d_tiny")
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    device = choose_device(options.device)
    limit_threads(make_fabric(), options.workers)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        make_videos(Path(folder), options.videos)
        records = [Record(path=path, name=path) for path in find_videos(folder)]
        given = create_model(options.model, classes=2), records, device, options.rounds
        rates = extraction(*given, options.workers, time.perf_counter)
        of_cpu = extraction(*given, 0, time.process_time)
    possible = [min(rate["model alone"], rate["loader alone"]) for rate in rates]
    steps = frozen_step(create_model(options.model, classes=2), device, options.rounds)
    result = {
        "model": options.model,
        "device": device.type,
        **{name: statistics.median(rate[name] for rate in rates) for name in rates[0]},
        "of what is possible": statistics.median(r["extraction"] / p for r, p in zip(rates, possible)),
        "CPU time of the parts over all": statistics.median(
            (1 / r["model alone"] + 1 / r["loader alone"]) * r["extraction"] for r in of_cpu
        ),
        "frozen step over its parts": statistics.median(s["step"] / s["parts"] for s in steps),
    }
    print(json.dumps(result) if options.json else "\n".join(f"{name:34} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
