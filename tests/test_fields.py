"""Every field of every configuration: its range, what contradicts it, and what is derived from others at the start."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import itertools
import json
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from gesta.checkpoint.exported import Exported
from gesta.cli.options import CommandParser, with_fields
from gesta.config import Between, check, class_tag, definitions, replace, to_json
from gesta.data.parts import Part
from gesta.errors import GestaError, naming_flags
from gesta.model import ClipSpec, Insert, ModelConfig
from gesta.models import create_model, model_config
from gesta.models.mfst import STAGES
from gesta.models.timesformer import TimeSformerConfig
from gesta.plugins.ata import ATA
from gesta.plugins.stan import STAN
from gesta.prediction.timeline import TimelineConfig
from gesta.recipe import Augment, EvaluateConfig, EvaluateJob, Init, Recipe, TrainConfig
from gesta.recipes.own_videos import finetune
from gesta.recipes.synthetic import demo
from gesta.training.folder import derive_rates
from gesta.training.loop import train
from gesta.training.optim import learning_rate

CLASSES = [getattr(importlib.import_module(module), name) for name, module in definitions().items()]


def example(cls: type) -> Any:
    """An object of a config class, all fields as they are by default."""
    if cls is Insert:
        return Insert(layer=STAN(), at=0)
    if cls is Recipe:
        return demo()
    if cls is EvaluateJob:
        return EvaluateJob(data=demo().data, evaluate=EvaluateConfig())
    if cls is Exported:
        return Exported(kind="onnx")
    if issubclass(cls, Part):
        return cls(of=demo().data)
    return STAGES[0] if cls is type(STAGES[0]) else cls()


def leaves(hint: Any) -> Iterator[tuple[type, Between | None]]:
    """The numbers in a type, with their ranges."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated and inner[0] in (int, float):
        yield inner[0], next((limit for limit in inner[1:] if isinstance(limit, Between)), None)
    elif hint in (int, float):
        yield hint, None
    elif typing.is_typeddict(hint):
        for part in typing.get_type_hints(hint, include_extras=True).values():
            yield from leaves(part)
    elif typing.get_origin(hint) is not typing.Literal:
        for part in inner:
            yield from leaves(part)


def bad(hint: Any) -> Iterator[Any]:
    """Values of about the right form for a type, each with one number that is not allowed in it."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated and isinstance(inner[1], Between) and inner[0] in (int, float):
        kind, limits = inner[:2]
        step = 1 if kind is int else 1e-3
        yield limits.low if limits.open in ("low", "both") else limits.low - step
        if limits.high < math.inf:
            yield limits.high if limits.open in ("high", "both") else limits.high + step
        yield from (math.nan, math.inf, -math.inf, True, "x")
        if kind is float:
            yield -0.0
    elif origin is tuple and dataclasses.is_dataclass(inner[0]):
        return
    elif origin is tuple:
        rest = [next(good(part)) for part in inner[1:] if part is not ...]
        yield from ((value, *rest) for value in bad(inner[0]))
        yield from ((next(good(inner[0])), value) for part in inner[1:2] if part is not ... for value in bad(part))
    elif origin is dict:
        yield from ({"inserts.": value} for value in bad(inner[1]))
    elif origin is not typing.Literal and hint not in (int, float):
        yield from (value for part in inner for value in bad(part))


def good(hint: Any) -> Iterator[Any]:
    """Values that are allowed."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        low, high = inner[1].low, min(inner[1].high, inner[1].low + 1)
        yield inner[0]((low + high) / 2) if inner[0] is float else low
    elif origin is typing.Literal:
        yield inner[0]
    elif origin is tuple:
        yield tuple(next(good(part)) for part in inner if part is not ...)


def hints(cls: Any) -> dict[str, Any]:
    known = typing.get_type_hints(cls, include_extras=True)
    return {f.name: known[f.name] for f in dataclasses.fields(cls)}


def test_every_number_has_its_range() -> None:
    without = [
        f"{cls.__name__}.{name}"
        for cls in CLASSES
        for name, hint in hints(cls).items()
        if any(limits is None for _, limits in leaves(hint))
    ]
    assert not without, f"give these a range, as Annotated[int, Between(1, 9)]: {', '.join(without)}"


@pytest.mark.parametrize("cls", CLASSES, ids=class_tag)
def test_a_value_out_of_range_is_named(cls: type) -> None:
    check(example(cls))
    for name, hint in hints(cls).items():
        for value in bad(hint):
            with pytest.raises(GestaError) as refused:
                check(replace(example(cls), **{name: value}), "the thing")
            sentence = str(refused.value)
            assert sentence.startswith(f"the thing: {name}"), sentence
            assert sentence.endswith("; give another value") and "\n" not in sentence, sentence


