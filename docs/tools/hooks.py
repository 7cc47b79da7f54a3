"""What mkdocs does besides: pages that lie outside of docs/, notebooks as pages, and links between all of them."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE = {
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Files of the repository that are pages, and the pages' names."""

LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")
log = logging.getLogger("mkdocs.hooks.gesta")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/, and a page for each notebook."""
    for path, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text(encoding="utf-8")))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        text = notebook_page(json.loads(notebook.read_text(encoding="utf-8")), notebook.name)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
    return files


def notebook_page(notebook: dict[str, Any], name: str) -> str:
    """A notebook without outputs as Markdown: text as it is, code in blocks; behind the title a link to the file."""
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title, _, text = parts[0].partition("\n")
    return "\n\n".join([title, f"[Download this notebook]({name}); a test runs it.", text, *parts[1:]]) + "\n"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between files of the repository become links between pages; those to other files become their text."""
    homes = {page: path for path, page in OUTSIDE.items()}
    uri = page.file.src_uri
    home = PurePosixPath(homes.get(uri, f"docs/{uri}")).parent

    def relink(match: re.Match[str]) -> str:
        text, target = match.groups()
        path, mark, anchor = target.partition("#")
        if not path or "://" in target or target.startswith("mailto:"):
            return match[0]
        there = os.path.normpath(home / path)
        if there in OUTSIDE:
            there = f"docs/{OUTSIDE[there]}"
        elif not there.startswith("docs/"):
            if not (ROOT / there).exists():
                log.warning("%s: there is no file %s", uri, there)
            return f"`{there}`" if text.strip("[]`") == there else text.lstrip("[").rstrip("]")
        return f"{text}({os.path.relpath(there, PurePosixPath('docs', uri).parent)}{mark}{anchor})"

    return LINK.sub(relink, markdown)
