"""Writes Marionette in the folder and annotation format of a public data set, to try its reader, protocol, recipe."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from gesta.config import suggest
from gesta.datasets import data_config
from gesta.errors import GestaError
from gesta.files import lock_folder, make_folder, write_text
from gesta.marionette.dataset import check_making, plan_clips, split_of
from gesta.marionette.files import VERSION, open_folder, run_in_processes
from gesta.marionette.layouts.arrange import LAYOUT_FAMILIES, LAYOUTS, NTU_SETUP, LabelledClip
from gesta.marionette.layouts.video import make_video
from gesta.marionette.motions import FAMILIES
from gesta.progress import track
from gesta.records import SplitName

LAYOUT_DATA = {layout: type(data_config(layout)) for layout in LAYOUTS}
"""The data set that reads a layout, by the layout's name."""


def data_fields(layout: str, root: str) -> dict[str, Any]:
    """The fields with which that data set's class reads a folder made by :func:`make_layout`."""
    ntu = {"setups": (NTU_SETUP,), "leave_out": os.path.join(root, "samples_not_here.txt")}
    return {"root": root} | (ntu if layout == "ntu" else {})


MAX_CLIPS_PER_ACTION = 20
"""Most clips of an action: NTU RGB+D's setup has 20 combinations of performer, camera and replication."""


@dataclass(frozen=True, slots=True)
class LayoutSummary:
    """The result of :func:`make_layout`; a video of EPIC-KITCHENS consists of several clips."""

    root: str
    layout: str
    clips: int
    videos: int
    videos_written: int
    seconds: float
    splits: dict[str, int]

    to_json = asdict

    def __str__(self) -> str:
        splits = ", ".join(f"{split} {count}" for split, count in self.splits.items())
        return (
            f"{self.root}: laid out as {self.layout}, {self.videos} videos from {self.clips} clips, "
            f"{self.videos_written} written in {self.seconds:.0f} s\n  {splits}"
        )


def make_layout(
    out: str | os.PathLike[str],
    layout: str,
    clips: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    size: int = 64,
    classes: int | None = None,
) -> LayoutSummary:
    """Make Marionette with the folders, names, containers and annotation files of another data set.

    Its class names are class names of the imitated data set, as many as the family has actions; its sizes are not
    those of the data set, and what is seen is the puppet. Videos that exist are kept: a second call continues a
    stopped one.

    Args:
        out: folder; new, empty, or the same layout with the same numbers.
        layout: one of :data:`LAYOUT_DATA`.
        clips: number of clips, 3 to 20 of each action; by default 48, or 3 of each if that is more.
        seed, workers, size: as of :func:`gesta.marionette.dataset.make_set`.
        classes: use only the first this many actions of the family, at least 1; by default all.

    Raises:
        GestaError: no such layout, impossible numbers, a folder with other files in it, or a file that cannot be
            written.
    """
    begin = time.monotonic()
    if layout not in LAYOUT_DATA:
        raise GestaError(
            f"there is no layout {layout!r}{suggest(layout, LAYOUT_DATA)} (known: {', '.join(LAYOUT_DATA)})"
        )
    if classes is not None and classes < 1:
        raise GestaError(f"cannot lay out {layout} with {classes} classes; give at least 1")
    check_making(seed, workers, size)
    root, family = Path(out), LAYOUT_FAMILIES[layout]
    actions = list(FAMILIES[family])[:classes]
    clips = max(48, 3 * len(actions)) if clips is None else clips
    if not 3 * len(actions) <= clips <= MAX_CLIPS_PER_ACTION * len(actions):
        raise GestaError(
            f"--clips {clips}: {layout} is laid out with {3 * len(actions)} to {MAX_CLIPS_PER_ACTION * len(actions)} "
            f"clips, 3 to {MAX_CLIPS_PER_ACTION} of each action; give such a number"
        )
    numbers = {"seed": seed, "size": size, "clips": clips, "classes": len(actions)}
    with lock_folder(root):
        open_folder(root, {"layout": layout, "family": family, "version": VERSION} | numbers)
        labelled = [LabelledClip(c, split_of(c), actions[c.action - 1]) for c in plan_clips(clips, seed, len(actions))]
        videos, texts = LAYOUTS[layout](labelled, seed)
        jobs = [(video, root, seed, size, family) for video in videos if not all(p.exists() for p in video.files(root))]
        for _ in track(run_in_processes(make_video, jobs, workers), f"making {root}", total=len(jobs)):
            pass
        for path, text in texts.items():
            make_folder((root / path).parent)
            write_text(root / path, text)
    data = LAYOUT_DATA[layout](**data_fields(layout, str(root)))
    splits = {split: len(data.records(split)) for split in get_args(SplitName)}
    seconds = round(time.monotonic() - begin, 1)
    return LayoutSummary(str(root), layout, clips, len(videos), len(jobs), seconds, splits)
