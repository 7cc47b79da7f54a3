"""What pages say of the code: extras, flags, addresses, paths and run folders are those that there are."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gesta.bench.doctor import EXTRAS
from gesta.cli import make_parser
from gesta.marionette.dataset import plan_clips
from gesta.recipes.address import find_table
from gesta.recipes.pretrain import simmim

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md")), ROOT / "benchmarks" / "README.md"]


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def test_the_page_about_installation_names_all_extras_and_the_lowest_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = text_of("install.md")
    extras = set(project["optional-dependencies"]) - {"dev", "docs"}
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.M)) == extras == set(EXTRAS)
    torch = next(text for text in project["dependencies"] if text.startswith("torch>="))
    assert f"Python {project['requires-python'].removeprefix('>=')} or newer" in page
    assert f"torch {torch.removeprefix('torch>=')} or newer" in page


def runs_of(block: str) -> Iterator[str]:
    """The run folder of each training of a block, or what its default name is made of."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] not in (["gesta", "train"], ["gesta", "pretrain"]) or "--resume" in words:
            continue
        given = dict(pairwise(words))
        made_of = " ".join(given.get(flag, "") for flag in (words[1], "--model", "--data", "--labels", "--mode"))
        yield given.get("--run") or made_of


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_two_trainings_of_a_block_write_one_run_folder(page: Path) -> None:
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S):
        assert [run for run, count in Counter(runs_of(block)).items() if count > 1] == [], block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_paths_of_the_repository_exist(page: Path) -> None:
    paths = re.findall(r"`((?:benchmarks|docs|scripts|src|tests)/[\w./-]+)", page.read_text(encoding="utf-8"))
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("start", ["README.md", "docs/index.md"])
def test_guides_are_linked_where_readers_begin(start: str) -> None:
    home = ROOT / start
    links = {(home.parent / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", home.read_text("utf-8"))}
    pages = {*DOCS.glob("guides/*.md"), *DOCS.glob("*.md"), ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"}
    pages -= {DOCS / "index.md", DOCS / "design.md"}  # the latter is for those who work on gesta
    assert sorted(page.name for page in pages - links) == []


def verbs_of(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield path, parser
    for name, sub in groups[0].choices.items() if groups else ():
        yield from verbs_of(sub, f"{path} {name}".strip())


def test_the_page_about_training_names_the_verbs_that_choose_a_device() -> None:
    page = text_of("guides/training.md")
    (with_device,) = re.findall(r"run a\nmodel over videos or measure one take it: (.*?)\. `--precision`", page, re.S)
    (without_precision,) = re.findall(r"not on a CPU\); (.*?) do not take it", page, re.S)
    verbs = dict(verbs_of(make_parser()))
    flags = ("--device", "--precision")
    takes = {flag: {verb for verb, sub in verbs.items() if flag in sub._option_string_actions} for flag in flags}
    bench = {verb for verb in verbs if verb.startswith("bench ")}
    analyses = {verb for verb in verbs if verb.startswith("analyse ")}
    assert bench - takes["--device"] == {"bench scale", "bench export"}
    assert "`bench` (not `scale` and `export`)" in with_device
    named = set(re.findall(r"`(\w+)`", with_device)) - {"bench", "scale", "export"}
    assert {verb.removeprefix("analyse ") for verb in takes["--device"] - bench} == named
    named = set(re.findall(r"`([\w ]+)`", without_precision.replace("\n", " "))) | analyses
    assert (takes["--device"] | bench | analyses) - takes["--precision"] == named


def test_the_page_about_export_says_which_files_are_slower() -> None:
    page = text_of("export.md")
    rows = re.findall(r"^\| `(\w+)` \| (onnx|torch) \| [^|]* \| ([\d.]+) \|$", page, re.M)
    slower = {(model, kind) for model, kind, ratio in rows if float(ratio) < 1}
    assert "ONNX is slower with ATA and for `r3d_tiny`; `.pt2` files always are." in page
    expected = {(model, kind) for model, kind, _ in rows if kind == "torch" or model.startswith(("ata_", "r3d_"))}
    assert slower == expected


def test_the_tutorial_names_a_clip_of_its_set_and_all_formats() -> None:
    page = text_of("tutorial.md")
    names = set(re.findall(r"(A\d\d_\w+)\.mp4", page))
    assert names and names <= {str(clip) for clip in plan_clips(600)}
    parser = dict(verbs_of(make_parser()))["predict"]
    formats = parser._option_string_actions["--format"].choices
    (sentence,) = re.findall(r"^`--format` is (.*?)\. ", page, re.M | re.S)
    assert formats and set(re.findall(r"`([\w-]+)`", sentence)) == set(formats)


@pytest.mark.parametrize("page", ["../README.md", "guides/papers.md"])
def test_tables_of_the_thesis_have_the_numbers_that_pages_say(page: str) -> None:
    for address, number in (("mfst.table1", "2.1"), ("rpe_stdt.table1", "3.1"), ("ctn.table3", "4.3")):
        assert f"Table {number}" in find_table(address).source
        assert re.search(rf"`{address}`\s+(?:is Table )?{re.escape(number)}", text_of(page)), address


def test_the_page_about_pretraining_says_how_large_squares_are() -> None:
    sides = {name: simmim(name).model.square for name in ("mfst_tiny", "mvitv2_s")}  # type: ignore[attr-defined]
    assert sides == {"mfst_tiny": 16, "mvitv2_s": 32} and simmim("mfst_tiny").model.clip.size == 64
    assert "16 of `mfst_tiny`'s 64" in text_of("guides/pretraining.md")


def numbers_of_claims() -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Numbers of a paragraph that links to claims alone: the page, the claims by their anchors, and the number."""
    for page in [*sorted((DOCS / "guides").glob("*.md")), ROOT / "README.md"]:
        for paragraph in re.split(r"\n\s*\n", page.read_text(encoding="utf-8")):
            claims = tuple(re.findall(r"claims\.md#([\w-]+)", paragraph))
            if not claims or "real.md" in paragraph:
                continue
            for number in re.findall(r"(?<![\d.])\d+\.\d(?!\d)", paragraph):
                yield page.name, claims, number


def test_numbers_beside_a_link_to_a_claim_are_those_of_the_claim() -> None:
    parts = [part.partition("\n") for part in re.split(r"^## ", text_of("claims.md"), flags=re.M)[1:]]
    sections = {title.replace(".", "").strip(): body for title, _, body in parts}
    numbers = list(numbers_of_claims())
    assert "streams.md" in {page for page, *_ in numbers}
    for page, claims, number in numbers:
        found = [name for name in claims if re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", sections[name])]
        assert found, f"{page}: {number} is in none of {', '.join(claims)}"
