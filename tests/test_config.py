"""Configuration goes to JSON and comes back equal, and a file cannot make gesta load strange classes."""

from __future__ import annotations

import dataclasses
import json

import pytest

from gesta.config import config, copy, from_json, replace, suggest, to_json
from gesta.errors import GestaError
from gesta.model import ClipSpec, Insert
from gesta.models import model_config
from gesta.plugins.stan import STAN


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


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"class": "gesta.model:NoSuch"}, "does not have"),
        ({"class": "gesta.nothing:ClipSpec"}, "does not have"),
        ({"class": "gesta.model:VideoModel"}, "not a configuration class"),
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
