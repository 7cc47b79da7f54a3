"""Trained models from anywhere: ours, and public weights whose model is recognised.

A folder or repository of public weights (``hf:owner/name``) has the weights, ``config.json`` (the sizes that shapes do
not tell, and the names of the classes) and ``preprocessor_config.json`` (how pixels become floats). A module of a model
recognises its own by a function ``from_public``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from gesta import checkpoint
from gesta.checkpoint import TrainedModel, read_metadata, shows_of
from gesta.checkpoint.description import read_config, words
from gesta.checkpoint.exported import device_for, is_exported, load_exported
from gesta.checkpoint.hub import LocalWeights, resolve, weights_in
from gesta.checkpoint.weights import Source, import_weights, is_ours, read_source, without_prefixes
from gesta.config import from_json, replace, to_json
from gesta.errors import CheckpointError, GestaError
from gesta.model import ModelConfig, VideoModel, check_size
from gesta.models import MODELS, model_config
from gesta.processes import choose_device
from gesta.progress import show
from gesta.records import LABEL, ClassNames, by_space, class_counts

_MODEL_TYPES = ("videomae", "vivit", "timesformer", "vjepa", "hiera")
"""Beginnings of ``model_type`` in the config.json of families that are recognised; some of Hiera's have none."""


class FromPublic(Protocol):
    """The function ``from_public`` of a model's module."""

    def __call__(self, config: Mapping[str, Any] | None, shapes: Mapping[str, torch.Size]) -> ModelConfig | None:
        """The configuration of the model that fits public weights; None if they are not of this family.

        Args:
            config: the ``config.json`` beside the weights; None if there is none.
            shapes: name → shape of the weights.
        """


def load(
    source: str | os.PathLike[str] | LocalWeights,
    *,
    model: str | None = None,
    head: str | Path | None = None,
    classes: ClassNames | None = None,
    label_order: ClassNames | None = None,
    needs_classifier: bool = True,
    trust_code: bool = False,
    device: str | torch.device = "cpu",
) -> TrainedModel:
    """Load a trained model, its class names and how its videos are read.

    Of public weights, what became of them is printed on standard error.

    Args:
        source: a run folder (its ``best.safetensors``), a file of :func:`gesta.save_model` or a file that ``gesta
            export`` has written (``.onnx``, ``.pt2``); public weights of a model that is recognised by their names and
            the ``config.json`` beside them, as a file or a folder; or such a repository by its name,
            ``hf:owner/name[@revision][/file]``, which is downloaded once.
        model: name of the model of public weights (see :func:`gesta.list_models`), instead of recognising it.
        head: of public weights, a second file with their head, see :func:`gesta.checkpoint.weights.read_source`.
        classes: names of the classes of public weights in label order; None takes those of the file beside them, or
            else numbers.
        label_order: class names of the data on which public weights are scored, in its label order. The classifier is
            brought into this order where the names of its classes are known; else it is assumed to have it.
        needs_classifier: refuse public weights that lack the model's classifier.
        trust_code: also build models whose classes are not part of gesta (this runs their code). Code in a repository
            is never downloaded.
        device: where the model is put.

    Raises:
        CheckpointError: none of these; weights that do not fit the described model, are not those that were written (by
            their checksum), or are not finite; what :func:`gesta.checkpoint.hub.resolve` raises.
        GestaError: a model that cannot be built or is not known, public weights that lack a part of it, or classes that
            are others.
    """
    local = weights_in(resolve(source) if model else find_model(source))
    if is_exported(local.path):
        if model or head or classes:
            raise GestaError(
                f"{local.name} is an exported model with class names: leave --model, --head and --classes out"
            )
        trained = load_exported(local.path, trust_code=trust_code)
        device_for(trained.model, device, "32-true")
        return dataclasses.replace(trained, name=local.name)
    if model is None and (not local.path.is_file() or is_ours(local.path)):
        trained = checkpoint.load(local.path, trust_code=trust_code, device=device)
        if head or classes:
            raise GestaError(f"{local.name} has a head and class names of its own: leave --head and --classes out")
        return dataclasses.replace(trained, name=local.name)
    weights = read_source(local, head=head)
    weights.classes = classes or weights.classes
    if weights.is_state:  # a name says neither how many channels its run's clips have nor what its scores mean
        config: ModelConfig | None = None
    else:
        config = _named(model, weights) if model else recognise(read_config(local.path), weights)
    if config is None and (weights.is_state or not local.from_hub):
        return checkpoint.load(local.path)  # raises, with the reason why it is none of gesta
    if config is None:
        raise CheckpointError(
            f"{local.name}: its weights ({', '.join(sorted(weights.weights)[:3])} …) are of no model that gesta "
            "recognises; name their model (--model NAME --weights FILE)"
        )
    trained = _with_weights(config, weights, label_order, name=model, needs_classifier=needs_classifier)
    return dataclasses.replace(trained, model=trained.model.to(choose_device(device)))


