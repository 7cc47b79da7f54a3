"""Public names, quick start-up, and the commands of the README."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import gesta
from gesta.cli import make_parser

ROOT = Path(__file__).parents[1]


def test_public_names_exist_and_are_listed() -> None:
    for name in gesta.__all__:
        assert getattr(gesta, name) is not None
    assert set(gesta.__all__) - set(dir(gesta)) == {"__version__"}
    with pytest.raises(AttributeError, match="attribute nothing"):
        gesta.nothing  # noqa: B018


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom gesta.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'torchvision', 'lightning', 'timm', 'numpy', 'av', 'rich', 'tyro'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "VERB" in done.stdout


def _commands() -> list[str]:
    found = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.S):
            found += [line.split("#")[0].strip() for line in block.splitlines() if line.startswith("gesta ")]
    return sorted(set(found))


@pytest.mark.parametrize("command", _commands())
def test_commands_in_the_docs_parse(command: str) -> None:
    """Verbs, positionals and options exist; field flags are checked against the recipe by the next test."""
    make_parser().parse_args(shlex.split(command)[1:])


def test_field_flags_in_the_docs_exist() -> None:
    from gesta.cli.options import with_fields
    from gesta.recipes.address import find_recipe

    checked = 0
    for command in _commands():
        options = make_parser().parse_args(shlex.split(command)[1:])
        if options.fields and command.startswith("gesta train") and options.recipe:
            with_fields(find_recipe(options.recipe, model=options.model, data=options.data), options)
            checked += 1
    assert checked


@pytest.mark.parametrize("script", ["demo", "test", "check", "venv"])
def test_scripts_are_short_and_parse(script: str) -> None:
    path = ROOT / "scripts" / script
    assert len(path.read_text().splitlines()) <= 25
    assert subprocess.run(["bash", "-n", str(path)]).returncode == 0
