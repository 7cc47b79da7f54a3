"""Commands that train models, score videos, and work with the results."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gesta.cli import export, predict
from gesta.cli.options import (
    CommandParser,
    Commands,
    device_options,
    named_fields,
    named_recipe,
    print_results,
    read_results,
    recipe_options,
    result_file,
    trust_option,
    use_precision,
    whole_numbers,
    with_fields,
    with_named_parts,
)
from gesta.cli.public_weights import check_model_options, load_model, model_options
from gesta.errors import CheckpointError, GestaError
from gesta.files import check_not_read
from gesta.progress import one_line, show

if TYPE_CHECKING:  # for start-up time
    from gesta.evaluation.result import Result
    from gesta.evaluation.timeline_result import TimelineResult
    from gesta.prediction.timeline import TimelineConfig
    from gesta.recipe import EvaluateJob, Recipe
    from gesta.recipes.published import Fusion
    from gesta.records import ClassNames, DataConfig


def add_commands(commands: Commands) -> None:
    _training_options(
        commands.add("train", _train, "train a recipe", fields=True, result=False),
        "stan.ucf101, stan.table2.4, my_package.runs:mine, or a recipe.json",
    )
    text = "train weights that others start from (--init.weights): without labels, or on single frames"
    _training_options(
        commands.add("pretrain", _pretrain, text, fields=True, result=False), "videomae, simmim or frames"
    )

    sub = commands.add(
        "evaluate", _evaluate, "score held-out videos and write the result", fields=True, example="--evaluate.clips 4"
    )
    model_options(sub)
    sub.wants_optional = lambda options, _: not options.model
    sub.add_argument("--data", metavar="NAME", help="data set (default: the run's own)")
    text = (
        "result (default: result-SPLIT.json or FILE-result-SPLIT.json beside CKPT, or result-NAME-SPLIT.json; never in "
        "place of a result of another data set)"
    )
    sub.add_argument("--out", metavar="FILE", help=text)
    text = (
        "find the segments of long videos, and compare them with those of the data set (result: timeline-SPLIT.json …)"
    )
    sub.add_argument("--timeline", action="store_true", help=text)
    predict.timeline_options(sub, "probability at which a segment begins (default 0.5)")
    device_options(sub)
    trust_option(sub)

    text = "train a recipe with several values of a field, and draw the accuracy"
    sub = commands.add("sweep", _sweep, text, fields=True)
    sub.add_argument("recipe", metavar="RECIPE", help="as for gesta train")
    sub.add_argument("--field", required=True, metavar="NAME", help="any field, by the name of its flag: train.lr")
    sub.add_argument(
        "--values", required=True, metavar="V,V,…", help="separated by commas; elements of a tuple by spaces: '0 1,2 3'"
    )
    sub.add_argument("--seeds", type=whole_numbers, metavar="S,S,…", help="trainings per value (default: the recipe's)")
    sub.add_argument("--out", metavar="DIR", help="folder of all runs (default runs/NAME-sweep-FIELD)")
    recipe_options(sub)
    device_options(sub, precision="")
    trust_option(sub)

    predict.add_command(commands)
    export.add_command(commands)
    sub = commands.add("compare", _compare, "what differs between two results: protocol first, then numbers")
    sub.add_argument("a", metavar="RESULT", help="result or run folder")
    sub.add_argument("b", metavar="RESULT", help="result or run folder")

    sub = commands.add("mean", _mean, "mean and deviation over the splits of a data set (UCF-101, HMDB-51)")
    sub.add_argument("results", metavar="RESULT", nargs="+", help="results or run folders, one of each split")

    sub = commands.add("fuse", _fuse, "combine the scores of several models on the same videos, such as RGB and depth")
    sub.add_argument("results", metavar="RESULT", nargs="+", help="results or run folders")
    ways = ["prob_mean", "logit_mean", "prob_product", "learned"]
    sub.add_argument("--by", choices=ways, default="prob_mean", help="default %(default)s")
    text = "for learned: the same models on other, labelled videos"
    sub.add_argument("--fit", metavar="RESULT", nargs="+", default=[], help=text)
    sub.add_argument("--out", metavar="FILE", help="result (default: fused-BY.json beside the first result)")


def _training_options(sub: CommandParser, recipes: str) -> None:
    """Flags of the commands that train one recipe; ``recipes`` is what their RECIPE may be."""
    sub.add_argument("recipe", metavar="RECIPE", nargs="?", help=recipes)
    sub.wants_optional = lambda options, _: not (options.resume and options.run)
    recipe_options(sub)
    # torchrun takes --run, wherever it stands, for an abbreviation of its own flags
    text = "run folder (default runs/NAME; of a row that fuses runs, their folder, runs); --run-dir in torchrun"
    sub.add_argument("--run", "--run-dir", metavar="DIR", help=text)
    sub.add_argument("--resume", action="store_true", help="continue the run in that folder where it stopped")
    device_options(sub, precision="")
    trust_option(sub)


def _train(options: argparse.Namespace) -> None:
    from gesta.recipes.address import find_fusion, read_recipe
    from gesta.training.loop import train

    use_precision(options)
    run = Path(options.run) if options.run else None
    if options.resume and run and not options.recipe:
        if other := [flag for flag in ("model", "data") if getattr(options, flag)]:
            raise GestaError(f"{run}: is resumed as it was begun; leave --{other[0]} out, or start another run")
        recipe = with_fields(read_recipe(run / "recipe.json", trust_code=options.trust_code), options)
    elif not options.recipe:
        raise GestaError("name a recipe (all: gesta models), or a run to resume: gesta train --resume --run DIR")
    elif fusion := find_fusion(options.recipe):
        _train_and_fuse(fusion, run or Path("runs"), options)
        return
    else:
        recipe = named_recipe(options.recipe, options)
    how: dict[str, Any] = {"device": options.device, "trust_code": options.trust_code}
    train(recipe, run or Path("runs") / recipe.name, resume=options.resume, **how)


def _pretrain(options: argparse.Namespace) -> None:
    """``gesta pretrain NAME`` is ``gesta train pretrain.NAME``."""
    if not options.recipe and not (options.resume and options.run):
        raise GestaError(
            "name a recipe (videomae, simmim or frames), or a run to resume: gesta pretrain --resume --run DIR"
        )
    if options.recipe:
        options.recipe = f"pretrain.{options.recipe.removeprefix('pretrain.')}"
    _train(options)


def _train_and_fuse(fusion: Fusion, folder: Path, options: argparse.Namespace) -> None:
    """The runs of a row that fuses several, each in a folder of its name; finished ones are used as they are."""
    from gesta.evaluation.fuse import fuse
    from gesta.processes import is_first_process
    from gesta.training.loop import train

    recipes = [named_recipe(options.recipe, options, make) for make in fusion.runs]
    runs = [folder / recipe.name for recipe in recipes]
    for recipe, run in zip(recipes, runs):
        how: dict[str, Any] = {"device": options.device, "trust_code": options.trust_code}
        train(recipe, run, resume=options.resume or run.is_dir(), **how)
    if not is_first_process():  # the first of several writes the result
        return
    fused = fuse(read_results([str(run) for run in runs]), fusion.by)
    out = runs[0] / f"fused-{fusion.by}.json"
    fused.write(out)
    show(str(fused))
    show(one_line(f"result: {out}"), sys.stderr)


def _evaluate(options: argparse.Namespace) -> None:
    from gesta.checkpoint import read_metadata, weights_file
    from gesta.checkpoint.exported import is_exported
    from gesta.checkpoint.hub import weights_in
    from gesta.evaluation.evaluate import evaluate
    from gesta.models.public import find_model
    from gesta.processes import is_first_process
    from gesta.recipes.address import read_recipe
    from gesta.records import LABEL, labels_file
    from gesta.training.folder import why_optimistic, why_others, why_seen

    check_model_options(options)
    timeline = _timeline_config(options)
    kind = "timeline" if options.timeline else "result"
    recipe, read = None, list[Path]()
    if options.model:
        job = _evaluate_job(options)
        model = load_model(options, label_order=job.data.classes())
        folder, name = Path(), f"{kind}-{options.model}"
    else:
        local = weights_in(find_model(options.checkpoint))
        if not local.path.exists():
            weights_file(options.checkpoint)  # says so
        folder, name = local.path.parent, kind
        read = [local.path, folder / "recipe.json"]
        if (folder / "recipe.json").is_file() and local.path.name != "best.safetensors":
            name = f"{local.path.stem}-{kind}"  # of other weights in a run: not to be taken for the run's own
        if local.from_hub:  # nothing is written into the cache
            folder, name = Path(), f"{kind}-{local.repository}"
        if (folder / "recipe.json").is_file():
            recipe = read_recipe(folder / "recipe.json", trust_code=options.trust_code)
        if is_exported(local.path):
            model, name = load_model(options, local), f"{local.path.name}-{kind}"
            job = _evaluate_job(options, folder, recipe, model.metadata.get("protocol"))
        else:
            saved: dict[str, Any] | None = None
            with contextlib.suppress(CheckpointError):  # public weights, which name none
                saved = read_metadata(local.path).get("protocol")
            job = _evaluate_job(options, folder, recipe, saved)
            model = load_model(options, local, job.data.classes())
        job.data = _in_order_of(model.classes, local.path.with_name(labels_file(LABEL)), job.data)
    out = Path(options.out) if options.out else folder / f"{name}-{job.evaluate.split}.json"
    check_not_read(out, read)
    if not options.out:
        _check_same_data(out, job)
    how: dict[str, Any] = {"device": options.device, "precision": options.precision}
    result: Result | TimelineResult
    if options.timeline:
        from gesta.prediction.localise import evaluate_timeline  # start-up time

        result = evaluate_timeline(model, job.data, config=timeline, views=job.evaluate, **how)
    else:
        result = evaluate(model, job.data, views=job.evaluate, **how)
    if recipe:
        split, listed = job.evaluate.split, result.list_hash
        reasons = [why_seen(recipe, job.data, split), why_others(folder, recipe, job.data, split, listed)]
        if not options.data:
            reasons.append(why_optimistic(recipe, split))
        result.optimistic = next(filter(None, reasons), "")
    if not is_first_process():  # the first of several writes the result
        return
    print_results(options, result)  # first: a disk that cannot be written loses no result
    result.write(out)
    show(one_line(f"result: {out}"), sys.stderr)


def _in_order_of(classes: ClassNames, labels: Path, data: DataConfig) -> DataConfig:
    """Lists that name some of a model's classes, with all of them in the model's order, which a run's folder holds."""
    from gesta.config import replace
    from gesta.data.lists import Lists, read_class_names

    if not isinstance(data, Lists) or data.class_names or isinstance(classes, dict) or not labels.is_file():
        return data
    named = data.classes()
    numbers = any(name.isdecimal() for name in named)  # which count from data.label_base
    if numbers or not set(named) < set(classes) or read_class_names(str(labels)) != list(classes):
        return data
    show(one_line(f"the data set names {len(named)} of the model's {len(classes)} classes ({labels})"), sys.stderr)
    return replace(data, class_names=str(labels))


