"""Configuration goes to JSON and comes back equal, and a file cannot make gesta load strange classes."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pytest
import torch

import gesta
from gesta.config import (
    JSON_DEPTH,
    Between,
    as_now,
    class_tag,
    config,
    copy,
    definitions,
    from_json,
    parse_json,
    read_json,
    read_text,
    replace,
    suggest,
    to_json,
)
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
    assert as_now(old) == to_json(TrainConfig())  # fields that an older version had not have their default values
    assert as_now({**old, "lr": 0.5}) == to_json(replace(TrainConfig(), lr=0.5))
    assert as_now({"class": "GoneConfig", "a": 1}) == {"class": "GoneConfig", "a": 1}
    assert as_now(to_json(Outside())) == to_json(Outside())


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
        (
            {"class": "ClipSpec", "frames": torch.zeros(2)},
            "of the class Tensor, not a whole number",
        ),  # a training state
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


# --- files of others -------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Report:
    """What a JSON file holds that has no class names in it."""

    name: Annotated[str, Between(1, 8)]
    scores: dict[str, list[list[float] | None]]
    percent: Annotated[float, Between(0, 100)] = 0.0
    free: Any = None


class Failure(TypedDict):
    index: int
    reason: str


@pytest.mark.parametrize(
    ("value", "kind", "sentence"),
    [
        ({"class": "ClipSpec", "frames": "3"}, object, 'frames is "3", not a whole number'),
        ({"class": "ClipSpec", "frames": True}, object, "frames is true, not a whole number"),
        ({"class": "ClipSpec", "frames": 3.0}, object, r"frames is 3\.0, not a whole number"),
        ({"class": "ClipSpec", "mean": [1, 2]}, object, "mean has 2 entries, not 3"),
        ({"class": "ClipSpec", "mean": [1, 2, "x"]}, object, r'mean\[2\] is "x", not a number'),
        ({"class": "ClipSpec", "sampling": "odd"}, object, 'sampling is "odd", not "dense" or "uniform"'),
        ({"class": ["ClipSpec"]}, object, "a list of 1 entries, which is no name of a class"),
        ({"class": "ModelConfig", "classes": {"verb": None}}, object, "verb is null, not a whole number"),
        ({"class": "ModelConfig", "classes": [3]}, object, "classes is a list of 1 entries, not a whole number or an"),
        (
            {"class": "ModelConfig", "inserts": [{"class": "ClipSpec"}]},
            object,
            r"s\[0\] is of the class ClipSpec, not Ins",
        ),
        ({"class": "ModelConfig", "clip": {"frames": 3}}, object, 'clip names no "class"'),
        ({"class": "STAN"}, ClipSpec, "is of the class STAN, not ClipSpec"),
        ([], ClipSpec, "its content is a list of 0 entries, not an object"),
        ({"name": "x", "scores": {"label": [[1, 2], "x"]}}, Report, r'scores\.label\[1\] is "x", not a list or null'),
        ({"name": "x", "scores": {"label": [[1, None]]}}, Report, r"label\[0\]\[1\] is null, not a number"),
        ({"name": "x", "scores": {}, "percent": 101}, Report, "percent is 101, not from 0 to 100"),
        ({"name": "", "scores": {}}, Report, "name has the length 0, not from 1 to 8"),
        ({"name": "x", "scores": {}, "scored": 1}, Report, "Report has no field \"scored\"; did you mean 'scores'"),
        ({"name": "x"}, Report, "Report lacks scores; ask for another"),
        ([{"index": 1}], list[Failure], r"\[0\]\.Failure lacks reason"),
        ({"a b": 1}, dict[str, str], r'\["a b"\] is 1, not text'),
    ],
)
def test_json_of_a_wrong_type_is_named(value: Any, kind: Any, sentence: str) -> None:
    with pytest.raises(GestaError, match=sentence):
        from_json(value, kind, source="given.json", remedy="ask for another")


def test_json_becomes_what_its_type_says() -> None:
    value = {"name": "x", "scores": {"label": [[1, 2.5], None]}, "free": {"class": "os:system"}}
    assert from_json(value, Report) == Report(name="x", scores={"label": [[1, 2.5], None]}, free=value["free"])
    assert from_json([{"index": 1, "reason": "x"}], list[Failure]) == [{"index": 1, "reason": "x"}]
    assert from_json([[1, "x"]], list[tuple[int, str]]) == [(1, "x")] and from_json("y", Literal["x", "y"]) == "y"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1e999]", "too large"),
        ('{"a": -1e999}', "too large"),
        ("[NaN]", "NaN is not a number"),
        ("[-Infinity]", "not a number"),
        ("[1" + "0" * 5000 + "]", "too large"),
        ("[" * (JSON_DEPTH + 1) + "]" * (JSON_DEPTH + 1), "64 levels"),
        ('{"a": ' * 200_000, "64 levels"),
        ('{"a": 1, "b": 2, "a": 3}', 'the key "a" occurs twice'),
        (r'["c\u0000.mp4"]', "NUL"),
        (r'{"label": "\ud83d"}', "half of a surrogate pair"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
    ],
    ids=range(12),
)
def test_json_that_no_one_should_read(text: str, sentence: str) -> None:
    with pytest.raises(GestaError, match=rf"given\.json: .*{sentence}.*; ask for another"):
        parse_json(text, "given.json", "ask for another")


def test_json_at_the_limits_is_read() -> None:
    assert parse_json("[" * JSON_DEPTH + "]" * JSON_DEPTH, "x") and parse_json(
        '{"a": [1e308, 999999999999999999]}', "x"
    )
    assert parse_json(r'["\ud83d\ude00", "\udce9"]', "x") == ["\U0001f600", "\udce9"]  # the latter is a byte of a name


def test_only_small_regular_files_are_read_as_text(tmp_path: Path) -> None:
    """None of these may take longer than a moment: a pipe waits for its writer, and /dev/zero never ends."""
    os.mkfifo(tmp_path / "pipe")
    for path, sentence in (
        (tmp_path / "pipe", "a pipe or a device"),
        ("/dev/zero", "a pipe or a device"),
        (tmp_path, "is a folder"),
        (tmp_path / "absent", "No such file"),
        (tmp_path / ("n" * 300), "name too long"),
        ("nul\0", "is no path"),
    ):
        with pytest.raises(GestaError, match=f"{sentence}.*; check the path"):
            read_text(path)
    (tmp_path / "list.txt").write_bytes(b"a.mp4 0\nb\0.mp4 1\n")
    with pytest.raises(GestaError, match=r"list\.txt: is not text, since it holds a NUL"):
        read_text(tmp_path / "list.txt")
    (tmp_path / "large.json").write_bytes(b"[1, 2, 3]")
    with pytest.raises(GestaError, match="MiB, the limit"):
        read_json(tmp_path / "large.json", limit=8)
    assert read_json(tmp_path / "large.json", list[int], limit=9) == [1, 2, 3]


def test_a_configuration_that_json_cannot_hold_is_refused_before_it_is_written() -> None:
    with pytest.raises(GestaError, match="is inf, which JSON cannot hold"):
        to_json(TrainConfig(clip_grad=float("inf")))
