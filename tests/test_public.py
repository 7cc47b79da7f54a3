"""Public names, quick start-up, and the commands of the README."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import gesta
from gesta.cli import make_parser
from gesta.cli.models import compute_fields, stored_fields

ROOT = Path(__file__).parents[1]


def test_public_names_exist_and_are_listed() -> None:
    for name in gesta.__all__:
        assert getattr(gesta, name) is not None
    assert set(gesta.__all__) - set(dir(gesta)) == {"__version__"}
    with pytest.raises(AttributeError, match="attribute nothing"):
        gesta.nothing  # noqa: B018


@pytest.mark.parametrize(
    "command", ["--help", "train --help", "models", "show demo", "show mvitv2_s", "cost mvitv2_s --views 3"]
)
def test_start_up_needs_no_torch(command: str) -> None:
    """What is known beforehand is printed at once: importing torch takes seconds."""
    code = (
        "import sys\nfrom gesta.cli import main\n"
        f"try:\n    main({command.split()})\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'torchvision', 'lightning', 'timm', 'numpy', 'av', 'tyro'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_known_fields_are_those_of_the_recipes_and_models() -> None:
    """If this fails after a change of a recipe, a model or a default, run ``scripts/precompute``."""
    assert stored_fields() == json.loads(json.dumps(compute_fields()))


def test_data_sets_by_function_and_by_name() -> None:
    assert gesta.datasets.folder(ROOT, val=0.5) == gesta.Folder(root=str(ROOT), val=0.5)
    assert "ucf101" in gesta.list_datasets("ucf*") and len(gesta.list_datasets()) > 10
    with pytest.raises(gesta.GestaError, match="did you mean 'ucf101'"):
        gesta.data_config("ufc101")


def _pages() -> list[Path]:
    return [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _commands() -> list[str]:
    found = []
    for page in _pages():
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.S):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.split("#")[0].strip() for line in lines if line.startswith("gesta ")]
    return sorted({re.sub(r"\$[A-Z_]+", "1", command) for command in found})  # a shell's variables: numbers of jobs


@pytest.mark.parametrize("command", _commands())
def test_commands_in_the_docs_parse(command: str) -> None:
    """Commands, positionals and options exist; field flags are checked against the recipe by the next test."""
    make_parser().parse_args(shlex.split(command)[1:])


def test_verbs_in_the_text_of_the_docs_exist() -> None:
    """Of commands in a sentence, which are often without arguments, the verb (``gesta data check``)."""

    def verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
        groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        return groups[0].choices if groups else {}

    known, wrong = verbs(make_parser()), []
    for page in _pages():
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
        for verb, what in re.findall(r"`gesta ([a-z]+)(?: ([a-z][a-z-]*))?", text):
            if verb not in known or (what and verbs(known[verb]) and what not in verbs(known[verb])):
                wrong.append(f"{page.name}: gesta {verb} {what}")
    assert not wrong


def test_field_flags_in_the_docs_exist() -> None:
    from gesta.cli.options import named_recipe

    checked = 0
    for command in _commands():
        options = make_parser().parse_args(shlex.split(command)[1:])
        if options.fields and command.startswith(("gesta train", "gesta sweep")) and options.recipe:
            named_recipe(options.recipe, options)
            checked += 1
    assert checked


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").iterdir()))
def test_scripts_are_short_and_parse(script: str) -> None:
    path = ROOT / "scripts" / script
    assert len(path.read_text().splitlines()) <= 25
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