def _check_same_data(out: Path, job: EvaluateJob) -> None:
    """Refuse to replace the result of another data set; that of the same one, which may have grown, is replaced.

    Raises:
        GestaError: see above.
    """
    from gesta.config import read_json, to_json
    from gesta.evaluation.result import MAX_BYTES
    from gesta.records import list_hash

    before: dict[str, Any] = {}
    with contextlib.suppress(GestaError):  # no result, then
        before = read_json(out, dict[str, Any], limit=MAX_BYTES) if out.is_file() else {}
    if before.get("data") in (None, json.loads(json.dumps(to_json(job.data)))):
        return
    if before.get("list_hash") != list_hash(job.data.records(job.evaluate.split)):
        raise GestaError(f"{out}: is a result of other videos; choose another file with --out, or delete that one")


def _timeline_config(options: argparse.Namespace) -> TimelineConfig:
    """The timeline that flags describe; flags that change nothing in one are refused."""
    from gesta.prediction.localise import IGNORED
    from gesta.processes import processes

    config = predict.given_timeline(options, options.timeline, "threshold")
    unused = {f"evaluate.{name}" for name in IGNORED} & set(named_fields(options.fields)) if options.timeline else ()
    if unused:
        raise GestaError(
            f"--{min(unused).replace('_', '-')} changes nothing in a timeline, which has one clip and crop per window; "
            "leave it out"
        )
    if options.timeline and processes() > 1:
        raise GestaError("one process scores timelines: start gesta evaluate --timeline without torchrun or srun")
    return config


