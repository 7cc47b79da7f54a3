"""The command that names the actions in videos, and what it writes."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gesta.cli.on_ray import check_ray_options, run_on_ray
from gesta.cli.options import (
    CommandParser,
    Commands,
    count,
    device_options,
    format_of,
    share_options,
    trust_option,
)
from gesta.cli.public_weights import model_for_videos, model_options, runtime_option, take_videos
from gesta.errors import GestaError, without_passwords
from gesta.files import check_not_read
from gesta.progress import one_line, show

if TYPE_CHECKING:  # for the start-up time of the command: these import torch
    from gesta.checkpoint import TrainedModel
    from gesta.data.shares import Share
    from gesta.model import VideoModel
    from gesta.prediction.prediction import Prediction
    from gesta.prediction.timeline import TimelineConfig
    from gesta.prediction.writers import Format
    from gesta.processes import Precision
    from gesta.recipe import EvaluateConfig
    from gesta.records import ClassNames


def add_command(commands: Commands) -> None:
    sub = commands.add("predict", _predict, "name the actions in files, folders, a camera or a stream")
    model_options(sub)
    sub.add_argument("sources", metavar="VIDEO", nargs="*", help="file, folder, frame folder, URL, or camera number")
    share_options(sub)
    text = "labels per video (default 5; of multi-label models all that reach the threshold)"
    sub.add_argument("--top", type=count, help=text)
    sub.add_argument("--clips", type=count, help="clips per video (default 4)")
    sub.add_argument("--crops", type=int, choices=[1, 3], help="crops per clip (default 1)")
    device_options(sub)
    runtime_option(sub)
    sub.add_argument("--timeline", action="store_true", help="timed segments by sliding windows, videos of any length")
    text = "probability at which a segment begins (default 0.5); least one of a label (multi-label models 0.5, else 0)"
    timeline_options(sub, text)
    text = "the address is of a camera or a live stream though it does not say so (MJPEG or HLS over http)"
    sub.add_argument("--live", action="store_true", help=text)
    text = "with --timeline, of all videos together: the segments that are least certain first"
    sub.add_argument("--review", action="store_true", help=text)
    formats = ["table", "text", "csv", "json", "parquet", "srt", "label-studio"]
    text = "default by the ending of --out, else table, with --ray parquet; parquet: rows as of csv; label-studio: "
    text += "pre-annotations (with --timeline)"
    sub.add_argument("--format", choices=formats, help=text)
    text = "what Label Studio needs before a video's path to open it (/data/local-files/?d=)"
    sub.add_argument("--url-prefix", metavar="URL", help=text)
    sub.add_argument("--out", metavar="FILE", help="write there instead of printing")
    sub.add_argument("--draw", metavar="FILE", help="draw the segments onto a copy of the video (with --timeline)")
    trust_option(sub)


def timeline_options(sub: CommandParser, threshold: str) -> None:
    """How windows slide over a video and become segments; ``threshold`` is the help of that flag."""
    sub.add_argument("--window", type=float, metavar="S", help="seconds a window lasts (default: the model's clip)")
    sub.add_argument("--hop", type=float, help="distance between windows, in window lengths (default 0.5)")
    sub.add_argument("--smoothing", type=int, help="number of neighbouring windows averaged, odd (default 3)")
    sub.add_argument("--threshold", type=float, help=threshold)
    text = "probability below which a segment ends (default: half the threshold); it also ends where another class is "
    sub.add_argument("--release", type=float, metavar="P", help=text + "more probable")
    text = "join segments of one class that are less than this many seconds apart (default 0: none)"
    sub.add_argument("--join", type=float, metavar="S", help=text)
    text = "then drop segments shorter than this many seconds (default 0)"
    sub.add_argument("--min-duration", type=float, metavar="S", help=text)


def given_timeline(options: argparse.Namespace, timeline: bool, *more: str) -> TimelineConfig:
    """The timeline that flags describe.

    Args:
        options: of a command with :func:`timeline_options`.
        timeline: whether it was asked for.
        more: flags beside those of the windows that are about timelines alone.

    Raises:
        GestaError: such flags without a timeline, or a value that makes no sense.
    """
    names = ("window", "hop", "smoothing", "release", "join", "min_duration", *more)
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if given and not timeline:
        flag = next(iter(given)).replace("_", "-")
        raise GestaError(f"--{flag} is about the windows of a timeline, which is not asked for; add --timeline")
    from gesta.config import check
    from gesta.prediction.timeline import TimelineConfig  # for start-up time

    if options.threshold is not None:
        given["threshold"] = options.threshold
    config = TimelineConfig(**given)
    check(config, flags=True)
    return config


def _predict(options: argparse.Namespace) -> int:
    from gesta.evaluation.scoring import prediction_protocol
    from gesta.prediction.timeline import is_live
    from gesta.processes import choose_autocast, choose_device

    check_ray_options(options)
    take_videos(options)
    if options.json and options.format not in (None, "json"):
        raise GestaError(f"--json is --format json, and --format {options.format} is given, too; leave one of them out")
    check_not_read(options.out, [*options.sources, *([] if options.listed is None else [options.listed])])
    if options.ray:
        return run_on_ray(options, is_predict=True)
    views = {name: value for name in ("clips", "crops") if (value := getattr(options, name)) is not None}
    timeline = options.timeline or options.live or any(map(is_live, options.sources))
    config = given_timeline(options, timeline)
    if views and timeline:
        raise GestaError(
            f"--{next(iter(views))} is about a video as a whole, and a timeline sees one clip and one crop of each "
            "window; leave it out"
        )
    _check_part_options(options)
    choose_autocast(choose_device(options.device), options.precision)  # before minutes of loading
    model = model_for_videos(options)
    fastest = model
    if options.runtime == "auto":
        from gesta.export.fastest import with_fastest

        fastest = with_fastest(model, options.device, options.precision, trust_code=options.trust_code)
    how: dict[str, Any] = {
        "views": prediction_protocol(model, **views),
        "config": config,
        "threshold": options.threshold,
        **{name: getattr(options, name) for name in ("top", "device", "precision", "timeline", "out")},
    }
    if options.part:
        from gesta.prediction.part import describe_model

        settings = describe_model(model)
        how |= {"share": options.part, "listed": options.listed is not None}
        return predict_share(fastest, options.sources, described=settings, **how)
    more = {name: getattr(options, name) for name in ("draw", "review", "url_prefix", "live")}
    format: Format = "json" if options.json else options.format or format_of(options.out) or "table"
    return write_predictions(fastest, options.sources, format=format, listed=options.listed is not None, **more, **how)


def _check_part_options(options: argparse.Namespace) -> None:
    """Refuse options about what is written at the end of one whole run beside ``--part``, and a part without folder."""
    if not options.part:
        return
    if options.live:
        raise GestaError("--live is about a camera or a stream, which has no end and no parts; leave --part out")
    names = ("format", "draw", "review", "url_prefix")
    flags = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name)] + ["--json"] * options.json
    if flags:
        raise GestaError(f"{flags[0]} is about all videos, and --part computes some of them; leave it out")
    if not options.out:
        raise GestaError("--part needs a folder for what it computes; add --out DIR, one for each part")


def predict_share(
    model: TrainedModel | VideoModel,
    sources: Sequence[str],
    *,
    described: dict[str, Any],
    share: Share,
    listed: bool,
    out: str,
    views: EvaluateConfig,
    config: TimelineConfig,
    timeline: bool,
    threshold: float | None,
    top: int | None,
    device: str,
    precision: Precision,
) -> int:
    """Compute the predictions of a share of the videos into a folder, from which ``gesta merge`` takes them.

    Args:
        model, sources, listed, views, config, timeline: as :func:`write_predictions`.
        threshold, top, device, precision: the same.
        described: the model as it was given, see :func:`gesta.prediction.part.describe_model`; ``model`` may be a
            faster form of it.
        share: which of the videos.
        out: the folder.

    Returns:
        The exit status: 1 if a video had no prediction or an incomplete one, else 0.
    """
    from gesta.config import to_json
    from gesta.data.shares import describe_part
    from gesta.prediction.part import predict_part
    from gesta.prediction.predict import find_sources, predict
    from gesta.prediction.timeline import is_live
    from gesta.prediction.timeline import timeline as segments

    if live := next(filter(is_live, sources), None):
        raise GestaError(f"{live}: is a camera or a stream, which has no end and no parts; leave --part out")
    paths = list(sources) if listed else find_sources(sources)
    how: dict[str, Any] = {"views": views, "top": top, "device": device, "precision": precision}

    # before the folder is begun, which belongs to the part from then on
    _check_predicting(model, config if timeline else None, threshold=threshold, **how)
    if listed:
        _check_listed(share.take(paths))

    if not listed:
        _say_left_out(sources)

    def answer(wanted: list[str]) -> Iterator[tuple[str, list[Prediction]]]:
        if timeline:
            return ((path, [*segments(model, path, config=config, **how)]) for path in wanted)
        return ((p.path, [p]) for p in predict(model, wanted, threshold=threshold, **how)) if wanted else iter(())

    method = {"timeline": config} if timeline else {"threshold": threshold}
    settings = {"views": views, "top": top, "precision": precision, **method}
    part = describe_part("predict", share, paths, described | to_json(settings))
    done = predict_part(out, part, share.take(paths), answer)
    counts = f"{len(done.failed)} failed, {len(done.incomplete)} are incomplete"
    show(
        one_line(f"{out}: part {share.number} of {share.of}, {len(share.take(paths))} of {len(paths)} videos, {counts}")
    )
    for sentence in [*done.failed.values(), *done.incomplete.values()]:
        show(one_line(sentence), sys.stderr)
    return int(bool(done.failed or done.incomplete))


def _check_predicting(
    model: TrainedModel | VideoModel,
    config: TimelineConfig | None,
    *,
    classes: ClassNames | None = None,
    views: EvaluateConfig | None,
    top: int | None,
    threshold: float | None,
    device: str,
    precision: Precision,
) -> None:
    """Refuse what :func:`gesta.predict`, or with a ``config`` :func:`gesta.timeline`, refuses, before any output."""
    from gesta.checkpoint.exported import device_for
    from gesta.evaluation.scoring import prediction_protocol
    from gesta.prediction.predict import Naming
    from gesta.prediction.timeline import SegmentNaming
    from gesta.processes import choose_autocast, choose_device

    how: dict[str, Any] = {"classes": classes, "views": views or prediction_protocol(model), "top": top}
    naming = SegmentNaming(model, config=config, **how) if config else Naming(model, threshold=threshold, **how)
    choose_autocast(choose_device(device_for(naming.network, device, precision)), precision)


def _say_left_out(sources: Sequence[str]) -> None:
    """Say which files in the folders are not predicted."""
    from gesta.prediction.predict import find_left_out

    if files := find_left_out(sources):
        what = "1 file has" if len(files) == 1 else f"{len(files)} files have"
        text = f"{files[0]}: {what} no suffix of a video and {'is' if len(files) == 1 else 'are'} left out"
        show(one_line(f"{text}; name a video of another suffix by itself"), sys.stderr)


def _check_listed(paths: Sequence[str]) -> None:
    """Refuse listed paths that stand for several videos: then nobody could say which videos there are."""
    from gesta.prediction.predict import find_sources

    for path in paths:
        if find_sources([path]) != [path]:
            raise GestaError(f"{path}: is listed and stands for other videos; list each of them by its own path")


def write_predictions(
    model: TrainedModel | VideoModel,
    sources: Sequence[str],
    *,
    classes: ClassNames | None = None,
    views: EvaluateConfig | None = None,
    top: int | None = None,
    threshold: float | None = None,
    device: str = "auto",
    precision: Precision = "32-true",
    timeline: bool = False,
    config: TimelineConfig | None = None,
    format: Format = "table",
    out: str | None = None,
    draw: str | None = None,
    review: bool = False,
    url_prefix: str | None = None,
    listed: bool = False,
    live: bool = False,
) -> int:
    """Predict, write the predictions to ``out`` (or print them), and draw them onto a copy.

    Cameras and streams have no end, so they always get a timeline; its lines appear as they are decided. With
    ``review`` the segments of all videos are put in the order of :attr:`Prediction.certainty`, the least certain first.
    The sources of a list (``listed``) are one video each. With ``live`` the only source is a camera or a live stream
    though its address does not say so.

    Returns:
        The exit status: 1 if any source had no prediction, else 0.
    """
    from gesta.checkpoint import TrainedModel
    from gesta.prediction.annotate import annotate, check_copy
    from gesta.prediction.pre_annotations import TaskNames, frame_rates
    from gesta.prediction.predict import find_sources, predict
    from gesta.prediction.timeline import TimelineConfig, is_live
    from gesta.prediction.timeline import timeline as segments
    from gesta.prediction.writers import in_order, require_pyarrow, write_to

    config = config or TimelineConfig()
    if live and (path := next(filter(os.path.exists, sources), None)) and not is_live(path):
        raise GestaError(f"{path}: is on this machine and has an end; leave --live out")
    endless = list(sources) if live else list(filter(is_live, sources))
    if (live := bool(endless)) and len(sources) > 1:
        raise GestaError(f"{endless[0]}: is a camera or a stream, which has no end; give it alone")
    if listed:
        _check_listed(sources)
    paths = list(sources) if live else find_sources(sources)
    if format == "parquet":
        if out is None or live:
            raise GestaError("--format parquet is a file of videos that have an end; add --out FILE, and give files")
        require_pyarrow()
    _check_review(format, timeline and not live, review, url_prefix, top)
    if format == "srt" and not ((timeline or live) and len(paths) == 1):
        raise GestaError(
            "--format srt is the timeline of one video; add --timeline, and give one video at a time, or choose csv or "
            "json"
        )
    if draw and not (timeline and len(paths) == 1 and not live):
        raise GestaError("--draw needs --timeline and exactly one video that can be read twice")
    if draw:
        check_copy(paths[0], Path(draw))
    check_not_read(out, paths)
    how: dict[str, Any] = {"classes": classes, "views": views, "top": top, "device": device, "precision": precision}
    _check_predicting(model, config if timeline or live else None, threshold=threshold, **how)
    if not (listed or live):
        _say_left_out(sources)
    predictions: Iterator[Prediction]
    if timeline or live:
        how |= {"config": config, "live": live}
        predictions = itertools.chain.from_iterable(segments(model, path, **how) for path in paths)
        network = model.model if isinstance(model, TrainedModel) else model
        if format == "srt" and network.config.multi_label and not live:  # segments of several classes overlap
            predictions = in_order(predictions, key=lambda p: p.start or 0.0)
    else:
        predictions = predict(model, paths, threshold=threshold, **how)
    if live and format == "table":
        format = "text"  # a table is complete at the end, which a camera does not have
    if review:
        predictions = in_order(predictions, key=lambda p: p.certainty)
    version = (model.name if isinstance(model, TrainedModel) else None) or "gesta"
    rates = frame_rates(paths) if format == "label-studio" else {}
    written = write_to(out, predictions, format, live, TaskNames(url_prefix or "", version, rates))
    answered = {p.path for p in written}
    for path in paths:
        name = without_passwords(path)
        if name not in answered:
            lasting = f" for {config.min_duration:g} s" if config.min_duration else ""
            flags = "--threshold, --min-duration" if lasting else "--threshold"
            show(
                one_line(f"{name}: no action reaches a probability of {config.threshold}{lasting} ({flags})"),
                sys.stderr,
            )
    if format in ("srt", "label-studio"):  # they have no place for them
        for broken in filter(lambda p: p.error, written):
            show(str(broken), sys.stderr)
    if draw:
        annotate(paths[0], written, draw)
    return int(any(p.error for p in written))


def _check_review(format: Format, timeline: bool, review: bool, url_prefix: str | None, top: int | None) -> None:
    """Refuse options about the review of segments that change nothing, or that do not go together."""
    if url_prefix is not None and format != "label-studio":
        raise GestaError("--url-prefix is about pre-annotations; add --format label-studio")
    for flag, is_given in (("--review", review), ("--format label-studio", format == "label-studio")):
        if is_given and not timeline:
            raise GestaError(f"{flag} is about the segments of videos that have an end; add --timeline, and give files")
    if review and format == "srt":
        raise GestaError("--review changes the order, and subtitles stand in that of time; choose another --format")
    if review and top == 1:
        raise GestaError("--review compares a class with the next one, which --top 1 leaves out; leave --top out")
