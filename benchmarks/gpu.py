"""What is to be measured on a GPU, in one run of a few minutes, written to one JSON file.

    python benchmarks/gpu.py [--out gpu.json] [--minutes 9] [--device cuda] [--smoke]

1. The machine: its fastest bfloat16 matrix product and copy, against which the models are seen.
2. Forward passes and training steps of the published sizes in bfloat16, and their share of that matrix product's speed.
3. Our systems beside torchvision's MViTv2-S and the transcriptions of the papers' equations (this folder's scripts).
4. Assignments of tokens, and a TimeSformer with and without alignment.
5. The loader beside the limit that decoding sets.
6. Some of the sizes of 2 compiled, last, since compilers take longest.

The file is written anew after each measurement, so that one stopped early holds what was measured. What fails is in it
as the error's sentence, what there was no time for as a name in ``left_out``. ``--smoke`` runs all of it with small
sizes on a CPU: it shows that the script works before it has a GPU, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import runpy
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import side_by_side
import torch

from gesta.bench.model import measure_model
from gesta.bench.timing import describe, seconds_per_step, synchronize
from gesta.models import list_models, model_config, stored_cost

HERE = Path(__file__).parent

SIZES = {
    "stan_mvitv2_s": 16, "mvitv2_s": 16, "st_manet_50": 32, "r3d_50": 32, "ctn_b": 16, "ctn_a": 16, "mfst_large": 4,
    "mfst_base": 4, "rpe_stdt_b12": 8, "rpe_stdt_b8": 8, "stdt": 8, "std_former_b": 8, "ata_vitb": 8,
    "timesformer_b": 8, "ata_convnext_b": 8, "convnext_b": 8, "ata_cyclemlp_b5": 8, "cyclemlp_b5": 8, "vivit_b": 4,
    "videomae_b": 16, "hiera_b": 16, "mfst_rgbd": 2, "timesformer_l": 1, "vjepa2_l": 4, "videomae2_g": 2,
}  # fmt: skip
"""Model → clips at once, most important first."""

COMPILED = ("mvitv2_s", "st_manet_50", "timesformer_b", "ctn_b", "std_former_b")

SCRIPTS: dict[str, tuple[str, ...]] = {
    "mvit": ("--batch", "8"),
    "std_former": ("--batch", "4", "--parts"),
    "st_manet": ("--batch", "16", "--parts"),
    "ctn": ("--batch", "16"),
    "rpe_stdt": ("--frames", "64"),
    "mfst": ("--batch", "2"),
    "stan": ("--batch", "16"),
}
"""Script of this folder → its arguments on a GPU; all but the one without it also get bfloat16."""

FLOAT32 = ("st_manet",)
"""Scripts without ``--dtype``."""

ONE_SIZE = ("mvit",)
"""Scripts without ``--smoke``: torchvision's model has one size."""


class Report:
    """The file, and the clock."""

    def __init__(self, out: Path, minutes: float, device: torch.device, smoke: bool) -> None:
        self.out, self.device, self.smoke = out, device, smoke
        self.begin, self.limit = time.monotonic(), 60 * minutes
        self.results: dict[str, Any] = {
            "torch": torch.__version__,
            "device": describe(device),
            "smoke": smoke,
            "measured": {},
            "failed": {},
            "left_out": [],
        }

    def measure(self, name: str, seconds: float, work: Callable[[], Any]) -> Any:
        """Run one measurement, if the time it will take at most is left, and write the file."""
        took = time.monotonic() - self.begin
        if took + seconds > self.limit and not self.smoke:
            self.results["left_out"].append(name)
            result = None
        else:
            print(f"{took:5.0f} s  {name}", flush=True)
            try:
                result = self.results["measured"][name] = work()
            except Exception as error:  # what is next does not depend on it
                traceback.print_exc()
                sentence = (str(error).strip().splitlines() or ["no message"])[0]
                self.results["failed"][name] = f"{type(error).__name__}: {sentence}"
                result = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        self.results["seconds"] = round(time.monotonic() - self.begin, 1)
        self.out.write_text(json.dumps(self.results, indent=1) + "\n")
        return result


def matrix_product(report: Report) -> dict[str, float]:
    """TFLOP/s of a bfloat16 matrix product of random numbers, and TB/s of a copy, read and written."""
    n = 256 if report.smoke else 8192
    a, b = torch.randn(2, n, n, device=report.device, dtype=torch.bfloat16)
    _, product = seconds_per_step(lambda: a @ b, report.device, 0.01 if report.smoke else 1.0)
    source = torch.empty(2**20 if report.smoke else 2**32, dtype=torch.uint8, device=report.device)
    target = torch.empty_like(source)
    _, copy = seconds_per_step(lambda: target.copy_(source), report.device, 0.01 if report.smoke else 0.5)
    return {"tflops": 2 * n**3 / product / 1e12, "copy_tb_per_s": 2 * len(source) / copy / 1e12}