def _evaluate_job(
    options: argparse.Namespace,
    run: Path | None = None,
    recipe: Recipe | None = None,
    protocol: dict[str, Any] | None = None,
) -> EvaluateJob:
    """The data set and the protocol: those of the run's recipe where there is one, changed by flags.

    Args:
        options: of the command.
        run: the folder of the weights.
        recipe: of the run.
        protocol: that the file names, without a recipe beside it.
    """
    from gesta.datasets import data_config
    from gesta.evaluation.scoring import saved_protocol
    from gesta.recipe import EvaluateConfig, EvaluateJob

    if options.data:
        data = data_config(options.data)
    elif recipe:
        data = recipe.data
    else:
        reason = f"{run}: no recipe.json in it" if run else f"--model {options.model} has no data set of its own"
        raise GestaError(f"{reason}, so say which videos: --data folder --data.root DIR")
    evaluate = recipe.evaluate if recipe else EvaluateConfig()
    if protocol is not None and not recipe:
        evaluate = saved_protocol(protocol, options.checkpoint)
    return with_fields(EvaluateJob(data=data, evaluate=evaluate), options)


def _sweep(options: argparse.Namespace) -> int:
    from gesta.analysis.figures import write_figure
    from gesta.analysis.sweep_chart import draw_sweep
    from gesta.processes import is_first_process
    from gesta.training.sweep import Sweep, default_folder, field_name, sweep, value_at

    use_precision(options)
    field = options.field.lstrip("-").replace("-", "_")
    recipe = with_named_parts(named_recipe(options.recipe, options), [field])
    name = field_name(recipe, field)
    if name in named_fields(options.fields):
        flag = "--" + name.replace("_", "-")
        raise GestaError(f"{flag} is the field that is swept: leave it out, or add its value to --values")
    flags = [["--" + name.replace("_", "-"), *text.split()] for text in options.values.split(",")]
    values = [value_at(named_recipe(options.recipe, options, extra=extra), name) for extra in flags]
    out = Path(options.out) if options.out else default_folder(recipe, name)

    def draw_chart(so_far: Sweep) -> None:  # after each training, so that a sweep that is stopped has its chart, too
        write_figure(draw_sweep(so_far), out / "sweep.png")

    how: dict[str, Any] = {"device": options.device, "trust_code": options.trust_code, "after_trial": draw_chart}
    result = sweep(recipe, name, values, seeds=options.seeds, out=out, **how)
    if is_first_process():
        print_results(options, result)
    return int(any(trial.failure for trial in result.trials))


def _compare(options: argparse.Namespace) -> None:
    from gesta.evaluation.compare import compare

    print_results(options, compare(*read_results([options.a, options.b])))


def _mean(options: argparse.Namespace) -> None:
    from gesta.evaluation.mean import mean

    print_results(options, mean(list(zip(options.results, read_results(options.results)))))


def _fuse(options: argparse.Namespace) -> None:
    from gesta.evaluation.fuse import fuse

    out = Path(options.out) if options.out else result_file(options.results[0]).with_name(f"fused-{options.by}.json")
    check_not_read(out, map(result_file, [*options.results, *options.fit]))
    results = read_results(options.results)
    fused = fuse(results, options.by, read_results(options.fit))
    print_results(options, fused)
    if not options.json:
        for path, result in zip(options.results, results):
            each = ", ".join(f"{n} {v:.2f}" for n, v in result.metrics.items() if n.split("/")[-1] in ("top1", "mAP"))
            show(one_line(f"alone: {each or 'unlabelled'} ({path})"))
    fused.write(out)
    show(one_line(f"result: {out}"), sys.stderr)
