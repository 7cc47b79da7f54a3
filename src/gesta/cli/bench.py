"""Commands about this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from gesta.cli.options import Commands, count, device_options, print_results, trust_option, whole_numbers, with_fields
from gesta.errors import GestaError
from gesta.processes import Precision


def add_commands(commands: Commands) -> None:
    bench = commands.group("bench", "measure loading, models and alignment on this machine")
    sub = bench.add("data", _bench_data, "decoded frames and loaded clips per second")
    sub.add_argument("root", nargs="?", help="folder of videos (default: some are made)")
    device_options(sub, precision=None)
    text = "clips per second of a model (forward and training, peak memory), of an exported file, or of a run's ways"
    sub = bench.add("model", _bench_model, text, fields=True, example="--dropout 0.1")
    text = "a name (all: gesta models); a .onnx or .pt2 file; or a run, whose exported files are compared with torch"
    sub.add_argument("model", metavar="MODEL|FILE|RUN", help=text)
    sub.add_argument("--batch", type=count, help="clips at once (default 4; of a run as many as predictions take)")
    sub.add_argument("--compile", action="store_true", help="with torch.compile")
    device_options(sub)
    trust_option(sub)
    sub = bench.add(
        "memory",
        _bench_memory,
        "clips that fit graphics cards at once in training",
        fields=True,
        example="--dropout 0.1",
    )
    sub.add_argument("model", metavar="MODEL", help="name of a model (all: gesta models)")
    sub.add_argument("--batch", type=count, default=16, help="clips of an optimiser step (default %(default)s)")
    sub.add_argument(
        "--sizes", type=whole_numbers, default=(8, 16, 24, 40), help="of cards, in GiB (default 8,16,24,40)"
    )
    device_options(sub, precision="bf16-mixed")
    text = "on paper: memory, bytes sent, clips per second and loading of trainings on many GPUs"
    sub = bench.add("scale", _bench_scale, text, fields=True, example="--dropout 0.1")
    sub.add_argument("model", metavar="MODEL", nargs="?", default="videomae2_g", help="default %(default)s")
    sub.wants_optional = lambda _, word: _is_model(word)
    sub.add_argument("--gpus", type=whole_numbers, default=(8, 64, 512), help="numbers of GPUs (default 8,64,512)")
    sub.add_argument("--per-node", type=count, default=8, help="GPUs of a machine (default %(default)s)")
    sub.add_argument("--batch", type=count, default=8, help="clips of a GPU in a step (default %(default)s)")
    text = "clips per second that one GPU trains on, as gesta bench model measures it (default: estimated)"
    sub.add_argument("--rate", type=float, help=text)
    sub.add_argument("--tflops", type=float, help="peak of a GPU (default 989, an H100's in 16 bits)")
    sub.add_argument("--share", type=float, help="fraction of that peak that is reached (default 0.4)")
    text = "GB per second that each GPU can send (default %(default)g, 400 Gbit/s)"
    sub.add_argument("--link", type=float, default=50.0, help=text)
    sub.add_argument("--precision", choices=get_args(Precision), default="bf16-mixed", help="default %(default)s")
    text = "small models as exported files: largest difference of scores, and speed beside torch's (docs/export.md)"
    sub = bench.add("export", _bench_export, text)
    sub.add_argument("models", metavar="MODEL", nargs="*", help="names (default: all that end in _tiny)")
    sub.add_argument("--write", metavar="PAGE", help="also write the table between its markers in PAGE")
    sub = bench.add("align", _bench_align, "time of ATA's assignments: the paper's loop, ours, and within a model")
    sub.add_argument("--model", metavar="NAME", help="a model with ATA, with random weights (default ata_vitb)")
    sub.add_argument("--checkpoint", metavar="CKPT", help="a trained model instead, beside the same with fresh weights")
    sub.add_argument(
        "--video", metavar="FILE", help="also time the model on a clip of this video, beside a synthetic clip"
    )
    device_options(sub, precision=None)
    trust_option(sub)

    commands.add("doctor", _doctor, "versions, devices and decoders; what is missing, and how to get it")


def _bench_data(options: argparse.Namespace) -> None:
    from gesta.bench.loading import measure_loading

    print_results(options, measure_loading(root=options.root, device=options.device))


def _bench_model(options: argparse.Namespace) -> None:
    from gesta.bench.model import measure_exported, measure_model
    from gesta.checkpoint.exported import device_for, is_exported, load_exported
    from gesta.models import list_models, model_config

    path = Path(options.model)
    is_run = path.is_dir() and options.model not in list_models()  # a folder with a model's name is meant as ./NAME
    if is_run or is_exported(path):
        if options.fields or options.compile or (is_run and options.batch):
            flag = "--compile" if options.compile else options.fields[0] if options.fields else "--batch"
            what = "a run is" if is_run else "an exported file is"
            raise GestaError(f"{options.model}: {what} measured as it is; leave {flag} out")
        if is_run:
            _bench_run(options)
            return
        trained = load_exported(path, trust_code=options.trust_code)
        device_for(trained.model, options.device, options.precision)
        print_results(options, measure_exported(trained, batch=options.batch or 4))
        return

    model = with_fields(model_config(options.model), options)
    how: dict[str, Any] = {name: getattr(options, name) for name in ("device", "precision")}
    print_results(options, measure_model(model, compiled=options.compile, batch=options.batch or 4, **how))


def _bench_run(options: argparse.Namespace) -> None:
    from gesta.checkpoint import load
    from gesta.export.fastest import measure_run

    if options.device not in ("auto", "cpu") or options.precision != "32-true":
        raise GestaError(f"{options.model}: the ways of a run are those on a CPU; leave --device and --precision out")
    model = load(options.model, trust_code=options.trust_code)
    print_results(options, measure_run(model, trust_code=options.trust_code))


def _bench_memory(options: argparse.Namespace) -> None:
    from gesta.bench.memory import measure_memory
    from gesta.models import model_config

    model = with_fields(model_config(options.model), options)
    how: dict[str, Any] = {name: getattr(options, name) for name in ("batch", "device", "precision", "sizes")}
    print_results(options, measure_memory(model, options.model, **how))


def _is_model(word: str) -> bool:
    from gesta.models import MODELS

    return word in MODELS


def _bench_scale(options: argparse.Namespace) -> None:
    from gesta.bench.scale import estimate_scale
    from gesta.models import model_config

    model = with_fields(model_config(options.model), options)
    names = ("gpus", "per_node", "batch", "precision", "rate", "tflops", "share", "link")
    print_results(options, estimate_scale(model, options.model, **{name: getattr(options, name) for name in names}))


def _bench_export(options: argparse.Namespace) -> None:
    from gesta.export.verification import around_table, check_exports, write_table

    if options.write:
        around_table(Path(options.write))  # refused before minutes of work
    checks = check_exports(options.models)
    print_results(options, *checks)
    if options.write:
        write_table(Path(options.write), checks)


def _bench_align(options: argparse.Namespace) -> None:
    from gesta.bench.alignment import measure_alignment
    from gesta.models import create_model
    from gesta.models.public import load

    if options.model and options.checkpoint:
        raise GestaError(f"--checkpoint {options.checkpoint} is measured instead of --model; leave one of them out")
    if options.checkpoint:
        trained = load(options.checkpoint, trust_code=options.trust_code).model
        models = [(f"{options.checkpoint}, random weights", trained.config.build()), (options.checkpoint, trained)]
    else:
        name = options.model or "ata_vitb"
        models = [(f"{name}, random weights", create_model(name))]
    print_results(options, measure_alignment(models, video=options.video, device=options.device))


def _doctor(options: argparse.Namespace) -> None:
    from gesta.bench.doctor import diagnose

    print_results(options, diagnose())
