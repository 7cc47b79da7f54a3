"""The command that puts the parts of a long computation together."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from gesta.cli.options import Commands, format_of, print_results
from gesta.errors import GestaError
from gesta.files import check_not_read

if TYPE_CHECKING:  # for start-up time
    from gesta.data.shares import Merged


def add_commands(commands: Commands) -> None:
    text = "put together what predict, features or data prepare have computed in parts (--part)"
    sub = commands.add("merge", _merge, text)
    sub.add_argument("parts", metavar="PART", nargs="+", help="the folders of all parts, in any order")
    text = "file of the predictions, or new folder of the features or copies"
    sub.add_argument("--out", metavar="FILE|DIR", required=True, help=text)
    formats = ["text", "csv", "json", "parquet"]
    sub.add_argument("--format", choices=formats, help="of predictions (default by the ending of --out, else csv)")


def _merge(options: argparse.Namespace) -> int:
    report = merge_parts(options.parts, options.out, options.format)
    print_results(options, report)
    return int(bool(report.failed or report.incomplete))


def merge_parts(folders: list[str], out: str, format: str | None) -> Merged:
    """Put parts together as one run would have written them.

    Args:
        folders: of the parts.
        out: file of predictions, or new folder.
        format: of predictions; None for that of the ending of ``out``, else CSV.

    Raises:
        GestaError: parts that are not the whole of one computation, see :func:`gesta.data.shares.read_parts`.
    """
    from gesta.data.shares import merged, read_parts

    parts = read_parts(folders)
    command = parts[0].command
    if command == "predict":
        from gesta.prediction.part import merged_predictions
        from gesta.prediction.writers import write_to

        format = format or format_of(out) or "csv"
        if format == "srt":
            raise GestaError(f"{out}: subtitles are of one video; choose another ending, or add --format csv")
        check_not_read(out, chain.from_iterable(Path(folder).iterdir() for folder in folders))
        write_to(out, merged_predictions(folders, parts), format, keep=False)  # type: ignore[arg-type]
        return merged(out, parts)
    if format:
        raise GestaError(f"--format is about predictions, and these are parts of gesta {command}; leave it out")
    if command == "features":
        from gesta.features.compute import merge_features

        return merge_features(folders, parts, out)
    from gesta.curation.prepare import merge_prepared

    return merge_prepared(folders, parts, out)
