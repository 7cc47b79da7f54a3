"""Commands that compute features of videos, and compare them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gesta.cli.on_ray import check_ray_options, run_on_ray
from gesta.cli.options import Commands, count, device_options, print_results, share_options, trust_option
from gesta.cli.public_weights import model_for_videos, model_options, take_videos
from gesta.errors import GestaError
from gesta.progress import show


def add_commands(commands: Commands) -> None:
    sub = commands.add("features", _features, "compute features of videos, for retrieval or for models of long videos")
    model_options(sub)
    sub.add_argument("sources", metavar="VIDEO", nargs="*", help="file, folder of videos, or frame folder")
    share_options(sub)
    sub.add_argument(
        "--out", metavar="DIR", required=True, help="folder of the features; the same command again resumes"
    )
    sub.add_argument("--clips", type=count, help="clips per video (default 4)")
    sub.add_argument("--crops", type=int, choices=[1, 3], help="crops per clip (default 1)")
    sub.add_argument("--window", type=count, metavar="N", help="windows of N frames over the whole video instead")
    sub.add_argument("--stride", type=count, metavar="N", help="frames from window to window (default: as --window)")
    text = "model: what the classifier takes (default); mean: the mean of the last feature map"
    sub.add_argument("--pool", choices=["model", "mean"], help=text)
    sub.add_argument(
        "--tokens", action="store_true", help="the last feature map itself, channels x time x height x width"
    )
    text = "file format (default %(default)s); parquet needs pyarrow"
    sub.add_argument("--format", choices=["npy", "safetensors", "parquet"], default="npy", help=text)
    sub.add_argument("--workers", type=int, default=-1, help="loader processes (default: by CPU cores and videos)")
    device_options(sub)
    trust_option(sub)

    sub = commands.add(
        "neighbours", _neighbours, "find the most similar videos, or near duplicates, by features in a folder"
    )
    sub.add_argument("folder", metavar="DIR", help="folder that gesta features has written")
    sub.add_argument(
        "--query", metavar="VIDEO", help="a video whose features are in it; without it near duplicates are listed"
    )
    sub.add_argument("--top", type=count, help="neighbours of the query (default 5)")
    text = "cosine similarity from which two videos are near duplicates (default 0.98)"
    sub.add_argument("--duplicates", type=float, metavar="COSINE", help=text)


def _features(options: argparse.Namespace) -> int:
    from gesta.evaluation.scoring import prediction_protocol
    from gesta.features.compute import compute_features
    from gesta.features.windows import Windows

    check_ray_options(options)
    take_videos(options)
    if options.ray:
        return run_on_ray(options)
    if options.tokens and options.pool:
        raise GestaError("--tokens keeps the map, which --pool would average: give one of them")
    if options.stride and not options.window:
        raise GestaError("--stride moves windows: give their length in frames with --window")
    if options.window and (options.clips or options.crops):
        raise GestaError("--window takes windows over the whole video, so leave --clips and --crops out")
    model = model_for_videos(options, needs_classifier=False)
    views = prediction_protocol(model, clips=options.clips, crops=options.crops, workers=options.workers)
    report = compute_features(
        model,
        options.sources,
        options.out,
        kind="tokens" if options.tokens else "mean" if options.pool == "mean" else "pooled",
        views=views,
        windows=Windows(options.window, options.stride or options.window) if options.window else None,
        format=options.format,
        device=options.device,
        precision=options.precision,
        listed=options.listed is not None,
        share=options.part,
    )
    print_results(options, report)
    return int(bool(report.failures or report.partial))


def _neighbours(options: argparse.Namespace) -> None:
    from gesta.features.neighbours import neighbours

    if options.query and options.duplicates is not None:
        raise GestaError("--query asks for the neighbours of a video, --duplicates for pairs of any: give one of them")
    if options.top and not options.query:
        raise GestaError("--top is how many neighbours of a --query: name a video with it")
    duplicates = 0.98 if options.duplicates is None else options.duplicates
    if not -1 <= duplicates <= 1:
        raise GestaError(f"--duplicates {duplicates:g} is no cosine; give a number from -1 to 1")
    result = neighbours(Path(options.folder), options.query, options.top or 5, duplicates)
    print_results(options, result)
    if any(pair.splits for pair in result.pairs) and not options.query:
        show("near duplicates in two splits make a test easier than it looks: keep them in one", sys.stderr)
