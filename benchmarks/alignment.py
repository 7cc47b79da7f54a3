"""ATA's assignments by the paper's loop, by SciPy in threads and by us, and what they add to a TimeSformer, in one run.

    python benchmarks/alignment.py [--device cuda] [--solvers]

Prints milliseconds and ratios, asserts nothing about time. ``--solvers`` adds all of gesta's solvers on the pairs of
one clip of 8 frames, with the gap to the optimum that each of them proves.
"""

from __future__ import annotations

import argparse
import os
import statistics as stats
import time
from collections.abc import Callable

import torch

from gesta.alignment import certificate
from gesta.alignment.assignment import assign
from gesta.alignment.auction import auction
from gesta.alignment.chain import similarity
from gesta.alignment.statistics import statistics
from gesta.bench.alignment import WIDTH, measure_alignment, moving
from gesta.processes import choose_device


def milliseconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median of some repetitions after one for warming up."""
    times = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        work()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(1e3 * (time.perf_counter() - begin))
    return stats.median(times[1:])


def solvers(device: torch.device, repeats: int) -> None:
    """Seven pairs of frames by every solver there is here."""
    print(f"{'N':>5} {'solver':28}{'ms/pair':>9}   largest gap proved")
    for edge in (7, 14, 28):
        found = similarity(moving(edge, 8, WIDTH))[0].to(device)
        work = {"scipy": lambda s=found: assign(s, "scipy")}
        work["auction, eps 1e-7"] = lambda s=found: assign(s, "auction")
        work["auction, 4096 whole numbers"] = lambda s=found: auction(s, levels=4096)
        if device.type == "cuda":
            work["kernel"] = lambda s=found: assign(s, "kernel")
        for name, solve in work.items():
            with statistics() as counted:
                took = milliseconds(solve, device, repeats)
            gap = counted.gap if counted.problems else float(certificate.gap(found, *solve()).max())
            note = f"{counted.fallbacks} fell back to SciPy" if counted.fallbacks else ""
            print(f"{edge**2:>5} {name:28}{took / 7:9.2f}   {'exact' if name == 'scipy' else f'{gap:.1e}'} {note}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--solvers", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    device = choose_device(options.device)

    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads of it{load}")
    print(measure_alignment(device=device), flush=True)
    if options.solvers:
        solvers(device, options.repeats)

    from gesta.models import create_model

    torch.manual_seed(0)
    fixed, aligned = (create_model(name).to(device).eval() for name in ("timesformer_b", "ata_vitb"))
    aligned.load_state_dict(fixed.state_dict())
    spec = fixed.config.clip
    clip = moving(spec.size, spec.frames, 3).unflatten(2, (spec.size, spec.size)).permute(0, 4, 1, 2, 3).to(device)
    noise = torch.randn_like(clip)  # whose matches are not obvious
    with torch.inference_mode():
        for kind, video in (("moving scene", clip), ("noise", noise)):
            plain, ours = (milliseconds(lambda m=m, v=video: m(v), device, options.repeats) for m in (fixed, aligned))
            print(f"TimeSformer-B, {kind}: {plain:.0f} ms forward, {ours:.0f} ms aligned, {ours / plain:.3f} ×")


if __name__ == "__main__":
    main()
