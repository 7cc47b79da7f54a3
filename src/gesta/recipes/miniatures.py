"""A recipe made small enough for two CPU cores: the tiny model, the synthetic data set, the training of
:func:`gesta.recipes.synthetic.mvitv2`.

What a paper compares stays as its recipe sets it. Each paper's file says in its ``MINIATURES`` which fields these are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from gesta.config import copy, replace, reset_unused
from gesta.marionette.dataset import HeldOut, Marionette
from gesta.model import ModelConfig, block_grids
from gesta.recipe import Recipe
from gesta.recipes.synthetic import mvitv2
from gesta.records import DataConfig, class_counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Miniature:
    """How models of one class are made small.

    Attributes:
        model: the tiny model, without plug-ins.
        keep: fields that are copied where the recipe's model differs from the default of its class.
        blocks: fields that name blocks by their index; copied likewise, with indices in proportion.
        moves: for each block of the recipe's model the tiny model's that plug-ins before it move to; empty for the one
            in proportion.
        adapt: what else the tiny model takes from the recipe's, which is given first, in its own size.
        lr: the recipes' usual learning rate: the miniature's is mvitv2's, times the recipe's over this one. None
            leaves mvitv2's.
        start: what a miniature has to start from where the paper starts from weights; empty for what the paper has.
    """

    model: Callable[[], ModelConfig]
    keep: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    moves: tuple[int, ...] = ()
    adapt: Callable[[Any, Any], None] | None = None
    lr: float | None = None
    start: str = ""


def shrink(recipe: Recipe, how: Miniature, data: DataConfig | None = None) -> Recipe:
    """The same experiment as a miniature.

    Plug-ins keep their settings and move to the proportional block; of those that come to the same block, the first
    stays. Sampling of frames, modality, views, frozen parameters and the weights to start from are those of the recipe;
    held-out subjects or cameras, and verbs and nouns, become Marionette's.

    Args:
        recipe: which is left as it is.
        how: what its model becomes.
        data: read this instead of Marionette, and keep the views of the recipe's test.
    """
    marionette, small = mvitv2(), copy(recipe)
    small.name = f"{recipe.name}-miniature"
    small.model = _small_model(recipe.model, how)
    frozen = recipe.train.freeze
    named = [name for name in how.blocks if getattr(recipe.model, name) != _default(recipe.model, name)]
    if named or recipe.model.inserts or frozen:  # else models need not be built to count their blocks
        before, after = len(block_grids(recipe.model)), len(block_grids(small.model))
        moves = how.moves or [min(round(at * after / before), after - 1) for at in range(before)]
        for name in named:
            setattr(small.model, name, _in_proportion(getattr(recipe.model, name), after, before))
        for insert in recipe.model.inserts:
            if all(other.at != moves[insert.at] for other in small.model.inserts):
                small.model.inserts.append(replace(insert, at=moves[insert.at]))
        frozen = _frozen(frozen, moves, after)
    if data is not None:
        small.data = data
    else:
        views = {name: getattr(recipe.evaluate, name) for name in ("clips", "crops", "coverage")}
        small.data, small.evaluate = _marionette(recipe), replace(marionette.evaluate, **views)
    reset_unused(small.model)
    small.model.classes = class_counts(small.data.classes())
    if recipe.init.expected and how.start:
        small.init.expected = how.start
    small.train = replace(marionette.train, freeze=frozen)
    if how.lr is not None:
        small.train.lr = marionette.train.rates().lr * recipe.train.rates().lr / how.lr
    return small


def _marionette(recipe: Recipe) -> Marionette:
    """The synthetic data set that asks what the recipe's does."""
    data = Marionette(root="data/kitchen", family="kitchen") if isinstance(recipe.model.classes, dict) else Marionette()
    for name in {"modality", "depth_encoding"} & {f.name for f in fields(recipe.data)}:
        setattr(data, name, getattr(recipe.data, name))
    held_out: dict[Any, HeldOut] = {"cross_subject": "subjects", "cross_view": "cameras"}
    data.held_out = held_out.get(getattr(recipe.data, "split", None), data.held_out)
    return data


def _small_model(model: ModelConfig, how: Miniature) -> ModelConfig:
    """The tiny model with the fields that are kept; blocks and plug-ins come later."""
    small = how.model()
    for name in (*how.keep, "activation_checkpointing"):
        if getattr(model, name) != _default(model, name):
            setattr(small, name, copy(getattr(model, name)))
    for name in ("sampling", "shrink", "squash"):
        setattr(small.clip, name, getattr(model.clip, name))
    if how.adapt is not None:
        how.adapt(model, small)
    reset_unused(small)
    return small


def _default(model: ModelConfig, name: str) -> Any:
    return next(f.default for f in fields(model) if f.name == name)


def _in_proportion(value: Any, after: int, before: int) -> Any:
    """Indices of blocks, or pairs of a word and such an index, in a model with fewer blocks."""
    if isinstance(value, int):
        return value * after // before
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return (value[0], _in_proportion(value[1], after, before))
    return tuple(sorted({_in_proportion(item, after, before) for item in value}))


def _frozen(prefixes: tuple[str, ...], moves: Sequence[int], after: int) -> tuple[str, ...]:
    """Prefixes of frozen parameters in a model with fewer blocks: those of blocks and plug-ins in proportion."""
    kept: dict[str, None] = {}  # without repetitions, in order
    for prefix in prefixes:
        part, _, remainder = prefix.partition(".")
        index = remainder.split(".")[0]
        if part == "inserts":
            kept[f"inserts.{moves[int(index)]}."] = None
        elif part == "blocks":
            kept |= dict.fromkeys(f"blocks.{i}." for i in range((*moves, after)[int(index) + 1]))
        else:
            kept[prefix] = None
    return tuple(kept)
