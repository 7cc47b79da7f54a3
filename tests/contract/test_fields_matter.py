"""Every field of every model and plug-in changes an output, a cost or a training step, or is refused as useless.

The tiny models run in the full suite, some plug-ins in the fast one; tests/test_fields.py has what is refused.
"""

from __future__ import annotations

import dataclasses
import typing
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

import pytest
import torch

from conftest import fast_first
from gesta.config import Between, copy, replace
from gesta.errors import GestaError
from gesta.layers.temporal import TemporalAttention
from gesta.model import ClipSpec, Insert, ModelConfig
from gesta.models import list_models, model_config
from gesta.plugins.ata import ATA
from gesta.plugins.smem import SMEM
from gesta.plugins.st_manet import SDA, TDA
from gesta.plugins.stan import STAN
from gesta.plugins.stdm import STDM

PLUGINS = (TemporalAttention(around=ATA()), TDA(), STDM(), SDA(), SMEM(), STAN(), TemporalAttention())

NOT_OF_THE_NETWORK = {
    "classes": "of the data",
    "multi_label": "of the data",
    "inserts": "plug-ins have their own test",
    "activation_checkpointing": "memory alone; tests/contract says that it changes nothing else",
    "image": "a name",
    "options": "of timm",
    "solver": "equal matches by another algorithm; tests/alignment compares them",
    "tie_break": "of equal matches, which noise does not have; tests/plugins/test_ata.py has them",
    "separable": "equal results by another algorithm; tests/plugins compares them",
}
"""Fields that change no number, and where it is said."""


def others(hint: Any, value: Any) -> Iterator[Any]:
    """Other values of a field, near the one that it has."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is bool:
        yield not value
    elif origin is typing.Literal:
        yield from (choice for choice in inner if choice != value)
    elif origin is Annotated and isinstance(inner[1], Between):
        nearby = [0] if value is None else [2 * value, value / 2, value + 1, value - 1, value + 0.25]
        if value is None or inner[0] is float:
            nearby += [0.5, 0.25]
        kinds = [inner[0](other) for other in (*nearby, 2, 1)]
        yield from (other for other in kinds if other in inner[1] and other != value)
    elif origin is tuple:
        each = inner[0]
        for i, item in enumerate(value or ()):
            hint_of_item = each if len(inner) > 1 and inner[1] is ... else inner[i]
            yield from ((*value[:i], other, *value[i + 1 :]) for other in others(hint_of_item, item))
        if len(inner) > 1 and inner[1] is ... and value:
            yield value[:-1]
        if not value:
            yield from (tuple(range(n)) for n in (1, 2))
    elif origin is not dict:
        for part in inner:
            if part is type(None):
                yield from [None] * (value is not None)
            else:
                yield from others(part, value)


def trained(config: ModelConfig) -> tuple[Any, ...]:
    """A network's numbers at first, and what it computes in training and in evaluation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = config.build()
        generator = torch.Generator().manual_seed(1)
        initial = {name: value.clone() for name, value in model.state_dict().items()}
        for parameter in model.parameters():  # what starts at zero is seen, too
            with torch.no_grad():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        clip = config.clip
        video = torch.randn(2, clip.channels, clip.frames, clip.size, clip.size, generator=generator)
        torch.manual_seed(2)
        scores, losses = model.train()(video, with_losses=True)
        with torch.no_grad():
            return initial, scores.detach(), {k: v.detach() for k, v in losses.items()}, model.eval()(video)


def differ(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return not (one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num()))
    if isinstance(one, dict):
        return one.keys() != other.keys() or any(differ(one[k], other[k]) for k in one)
    return any(map(differ, one, other))


@cache
def reference(name: str) -> Any:
    return trained(small(name))


def small(name: str) -> ModelConfig:
    config = model_config(name, classes=3)
    return replace(config, drop_path=0.1) if not config.drop_path else config


def is_silent(config: ModelConfig, original: Any) -> bool:
    """Whether a network is exactly the original one; one that is refused is not silent."""
    try:
        return not differ(trained(config), original)
    except (GestaError, RuntimeError, ValueError, AssertionError):
        return False


def silent_fields(owner: Any, build: Any, original: Any, skip: tuple[str, ...] = ()) -> list[str]:
    """Fields of a config object of which no other value changes anything, or one that is said to is not refused.

    Args:
        owner: the object.
        build: from it to the configuration of a whole model.
        original: what that computes.
        skip: fields that are left out.
    """
    known = typing.get_type_hints(type(owner), include_extras=True)
    silent = []
    for field in dataclasses.fields(owner):
        if field.name in NOT_OF_THE_NETWORK or field.name in skip:
            continue
        value = getattr(owner, field.name)
        if dataclasses.is_dataclass(value) or (isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value))):
            continue
        changed = [replace(owner, **{field.name: other}) for other in others(known[field.name], value)]
        if changed and all(is_silent(build(other), original) for other in changed[:3]):
            silent.append(f"{type(owner).__name__}.{field.name} ({value!r})")
    return silent


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in list_models("*_tiny") if "rgbd" not in name])
def test_every_field_of_a_model_matters_or_is_refused(name: str) -> None:
    config = small(name)
    assert not silent_fields(config, lambda changed: changed, reference(name), skip=("clip",))


@pytest.mark.parametrize(("plugin",), fast_first([(plugin,) for plugin in PLUGINS], 3))
def test_every_field_of_a_plug_in_matters_or_is_refused(plugin: Any) -> None:
    def inside(layer: Any) -> ModelConfig:
        clip = ClipSpec(frames=4, size=32)
        config = model_config("timesformer_tiny", classes=3, depth=1, width=32, heads=1, clip=clip)
        return replace(config, inserts=[Insert(layer=copy(layer), at=0)])

    original = trained(inside(plugin))
    assert not silent_fields(plugin, inside, original)
    if around := getattr(plugin, "around", None):
        assert not silent_fields(around, lambda other: inside(replace(plugin, around=other)), original)
