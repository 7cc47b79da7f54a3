"""Commands about videos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gesta.cli.on_ray import check_ray_options, run_on_ray
from gesta.cli.options import Commands, count, data_source, frame_rate, print_results, seconds, share_options
from gesta.errors import GestaError


def add_commands(commands: Commands) -> None:
    data = commands.group("data", "list, check, prepare, import or make videos and their labels")
    source = "folder with one folder per class, list file, or name of a data set"
    sub = data.add("list", _data_list, "splits, classes and a few records", fields=True, of_data=True)
    sub.add_argument("source", metavar="ROOT|LIST|NAME", help=source)
    text = "find what would spoil a training before it starts"
    sub = data.add("check", _data_check, text, fields=True, of_data=True)
    sub.add_argument("source", metavar="ROOT|LIST|NAME", help=source)
    sub.add_argument("--model", help="check lengths against this model's clip")
    text = "training does not mirror, so classes that name left or right are not reported"
    sub.add_argument("--no-flip", action="store_true", help=text)
    text = "timeout of a file, plus 1 s for each 128 kB (default %(default)g)"
    sub.add_argument("--seconds", type=seconds, default=60.0, help=text)
    text = "a small copy that is quick to train from: videos, images or shards"
    sub = data.add("prepare", _data_prepare, text, of_data=True)
    sub.add_argument("root", metavar="ROOT", help="folder of videos")
    sub.add_argument("out", metavar="OUT", help="folder of the copies; the same command again resumes")
    share_options(sub, out="OUT", instead="some of those below ROOT")
    sub.add_argument("--short-side", type=int, default=256, help="in pixels (default %(default)s); none is made larger")
    sub.add_argument("--codec", choices=("h264", "hevc"), help="of the video files (default h264)")
    sub.add_argument("--fps", type=frame_rate, help="frames per second (default keep)", metavar="FPS|keep")
    sub.add_argument("--frames", action="store_true", help="folders of JPEG images instead of video files")
    text = "optical flow instead of the videos, as folders of images (for --data.flow); needs the extra flow"
    sub.add_argument("--flow", action="store_true", help=text)
    sub.add_argument("--lists", action="store_true", help="also list files, labelled by the folders of classes")
    sub.add_argument("--shards", type=count, default=0, metavar="N", help="tar files of N videos each")
    sub.add_argument("--val", type=float, help="fraction of validation videos in the lists (default 0.2)")
    sub.add_argument("--test", type=float, help="fraction of test videos in the lists (default 0)")
    sub.add_argument("--by-folder", action="store_true", help="lists keep the videos of a sub-folder together")
    sub.add_argument(
        "--folders", choices=("auto", "classes", "splits"), default="auto", help="what the folders in ROOT are"
    )
    text = "what is a video: files, folders of frames, or both"
    sub.add_argument("--kind", choices=("auto", "files", "frames", "both"), default="auto", help=text)
    sub.add_argument("--seed", type=int, help="of the split in lists, and of the order in shards (default 0)")
    sub.add_argument("--workers", type=int, help="processes (default: one per CPU core)")
    sub = data.add("import", _data_import, "a list of segments from the export of a labelling tool")
    sub.epilog = "gesta data import export.json --videos videos --out segments.csv --frame-rate 25"
    text = "export of Label Studio, CVAT (XML), VIA 3, FiftyOne, ActivityNet or AVA"
    sub.add_argument("file", metavar="FILE", help=text)
    sub.add_argument("--videos", metavar="DIR", required=True, help="folder of the videos that it names")
    sub.add_argument("--out", metavar="LIST", required=True, help="CSV to write: path, label and the segment's times")
    formats = ("label-studio", "cvat", "via", "fiftyone", "activitynet", "ava")
    sub.add_argument("--format", choices=formats, help="of the export (default: recognised by its content)")
    text = "what to leave out: types of regions, attributes, columns or fields that are no segments"
    sub.add_argument("--skip", metavar="NAME", nargs="+", default=[], help=text)
    text = "frameRate of Label Studio's Video tag, or the field of its tasks that holds it"
    sub.add_argument("--frame-rate", metavar="FPS|FIELD", default="", help=text)
    make = data.group("make", "make the synthetic data set")
    sub = make.add("marionette", _data_make, "videos of an articulated puppet performing actions")
    sub.add_argument("out", metavar="OUT", help="folder to write")
    sub.add_argument("--family", choices=("coarse", "fine", "objects", "kitchen"), help="of actions (default coarse)")
    sub.add_argument("--lighting", choices=("even", "varied"), help="varied: dim, tinted, flickering (default even)")
    text = "displaced: each clip shifted, zoomed, rolled; jolted: jumps between frames (default centred)"
    sub.add_argument("--aim", choices=("centred", "displaced", "jolted"), help=text)
    sub.add_argument("--clips", type=int, help="how many videos (default 400; of a layout 48, or 3 of each action)")
    sub.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    sub.add_argument("--workers", type=int, help="processes (default: one per CPU core)")
    layouts = "ucf101, hmdb51, kinetics400, something_v1, something_v2, diving48, epic_kitchens, ntu or isogd"
    text = f"folders, names and lists as another data set has them: {layouts}"
    sub.add_argument("--layout", metavar="NAME", help=text)
    sub.add_argument("--depth", action="store_true", help="also depth maps")
    sub.add_argument("--flow", action="store_true", help="also optical flow; needs the extra flow")


def _data_list(options: argparse.Namespace) -> None:
    from gesta.curation.describe import describe

    print_results(options, describe(data_source(options.source, options)))


def _data_check(options: argparse.Namespace) -> int:
    from gesta.curation.check import check
    from gesta.models import model_config

    clip = model_config(options.model).clip if options.model else None
    data = data_source(options.source, options)
    report = check(data, clip=clip, flip=not options.no_flip, seconds=options.seconds)
    print_results(options, report)
    return 0 if report.ok else 1


def _data_prepare(options: argparse.Namespace) -> int:
    from gesta.curation.prepare import prepare
    from gesta.data.shares import read_paths

    check_ray_options(options)
    if options.ray:
        return run_on_ray(options)
    names = "short_side codec fps frames flow lists shards val test seed by_folder folders kind workers"
    given: dict[str, Any] = {name: getattr(options, name) for name in names.split()}
    if (
        options.lists
        and options.listed is not None
        and Path(options.listed).resolve().parent == Path(options.out).resolve()
    ):
        raise GestaError(f"{options.listed}: is in the folder that --lists writes to; move it elsewhere")
    listed = None if options.listed is None else read_paths(options.listed)
    prepared = prepare(options.root, options.out, listed=listed, share=options.part, **given)
    print_results(options, prepared)
    return int(bool(prepared.left_out or prepared.left_over))


def _data_import(options: argparse.Namespace) -> int:
    from gesta.curation.labels.convert import import_labels

    how: dict[str, Any] = {name: getattr(options, name) for name in ("format", "skip", "frame_rate")}
    summary = import_labels(options.file, options.videos, options.out, **how)
    print_results(options, summary)
    return int(bool(summary.missing or summary.unreadable))


def _data_make(options: argparse.Namespace) -> None:
    from gesta.marionette.dataset import make_set
    from gesta.marionette.layouts.layout import make_layout

    if options.layout is None:
        clips = 400 if options.clips is None else options.clips
        shown: dict[str, Any] = {"family": options.family or "coarse", "lighting": options.lighting or "even"}
        shown |= {"depth": options.depth, "flow": options.flow}
        shown["aim"] = options.aim or "centred"
        print_results(options, make_set(options.out, clips=clips, seed=options.seed, workers=options.workers, **shown))
        return
    for name, reason in (
        ("lighting", ""),
        ("aim", ""),
        ("family", ": each layout shows the family most like its data set"),
        ("depth", ": ntu and isogd have depth, the others have none"),
        ("flow", ": gesta data prepare --flow makes that of any videos"),
    ):
        if getattr(options, name):
            raise GestaError(f"--{name} cannot be combined with --layout{reason}")
    print_results(options, make_layout(options.out, options.layout, options.clips, options.seed, options.workers))
