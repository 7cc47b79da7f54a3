"""ATA's assignments by the paper's loop, by SciPy in threads and by gesta, and what they add to a TimeSformer.

    python benchmarks/alignment.py [--device cuda] [--solvers]

Prints milliseconds and ratios, asserts nothing about time. ``--solvers`` adds all of gesta's solvers on the pairs of
one clip of 8 frames, with the gap to the optimum that each of them proves.
"""

from __future__ import annotations

import argparse
import os

import torch
from side_by_side import median_milliseconds

from gesta.alignment import certificate
from gesta.alignment.assignment import assign
from gesta.alignment.auction import auction
from gesta.alignment.chain import similarity
from gesta.alignment.statistics import statistics
from gesta.bench.alignment import WIDTH, measure_alignment, moving
from gesta.models import create_model
from gesta.processes import choose_device


def solvers(device: torch.device, repeats: int) -> None:
    """Seven pairs of frames by every available solver."""
    print(f"{'N':>5} {'solver':28}{'ms/pair':>9}   largest gap proved")
    for edge in (7, 14, 28):
        cosines = similarity(moving(edge, 8, WIDTH))[0].to(device)
        work = {"scipy": lambda s=cosines: assign(s, "scipy")}
        work["auction, eps 1e-7"] = lambda s=cosines: assign(s, "auction")
        work["auction, 4096 integer levels"] = lambda s=cosines: auction(s, levels=4096)
        if device.type == "cuda":
            work["kernel"] = lambda s=cosines: assign(s, "kernel")
        for name, solve in work.items():
            with statistics() as counted:
                milliseconds = median_milliseconds(solve, device, repeats)
            gap = counted.gap if counted.problems else float(certificate.gap(cosines, *solve()).max())
            note = f"{counted.fallbacks} fell back to SciPy" if counted.fallbacks else ""
            print(
                f"{edge**2:>5} {name:28}{milliseconds / 7:9.2f}   {'exact' if name == 'scipy' else f'{gap:.1e}'} {note}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="(default: the first accelerator there is, else the CPU)")
    parser.add_argument("--solvers", action="store_true", help="compare the solvers as well")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement (default %(default)s)")
    options = parser.parse_args()
    device = choose_device(options.device)

    load = f", system load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads{load}")
    print(measure_alignment(device=device), flush=True)
    if options.solvers:
        solvers(device, options.repeats)

    torch.manual_seed(0)
    fixed, aligned = (create_model(name).to(device).eval() for name in ("timesformer_b", "ata_vitb"))
    aligned.load_state_dict(fixed.state_dict())
    spec = fixed.config.clip
    clip = moving(spec.size, spec.frames, 3).unflatten(2, (spec.size, spec.size)).permute(0, 4, 1, 2, 3).to(device)
    noise = torch.randn_like(clip)  # no match of it is certified without a solver
    with torch.inference_mode():
        for kind, video in (("moving scene", clip), ("noise", noise)):
            plain, ours = (
                median_milliseconds(lambda m=m, v=video: m(v), device, options.repeats) for m in (fixed, aligned)
            )
            print(f"TimeSformer-B, {kind}: {plain:.0f} ms forward, {ours:.0f} ms aligned, {ours / plain:.3f} ×")


if __name__ == "__main__":
    main()