def model(report: Report, name: str, batch: int, tflops: float | None, compiled: bool) -> dict[str, Any]:
    """Speed of one published size, and its shares of the matrix product's speed."""
    speed = measure_model(
        model_config(name),
        batch=batch,
        compiled=compiled,
        precision="32-true" if report.smoke else "bf16-mixed",  # CPUs without bfloat16 emulate it, very slowly
        device=report.device,
        seconds=0.01 if report.smoke else 1.0,
    )
    result: dict[str, Any] = speed.to_json()
    if tflops:
        per_clip = 2e-12 * stored_cost(name).macs  # TFLOP
        result["forward_share"] = speed.forward * per_clip / tflops
        result["training_share"] = 3 * speed.training * per_clip / tflops  # backward passes take twice a forward pass
    return result


def script(report: Report, name: str, arguments: tuple[str, ...]) -> dict[str, Any]:
    """What a script of this folder compares, and what it prints."""
    command = [f"{name}.py", "--device", str(report.device)]
    dtype = () if name in FLOAT32 else ("--dtype", "bfloat16")
    smoke = () if name in ONE_SIZE else ("--smoke",)
    command += [*smoke, "--repeats", "1"] if report.smoke else [*arguments, *dtype, "--repeats", "10"]
    side_by_side.COMPARED.clear()
    printed, previous = io.StringIO(), sys.argv
    try:
        sys.argv = command
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(HERE / f"{name}.py"), run_name="__main__")
    finally:
        sys.argv = previous
        print(printed.getvalue(), end="")
    return {"command": " ".join(command), "compared": list(side_by_side.COMPARED), "printed": printed.getvalue()}


def alignment(report: Report) -> dict[str, Any]:
    """Assignments by solver, and TimeSformer-B with and without them."""
    from gesta.bench.alignment import measure_alignment, moving

    edges = (7,) if report.smoke else (7, 14, 28)
    speed = measure_alignment(edges=edges, device=report.device, seconds=0.01 if report.smoke else 0.3)
    print(speed)
    names = ("timesformer_tiny", "ata_timesformer_tiny") if report.smoke else ("timesformer_b", "ata_vitb")
    models = [model_config(name).build().to(report.device).eval() for name in names]
    spec = models[0].config.clip
    clip = moving(spec.size, spec.frames, 3).unflatten(2, (spec.size, spec.size)).permute(0, 4, 1, 2, 3)
    times: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for kind, video in (("moving scene", clip), ("noise", torch.randn_like(clip))):
            clips = video.to(report.device).expand(1 if report.smoke else 8, -1, -1, -1, -1)
            times[kind] = {
                name: side_by_side.median_milliseconds(partial(net, clips), report.device, 5)
                for name, net in zip(names, models)
            }
    return {**speed.to_json(), "forward_ms": times}


def loader(report: Report) -> dict[str, Any]:
    """Training batches a second beside decoding alone, with as many processes as cores."""
    from gesta.processes import cpu_cores

    workers, seconds = (0, "0.2") if report.smoke else (cpu_cores(), "4")
    rounds = "1" if report.smoke else "2"
    command = ["loading.py", "--workers", str(workers), "--seconds", seconds, "--rounds", rounds, "--json"]
    printed, previous = io.StringIO(), sys.argv
    try:
        sys.argv = command
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(HERE / "loading.py"), run_name="__main__")
    finally:
        sys.argv = previous
    text = printed.getvalue()
    return {"command": " ".join(command), **json.loads(text[text.index("{") :])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="(default %(default)s)")
    parser.add_argument("--minutes", type=float, default=9.0, help="at most (default %(default)s)")
    parser.add_argument("--device", default="cuda", help="(default %(default)s)")
    side_by_side.smoke_option(parser)
    options = parser.parse_args()
    device = torch.device("cpu" if options.smoke else options.device)
    report = Report(options.out, options.minutes, device, options.smoke)
    synchronize(device)  # refuses a device that is not there before anything else
    torch.manual_seed(0)

    peak = report.measure("matrix product", 20, lambda: matrix_product(report))
    tflops = peak and peak["tflops"]
    sizes = dict.fromkeys(list_models("*_tiny"), 1) if options.smoke else SIZES
    for name, batch in sizes.items():
        report.measure(name, 15, lambda n=name, b=batch: model(report, n, b, tflops, False))
    for name, arguments in SCRIPTS.items():
        report.measure(f"{name}.py", 40, lambda n=name, a=arguments: script(report, n, a))
    report.measure("alignment", 60, lambda: alignment(report))
    report.measure("loader", 60, lambda: loader(report))
    for name in ("ctn_tiny",) if options.smoke else COMPILED:
        report.measure(f"{name}, compiled", 75, lambda n=name: model(report, n, sizes[n], tflops, True))

    failed, left_out = report.results["failed"], report.results["left_out"]
    print(f"{len(report.results['measured'])} measured, {len(failed)} failed, {len(left_out)} left out: {options.out}")
    for name, sentence in failed.items():
        print(f"{name}: {sentence}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
