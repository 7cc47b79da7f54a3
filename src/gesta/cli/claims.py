"""The command that tests the papers' claims."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gesta.cli.options import Commands, count, device_options, print_results, share
from gesta.errors import GestaError
from gesta.progress import show

PAGE = "docs/claims.md"


def add_commands(commands: Commands) -> None:
    sub = commands.add("claims", _claims, "test the papers' claims: list them, do their trainings, write the report")
    text = "a claim (stan.viewpoint), all claims of a system (stan) or all: do the trainings that are missing"
    sub.add_argument("names", metavar="NAME", nargs="*", help=f"{text}; without a name they are listed")
    sub.add_argument("--seeds", type=count, metavar="N", help="trainings of each arm (default: as each claim needs)")
    sub.add_argument("--out", default="runs/claims", metavar="DIR", help="folder of all runs (default %(default)s)")
    text = "the K-th of N parts of the trainings, such as 1/2, for several processes"
    sub.add_argument("--part", type=share, metavar="K/N", help=text)
    text = f"write the page of all claims, and beside it what all trainings gave as JSON: {PAGE}"
    sub.add_argument("--report", metavar="FILE", help=text)
    device_options(sub, precision=None)


def _claims(options: argparse.Namespace) -> int:
    from gesta.claims import find_claims, list_claims  # for start-up time
    from gesta.claims.outcomes import read_collected, read_runs, write_collected
    from gesta.claims.report import write_report
    from gesta.claims.run import run_claims
    from gesta.claims.status import Overview, status_of, used_by

    given = {"--seeds": options.seeds, "--part": options.part, "--device": options.device != "auto"}
    for flag in (flag for flag, value in given.items() if value and not options.names):
        raise GestaError(f"{flag} is for trainings, and no claim is named; name one (gesta claims lists them)")
    chosen, out = find_claims(options.names), Path(options.out)
    page = Path(options.report or PAGE)
    collected = page.with_suffix(".json")
    if options.report and page.suffix != ".md":
        raise GestaError(f"--report {page}: the page is Markdown; give a file that ends in .md, such as {PAGE}")
    known, failed = read_collected(collected), False
    if chosen:
        part = (options.part.number, options.part.of) if options.part else (1, 1)
        how = {"seeds": options.seeds, "device": options.device, "part": part, "known": known}
        trainings = run_claims(chosen, out, **how, others=list_claims().values())
        failed = bool(trainings.failed)
        show(str(trainings), sys.stderr)
    outcomes = known | {key: outcome for key, (outcome, _) in read_runs(out).items()}
    claims = find_claims(["all"])
    if options.report:
        used = used_by(claims, outcomes)
        if left_out := len(outcomes) - len(used):
            show(f"{collected}: without {left_out} outcomes of experiments that no claim has any more", sys.stderr)
        write_collected(collected, used)
        write_report(page, claims, outcomes)
    print_results(options, Overview([status_of(claim, outcomes) for claim in chosen or claims]))
    return int(failed)
