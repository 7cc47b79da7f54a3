"""AVA's CSV: a line for each action of each person in a key frame, one of which is annotated every second.

``video_id, seconds, x1, y1, x2, y2, action_id, person_id``, without a header. A list of segments knows no persons, so
an action is taken for that of the video: each key frame stands for the second around it, and seconds of one action that
follow each other become one segment.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict

from gesta.curation.labels.export import Export

COLUMNS = (7, 8)
"""Of version 2.0 and later versions."""

SECOND = 1.0
"""From one key frame to the next."""


def read(export: Export, text: str) -> None:
    """Segments of whole seconds, by video and action."""
    seconds: dict[tuple[str, str], set[float]] = defaultdict(set)
    lines = 0
    for number, row in enumerate(csv.reader(io.StringIO(text, newline=""), strict=True), 1):
        if not row:
            continue
        if len(row) not in COLUMNS:
            export.fail(f"line {number} has {len(row)} columns, AVA has 7 or 8", "correct it, or name another --format")
        video, time, action = row[0].strip(), row[1].strip(), row[6].strip()
        try:
            second = float(time)
        except ValueError:
            second = math.nan
        if not 0 <= second < math.inf:
            export.fail(f"line {number}: {time!r} is no time in seconds", "correct it")
        export.videos.setdefault(video)
        if not action:
            export.left_out["key frames without an action"] += 1
            continue
        lines += 1
        seconds[video, action].add(second)
    for (video, action), times in seconds.items():
        runs: list[list[float]] = []
        for second in sorted(times):
            if runs and second - runs[-1][1] <= SECOND + 1e-6:
                runs[-1][1] = second
            else:
                runs.append([second, second])
        for first, last in runs:
            export.add(video, action, max(0.0, first - SECOND / 2), last + SECOND / 2)
    export.notes.append(
        f"{lines} actions of persons in key frames became seconds of the video; persons and their boxes are left out"
    )
    if seconds and all(action.isdecimal() for _, action in seconds):
        export.notes.append(
            "AVA's numbers of actions count from 1: read the list with --data.label-base 1 (gesta data: --label-base 1)"
        )
