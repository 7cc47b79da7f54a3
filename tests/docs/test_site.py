"""The documentation site: every page is in its navigation, links hold, and what is made from the code is up to date.

The strict build with mkdocs, and the notebooks, are in the full suite: they take minutes.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import gesta

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "gesta"
OUTSIDE = {"benchmarks.md": "benchmarks/README.md", "changelog.md": "CHANGELOG.md"}
OUTSIDE |= {"contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md"}
PAGES = [*sorted(DOCS.rglob("*.md")), *(ROOT / path for path in OUTSIDE.values()), ROOT / "README.md"]
NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """The script that makes pages from the code."""
    spec = importlib.util.spec_from_file_location("pages", DOCS / "tools" / "pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Settings(yaml.SafeLoader):
    """Reads mkdocs.yml without running what its tags name."""


_Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def _entries(nav: Any) -> Iterator[str]:
    for entry in nav.values() if isinstance(nav, dict) else nav:
        if isinstance(entry, str):
            yield entry
        else:
            yield from _entries(entry)


def test_every_page_is_in_the_navigation() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Settings)
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in NOTEBOOKS}
    listed = list(_entries(settings["nav"]))
    assert sorted(listed) == sorted(pages | notebooks | OUTSIDE.keys())


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.M)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target}: there is no such file"
        if anchor and there.suffix == ".md" and not anchor.startswith("gesta."):  # those are of the reference
            assert anchor in _anchors(there), f"{target}: there is no such heading"


def test_what_is_made_from_the_code_is_up_to_date(maker: ModuleType) -> None:
    """If this fails after a change of names, models, layers or results: ``scripts/docs --write``."""
    for path, text in maker.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path}: run scripts/docs --write"
    assert {path.name for path in DOCS.glob("reference/*.md")} == set(maker.reference_pages())


def test_every_public_name_has_a_docstring_and_is_in_the_reference(maker: ModuleType) -> None:
    index = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    assert {name for name, _ in maker.public_names()["gesta"]} == set(gesta.__all__) - {"__version__"}
    for module, names in maker.public_names().items():
        for name, path in names:
            assert ast.get_docstring(maker.definition(path)), path
            assert f"`{module}.{name}`" in index


def _says_what_it_is(method: ast.FunctionDef, node: ast.ClassDef, classes: dict[str, list[ast.ClassDef]]) -> bool:
    """Whether a method has a docstring, or overrides one that has, or one of a class of another library."""
    if ast.get_docstring(method) or any(getattr(mark, "id", "") == "overload" for mark in method.decorator_list):
        return True
    for base in node.bases:
        name = base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
        if name not in classes and name not in ("Protocol", "TypedDict", ""):
            return True
        for parent in classes.get(name, []):  # classes of several files may have one name
            same = [each for each in parent.body if isinstance(each, ast.FunctionDef) and each.name == method.name]
            if any(_says_what_it_is(each, parent, classes) for each in same or [method]):
                return True
    return False


def test_nothing_public_in_the_packages_is_without_a_docstring(maker: ModuleType) -> None:
    classes: dict[str, list[ast.ClassDef]] = {}
    for node in itertools.chain.from_iterable(maker.tree(path).body for path in SOURCE.rglob("*.py")):
        if isinstance(node, ast.ClassDef):
            classes.setdefault(node.name, []).append(node)
    silent = []
    for name in [*maker.PACKAGES, *maker.MODULES]:
        for path in [SOURCE / f"{name}.py"] if name in maker.MODULES else sorted((SOURCE / name).rglob("*.py")):
            for node in maker.tree(path).body:
                if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                    continue
                if not ast.get_docstring(node):
                    silent.append(f"{path.name}:{node.lineno} {node.name}")
                methods = [m for m in getattr(node, "body", []) if isinstance(m, ast.FunctionDef)]
                for method in methods if isinstance(node, ast.ClassDef) else []:
                    # these two say which fields are refused; gesta.config.check describes them
                    hidden = method.name.startswith("_") or method.name in ("contradictions", "unused")
                    if not hidden and not _says_what_it_is(method, node, classes):
                        silent.append(f"{path.name}:{method.lineno} {node.name}.{method.name}")
    assert not silent


def _filled_in(parts: list[str], text: str) -> bool:
    """Whether a text holds these parts in their order."""
    at = 0
    for part in parts:
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


def test_sentences_of_the_troubleshooting_page_are_those_of_the_code(maker: ModuleType) -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    sentences = re.findall(r"^\| `([^`]*)` \|", page, re.M)
    written = []  # all text in the source, with … for what is filled in
    for node in itertools.chain.from_iterable(ast.walk(maker.tree(path)) for path in SOURCE.rglob("*.py")):
        if isinstance(node, ast.JoinedStr):
            written.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            written.append(node.value)
    for sentence in sentences:
        assert any(_filled_in(sentence.split("…"), text) for text in written), sentence
    assert len(sentences) > 35


def test_the_gallery_has_every_analysis() -> None:
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    names = re.findall(r'analyse\.add\("([\w-]+)"', (SOURCE / "cli" / "analyse.py").read_text(encoding="utf-8"))
    assert names and [name for name in names if f"\ngesta analyse {name} " not in page.replace("\n```", " \n```")] == []
    assert sum(path.stat().st_size for path in DOCS.glob("images/gallery/*")) < 1.5e6
    assert not [path.name for path in DOCS.glob("images/gallery/*") if f"images/gallery/{path.name}" not in page]


def test_citation_names_this_version_and_licence() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"] == gesta.__version__
    assert citation["license"] == project["license"] and citation["title"].startswith(project["name"])
    assert {"cff-version", "message", "authors", "title"} <= citation.keys()  # what the format 1.2.0 requires


@pytest.mark.full  # minutes; test_links_lead_somewhere and the tests beside it look at the same pages
@pytest.mark.timeout(1200)
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = re.compile(
        r"""<(?:script|img|iframe|link rel="?(?:stylesheet|preconnect))[^>]*(?:src|href)="?(?:https?:)?//"""
    )
    for page in tmp_path.rglob("*.html"):
        assert not loaded.search(page.read_text(encoding="utf-8")), page


@pytest.mark.full  # trainings; test_blocks_of_the_page_run_in_order calls the same functions
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_and_hold_no_outputs(notebook: Path, tmp_path: Path) -> None:
    assert '"outputs": []' in notebook.read_text() and '"output_type"' not in notebook.read_text()
    pytest.importorskip("nbmake", reason="the extra dev is not installed")
    shutil.copy(notebook, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbmake", "--nbmake-timeout=600"]
    done = subprocess.run([*command, notebook.name], cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