def test_training_refuses_it_before_anything_is_written(tmp_path: Path) -> None:
    for part in ("train", "evaluate", "init"):
        settings = getattr(demo(), part)
        for name, hint in hints(type(settings)).items():
            for value in itertools.islice(bad(hint), 1):
                recipe = replace(demo(), **{part: replace(settings, **{name: value})})
                with pytest.raises(GestaError, match=f"^the recipe: {part}.{name}"):
                    train(recipe, tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: create_model("mvitv2_tiny", dropout=1.0), r"^MViTConfig: dropout is 1\.0, not 0 or more and below 1"),
        (lambda: create_model("timesformer_tiny", width=2**31), r"width is 2147483648, not 2147483647 or less"),
        (lambda: create_model("mvitv2_tiny", min_matched=2.0), r"^min_matched is 2\.0, not from 0 to 1"),
        (lambda: STAN(p_scale=math.nan).build((8, 2, 4, 4)), r"^STAN: p_scale is NaN, not a finite number"),
        (lambda: ATA(window=-1).build(), r"^ATA: window is -1, not 0 or more"),
        (lambda: check(TimelineConfig(window=math.inf)), r"^TimelineConfig: window is Infinity, not a finite number"),
        (lambda: check(TimelineConfig(join=-0.0)), r"^TimelineConfig: join is -0.0, not 0 without a sign"),
        (lambda: ModelConfig(inserts=[Insert(layer=STAN(p_scale=-1), at=0)]), ""),
    ],
)
def test_what_python_builds_is_checked(build: Any, sentence: str) -> None:
    if not sentence:
        with pytest.raises(GestaError, match=r"^m: inserts\[0\]\.layer\.p_scale is -1, not above 0"):
            check(build(), "m")
        return
    with pytest.raises(GestaError, match=sentence):
        build()


def flags(obj: Any, *words: str) -> Any:
    parser = CommandParser(prog="gesta")
    return with_fields(obj, argparse.Namespace(fields=list(words), parser=parser))


def test_a_flag_is_called_by_its_name() -> None:
    with (
        naming_flags(),
        pytest.raises(GestaError, match=r"^--train\.clip-grad is 0\.0, not above 0; give another value$"),
    ):
        flags(demo(), "--train.clip-grad", "0")
    with naming_flags(), pytest.raises(GestaError, match=r"^--train\.mixup is -1\.0, not 0 or more"):
        flags(demo(), "--train.mixup=-1")


# --- fields beside other fields --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (TrainConfig(epochs=1, warmup_epochs=2), "warmup_epochs is 2, and all 1 epochs"),
        (TrainConfig(lr=1e-7), "min_lr is 1e-06, above the lr of 1e-07"),
        (TrainConfig(lr=1e-7, schedule="constant", warmup_epochs=1, epochs=3), "warmup_lr is 1e-06, above the lr"),
        (TrainConfig(schedule="steps", epochs=10, milestones=(5, 10)), "milestones is 5 10, not rising from .* 9"),
        (TrainConfig(schedule="steps", milestones=(5, 3)), "milestones is 5 3, not rising"),
        (TrainConfig(schedule="steps", milestones=(1,), warmup_epochs=2), "milestones is 1, not rising from .* (2)"),
        (TrainConfig(schedule="steps"), r"milestones is \(\), so that schedule='steps' never"),
        (TrainConfig(milestones=(3,)), "milestones is 3, which changes nothing without schedule="),
        (TrainConfig(gamma=0.5), r"gamma is 0\.5, which changes nothing without schedule='steps'; leave it at 0\.1"),
        (TrainConfig(schedule="constant", min_lr=0.0), "min_lr is 0.0, which changes nothing without sched"),
        (TrainConfig(warmup_lr=0.0), "warmup_lr is 0.0, which changes nothing without warmup_epochs"),
        (TrainConfig(nesterov=True), "nesterov is True, which changes nothing without optimizer='sgd'"),
        (TrainConfig(optimizer="sgd", betas=(0.9, 0.99)), "betas is 0.9 0.99, which changes nothing"),
        (TrainConfig(optimizer="sgd", momentum=0.0, nesterov=True), "nesterov is True, which needs a momentum"),
        (TrainConfig(mix_switch=0.9, mixup=0.8), "mix_switch is 0.9, which changes nothing without both"),
        (TrainConfig(mix_probability=0.9), "mix_probability is 0.9, which changes nothing without mixup or"),
        (TrainConfig(mixup=0.8, batch_size=4, accumulate=4), "mixup is 0.8, and there is one clip per forward pass"),
        (TrainConfig(weight_decay=0.0, no_decay=("x",)), "no_decay is x, which changes nothing"),
        (TrainConfig(augment=Augment(magnitude=9)), "augment.magnitude is 9, which changes nothing without rand"),
        (Augment(scale=(1.0, 0.5)), r"scale is 1\.0 0\.5, which does not rise"),
        (Augment(crop="jitter", short_side=(128, 160)), "short_side is 128 160, below the crop's 224"),
        (Augment(short_side=(224, 320)), "short_side is 224 320, which changes nothing"),
        (EvaluateConfig(coverage="contiguous", clips=4), "clips is 4, which changes nothing without coverage='even'"),
        (Init(only=("blocks.",)), r"only is blocks\., which changes nothing without weights; leave it at \(\)"),
        (Init(average=False), "average is False, which changes nothing without weights; leave it at True"),
        (Init(min_matched=0.9), "min_matched is 0.9, which changes nothing without weights; leave it at 0.5"),
        (TimelineConfig(threshold=0.5, release=0.6), "release is 0.6, above the threshold"),
        (ClipSpec(sampling="uniform", stride=2), "stride is 2, which changes nothing without sampling='dense'"),
        (TimeSformerConfig(align_every=2), "align_every is 2, which changes nothing without around; leave it at 1"),
        (TimeSformerConfig(temporal="averaging", temporal_cls=True), "temporal_cls is True, which changes nothing"),
        (ATA(tau=0.1), r"tau is 0\.1, which changes nothing without soft alignment; leave it at 0\.05"),
        (ATA(alignment="sinkhorn", tie_break="none"), 'tie_break is none, which changes nothing without alignment='),
    ],
)  # fmt: skip
def test_contradictions_and_fields_without_effect_are_refused(config: Any, sentence: str) -> None:
    with pytest.raises(GestaError, match=f"^x: {sentence}"):
        check(config, "x")


