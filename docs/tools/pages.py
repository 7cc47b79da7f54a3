"""The parts of the documentation that are made from the code: ``scripts/docs --write`` writes them again.

    docs/images/layers.svg    the packages and their layers, from import-linter's contract
    docs/models.md            its table of all models
    docs/reference/           a page for each public package, and the list of public names

No torch is needed. tests/docs/test_site.py fails when one of them is out of date.
"""

from __future__ import annotations

import ast
import functools
import json
import re
import statistics
import sys
import tomllib
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from gesta.claims import list_claims
from gesta.claims.outcomes import describe, digest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "gesta"
PACKAGES = sorted(
    path.parent.name for path in SOURCE.glob("*/__init__.py") if path.parent.name not in ("cli", "claims")
)
"""Packages with a page. ``cli`` and ``claims`` are used by the commands ``gesta`` and ``gesta claims``."""
MODULES = ["config", "cost", "errors", "files", "model", "processes", "progress", "recipe", "records"]
ABOUT_LAYERS = "A package may import those below it, never one above; packages in a row do not import each other."


@functools.cache
def tree(path: Path) -> ast.Module:
    """A file of the source, parsed once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def summary(text: str | None) -> str:
    """The first sentence of a docstring, as Markdown."""
    line = " ".join((text or "").split("\n\n")[0].split())
    line = re.split(r"(?<!e\.g)(?<=[^.][.!?]) (?=[A-Z`])", line)[0]
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", line).replace("``", "`").removesuffix(":").replace("|", "\\|")


# Packages and layers


def layers() -> list[list[str]]:
    """The layers of the contract in pyproject.toml, the top one first: names of packages and modules."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contract = next(c for c in tools["importlinter"]["contracts"] if c["type"] == "layers")
    return [[name.strip() for name in layer.split(":")] for layer in contract["layers"] if layer != "__main__"]