def _named(name: str, weights: Source) -> ModelConfig:
    """The configuration of a model by its name, whose scores mean what the file of weights, or the description beside
    it, says: one class, or any number of them."""
    config = model_config(name)
    if weights.metadata:
        config.multi_label = bool(weights.metadata["model"].get("multi_label"))
    elif weights.path:
        with contextlib.suppress(GestaError):  # the description may be another program's, which is said
            config.multi_label = _is_multi_label(read_config(weights.path))
    return config


def _is_multi_label(description: Mapping[str, Any] | None) -> bool:
    """Whether a ``config.json`` says, in transformers' words, that each score has a sigmoid of its own."""
    return (description or {}).get("problem_type") == "multi_label_classification"


def config_of(source: str | os.PathLike[str], *, trust_code: bool = False) -> ModelConfig:
    """The configuration of the model of some weights: that in a model file of ours, or the one that is recognised.

    Args:
        source, trust_code: as for :func:`load`.

    Raises:
        CheckpointError: nothing says of which model they are; else as :func:`load`.
    """
    local = weights_in(find_model(source))
    if is_ours(local.path):
        described = read_metadata(local.path)["model"]
        return cast(ModelConfig, from_json(described, ModelConfig, trust_code=trust_code, source=str(local.path)))
    weights = read_source(local)
    config = None if weights.is_state else recognise(read_config(local.path), weights)
    if config is None:
        raise CheckpointError(f"{local.name}: nothing says of which model its weights are; name it with --model")
    if weights.pixels:
        weights.pixels.take(config.clip)
    return config


def find_model(source: str | os.PathLike[str] | LocalWeights) -> LocalWeights:
    """The file or folder of a trained model on this disk, see :func:`gesta.checkpoint.hub.resolve`; a repository of
    another kind of model, such as one of text, is refused before its weights are downloaded."""
    return resolve(source, check=_refuse_other_kinds)


def _with_weights(
    config: ModelConfig,
    weights: Source,
    label_order: ClassNames | None,
    *,
    name: str | None,
    needs_classifier: bool,
) -> TrainedModel:
    """Build a model for weights, with as many classes as they have, which reads pixels as the description beside them
    says.

    Raises:
        GestaError: classes that are others, or a parameter of the model that the weights lack.
    """
    named = weights.classes
    for names in by_space(named or []).values():
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise GestaError(f"{weights.name}: the class {twice!r} is named twice; give each class one name")
    if named and label_order:
        _check_same(weights.name, named, label_order)
    if weights.pixels:
        weights.remarks += weights.pixels.take(config.clip)
    elif not weights.metadata:
        weights.remarks.append(
            f"pixels: {words(config.clip)}, as in the public code of its model; nothing else says so"
        )
    model = config.build()
    report = import_weights(model, weights)
    # How many classes there are is known from the weights alone: build the model again to fit their classifier.
    sizes = {n: shapes[0][0] for n, shapes in report.mismatched.items() if n.startswith("classifier.") and shapes[0]}
    if (named and label_order) or len(set(sizes.values())) == 1:
        count = class_counts(label_order) if named and label_order else min(sizes.values())
        model = replace(config, classes=count).build()
        report = import_weights(model, weights, classes=label_order)
    show(report, sys.stderr)
    if named and model.config.classes and class_counts(named) != model.config.classes:
        raise GestaError(
            f"{weights.name}: there are names for {class_counts(named)} classes, but its classifier has "
            f"{model.config.classes}; give their names with --classes"
        )
    if label_order and model.config.classes and class_counts(label_order) != model.config.classes:
        raise GestaError(
            f"{weights.name}: its classifier has {model.config.classes} classes, the data {class_counts(label_order)}; "
            "evaluate on data of the same classes"
        )
    parameters = {n for n, _ in model.named_parameters() if needs_classifier or not n.startswith("classifier.")}
    lacking = [n for n in (*report.missing, *report.mismatched) if n in parameters]
    if lacking:
        what, start = name or type(model).__name__, f" --model {name}" if name else ""
        raise GestaError(
            f"{weights.name} lacks {len(lacking)} parameters of {what} ({', '.join(lacking[:3])} …), so its answers "
            f"would be random; train the model first: gesta train finetune{start} --init.weights {weights.given}"
        )
    return TrainedModel(
        model=model,
        classes=label_order or (model.config.classes and named) or _numbered(model),
        metadata={},
        shows=shows_of(weights.metadata, weights.path) if weights.metadata and weights.path else None,
        person_crop=bool(weights.metadata and weights.metadata.get("person_crop")),
        path=_file(weights.path),
        head=_file(weights.head),
        name=weights.name,
    )


