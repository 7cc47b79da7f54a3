"""Docstrings as Markdown: roles such as ``:func:`gesta.train` `` become links, and ``::`` before a block one colon."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|attr|mod|data|exc):`~?([^`]+)`")


class Roles(griffe.Extension):
    """The extension of griffe that mkdocs.yml names."""

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Change the text of one docstring, once everything is loaded."""
        if obj.docstring is not None:
            text = ROLE.sub(lambda role: _link(obj, role[1], loader), obj.docstring.value)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.M)


def _link(scope: griffe.Object, name: str, loader: griffe.GriffeLoader) -> str:
    """A link to what a name means in a docstring; only the name where no page of the reference shows that."""
    try:
        target = loader.modules_collection[scope.resolve(name)]
        target = target.final_target if target.is_alias else target
    except (griffe.GriffeError, KeyError):
        return f"`{name}`"
    parts = target.path.split(".")
    hidden = any(part.startswith("_") for part in parts) or parts[1:2] in (["cli"], ["claims"], ["__main__"])
    return f"`{name}`" if parts[0] != "gesta" or hidden or not target.has_docstring else f"[`{name}`][{target.path}]"
