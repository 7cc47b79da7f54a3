"""Our MViTv2-S against torchvision's with the same weights, in one run.

    python benchmarks/mvit.py [--device cuda] [--batch 1] [--dtype bfloat16] [--repeats 5] [--compile]

Prints the largest difference of the scores, seconds and peak memory of a forward pass and of a training step (forward
and backward), and the ratios; asserts nothing about time. The two models take turns, so that whatever else the
machine does falls on both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from side_by_side import dtype_option, environment, options_of
from torchvision.models.video import mvit_v2_s

from gesta.bench.timing import synchronize
from gesta.checkpoint.weights import import_weights
from gesta.models import create_model


def seconds(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = options_of(__doc__, batch=1, repeats=5)
    dtype_option(parser)
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)

    torch.manual_seed(0)
    reference = mvit_v2_s(weights=None, dropout=0.0, stochastic_depth_prob=0.0)
    ours = create_model("mvitv2_s", cls_token=True)
    import_weights(ours, reference.state_dict(), min_matched=1.0)
    models = {"ours": ours.to(device), "torchvision": reference.to(device)}
    video = torch.randn(options.batch, 3, 16, 224, 224, device=device)
    with torch.inference_mode():
        scores = [model.eval()(video) for model in models.values()]
    print(f"largest difference of the scores (float32): {(scores[0] - scores[1]).abs().max():.1e}")
    calls = {name: torch.compile(model) if options.compile else model for name, model in models.items()}

    def forward(name: str) -> None:
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            calls[name](video)

    def step(name: str) -> None:
        models[name].zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = calls[name](video).float().square().mean()
        loss.backward()

    print(f"{environment(options)}{', compiled' if options.compile else ''}; medians, CPU time in brackets")
    for what, work, training in (("forward", forward, False), ("training step", step, True)):
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
        peak = dict.fromkeys(models, 0.0)
        for turn in range(options.repeats + 1):
            for name, model in models.items():
                model.train(training)
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                elapsed = seconds(lambda name=name, work=work: work(name), device)
                if turn:  # the first warms up
                    times[name].append(elapsed)
                if device.type == "cuda":
                    peak[name] = torch.cuda.max_memory_allocated(device) / 2**30
                model.zero_grad()
        wall = {name: statistics.median(w for w, _ in values) for name, values in times.items()}
        cpu = {name: statistics.median(c for _, c in values) for name, values in times.items()}
        line = ", ".join(f"{name} {wall[name]:.3f} s ({cpu[name]:.3f})" for name in models)
        ratios = [medians["torchvision"] / medians["ours"] for medians in (wall, cpu)]
        print(f"{what:14} {line}: ours is {ratios[0]:.2f} ({ratios[1]:.2f}) times as fast")
        if device.type == "cuda":
            print(f"{'':14} peak memory " + ", ".join(f"{name} {peak[name]:.1f} GiB" for name in models))


if __name__ == "__main__":
    main()