def layers_svg() -> str:
    """The picture of the packages: a row for each layer, packages filled and single modules outlined."""
    width, height, gap, left = 190, 26, 6, 12
    rows = layers()
    total = len(rows) * (height + gap) + 2 * left - gap
    style = (
        "rect{fill:#d7ecea;stroke:#00897b}.module{fill:none}text{font:13px system-ui,sans-serif;fill:#1d2b2a}"
        ".what{fill:#4d5f5d;font-size:12px}.ground{fill:#fff;stroke:none}"
        "@media(prefers-color-scheme:dark){rect{fill:#134e4a;stroke:#4db6ac}text{fill:#e6f2f1}.what{fill:#a9c3c0}"
        ".ground{fill:#1e2129}}"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 {total}" role="img" aria-labelledby="title">',
        f'<title id="title">The packages of gesta in layers. {ABOUT_LAYERS}</title>',
        f"<style>{style}</style>",
        f'<rect class="ground" width="1000" height="{total}" rx="6"/>',  # readable whatever the page's own colours are
    ]
    for row, names in enumerate(rows):
        y = left + row * (height + gap)
        for column, name in enumerate(names):
            x = left + column * (width + gap)
            kind = "" if (SOURCE / name).is_dir() else ' class="module"'
            parts.append(f'<rect{kind} x="{x}" y="{y}" width="{width}" height="{height}" rx="4"/>')
            parts.append(f'<text x="{x + 10}" y="{y + 18}">{name}</text>')
        x = left + len(names) * (width + gap) + 8
        words = "" if len(names) > 2 else summary(_docstring(names[0])).replace("`", "")
        if len(names) == 1 and words:
            parts.append(f'<text class="what" x="{x}" y="{y + 18}">{escape(words[:112])}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _docstring(name: str) -> str | None:
    """The docstring of a package or module of gesta."""
    path = SOURCE / name / "__init__.py" if (SOURCE / name).is_dir() else SOURCE / f"{name}.py"
    return ast.get_docstring(tree(path))


# The table of models


def model_table() -> str:
    """All named models: size, cost, weights with their licence, published and measured accuracy."""
    from gesta.models import card, list_models  # here: the other pages need nothing of gesta

    lines = [
        "| model | parameters | GMACs | clip | weights, licence | published top-1 | measured here |",
        "|---|---:|---:|---|---|---|---|",
    ]
    measured = measured_here()
    for name in sorted(list_models()):
        entry, cells = card(name), ["–", "–"]
        if entry.published:
            published = entry.published
            cells[0] = f"{published.source}: {published.licence or 'not known'}"
            if published.accuracy:
                best = {accuracy.data: accuracy for accuracy in sorted(published.accuracy, key=lambda a: a.top1)}
                cells[1] = ", ".join(f"{data} {accuracy.top1:.1f}" for data, accuracy in sorted(best.items()))
        elif entry.backbone:
            cells[0] = f"those of `{entry.backbone}`"
        clip = entry.clip.replace(" frames", "").replace(" ", "\N{NO-BREAK SPACE}")
        size = [f"{entry.params / 1e6:.2f} M", f"{entry.macs / 1e9:.2f}", clip]
        lines.append("| " + " | ".join([f"`{name}`", *size, *cells, measured.get(name, "–")]) + " |")
    return "\n".join(lines) + "\n"


def measured_here() -> dict[str, str]:
    """Model → accuracies from scratch that are committed: the table of docs/real.md, and docs/claims.json."""
    found: dict[str, str] = {}
    for model, cells in re.findall(r"^\| `(\w+)` \|(.+)\|$", (DOCS / "real.md").read_text(encoding="utf-8"), re.M):
        found.setdefault(model, f"[EgoGestAR](real.md#from-scratch) {cells.split('|')[3].strip()}")
    fields = json.loads((SOURCE / "cli" / "fields.json").read_text(encoding="utf-8"))
    claims = json.loads((DOCS / "claims.json").read_text(encoding="utf-8"))
    for key, experiment in claims["experiments"].items():
        if (recipe := experiment.get("recipe")) is None:
            continue  # fused scores, which are of several trainings
        if recipe["data"]["class"] != "Marionette" and recipe["data"].get("fraction") != 1.0:
            continue
        top1 = [
            run["metrics"]["top1"] for run in claims["runs"] if run["experiment"] == key and "top1" in run["metrics"]
        ]
        names = [name for name, default in fields.items() if _same_network(recipe["model"], default)]
        if recipe["init"]["weights"] or not top1 or len(names) != 1:
            continue
        spread = f" ± {statistics.stdev(top1):.1f}" if len(top1) > 1 else ""
        seeds = f"{len(top1)} seeds" if len(top1) > 1 else "1 seed"
        of_claims = ((name, {digest(describe(arm)) for arm in claim.arms}) for name, claim in list_claims().items())
        anchor = next(name for name, arms in of_claims if digest(experiment) in arms).replace(".", "")
        words = f"[Marionette](claims.md#{anchor}), clips of {recipe['model']['clip']['size']} px, "
        words += f"{statistics.mean(top1):.1f}{spread} ({seeds})"
        found[names[0]] = f"{found[names[0]]}, {words}" if names[0] in found else words
    return found


def _same_network(model: dict[str, Any], default: dict[str, Any]) -> bool:
    """Whether two configurations differ in nothing but their classes, clip and regularisation."""
    changing = {"classes", "clip", "dropout", "drop_path", "activation_checkpointing"}
    return {k: v for k, v in model.items() if k not in changing} == {
        k: v for k, v in default.items() if k not in changing
    }


# The API reference


def public_names() -> dict[str, list[tuple[str, str]]]:
    """Module with a stub → its public names and the places where they are defined."""
    recipes = dict(_imports(SOURCE / "recipes" / "__init__.pyi", "gesta.recipes"))
    names = dict(_imports(SOURCE / "__init__.pyi", "gesta"))
    at_home = {f"gesta.recipes.{name}": path for name, path in recipes.items()}
    names = {name: at_home.get(path, path) for name, path in names.items()}
    return {"gesta": sorted(names.items()), "gesta.recipes": sorted(recipes.items())}


def _imports(stub: Path, module: str) -> Iterator[tuple[str, str]]:
    for node in tree(stub).body:
        if isinstance(node, ast.ImportFrom):
            base = f"{module}.{node.module}" if node.level and node.module else node.module or module
            for alias in node.names:
                yield alias.asname or alias.name, f"{base}.{alias.name}"


def definition(path: str) -> ast.FunctionDef | ast.ClassDef | ast.Module:
    """Where a public name is defined: the function, class or module of a dotted path."""
    words = path.split(".")[1:]
    for folder in (SOURCE.joinpath(*words, "__init__.py"), SOURCE.joinpath(*words).with_suffix(".py")):
        if folder.is_file():
            return tree(folder)
    module = definition(".".join(["gesta", *words[:-1]]))
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == words[-1]:
            return node
    raise LookupError(f"{path} is in no file below {SOURCE}")


def page_of(path: str) -> str:
    """The reference page of what a dotted path means."""
    return ".".join(path.split(".")[:2]) + ".md"


def reference_pages() -> dict[str, str]:
    """File name → text of the pages in docs/reference."""
    index = [
        "# API\n",
        "Public names are attributes of `gesta` and `gesta.recipes`; [gesta in Python](../python.md) shows their use.",
        "Below them, each package has a page. What begins with an underscore may change at any time.\n",
    ]
    for module, names in public_names().items():
        index += [f"## {module}\n", "| name | what it is |", "|---|---|"]
        for name, path in names:
            target = page_of(path) if path in ("gesta.recipes", "gesta.datasets") else f"{page_of(path)}#{path}"
            words = summary(ast.get_docstring(definition(path)))
            index.append(f"| [`{module}.{name}`]({target}) | {words} |")
        index.append("")
    index += ["## Packages\n", "| package or module | what it holds |", "|---|---|"]
    index += [f"| [`gesta.{n}`](gesta.{n}.md) | {summary(_docstring(n))} |" for n in [*PACKAGES, *MODULES]]
    pages = {f"gesta.{name}.md": f"# gesta.{name}\n\n::: gesta.{name}\n" for name in [*PACKAGES, *MODULES]}
    return {"index.md": "\n".join(index) + "\n", **pages}


# All of it


def pages() -> dict[Path, str]:
    """File → the text that it should have."""
    models = (DOCS / "models.md").read_text(encoding="utf-8")
    start, end = "<!-- scripts/docs writes this table -->\n", "<!-- its end -->"
    before, after = models.split(start)[0], models.split(end)[1]
    return {
        DOCS / "images" / "layers.svg": layers_svg(),
        DOCS / "models.md": f"{before}{start}\n{model_table()}\n{end}{after}",
        **{DOCS / "reference" / name: text for name, text in reference_pages().items()},
    }


def write() -> None:
    """Write what is out of date, and name it."""
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    write()