def _file(path: Path | None) -> str | None:
    """A file by whose content weights are known: an index of several files says nothing of what is in them."""
    return str(path) if path and path.suffix != ".json" else None


def recognise(config: Mapping[str, Any] | None, weights: Source) -> ModelConfig | None:
    """The configuration of the model that public weights are of; None if no model here recognises them.

    Args:
        config: the ``config.json`` beside them; None if there is none.
        weights: recognised by their names, without prefixes that most of them share, and their shapes.

    Raises:
        CheckpointError: a description that does not fit the weights, or a model that is too large.
    """
    for stripped in without_prefixes(weights.weights):
        shapes = {name: value.shape for name, value in stripped.items()}
        for module in dict.fromkeys(MODELS.values()):
            from_public: FromPublic | None = getattr(importlib.import_module(module), "from_public", None)
            if from_public is None:
                continue
            try:
                recognised = from_public(config, shapes)
                if recognised is not None:
                    recognised = cast(ModelConfig, from_json(to_json(recognised), ModelConfig))
            except GestaError as error:
                raise CheckpointError(f"{weights.name}: {error}") from None
            except Exception as error:  # whatever a config.json of others makes of sizes
                raise CheckpointError(
                    f"{weights.name}: its config.json does not fit its weights ({type(error).__name__}: "
                    f"{str(error)[:100]}); name their model (--model NAME --weights FILE)"
                ) from None
            if recognised is not None:
                recognised.multi_label = _is_multi_label(config)
                check_size(recognised, weights.name, 1000 + 10 * len(shapes))
                return recognised
    return None


def _refuse_other_kinds(folder: Path) -> None:
    """Refuse a repository before its weights are downloaded if it says that its model is of another kind.

    Raises:
        CheckpointError: with what it is.
    """
    config = read_config(folder / "weights") or {}
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type != "gesta" and not model_type.lower().startswith(_MODEL_TYPES):
        classes = config.get("architectures")
        what = f"{classes[0]}, " if isinstance(classes, list) and classes else ""
        raise CheckpointError(
            f"{folder / 'config.json'}: describes a model of another kind ({what}model type {model_type}); gesta "
            f"recognises {', '.join(_MODEL_TYPES)}; name another repository, or the model (--model NAME --weights FILE)"
        )


# --- classes ---------------------------------------------------------------------------------------------------------


def _numbered(model: VideoModel) -> ClassNames:
    """``"0"``, ``"1"`` … for every class of a model."""
    names = {space: [str(i) for i in range(count)] for space, count in by_space(model.config.classes).items()}
    return names.get(LABEL, names) if len(names) == 1 else names


def _check_same(weights: str, named: ClassNames, classes: ClassNames) -> None:
    """Refuse to score classes that are not those of the weights; their order does not matter."""
    theirs, ours = ({(space, name) for space, names in by_space(c).items() for name in names} for c in (named, classes))
    if theirs != ours:
        sides = {"only in the file": theirs - ours, "only in the data": ours - theirs}
        only = [f"{name} {side}" for side, rest in sides.items() for _, name in sorted(rest)[:3]]
        raise GestaError(
            f"{weights}: its {len(theirs)} classes are not the {len(ours)} of the data ({', '.join(only)}); evaluate "
            "on data of the same classes, or give the names of the file's classes with --classes"
        )
