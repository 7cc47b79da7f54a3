"""Configuration goes to JSON and comes back equal, and a file cannot make gesta load strange classes."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gesta
from gesta.config import class_tag, config, copy, definitions, from_json, replace, suggest, to_json, with_tags
from gesta.errors import GestaError
from gesta.model import ClipSpec, Insert
from gesta.models import model_config
from gesta.plugins.stan import STAN
from gesta.recipe import TrainConfig


@config
class Outside:
    """A class that is not gesta's."""

    size: tuple[int, int] = (1, 2)


def test_json_round_trip_keeps_tuples_dicts_and_nested_configs() -> None:
    model = model_config("stan_mvitv2_s", classes={"verb": 97, "noun": 300})
    model.inserts.append(Insert(layer=STAN(kernels=(3, 3), channels=(8, 4)), at=0))
    again = from_json(json.loads(json.dumps(to_json(model))))
    assert again == model
    assert isinstance(again.inserts[1].layer.kernels, tuple)
    assert isinstance(again.clip.mean, tuple)


def test_classes_outside_gesta_need_trust() -> None:
    written = to_json(Outside(size=(3, 4)))
    with pytest.raises(GestaError, match="not part of gesta"):
        from_json(written)
    assert from_json(written, trust_code=True) == Outside(size=(3, 4))


def test_a_saved_file_names_classes_by_tag() -> None:
    written = to_json(model_config("stan_mvitv2_s"))
    assert written["class"] == "MViTConfig" and written["inserts"][0]["layer"]["class"] == "STAN"
    assert to_json(Outside())["class"] == f"{__name__}:Outside"


def test_every_config_class_has_a_tag_of_its_own() -> None:
    for module in pkgutil.walk_packages(gesta.__path__, "gesta."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    written = re.compile(r"^@config\b.*\nclass (\w+)", re.MULTILINE)
    sources = [path.read_text() for path in Path(gesta.__path__[0]).rglob("*.py")]
    names = [name for source in sources for name in written.findall(source)]
    assert len(names) == len(set(names)) == len(definitions()) > 40
    for name in names:
        module_ = importlib.import_module(definitions()[name])
        assert class_tag(getattr(module_, name)) == name and getattr(module_, name).__module__ == module_.__name__


def test_two_classes_of_one_name_are_refused() -> None:
    with pytest.raises(TypeError, match="both have a config class ClipSpec: rename one"):
        config(type("ClipSpec", (), {"__module__": "gesta.elsewhere"}))


def test_moving_a_class_breaks_no_file() -> None:
    """Files of 0.1.0 say where a class lived; ours do not."""
    clip = to_json(ClipSpec(frames=4))
    for tag in ("ClipSpec", "gesta.model:ClipSpec", "gesta.data.video:ClipSpec", "gesta:ClipSpec"):
        assert from_json(clip | {"class": tag}) == ClipSpec(frames=4)
    old = {"class": "gesta.train:TrainConfig", "augment": {"class": "gesta.train:Augment"}}
    assert from_json(old) == TrainConfig()
    assert with_tags(old) == {"class": "TrainConfig", "augment": {"class": "Augment"}}
    assert with_tags(to_json(Outside())) == to_json(Outside())


def test_a_class_that_is_not_imported_yet_is_found_and_little_else_imported() -> None:
    code = """
import sys
from gesta.config import from_json
assert type(from_json({"class": "Folder", "root": "videos"})).__name__ == "Folder"
assert "gesta.data.lists" in sys.modules
assert "gesta.models.mvit" not in sys.modules
try:
    from_json({"class": "os:system"})
except Exception as error:
    assert "not part of gesta" in str(error)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"class": "gesta.model:NoSuch"}, "does not have"),
        ({"class": "gesta.model:VideoModel"}, "does not have"),
        ({"class": "NoSuch"}, "does not have"),
        ({"class": "../../NoSuch"}, "does not have"),
        ({"class": "gesta.model:ClipSpec", "frame": 3}, "did you mean 'frames'"),
    ],
)
def test_what_cannot_be_read_is_said(changed: dict[str, object], sentence: str) -> None:
    with pytest.raises(GestaError, match=sentence):
        from_json(changed, source="recipe.json")


def test_missing_fields_are_said() -> None:
    with pytest.raises(GestaError, match="Insert"):
        from_json({"class": "gesta.model:Insert"})


def test_copy_is_deep_and_replace_refuses_unknown_fields() -> None:
    model = model_config("stan_mvitv2_s")
    other = copy(model)
    other.inserts[0].at = 1
    other.clip.frames = 99
    assert model.inserts[0].at == 3 and model.clip.frames == 16
    assert replace(ClipSpec(), frames=4).frames == 4
    with pytest.raises(GestaError, match="did you mean 'frames'"):
        replace(ClipSpec(), frame=4)


def test_configs_have_no_undeclared_attributes() -> None:
    assert dataclasses.is_dataclass(ClipSpec)
    with pytest.raises(AttributeError):
        ClipSpec().fames = 3  # type: ignore[attr-defined]


def test_only_plain_values_are_written() -> None:
    with pytest.raises(TypeError, match="object"):
        to_json(ClipSpec(frames=object()))  # type: ignore[arg-type]


def test_suggest() -> None:
    assert suggest("fraems", ["frames", "stride"]) == "; did you mean 'frames'?"
    assert suggest("zzz", ["frames"]) == ""
