"""Commands that look into a run or a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gesta.cli.options import (
    MODEL_HELP,
    RUNS,
    VIDEO_HELP,
    CommandParser,
    Commands,
    count,
    data_source,
    device_options,
    numbers,
    position,
    print_results,
    read_results,
    runs_folder,
    seconds,
    trust_option,
    with_fields,
)
from gesta.errors import GestaError
from gesta.files import check_not_read
from gesta.progress import one_line, show

if TYPE_CHECKING:  # for start-up time
    from matplotlib.figure import Figure
    from torch import Tensor

    from gesta.model import VideoModel
    from gesta.records import DataConfig

T = TypeVar("T")


def add_commands(commands: Commands) -> None:
    analyse = commands.group("analyse", "look into a run or a model")
    sub = analyse.add("report", _report, "one self-contained HTML page of a run", result=False)
    sub.add_argument("run", metavar="RUN", help="folder of a run")
    _add_commands_of_maps(analyse)
    _add_commands_of_parameters(analyse)
    _add_commands_of_results(analyse)
    _add_commands_of_features(analyse)


def _add_commands_of_maps(analyse: Commands) -> None:
    """A model and a video become a picture."""
    sub = analyse.add("alignment", _alignment, "draw which patches of two frames match (ATA's Fig. 5)")
    _model_and_video(sub)
    sub.add_argument("--block", type=int, metavar="I", help="match what enters block I (default: the middle one)")
    sub.add_argument("--frame", type=int, metavar="T", help="frames T - 1 and T of the map (default: the middle)")
    sub.add_argument("--tau", type=float, default=0.1, help="temperature of InfoNCE (default %(default)s)")
    sub = analyse.add("attention", _attention, "draw what a class token attends to, and which frames are dropped")
    _model_and_video(sub)
    sub.add_argument("--block", type=int, metavar="I", help="(default: the last that attends to patches)")
    sub = analyse.add("motion", _motion, "draw what SMEM excites, frame by frame (STD-Former)")
    _model_and_video(sub)
    sub = analyse.add("response", _response, "draw where feature maps respond, one row per model (ATA's Figs 6 and 7)")
    sub.add_argument("video", metavar="VIDEO", help=VIDEO_HELP)
    sub.add_argument("models", metavar="CKPT|MODEL", nargs="+", help=MODEL_HELP)
    _after_block(sub)
    _picture_options(sub)
    sub = analyse.add("stage-attention", _stage_attention, "draw the attention of each stage of ST-MANet")
    _model_and_video(sub)
    text = "what this position attends to, in pixels of the model's clip"
    sub.add_argument("--at", type=position, metavar="ROW,COLUMN", help=text)
    text = "what a model of masked pretraining rebuilds of a clip"
    sub = analyse.add("reconstruction", _reconstruction, text)
    _model_and_video(sub)
    sub.add_argument("--seed", type=int, default=0, help="of the mask (default %(default)s)")
    sub = analyse.add("warp", _warp, "draw STAN's transform on the raw clip (the paper's Fig. 2)")
    _model_and_video(sub)
    sub.add_argument("--spatial-only", action="store_true", help="leave the couplings with time out")


def _add_commands_of_parameters(analyse: Commands) -> None:
    """A model alone becomes a picture."""
    sub = analyse.add(
        "clusters",
        _clusters,
        "how many clusters of relative positions each ratio gives",
        fields=True,
        example="--dropout 0.1",
    )
    sub.add_argument("model", metavar="MODEL|CKPT", nargs="?", default="rpe_stdt_b12", help="(default %(default)s)")
    sub.wants_optional = lambda _, word: not word.isalpha()
    ratios = "0.5,1,1.5,1.9,2,2.5,3,3.5,4"
    sub.add_argument("--ratios", type=numbers, default=ratios, metavar="R,R,…", help="(default %(default)s)")
    sub.add_argument("--runs", default=RUNS, help="folder of runs whose accuracy is shown (default %(default)s)")
    _picture_options(sub)
    sub = analyse.add("filters", _filters, "draw the filters of the first layer")
    sub.add_argument("model", metavar="CKPT|MODEL", help=MODEL_HELP)
    sub.add_argument("--max-filters", type=count, metavar="N", default=64, help="drawn at most (default %(default)s)")
    text = "MFST: weights as learned, before differences are folded in"
    sub.add_argument("--learned", action="store_true", help=text)
    _picture_options(sub)
    sub = analyse.add("rpe", _rpe, "draw which patches share a relative position", fields=True, example="--dropout 0.1")
    sub.add_argument("model", metavar="MODEL|CKPT", help=MODEL_HELP)
    sub.add_argument("--ref", type=position, metavar="ROW,COLUMN", help="seen from there (default: the centre, 7,7)")
    _picture_options(sub)


def _add_commands_of_results(analyse: Commands) -> None:
    """Results, and what models cost."""
    sub = analyse.add("complexity", _complexity, "parameters, multiply-adds and latency against accuracy")
    text = "result or run folder; model (cost only); recipe or table (published numbers, and those of runs)"
    sub.add_argument("sources", metavar="RESULT|MODEL|RECIPE|PAPER.TABLE", nargs="+", help=text)
    sub.add_argument("--runs", default=RUNS, help="folder of runs of recipes and tables (default %(default)s)")
    text = "counting: torch's, or the papers' (fvcore)"
    sub.add_argument("--style", choices=["torch", "fvcore"], default="torch", help=text)
    text = "of each measurement of latency; 0: none (default %(default)s)"
    sub.add_argument("--seconds", type=seconds, default=2.0, help=text)
    device_options(sub, precision=None)
    _picture_options(sub)
    sub = analyse.add("confusion", _confusion, "which classes are predicted as which, in one result or two")
    sub.add_argument("results", metavar="RESULT", nargs="+", help="result or run folder; of two also the difference")
    sub.add_argument("--by", metavar="FILE", help="add up classes by attribute: CSV, JSON, or Diving48_vocab.json")
    sub.add_argument("--space", help="label space (default: the first)")
    sub.add_argument("--pairs", type=int, default=15, help="confused pairs listed at most (default %(default)s)")
    _picture_options(sub, trust=False)


def _add_commands_of_features(analyse: Commands) -> None:
    """Features of many videos."""
    text = "mutual information of neighbouring frames, unaligned and aligned (ATA's Table 4)"
    sub = analyse.add("mi", _mi, text, fields=True, example="--data.root DIR")
    sub.add_argument("sources", metavar="CKPT|MODEL|VIDEO", nargs="+", help=f"{MODEL_HELP}; video file or folder")
    sub.add_argument("--data", metavar="ROOT|LIST|NAME", help="a data set instead of VIDEOs (fields: --data.root)")
    sub.add_argument("--split", choices=["train", "val", "test"], help="of --data (default val)")
    text = "at most, spread over the list (default: all; then run folders get mutual_information.json, for gesta table)"
    sub.add_argument("--max-videos", type=count, metavar="N", help=text)
    estimators = ["infonce", "softmax_entropy", "gaussian", "codebook"]
    sub.add_argument("--estimator", choices=estimators, default="infonce", help="(default %(default)s)")
    sub.add_argument("--tau", type=float, help="temperature, of the first two estimators (default 0.1)")
    _after_block(sub)
    device_options(sub, precision=None)
    trust_option(sub)
    sub = analyse.add(
        "stages",
        _stages,
        "linear probes: what each stage knows about the classes",
        fields=True,
        example="--data.root DIR",
    )
    sub.add_argument("run", metavar="RUN|MODEL", help=MODEL_HELP)
    sub.add_argument("--data", metavar="ROOT|LIST|NAME", help="videos (default: the run's; fields: --data.root)")
    sub.add_argument("--split", choices=["val", "test"], default="test", help="scored (default %(default)s)")
    sub.add_argument("--max-videos", type=count, metavar="N", help="of each split, drawn at random (default: all)")
    text = "weight of the penalty on the probes' weights, 1 / C of scikit-learn (default %(default)s)"
    sub.add_argument("--l2", type=float, default=1.0, help=text)
    _labels_options(sub)
    sub = analyse.add(
        "tsne",
        _tsne,
        "t-SNE of features before the classifier, runs side by side",
        fields=True,
        example="--data.root DIR",
    )
    sub.add_argument("runs", metavar="RUN", nargs="+", help="run folder or .safetensors file")
    sub.add_argument("--data", metavar="ROOT|LIST|NAME", help="videos (default: the first run's; fields: --data.root)")
    sub.add_argument("--split", choices=["train", "val", "test"], default="test", help="(default %(default)s)")
    sub.add_argument("--classes", nargs="+", metavar="NAME", help="shown ones (default: all)")
    sub.add_argument(
        "--max-videos", type=count, metavar="N", default=1000, help="drawn at random (default %(default)s)"
    )
    _labels_options(sub)


def _model_and_video(sub: CommandParser) -> None:
    sub.add_argument("model", metavar="CKPT|MODEL", help=MODEL_HELP)
    sub.add_argument("video", metavar="VIDEO", help=VIDEO_HELP)
    _picture_options(sub)


def _labels_options(sub: CommandParser) -> None:
    sub.add_argument("--space", help="label space (default: the first)")
    sub.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    device_options(sub, precision=None)
    _picture_options(sub)


def _after_block(sub: CommandParser) -> None:
    text = "after the temporal modelling of block I (default: the end)"
    sub.add_argument("--block", type=int, metavar="I", help=text)


def _picture_options(sub: CommandParser, trust: bool = True) -> None:
    picture = f"{sub.prog.split()[-1]}.png"  # named after the command
    sub.add_argument("--out", metavar="FILE", default=picture, help="the picture (default %(default)s)")
    if trust:
        trust_option(sub)


def _report(options: argparse.Namespace) -> None:
    from gesta.analysis.report.page import write_report

    show(one_line(str(write_report(Path(options.run)))))


def _show(options: argparse.Namespace, measured: T, draw: Callable[[T], Figure]) -> None:
    """What every command with a figure does at its end: print what was measured, then draw and write the figure."""
    from gesta.analysis.figures import write_figure

    print_results(options, measured)
    write_figure(draw(measured), options.out)
    show(one_line(options.out), sys.stderr)


def _model_and_clip(options: argparse.Namespace) -> tuple[str, VideoModel, Tensor]:
    """The name, the model and the middle clip of the video that a command names."""
    from gesta.analysis.sources import load_with_encoding, read_clip

    _check_frames(options)
    name, model, shows = load_with_encoding(options.model, trust_code=options.trust_code)
    return name, model, read_clip(options.video, model.config.clip, shows)


def _check_frames(options: argparse.Namespace) -> None:
    """Refuse a picture that would replace one of the frames that are read."""
    if Path(options.video).is_dir():
        check_not_read(options.out, Path(options.video).iterdir())


def _alignment(options: argparse.Namespace) -> None:
    from gesta.analysis.matches import draw_matches, measure_matches

    name, model, clip = _model_and_clip(options)
    measured = measure_matches(name, model, clip, block=options.block, frame=options.frame, tau=options.tau)
    _show(options, measured, draw_matches)


def _attention(options: argparse.Namespace) -> None:
    from gesta.analysis.attention import draw_attention, measure_attention

    _show(options, measure_attention(*_model_and_clip(options), block=options.block), draw_attention)


def _motion(options: argparse.Namespace) -> None:
    from gesta.analysis.motion import measure_motion
    from gesta.analysis.response import draw_response

    _show(options, measure_motion(*_model_and_clip(options)), draw_response)


def _response(options: argparse.Namespace) -> None:
    from gesta.analysis.response import draw_response, measure_response
    from gesta.analysis.sources import load_with_encoding, read_clip

    _check_frames(options)
    loaded = [load_with_encoding(source, trust_code=options.trust_code) for source in options.models]
    (first, model, shows), *others = loaded
    for name, _, other in others:
        if other != shows:
            raise GestaError(f"{name} and {first} do not see RGB, depth or flow alike; draw them separately")
    models = [(name, network) for name, network, _ in loaded]
    measured = measure_response(models, read_clip(options.video, model.config.clip, shows), block=options.block)
    _show(options, measured, draw_response)


def _stage_attention(options: argparse.Namespace) -> None:
    from gesta.analysis.stage_attention import cosines_over_training, draw_stage_attention, measure_stage_attention

    name, model, clip = _model_and_clip(options)
    checkpoints = cosines_over_training(options.model, clip, trust_code=options.trust_code)
    measured = measure_stage_attention(name, model, clip, position=options.at, checkpoints=checkpoints)
    _show(options, measured, draw_stage_attention)


def _warp(options: argparse.Namespace) -> None:
    from gesta.analysis.warp import draw_warp, measure_warp

    _show(options, measure_warp(*_model_and_clip(options), spatial_only=options.spatial_only), draw_warp)


def _reconstruction(options: argparse.Namespace) -> None:
    from gesta.analysis.reconstruction import draw_reconstruction, measure_reconstruction

    _show(options, measure_reconstruction(*_model_and_clip(options), seed=options.seed), draw_reconstruction)


def _clusters(options: argparse.Namespace) -> None:
    from gesta.analysis.rpe import draw_clusters, measure_clusters, read_config

    config = with_fields(read_config(options.model, trust_code=options.trust_code), options)
    _show(options, measure_clusters(options.model, config, options.ratios, runs_folder(options.runs)), draw_clusters)


def _filters(options: argparse.Namespace) -> None:
    from gesta.analysis.filters import draw_filters, measure_filters
    from gesta.analysis.sources import load

    model = load(options.model, trust_code=options.trust_code, runs=False)
    measured = measure_filters(*model, folded=not options.learned)
    _show(options, measured, partial(draw_filters, most=options.max_filters))


def _rpe(options: argparse.Namespace) -> None:
    from gesta.analysis.rpe import draw_bucket_map, measure_bucket_map, read_config

    config = with_fields(read_config(options.model, trust_code=options.trust_code), options)
    _show(options, measure_bucket_map(options.model, config, options.ref), draw_bucket_map)


def _complexity(options: argparse.Namespace) -> None:
    from gesta.analysis.complexity import draw_complexity, find_models, measure_complexity

    runs = runs_folder(options.runs)
    known = [find_models(source, runs=runs, trust_code=options.trust_code) for source in options.sources]
    models = list(chain.from_iterable(known))
    if not models:
        raise GestaError(
            f"{', '.join(options.sources)}: no row of these has a recipe, so there is nothing to count; give "
            "a model, a run or a table with recipes (gesta models)"
        )
    measured = measure_complexity(models, style=options.style, seconds=options.seconds, device=options.device)
    _show(options, measured, draw_complexity)


def _confusion(options: argparse.Namespace) -> None:
    from gesta.analysis.confusion import draw_confusion, measure_confusion

    if len(options.results) > 2:
        raise GestaError("give one result, or two to see their difference")
    results = list(zip(options.results, read_results(options.results)))
    _show(options, measure_confusion(results, space=options.space, by=options.by, most=options.pairs), draw_confusion)


def _mi(options: argparse.Namespace) -> int:
    from gesta.analysis.mutual_information import BOUNDED, measure_mutual_information, write_information
    from gesta.analysis.sources import is_model, load
    from gesta.prediction.predict import find_sources
    from gesta.records import Record, SplitName

    videos = [source for source in options.sources if not is_model(source)]
    given = [source for source in options.sources if is_model(source)]
    models = [load(source, trust_code=options.trust_code) for source in given]
    paths = find_sources(videos)
    neither = [path for path in paths if not Path(path).exists() and not Path(path).suffix]
    if neither or not models:
        load((neither or videos)[0])  # raises, with the reason why it is no model
    if bool(videos) == bool(options.data):
        raise GestaError("say which videos: files or folders beside the models, or --data NAME")
    if options.fields and not options.data:
        options.parser.error(f"unrecognized arguments: {' '.join(options.fields)}")
    if options.split and not options.data:
        raise GestaError("--split is one of a data set: give it with --data, or leave it out")
    if options.tau is not None and options.estimator not in BOUNDED:
        raise GestaError(f"--estimator {options.estimator} has no temperature: leave --tau out")
    split: SplitName = options.split or "val"
    data, tau = None, 0.1 if options.tau is None else options.tau
    if options.data:
        data = _videos_of(options.data, options)
        records = data.records(split)
        if not records:
            raise GestaError(f"{options.data} has no split {split!r}; choose another with --split")
    else:
        records = [Record(path=path, name=path) for path in paths]
    if options.max_videos:
        records = records[:: -(-len(records) // options.max_videos)]
    measured = measure_mutual_information(
        models, records, estimator=options.estimator, tau=tau, block=options.block, device=options.device
    )
    print_results(options, measured)
    if data is not None and options.block is None and not options.max_videos:
        for row, source in zip(measured.rows[1:], given):
            if Path(source).is_dir():
                write_information(Path(source), measured, row, data, split)
    return int(bool(measured.failures))


def _stages(options: argparse.Namespace) -> None:
    from gesta.analysis.sources import labelled_videos, load
    from gesta.analysis.stages import draw_stages, measure_stages

    name, model = load(options.run, trust_code=options.trust_code)
    data = _videos_of(options.run, options)
    splits = []
    for split in ("train", options.split):
        records, labels, _ = labelled_videos(
            data, split, max_videos=options.max_videos, space=options.space, seed=options.seed
        )
        if not records:
            raise GestaError(f"the data has no labelled videos of the split {split!r} (gesta data list shows them)")
        splits.append((records, labels))
    _show(options, measure_stages(name, model, *splits, l2=options.l2, device=options.device), draw_stages)


def _tsne(options: argparse.Namespace) -> None:
    from gesta.analysis.sources import load
    from gesta.analysis.tsne import choose_videos, draw_tsne, measure_tsne

    models = [load(run, trust_code=options.trust_code) for run in options.runs]
    data = _videos_of(options.runs[0], options)
    classes = [name for names in options.classes or () for name in names.split(",") if name]
    chosen = choose_videos(
        data, options.split, classes, max_videos=options.max_videos, space=options.space, seed=options.seed
    )
    _show(options, measure_tsne(models, *chosen, device=options.device, seed=options.seed), draw_tsne)


def _videos_of(run: str, options: argparse.Namespace) -> DataConfig:
    """The data set of ``--data``, or else that of a run, with the fields that flags change."""
    from gesta.analysis.sources import run_data

    flags = [flag.replace("--data.", "--", 1) for flag in options.fields]  # as the data set alone names them
    if options.data:
        return data_source(options.data, options, flags)
    return with_fields(run_data(run, trust_code=options.trust_code), options, flags)
