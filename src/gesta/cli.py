"""The verbs. Everything heavy is imported inside the verb that needs it, so that ``gesta --help`` answers at once."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gesta import __version__
from gesta.errors import GestaError

if TYPE_CHECKING:
    from gesta.data.dataset import ClassNames, DataConfig

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``gesta`` command; exits with 0, 1 (something is wrong, one sentence) or 2 (usage)."""
    plain, fields = _without_fields(sys.argv[1:] if arguments is None else arguments)
    options, rest = _parser().parse_known_args(plain)
    rest += fields
    if rest and not options.takes_fields:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status = options.verb(options, rest)
    except GestaError as error:
        if options.debug:
            raise
        print(f"gesta: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("gesta: interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        status = 1
    sys.exit(status or 0)


# --- the verbs -------------------------------------------------------------------------------------------------------


def _models(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.cost import count
    from gesta.model import list_models, model_config
    from gesta.recipes.address import list_recipes, list_tables

    models: list[dict[str, Any]] = [
        {
            "name": name,
            "params": (cost := count(model_config(name))).params,
            "clip": _words(model_config(name).clip),
            "macs": cost.macs,
        }
        for name in list_models(options.pattern)
    ]
    if options.json:
        print(json.dumps({"models": models, "recipes": list_recipes(), "tables": sorted(list_tables())}, indent=2))
        return
    print("models")
    for m in models:
        print(f"  {m['name']:<20} {m['params'] / 1e6:8.2f} M {m['macs'] / 1e9:8.2f} GMACs   {m['clip']}")
    print("recipes (gesta train …)")
    for address, line in list_recipes().items():
        print(f"  {address:<20} {line}")
    print("tables (gesta table …)")
    for address, table in list_tables().items():
        print(f"  {address:<20} {table.source}")


def _show(options: argparse.Namespace, rest: list[str]) -> None:
    from gesta.config import to_json
    from gesta.model import MODELS, model_config
    from gesta.recipes.address import find_recipe

    if options.what in MODELS:
        shown: Any = _with_fields(model_config(options.what), rest, "gesta show")
    else:
        shown = _with_fields(
            find_recipe(options.what, model=options.model, data=options.data, trust=options.trust), rest, "gesta show"
        )
    print(json.dumps(to_json(shown), indent=2))


def _cost(options: argparse.Namespace, rest: list[str]) -> None:
    from gesta.cost import count
    from gesta.model import model_config

    changes = {"classes": options.classes} if options.classes is not None else {}
    model = _with_fields(model_config(options.model, **changes), rest, "gesta cost")
    styles: list[Any] = ["torch", "fvcore"] if options.style == "both" else [options.style]
    _print(options, *[count(model, style=style) for style in styles])


def _train(options: argparse.Namespace, rest: list[str]) -> None:
    from gesta.recipes.address import find_recipe, read_recipe
    from gesta.train import train

    run = Path(options.run) if options.run else None
    if options.resume and run and not options.recipe:
        recipe = read_recipe(run / "recipe.json", trust=options.trust)
    elif options.recipe:
        recipe = find_recipe(options.recipe, model=options.model, data=options.data, trust=options.trust)
    else:
        raise GestaError("name a recipe (all: gesta models), or a run to go on with: gesta train --resume --run DIR")
    recipe = _with_fields(recipe, rest, "gesta train RECIPE")
    train(recipe, run or Path("runs") / recipe.name, resume=options.resume, trust=options.trust)


def _evaluate(options: argparse.Namespace, rest: list[str]) -> None:
    from gesta.checkpoint import load_model
    from gesta.evaluate import EvaluateConfig, evaluate
    from gesta.recipes import EvaluateJob
    from gesta.recipes.address import data_config, read_recipe

    checkpoint = _checkpoint(options.checkpoint)
    loaded = load_model(checkpoint, trust=options.trust)
    saved = checkpoint.parent / "recipe.json"
    recipe = read_recipe(saved, trust=options.trust) if saved.is_file() else None
    if options.data:
        data: DataConfig = data_config(options.data)
    elif recipe:
        data = recipe.data
    else:
        raise GestaError(f"{checkpoint}: no recipe.json beside it, so say which videos: --data folder --data.root DIR")
    job = _with_fields(
        EvaluateJob(data=data, evaluate=recipe.evaluate if recipe else EvaluateConfig()), rest, "gesta evaluate CKPT"
    )
    records = job.data.records(job.evaluate.split)
    if not records:
        raise GestaError(f"the data set has no split {job.evaluate.split!r}; choose another with --evaluate.split")
    if job.data.classes() != loaded.classes:
        raise GestaError(
            f"{checkpoint} knows {_some(loaded.classes)}, the data set has {_some(job.data.classes())}: "
            "evaluate on those it was trained on"
        )
    receipt = evaluate(loaded.model, records, loaded.classes, job.evaluate, checkpoint=str(checkpoint), data=job.data)
    if receipt is None:  # another process of several writes the receipt
        return
    out = Path(options.out) if options.out else checkpoint.parent / f"result-{job.evaluate.split}.json"
    receipt.write(out)
    _print(options, receipt)
    print(f"receipt: {out}", file=sys.stderr)


def _predict(options: argparse.Namespace, _: list[str]) -> int:
    from gesta.checkpoint import load_model
    from gesta.evaluate import EvaluateConfig
    from gesta.predict import run

    loaded = load_model(_checkpoint(options.checkpoint), trust=options.trust)
    return run(
        loaded.model,
        loaded.classes,
        options.sources,
        views=EvaluateConfig(clips=options.clips, crops=options.crops),
        top=options.top,
        device=options.device,
        timeline=options.timeline,
        window=options.window,
        hop=options.hop,
        smoothing=options.smoothing,
        threshold=options.threshold,
        min_duration=options.min_duration,
        format="json" if options.json else options.format,
        out=options.out,
        draw=options.draw,
        depth=loaded.depth,
        person_crop=loaded.person_crop,
    )


def _compare(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.compare import compare
    from gesta.evaluate import Receipt

    _print(options, compare(*(Receipt.read(_receipt(path)) for path in (options.a, options.b))))


def _fuse(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.evaluate import Receipt
    from gesta.fuse import fuse

    receipts, fit = ([Receipt.read(_receipt(path)) for path in paths] for paths in (options.results, options.fit))
    fused = fuse(receipts, options.by, fit)
    out = Path(options.out) if options.out else _receipt(options.results[0]).with_name(f"fused-{options.by}.json")
    fused.write(out)
    _print(options, fused)
    if not options.json:
        for path, receipt in zip(options.results, receipts):
            each = ", ".join(f"{n} {v:.2f}" for n, v in receipt.metrics.items() if n.split("/")[-1] == "top1")
            print(f"alone: {each or 'unlabelled'} ({path})")
    print(f"receipt: {out}", file=sys.stderr)


def _table(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.config import suggest
    from gesta.recipes.address import list_tables
    from gesta.recipes.tables import fill

    tables = list_tables()
    if options.table not in tables:
        raise GestaError(
            f"there is no table {options.table!r}{suggest(options.table, tables)} (all: {', '.join(tables)})"
        )
    _print(options, fill(tables[options.table], Path(options.runs), rehearsal=options.data == "marionette"))


def _ledger(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.ledger import ledger

    found = ledger()
    if options.write:
        Path(options.write).write_text(found.to_markdown())
    _print(options, found)


def _analyse_report(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.analysis.report import write_report

    print(write_report(Path(options.run)))


def _analyse_attention(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.analysis.attention import attention_figure
    from gesta.analysis.sources import load

    name, model = load(options.model, trust=options.trust)
    _print(options, attention_figure(name, model, options.video, options.out, block=options.block))
    print(options.out, file=sys.stderr)


def _analyse_clusters(options: argparse.Namespace, rest: list[str]) -> None:
    from gesta.analysis.rpe import read_config, sweep, sweep_figure

    config = _with_fields(read_config(options.model, trust=options.trust), rest, "gesta analyse clusters")
    found = sweep(options.model, config, options.ratios, options.runs)
    sweep_figure(found, options.out)
    _print(options, found)
    print(options.out, file=sys.stderr)


def _analyse_confusion(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.analysis.confusion import confusion, confusion_figure
    from gesta.evaluate import Receipt

    if len(options.results) > 2:
        raise GestaError("give one receipt, or two to see their difference")
    receipts = [(path, Receipt.read(_receipt(path))) for path in options.results]
    found = confusion(receipts, space=options.space, by=options.by, most=options.pairs)
    confusion_figure(found, options.out)
    _print(options, found)
    print(options.out, file=sys.stderr)


def _analyse_filters(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.analysis.filters import filters_figure
    from gesta.analysis.sources import load

    name, model = load(options.model, trust=options.trust)
    print(filters_figure(name, model, options.out, most=options.n, folded=not options.learned))


def _analyse_rpe(options: argparse.Namespace, rest: list[str]) -> None:
    from gesta.analysis.rpe import bucket_map_of, map_figure, read_config

    config = _with_fields(read_config(options.model, trust=options.trust), rest, "gesta analyse rpe")
    found = bucket_map_of(options.model, config, options.ref)
    map_figure(found, options.out)
    _print(options, found)
    print(options.out, file=sys.stderr)


def _analyse_tsne(options: argparse.Namespace, rest: list[str]) -> None:
    from gesta.analysis.sources import load
    from gesta.analysis.tsne import choose, project, run_data, tsne_figure

    models = [load(run, trust=options.trust) for run in options.runs]
    if options.data:
        flags = [flag.replace("--data.", "--", 1) for flag in rest]
        data = _data(options.data, flags, "gesta analyse tsne")
    else:
        data = _with_fields(run_data(options.runs[0], trust=options.trust), rest, "gesta analyse tsne")
    classes = [name for words in options.classes or () for name in words.split(",") if name]
    chosen = choose(data, options.split, classes, n=options.n, space=options.space, seed=options.seed)
    found = project(models, *chosen, device=options.device, seed=options.seed)
    tsne_figure(found, options.out)
    _print(options, found)
    print(options.out, file=sys.stderr)


def _analyse_warp(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.analysis.warp import warp_figure
    from gesta.checkpoint import load_model

    loaded = load_model(_checkpoint(options.checkpoint), trust=options.trust)
    out = Path(options.out)
    warp_figure(loaded.model, options.video, out, spatial_only=options.spatial_only)
    print(out)


def _analyse_mi(options: argparse.Namespace, rest: list[str]) -> int:
    from gesta.analysis.mutual_information import mutual_information
    from gesta.analysis.sources import is_model, load
    from gesta.data.dataset import Record
    from gesta.predict import find_sources

    videos = [source for source in options.sources if not is_model(source)]
    models = [load(source, trust=options.trust) for source in options.sources if is_model(source)]
    paths = find_sources(videos)
    words = [path for path in paths if not Path(path).exists() and not Path(path).suffix]
    if words or not models:
        load((words or videos)[0])  # which says why it is none
    if bool(videos) == bool(options.data):
        raise GestaError("say which videos: files or folders beside the models, or --data NAME")
    if rest and not options.data:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.data:
        flags = [flag.replace("--data.", "--", 1) for flag in rest]
        records = _data(options.data, flags, "gesta analyse mi").records(options.split)
        if not records:
            raise GestaError(f"{options.data} has no split {options.split!r}; choose another with --split")
    else:
        records = [Record(path=path, name=path) for path in paths]
    if options.limit:
        records = records[:: -(-len(records) // options.limit)]
    found = mutual_information(
        models, records, estimator=options.estimator, tau=options.tau, block=options.block, device=options.device
    )
    _print(options, found)
    return int(bool(found.failures))


def _analyse_alignment(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.analysis.matches import matches_figure
    from gesta.analysis.sources import load

    model = load(options.model, trust=options.trust)[1]
    print(matches_figure(model, options.video, options.out, block=options.block, frame=options.frame, tau=options.tau))
    print(options.out)


def _analyse_response(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.analysis.response import response_figure
    from gesta.analysis.sources import load

    models = [load(source, trust=options.trust) for source in options.models]
    print(response_figure(models, options.video, options.out, block=options.block))


def _data_list(options: argparse.Namespace, rest: list[str]) -> None:
    from gesta.data.check import describe

    _print(options, describe(_data(options.source, rest, "gesta data list")))


def _data_check(options: argparse.Namespace, rest: list[str]) -> int:
    from gesta.data.check import check
    from gesta.model import model_config

    clip = model_config(options.model).clip if options.model else None
    report = check(_data(options.source, rest, "gesta data check"), clip=clip, flip=not options.no_flip)
    _print(options, report)
    return 0 if report.ok else 1


def _data_make(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.data.marionette import make

    made = make(options.out, clips=options.clips, seed=options.seed, workers=options.workers, depth=options.depth)
    _print(options, made)


def _bench_data(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.bench import bench_data

    _print(options, bench_data(root=options.root))


def _bench_model(options: argparse.Namespace, rest: list[str]) -> None:
    from gesta.bench import bench_model
    from gesta.model import model_config

    model = _with_fields(model_config(options.model), rest, "gesta bench model")
    _print(options, bench_model(model, batch=options.batch, compiled=options.compile))


def _bench_align(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.alignment.measure import bench_align
    from gesta.checkpoint import load_model
    from gesta.model import create_model

    models = [(f"{options.model}, fresh", create_model(options.model))]
    if options.checkpoint:
        trained = load_model(_checkpoint(options.checkpoint), trust=options.trust).model
        models = [(f"{options.checkpoint}, fresh", trained.config.build()), (options.checkpoint, trained)]
    _print(options, bench_align(models, video=options.video))


def _doctor(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.doctor import diagnose

    _print(options, diagnose())


def _demo(options: argparse.Namespace, _: list[str]) -> None:
    from gesta.demo import run_demo

    run_demo(Path(options.out), clips=options.clips, epochs=options.epochs)


# --- helpers of the verbs --------------------------------------------------------------------------------------------


def _without_fields(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take dotted flags and their values (``--train.lr 1e-4``) apart from the rest; argparse would guess about them."""
    parts: tuple[list[str], list[str]] = ([], [])
    dotted = False
    for argument in arguments:
        if argument.startswith("--"):
            dotted = "." in argument.split("=")[0]
        parts[dotted].append(argument)
    return parts


def _with_fields(obj: T, flags: list[str], program: str) -> T:
    """Change fields of a config object by flags (``--train.lr 1e-4``); misspelt ones are refused with suggestions."""
    if not flags:
        return obj
    import tyro

    return tyro.cli(
        type(obj),
        default=obj,
        args=flags,
        prog=program,
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
    )


def _data(source: str, flags: list[str], program: str) -> DataConfig:
    """A data set from a short name, a folder with a folder per class, or a list file, with its fields changed."""
    from gesta.data.lists import Folder, Lists
    from gesta.recipes.address import DATA, data_config

    path = Path(source)
    if path.is_dir():
        return _with_fields(Folder(root=source), flags, program)
    if path.is_file():
        return _with_fields(Lists(train=source), flags, program)
    if source in DATA:
        return _with_fields(data_config(source), flags, program)
    raise GestaError(f"{source} is neither a folder, a list file nor a data set ({', '.join(DATA)})")


def _checkpoint(path: str) -> Path:
    """A checkpoint file; a run folder stands for its best."""
    found = Path(path)
    return found / "best.safetensors" if found.is_dir() else found


def _receipt(path: str) -> Path:
    found = Path(path)
    return found / "result.json" if found.is_dir() else found


def _some(classes: ClassNames) -> str:
    spaces = classes if isinstance(classes, dict) else {"": classes}
    return " and ".join(
        f"{len(names)} {space} classes ({', '.join(names[:3])} …)".replace("  ", " ") for space, names in spaces.items()
    )


def _numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not numbers with commas between them") from None


def _place(text: str) -> tuple[int, int]:
    """Row and column."""
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a row and a column, 7,7") from None
    return row, column


def _words(clip: Any) -> str:
    sampling = f"{clip.frames}×{clip.stride}" if clip.sampling == "dense" else f"{clip.frames} uniform"
    return f"{sampling} frames, {clip.size} px"


def _print(options: argparse.Namespace, *results: Any) -> None:
    if options.json:
        values = [result.to_json() for result in results]
        print(json.dumps(values[0] if len(values) == 1 else values, indent=2))
    else:
        print("\n\n".join(str(result) for result in results))


# --- the parser ------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gesta",
        description="Recognise human actions in video: train, evaluate, predict, explain.",
        epilog="Flags such as --train.lr 1e-4 change any field of a recipe; gesta show RECIPE prints them all.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gesta {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def add(name: str, verb: Any, text: str, group: Any = verbs, fields: bool = False, result: bool = True) -> Any:
        sub = group.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(verb=verb, takes_fields=fields, parser=sub, json=False)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if result:
            sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub

    def group(name: str, text: str) -> Any:
        return verbs.add_parser(name, help=text, description=text).add_subparsers(metavar="WHAT", required=True)

    def trust(sub: Any) -> None:
        sub.add_argument("--trust", action="store_true", help="let a file name classes outside gesta (it runs code)")

    sub = add(
        "demo", _demo, "make the embedded data set, train, evaluate, report and predict, in minutes", result=False
    )
    sub.add_argument("--out", default="runs/demo", help="run folder (default %(default)s)")
    sub.add_argument("--clips", type=int, default=600, help="videos to make (default %(default)s)")
    sub.add_argument("--epochs", type=int, help="epochs of training (default: the recipe's)")

    sub = add("models", _models, "list models, recipes and tables")
    sub.add_argument("pattern", nargs="?", default="*", help="shell pattern of model names")

    sub = add("show", _show, "print every field of a recipe or model", fields=True, result=False)
    sub.add_argument("what", metavar="RECIPE|MODEL")
    _recipe_options(sub)
    trust(sub)

    sub = add("cost", _cost, "parameters and multiply-adds per part", fields=True)
    sub.add_argument("model", metavar="MODEL")
    sub.add_argument("--classes", type=int)
    sub.add_argument(
        "--style",
        choices=["torch", "fvcore", "both"],
        default="both",
        help="counting: torch's, the papers' (fvcore), or both",
    )

    sub = add("train", _train, "train a recipe", fields=True, result=False)
    sub.add_argument("recipe", metavar="RECIPE", nargs="?", help="stan.ucf101, my_package.runs:mine, or a recipe.json")
    _recipe_options(sub)
    sub.add_argument("--run", metavar="DIR", help="run folder (default runs/NAME)")
    sub.add_argument("--resume", action="store_true", help="go on where the run in that folder stopped")
    trust(sub)

    sub = add("evaluate", _evaluate, "score held-out videos and write the receipt", fields=True)
    sub.add_argument("checkpoint", metavar="CKPT", help="a .safetensors file or a run folder")
    sub.add_argument("--data", metavar="NAME", help="data set (default: the run's own)")
    sub.add_argument("--out", metavar="FILE", help="receipt (default: result-SPLIT.json beside the checkpoint)")
    trust(sub)

    sub = add("predict", _predict, "name the actions in files, folders, a camera or a stream")
    sub.add_argument("checkpoint", metavar="CKPT", help="a .safetensors file or a run folder")
    sub.add_argument("sources", metavar="VIDEO", nargs="+", help="file, folder, frame folder, URL, or camera number")
    sub.add_argument("--top", type=int, default=5, help="labels per video (default %(default)s)")
    sub.add_argument("--clips", type=int, default=4, help="clips per video (default %(default)s)")
    sub.add_argument("--crops", type=int, default=1, choices=[1, 3], help="crops per clip (default %(default)s)")
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    sub.add_argument("--timeline", action="store_true", help="timed segments by sliding windows, videos of any length")
    sub.add_argument("--window", type=float, metavar="S", help="seconds a window lasts (default: the model's clip)")
    sub.add_argument("--hop", type=float, default=0.5, help="step of the windows, in windows (default %(default)s)")
    sub.add_argument("--smoothing", type=int, default=3, help="windows averaged (default %(default)s)")
    sub.add_argument(
        "--threshold", type=float, default=0.5, help="least probability of a segment (default %(default)s)"
    )
    sub.add_argument("--min-duration", type=float, default=0.0, metavar="S", help="shortest segment in seconds")
    sub.add_argument("--format", choices=["table", "text", "csv", "json", "srt"], default="table")
    sub.add_argument("--out", metavar="FILE", help="write there instead of printing")
    sub.add_argument("--draw", metavar="FILE", help="draw the segments onto a copy of the video (with --timeline)")
    trust(sub)

    sub = add("compare", _compare, "what differs between two receipts: protocol first, then numbers")
    sub.add_argument("a", metavar="RESULT")
    sub.add_argument("b", metavar="RESULT")

    sub = add("fuse", _fuse, "fuse the scores of several models on the same videos, as of RGB and depth")
    sub.add_argument("results", metavar="RESULT", nargs="+", help="receipts or run folders")
    sub.add_argument(
        "--by",
        choices=["prob_mean", "logit_mean", "prob_product", "learned"],
        default="prob_mean",
        help="default %(default)s",
    )
    sub.add_argument(
        "--fit", metavar="RESULT", nargs="+", default=[], help="for learned: the same models on other, labelled videos"
    )
    sub.add_argument("--out", metavar="FILE", help="receipt (default: fused-BY.json beside the first result)")

    sub = add("table", _table, "a paper's table with our numbers beside the paper's")
    sub.add_argument("table", metavar="PAPER.TABLE")
    sub.add_argument("--runs", default="runs", help="folder of runs that count (default %(default)s)")
    sub.add_argument("--data", choices=["marionette"], help="the rehearsals on the embedded data set instead")

    sub = add("ledger", _ledger, "every published cost figure beside ours")
    sub.add_argument("--write", metavar="FILE", help="also write the page docs/fidelity.md is")

    analyse = group("analyse", "look into a run or a model")
    sub = add("report", _analyse_report, "one self-contained HTML page of a run", analyse, result=False)
    sub.add_argument("run", metavar="RUN")
    sub = add(
        "attention", _analyse_attention, "draw what a class token looks at, and which frames are dropped", analyse
    )
    sub.add_argument("model", metavar="CKPT|MODEL", help="run folder, .safetensors file or name (random weights)")
    sub.add_argument("video", metavar="VIDEO")
    sub.add_argument("--block", type=int, metavar="I", help="(default: the last that attends to patches)")
    sub.add_argument("--out", default="attention.png")
    trust(sub)
    sub = add("clusters", _analyse_clusters, "clusters of relative positions by ratio, and runs", analyse, fields=True)
    sub.add_argument("model", metavar="MODEL|CKPT", nargs="?", default="rpe_stdt_b12", help="(default %(default)s)")
    ratios = "0.5,1,1.5,1.9,2,2.5,3,3.5,4"
    sub.add_argument("--ratios", type=_numbers, default=ratios, metavar="R,R,…", help="(default %(default)s)")
    sub.add_argument("--runs", default="runs", help="folder of runs whose accuracy is shown (default %(default)s)")
    sub.add_argument("--out", default="clusters.png")
    trust(sub)
    sub = add("confusion", _analyse_confusion, "which classes are taken for which, in one receipt or two", analyse)
    sub.add_argument("results", metavar="RESULT", nargs="+", help="receipt or run folder; of two also the difference")
    sub.add_argument("--by", metavar="FILE", help="add up classes by attribute: CSV, JSON, or Diving48_vocab.json")
    sub.add_argument("--space", help="label space (default: the first)")
    sub.add_argument("--pairs", type=int, default=15, help="confused pairs listed at most (default %(default)s)")
    sub.add_argument("--out", default="confusion.png")
    sub = add("filters", _analyse_filters, "draw the filters of the first layer", analyse, result=False)
    sub.add_argument("model", metavar="CKPT|MODEL", help="run folder, .safetensors file or name (random weights)")
    sub.add_argument("--n", type=int, default=64, help="filters at most (default %(default)s)")
    sub.add_argument(
        "--learned", action="store_true", help="MFST: weights as learned, before differences are folded in"
    )
    sub.add_argument("--out", default="filters.png")
    trust(sub)
    sub = add("rpe", _analyse_rpe, "draw which patches share a relative position", analyse, fields=True)
    sub.add_argument("model", metavar="MODEL|CKPT")
    sub.add_argument("--ref", type=_place, metavar="ROW,COLUMN", help="whose positions (default: the centre, 7,7)")
    sub.add_argument("--out", default="rpe.png")
    trust(sub)
    sub = add("tsne", _analyse_tsne, "t-SNE of features before the classifier, runs side by side", analyse, fields=True)
    sub.add_argument("runs", metavar="RUN", nargs="+", help="run folder or .safetensors file")
    sub.add_argument("--data", metavar="ROOT|LIST|NAME", help="videos (default: the first run's; fields: --data.root)")
    sub.add_argument("--split", choices=["train", "val", "test"], default="test", help="(default %(default)s)")
    sub.add_argument("--classes", nargs="+", metavar="NAME", help="shown ones (default: all)")
    sub.add_argument("--n", type=int, default=1000, help="videos drawn before those are taken (default %(default)s)")
    sub.add_argument("--space", help="label space (default: the first)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    sub.add_argument("--out", default="tsne.png")
    trust(sub)
    sub = add(
        "warp", _analyse_warp, "draw STAN's transform on the raw clip (the paper's Fig. 2)", analyse, result=False
    )
    sub.add_argument("checkpoint", metavar="CKPT")
    sub.add_argument("video", metavar="VIDEO")
    sub.add_argument("--spatial-only", action="store_true", help="leave the couplings with time out")
    sub.add_argument("--out", default="warp.png")
    trust(sub)

    sub = add(
        "mi",
        _analyse_mi,
        "mutual information of neighbouring frames, unaligned and aligned (ATA's Table 4)",
        analyse,
        fields=True,
    )
    model_words = "run folder, .safetensors file or name of a model (random weights)"
    sub.add_argument("sources", metavar="CKPT|MODEL|VIDEO", nargs="+", help=f"{model_words}; video file or folder")
    sub.add_argument("--data", metavar="ROOT|LIST|NAME", help="a data set instead of VIDEOs (fields: --data.root)")
    sub.add_argument("--split", choices=["train", "val", "test"], default="val", help="of --data (default %(default)s)")
    sub.add_argument("--limit", type=_count, metavar="N", help="videos at most, spread over the list")
    sub.add_argument(
        "--estimator",
        choices=["infonce", "softmax_entropy", "gaussian", "codebook"],
        default="infonce",
        help="(default %(default)s)",
    )
    sub.add_argument("--tau", type=float, default=0.1, help="temperature (default %(default)s)")
    sub.add_argument(
        "--block", type=int, metavar="I", help="after the temporal modelling of block I (default: the end)"
    )
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    trust(sub)
    sub = add(
        "alignment", _analyse_alignment, "draw which patches of two frames match (ATA's Fig. 5)", analyse, result=False
    )
    sub.add_argument("model", metavar="CKPT|MODEL", help=model_words)
    sub.add_argument("video", metavar="VIDEO")
    sub.add_argument("--block", type=int, metavar="I", help="match what enters block I (default: the middle one)")
    sub.add_argument("--frame", type=int, metavar="T", help="frames T - 1 and T of the map (default: the middle)")
    sub.add_argument("--tau", type=float, default=0.1, help="temperature of InfoNCE (default %(default)s)")
    sub.add_argument("--out", default="alignment.png")
    trust(sub)
    sub = add(
        "response",
        _analyse_response,
        "draw where feature maps respond, one row per model (ATA's Figs 6 and 7)",
        analyse,
        result=False,
    )
    sub.add_argument("video", metavar="VIDEO")
    sub.add_argument("models", metavar="CKPT|MODEL", nargs="+", help=model_words)
    sub.add_argument(
        "--block", type=int, metavar="I", help="after the temporal modelling of block I (default: the end)"
    )
    sub.add_argument("--out", default="response.png")
    trust(sub)

    data = group("data", "look at, check or make videos")
    sub = add("list", _data_list, "splits, classes and a few records", data, fields=True)
    sub.add_argument("source", metavar="ROOT|LIST|NAME")
    sub = add("check", _data_check, "find what would spoil a training before it starts", data, fields=True)
    sub.add_argument("source", metavar="ROOT|LIST|NAME")
    sub.add_argument("--model", help="check lengths against this model's clip")
    sub.add_argument("--no-flip", action="store_true", help="training will not flip, so left and right do no harm")
    make = data.add_parser("make", help="make the embedded data set").add_subparsers(metavar="WHAT", required=True)
    sub = add("marionette", _data_make, "videos of an articulated puppet performing actions", make)
    sub.add_argument("out", metavar="OUT")
    sub.add_argument("--clips", type=int, default=400)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--workers", type=int)
    sub.add_argument("--depth", action="store_true", help="also depth maps, for models of RGB and depth")

    bench = group("bench", "measure loading, models and alignment on this machine")
    sub = add("data", _bench_data, "decoded frames and loaded clips per second", bench)
    sub.add_argument("root", nargs="?", help="folder of videos (default: some are made)")
    sub = add("model", _bench_model, "forward and training clips per second, peak memory", bench, fields=True)
    sub.add_argument("model", metavar="MODEL")
    sub.add_argument("--batch", type=int, default=4)
    sub.add_argument("--compile", action="store_true")
    sub = add("align", _bench_align, "ATA's assignments beside the paper's loop, and their share of a model", bench)
    sub.add_argument("--model", default="ata_vitb", help="a model with ATA (default %(default)s)")
    sub.add_argument("--checkpoint", metavar="CKPT", help="a trained one instead, beside its fresh self")
    sub.add_argument("--video", metavar="FILE", help="what the model sees beside a made clip")
    trust(sub)

    add("doctor", _doctor, "versions, devices, decoders, and what is missing with the remedy")
    return parser


def _count(text: str) -> int:
    """A number from 1 on."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _recipe_options(sub: Any) -> None:
    sub.add_argument("--model", metavar="NAME", help="another model (all: gesta models)")
    sub.add_argument("--data", metavar="NAME", help="another data set; marionette rehearses the recipe at tiny size")