def test_a_flag_without_effect_is_refused_and_one_that_makes_others_useless_is_taken() -> None:
    changes = r"^--evaluate\.clips is 4, which changes nothing without coverage='even'"
    with naming_flags(), pytest.raises(GestaError, match=changes):
        flags(demo(), "--evaluate.coverage", "contiguous", "--evaluate.clips", "4")
    recipe = flags(demo(), "--evaluate.coverage", "contiguous")  # the recipe's two clips are not read any more
    assert (demo().evaluate.clips, recipe.evaluate.clips) == (2, 5)
    assert model_config("std_former_tiny", smem=()).smem_channels == 64  # type: ignore[attr-defined]


# --- values derived at the start -------------------------------------------------------------------------------------


def rates(recipe: Recipe) -> tuple[float | None, ...]:
    derive_rates(recipe)
    check(recipe)
    return recipe.train.lr, recipe.train.warmup_epochs, recipe.train.warmup_lr, recipe.train.min_lr


def test_the_learning_rate_is_derived_after_the_flags() -> None:
    assert rates(finetune()) == pytest.approx((1e-3, 2, 1e-6, 1e-6))
    large = finetune("mvitv2_s")
    assert rates(flags(large, "--init.weights", "w.pt")) == pytest.approx((1e-4, 2, 1e-7, 1e-7))
    assert rates(flags(finetune(), "--init.weights", "w.pt")) == rates(finetune())  # a small model
    assert rates(finetune("mvitv2_tiny", weights="w.pt")) == rates(flags(finetune(), "--init.weights", "w.pt"))
    assert rates(flags(finetune(), "--train.lr", "1e-7")) == pytest.approx((1e-7, 2, 1e-10, 1e-10))
    constant = flags(finetune(), "--train.schedule", "constant", "--train.warmup-epochs", "0")
    assert rates(constant) == (1e-3, 0, 1e-6, 1e-6)


def test_a_short_training_reaches_its_learning_rate() -> None:
    recipe = flags(finetune(), "--train.epochs", "1")
    derive_rates(recipe)
    check(recipe)
    assert max(learning_rate(recipe.train, step / 30) for step in range(30)) == pytest.approx(1e-3)


def test_a_resumed_run_keeps_what_was_derived(tmp_path: Path) -> None:
    recipe = flags(finetune(), "--init.weights", "w.pt")
    derive_rates(recipe)
    (tmp_path / "recipe.json").write_text(json.dumps(to_json(recipe)))
    resumed = flags(finetune(), "--train.epochs", "60")  # without the weights, which are in the training state now
    derive_rates(resumed, tmp_path)
    assert resumed.train.rates() == recipe.train.rates()
