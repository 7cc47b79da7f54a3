"""Verbs that look into a run or a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gesta.cli.options import (
    MODEL_HELP,
    VerbParser,
    Verbs,
    count,
    data_source,
    device_option,
    numbers,
    position,
    print_results,
    result_file,
    trust_option,
    with_fields,
)
from gesta.errors import GestaError

if TYPE_CHECKING:  # for start-up time
    from gesta.records import DataConfig


def add_verbs(verbs: Verbs) -> None:
    analyse = verbs.group("analyse", "look into a run or a model")
    sub = analyse.add("report", _report, "one self-contained HTML page of a run", result=False)
    sub.add_argument("run", metavar="RUN")
    _add_verbs_of_maps(analyse)
    _add_verbs_of_parameters(analyse)
    _add_verbs_of_results(analyse)
    _add_verbs_of_features(analyse)


def _add_verbs_of_maps(analyse: Verbs) -> None:
    """A model and a video become a picture."""
    sub = analyse.add("alignment", _alignment, "draw which patches of two frames match (ATA's Fig. 5)", result=False)
    _model_and_video(sub, "alignment.png")
    sub.add_argument("--block", type=int, metavar="I", help="match what enters block I (default: the middle one)")
    sub.add_argument("--frame", type=int, metavar="T", help="frames T - 1 and T of the map (default: the middle)")
    sub.add_argument("--tau", type=float, default=0.1, help="temperature of InfoNCE (default %(default)s)")
    sub = analyse.add("attention", _attention, "draw what a class token attends to, and which frames are dropped")
    _model_and_video(sub, "attention.png")
    sub.add_argument("--block", type=int, metavar="I", help="(default: the last that attends to patches)")
    sub = analyse.add("motion", _motion, "draw what SMEM excites, frame by frame (STD-Former)", result=False)
    _model_and_video(sub, "motion.png")
    sub = analyse.add(
        "response", _response, "draw where feature maps respond, one row per model (ATA's Figs 6 and 7)", result=False
    )
    sub.add_argument("video", metavar="VIDEO")
    sub.add_argument("models", metavar="CKPT|MODEL", nargs="+", help=MODEL_HELP)
    _after_block(sub)
    _out_option(sub, "response.png")
    trust_option(sub)
    sub = analyse.add("stage-attention", _stage_attention, "draw the attention of each stage of ST-MANet")
    _model_and_video(sub, "stage-attention.png")
    sub.add_argument(
        "--at", type=position, metavar="ROW,COLUMN", help="what this position attends to, in pixels of the model's clip"
    )
    sub = analyse.add("warp", _warp, "draw STAN's transform on the raw clip (the paper's Fig. 2)", result=False)
    sub.add_argument("checkpoint", metavar="CKPT")
    sub.add_argument("video", metavar="VIDEO")
    sub.add_argument("--spatial-only", action="store_true", help="leave the couplings with time out")
    _out_option(sub, "warp.png")
    trust_option(sub)


def _add_verbs_of_parameters(analyse: Verbs) -> None:
    """A model alone becomes a picture."""
    sub = analyse.add("clusters", _clusters, "how many clusters of relative positions each ratio gives", fields=True)
    sub.add_argument("model", metavar="MODEL|CKPT", nargs="?", default="rpe_stdt_b12", help="(default %(default)s)")
    sub.wants_optional = lambda _, word: not word.isalpha()
    ratios = "0.5,1,1.5,1.9,2,2.5,3,3.5,4"
    sub.add_argument("--ratios", type=numbers, default=ratios, metavar="R,R,…", help="(default %(default)s)")
    sub.add_argument("--runs", default="runs", help="folder of runs whose accuracy is shown (default %(default)s)")
    _out_option(sub, "clusters.png")
    trust_option(sub)
    sub = analyse.add("filters", _filters, "draw the filters of the first layer", result=False)
    sub.add_argument("model", metavar="CKPT|MODEL", help=MODEL_HELP)
    sub.add_argument("--n", type=int, default=64, help="filters at most (default %(default)s)")
    sub.add_argument(
        "--learned", action="store_true", help="MFST: weights as learned, before differences are folded in"
    )
    _out_option(sub, "filters.png")
    trust_option(sub)
    sub = analyse.add("rpe", _rpe, "draw which patches share a relative position", fields=True)
    sub.add_argument("model", metavar="MODEL|CKPT")
    sub.add_argument("--ref", type=position, metavar="ROW,COLUMN", help="seen from there (default: the centre, 7,7)")
    _out_option(sub, "rpe.png")
    trust_option(sub)


def _add_verbs_of_results(analyse: Verbs) -> None:
    """Results, and what models cost."""
    sub = analyse.add("complexity", _complexity, "parameters, multiply-adds and latency against accuracy")
    sub.add_argument(
        "sources",
        metavar="RESULT|MODEL|RECIPE|PAPER.TABLE",
        nargs="+",
        help="result or run folder; model (cost only); recipe or table (published numbers, and those of runs)",
    )
    sub.add_argument("--runs", default="runs", help="folder of runs of recipes and tables (default %(default)s)")
    sub.add_argument(
        "--style", choices=["torch", "fvcore"], default="torch", help="counting: torch's, or the papers' (fvcore)"
    )
    sub.add_argument(
        "--seconds", type=float, default=2.0, help="of each measurement of latency; 0: none (default %(default)s)"
    )
    device_option(sub)
    _out_option(sub, "complexity.png")
    trust_option(sub)
    sub = analyse.add("confusion", _confusion, "which classes are taken for which, in one result or two")
    sub.add_argument("results", metavar="RESULT", nargs="+", help="result or run folder; of two also the difference")
    sub.add_argument("--by", metavar="FILE", help="add up classes by attribute: CSV, JSON, or Diving48_vocab.json")
    sub.add_argument("--space", help="label space (default: the first)")
    sub.add_argument("--pairs", type=int, default=15, help="confused pairs listed at most (default %(default)s)")
    _out_option(sub, "confusion.png")


def _add_verbs_of_features(analyse: Verbs) -> None:
    """Features of many videos."""
    sub = analyse.add(
        "mi", _mi, "mutual information of neighbouring frames, unaligned and aligned (ATA's Table 4)", fields=True
    )
    sub.add_argument("sources", metavar="CKPT|MODEL|VIDEO", nargs="+", help=f"{MODEL_HELP}; video file or folder")
    sub.add_argument("--data", metavar="ROOT|LIST|NAME", help="a data set instead of VIDEOs (fields: --data.root)")
    sub.add_argument("--split", choices=["train", "val", "test"], default="val", help="of --data (default %(default)s)")
    sub.add_argument("--limit", type=count, metavar="N", help="videos at most, spread over the list")
    sub.add_argument(
        "--estimator",
        choices=["infonce", "softmax_entropy", "gaussian", "codebook"],
        default="infonce",
        help="(default %(default)s)",
    )
    sub.add_argument("--tau", type=float, default=0.1, help="temperature (default %(default)s)")
    _after_block(sub)
    device_option(sub)
    trust_option(sub)
    sub = analyse.add("stages", _stages, "linear probes: what each stage knows about the classes", fields=True)
    sub.add_argument("run", metavar="RUN|MODEL", help=MODEL_HELP)
    sub.add_argument("--data", metavar="ROOT|LIST|NAME", help="videos (default: the run's; fields: --data.root)")
    sub.add_argument("--split", choices=["val", "test"], default="test", help="scored (default %(default)s)")
    sub.add_argument("--n", type=count, help="videos of each split at most, drawn at random (default: all)")
    sub.add_argument("--c", type=float, default=1.0, help="inverse strength of regularisation (default %(default)s)")
    _labels_options(sub, "stages.png")
    sub = analyse.add("tsne", _tsne, "t-SNE of features before the classifier, runs side by side", fields=True)
    sub.add_argument("runs", metavar="RUN", nargs="+", help="run folder or .safetensors file")
    sub.add_argument("--data", metavar="ROOT|LIST|NAME", help="videos (default: the first run's; fields: --data.root)")
    sub.add_argument("--split", choices=["train", "val", "test"], default="test", help="(default %(default)s)")
    sub.add_argument("--classes", nargs="+", metavar="NAME", help="shown ones (default: all)")
    sub.add_argument("--n", type=int, default=1000, help="videos drawn at random at most (default %(default)s)")
    _labels_options(sub, "tsne.png")


def _model_and_video(sub: VerbParser, out: str) -> None:
    sub.add_argument("model", metavar="CKPT|MODEL", help=MODEL_HELP)
    sub.add_argument("video", metavar="VIDEO")
    _out_option(sub, out)
    trust_option(sub)


def _labels_options(sub: VerbParser, out: str) -> None:
    sub.add_argument("--space", help="label space (default: the first)")
    sub.add_argument("--seed", type=int, default=0)
    device_option(sub)
    _out_option(sub, out)
    trust_option(sub)


def _after_block(sub: VerbParser) -> None:
    sub.add_argument(
        "--block", type=int, metavar="I", help="after the temporal modelling of block I (default: the end)"
    )


def _out_option(sub: VerbParser, name: str) -> None:
    sub.add_argument("--out", metavar="FILE", default=name, help="the picture (default %(default)s)")


def _report(options: argparse.Namespace) -> None:
    from gesta.analysis.report import write_report

    print(write_report(Path(options.run)))


def _attention(options: argparse.Namespace) -> None:
    from gesta.analysis.attention import attention_figure
    from gesta.analysis.sources import load

    name, model = load(options.model, trust_code=options.trust_code)
    result = attention_figure(name, model, options.video, options.out, block=options.block)
    print_results(options, result, file=options.out)


def _clusters(options: argparse.Namespace) -> None:
    from gesta.analysis.rpe import read_config, sweep, sweep_figure

    config = with_fields(read_config(options.model, trust_code=options.trust_code), options)
    result = sweep(options.model, config, options.ratios, options.runs)
    sweep_figure(result, options.out)
    print_results(options, result, file=options.out)


def _complexity(options: argparse.Namespace) -> None:
    from gesta.analysis.complexity import compare_costs, complexity_figure, subjects

    chosen = [
        subject
        for source in options.sources
        for subject in subjects(source, runs=options.runs, trust_code=options.trust_code)
    ]
    if not chosen:
        raise GestaError(f"{', '.join(options.sources)}: no row of these has a recipe, so there is nothing to count")
    result = compare_costs(chosen, style=options.style, seconds=options.seconds, device=options.device)
    complexity_figure(result, options.out)
    print_results(options, result, file=options.out)


def _confusion(options: argparse.Namespace) -> None:
    from gesta.analysis.confusion import confusion, confusion_figure
    from gesta.evaluation.result import Result

    if len(options.results) > 2:
        raise GestaError("give one result, or two to see their difference")
    results = [(path, Result.read(result_file(path))) for path in options.results]
    result = confusion(results, space=options.space, by=options.by, most=options.pairs)
    confusion_figure(result, options.out)
    print_results(options, result, file=options.out)


def _filters(options: argparse.Namespace) -> None:
    from gesta.analysis.filters import filters_figure
    from gesta.analysis.sources import load

    name, model = load(options.model, trust_code=options.trust_code)
    print(filters_figure(name, model, options.out, most=options.n, folded=not options.learned))


def _rpe(options: argparse.Namespace) -> None:
    from gesta.analysis.rpe import bucket_map_of, map_figure, read_config

    config = with_fields(read_config(options.model, trust_code=options.trust_code), options)
    result = bucket_map_of(options.model, config, options.ref)
    map_figure(result, options.out)
    print_results(options, result, file=options.out)


def _stage_attention(options: argparse.Namespace) -> None:
    from gesta.analysis.stage_attention import stage_attention_figure

    result = stage_attention_figure(
        options.model, options.video, options.out, place=options.at, trust_code=options.trust_code
    )
    print_results(options, result, file=options.out)


def _stages(options: argparse.Namespace) -> None:
    from gesta.analysis.features import labelled
    from gesta.analysis.sources import load
    from gesta.analysis.stages import probe_stages, stages_figure

    name, model = load(options.run, trust_code=options.trust_code)
    data = _videos_of(options.run, options)
    splits = []
    for split in ("train", options.split):
        records, labels, _ = labelled(data, split, n=options.n, space=options.space, seed=options.seed)
        if not records:
            raise GestaError(f"the data has no labelled videos of the split {split!r} (gesta data list shows them)")
        splits.append((records, labels))
    result = probe_stages(name, model, *splits, strength=options.c, device=options.device)
    stages_figure(result, options.out)
    print_results(options, result, file=options.out)


def _videos_of(run: str, options: argparse.Namespace) -> DataConfig:
    """The data set of ``--data``, or else that of a run, with the fields that flags change."""
    from gesta.analysis.features import run_data

    if options.data:
        return data_source(options.data, options, _data_flags(options))
    return with_fields(run_data(run, trust_code=options.trust_code), options, _data_flags(options))


def _data_flags(options: argparse.Namespace) -> list[str]:
    """The flags of fields, as the data set alone names them: ``--root`` for ``--data.root``."""
    return [flag.replace("--data.", "--", 1) for flag in options.fields]


def _tsne(options: argparse.Namespace) -> None:
    from gesta.analysis.sources import load
    from gesta.analysis.tsne import choose, project, tsne_figure

    models = [load(run, trust_code=options.trust_code) for run in options.runs]
    data = _videos_of(options.runs[0], options)
    classes = [name for words in options.classes or () for name in words.split(",") if name]
    chosen = choose(data, options.split, classes, n=options.n, space=options.space, seed=options.seed)
    result = project(models, *chosen, device=options.device, seed=options.seed)
    tsne_figure(result, options.out)
    print_results(options, result, file=options.out)


def _warp(options: argparse.Namespace) -> None:
    from gesta.analysis.warp import warp_figure
    from gesta.checkpoint import load

    loaded = load(options.checkpoint, trust_code=options.trust_code)
    out = Path(options.out)
    warp_figure(loaded.model, options.video, out, spatial_only=options.spatial_only)
    print(out)


def _mi(options: argparse.Namespace) -> int:
    from gesta.analysis.mutual_information import mutual_information
    from gesta.analysis.sources import is_model, load
    from gesta.prediction.predict import find_sources
    from gesta.records import Record

    videos = [source for source in options.sources if not is_model(source)]
    models = [load(source, trust_code=options.trust_code) for source in options.sources if is_model(source)]
    paths = find_sources(videos)
    neither = [path for path in paths if not Path(path).exists() and not Path(path).suffix]
    if neither or not models:
        load((neither or videos)[0])  # raises, with the reason why it is no model
    if bool(videos) == bool(options.data):
        raise GestaError("say which videos: files or folders beside the models, or --data NAME")
    if options.fields and not options.data:
        options.parser.error(f"unrecognized arguments: {' '.join(options.fields)}")
    if options.data:
        records = data_source(options.data, options, _data_flags(options)).records(options.split)
        if not records:
            raise GestaError(f"{options.data} has no split {options.split!r}; choose another with --split")
    else:
        records = [Record(path=path, name=path) for path in paths]
    if options.limit:
        records = records[:: -(-len(records) // options.limit)]
    result = mutual_information(
        models, records, estimator=options.estimator, tau=options.tau, block=options.block, device=options.device
    )
    print_results(options, result)
    return int(bool(result.failures))


def _alignment(options: argparse.Namespace) -> None:
    from gesta.analysis.matches import matches_figure
    from gesta.analysis.sources import load

    model = load(options.model, trust_code=options.trust_code)[1]
    print(matches_figure(model, options.video, options.out, block=options.block, frame=options.frame, tau=options.tau))
    print(options.out)


def _motion(options: argparse.Namespace) -> None:
    from gesta.analysis.motion import motion_figure
    from gesta.analysis.sources import load

    name, model = load(options.model, trust_code=options.trust_code)
    print(motion_figure(name, model, options.video, options.out))


def _response(options: argparse.Namespace) -> None:
    from gesta.analysis.response import response_figure
    from gesta.analysis.sources import load

    models = [load(source, trust_code=options.trust_code) for source in options.models]
    print(response_figure(models, options.video, options.out, block=options.block))
