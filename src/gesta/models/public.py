"""Trained models from anywhere: ours, and public weights whose model is recognised.

A folder or repository of public weights (``hf:owner/name``) has the weights, ``config.json`` (the sizes that shapes do
not tell, and the names of the classes) and ``preprocessor_config.json`` (how pixels become floats). A module of a model
recognises its own by a function ``from_public``.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from gesta import checkpoint
from gesta.checkpoint import TrainedModel
from gesta.checkpoint.description import read_config, words
from gesta.checkpoint.hub import Place, resolve, weights_in
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
    """What a model's module has as ``from_public``."""

    def __call__(self, config: Mapping[str, Any] | None, shapes: Mapping[str, torch.Size]) -> ModelConfig | None:
        """The configuration of the model that fits public weights; None if they are not of this family.

        Args:
            config: the ``config.json`` beside the weights; None if there is none.
            shapes: name → shape of the weights.
        """


def load(
    source: str | os.PathLike[str] | Place,
    *,
    trust_code: bool = False,
    device: str | torch.device = "cpu",
    classes: ClassNames | None = None,
) -> TrainedModel:
    """Load a trained model, its class names and how its videos are read.

    Of public weights, what became of them is printed on standard error.

    Args:
        source: a run folder (its ``best.safetensors``) or a file of :func:`gesta.save_model`; public weights of a model
            that is recognised by their names and the ``config.json`` beside them, as a file or a folder; or such a
            repository by its name, ``hf:owner/name[@revision][/file]``, which is downloaded once.
        trust_code: also build models whose classes are not part of gesta (this runs their code). Code in a repository
            is never downloaded.
        device: where the model is put.
        classes: of public weights, those that are scored, in label order: the classifier is brought into their order.

    Raises:
        CheckpointError: none of these; weights that do not fit the described model, are not those that were written (by
            their checksum), or are not finite; what :func:`gesta.checkpoint.hub.resolve` raises.
        GestaError: a described model that cannot be built.
    """
    place = weights_in(find(source))
    if not place.path.is_file() or is_ours(place.path):
        return replaced(checkpoint.load(place.path, trust_code=trust_code, device=device), name=place.name)
    weights = read_source(place)
    config = None if weights.is_state else recognise(read_config(place.path), weights)
    if config is None and not place.hub:
        return checkpoint.load(place.path)  # raises, with the reason why it is none of gesta
    if config is None:
        raise CheckpointError(
            f"{place.name}: its weights ({', '.join(sorted(weights.weights)[:3])} …) are of no model that gesta "
            "recognises; name their model (--model NAME --weights FILE)"
        )
    trained = with_weights(config, weights, classes)
    return replaced(trained, model=trained.model.to(choose_device(device)))


def find(source: str | os.PathLike[str] | Place) -> Place:
    """Where a trained model lies on this disk, see :func:`gesta.checkpoint.hub.resolve`; one of another kind, such as
    of text, is refused before its weights are downloaded."""
    return resolve(source, check=_refuse_others)


def load_named(
    model: str,
    source: str,
    head: str | None = None,
    named: ClassNames | None = None,
    classes: ClassNames | None = None,
    *,
    classifier: bool = True,
) -> TrainedModel:
    """A model by its name with public weights; what became of the weights is printed on standard error.

    Args:
        model: see :func:`gesta.list_models`.
        source: a file, folder or repository of weights.
        head: a second file, with the head of these weights, see :func:`gesta.checkpoint.weights.read_source`.
        named: class names of the weights in label order; None takes those that their file names.
        classes: those that are scored, in label order; the classifier is brought into their order where the names of
            its own are known. None takes these, or numbers them.
        classifier: whether weights without one are refused.

    Raises:
        GestaError: an unknown model, classes that are others, or weights of which a part is missing.
    """
    weights = read_source(source, head=head)
    weights.classes = named or weights.classes
    return with_weights(model_config(model), weights, classes, name=model, classifier=classifier)


def with_weights(
    config: ModelConfig,
    weights: Source,
    classes: ClassNames | None = None,
    *,
    name: str | None = None,
    classifier: bool = True,
) -> TrainedModel:
    """Build a model for weights, with as many classes as they have, which reads pixels as the description beside them
    says.

    Raises:
        GestaError: classes that are others, or a parameter of the model that the weights lack.
    """
    named = weights.classes
    if named and classes:
        _check_same(weights.name, named, classes)
    if weights.pixels:
        weights.remarks += weights.pixels.take(config.clip)
    elif not weights.metadata:
        weights.remarks.append(
            f"pixels: {words(config.clip)}, as in the public code of its model; nothing else says so"
        )
    model = config.build()
    report = import_weights(model, weights)
    # How many classes there are is known from the weights alone: build the model again to fit their classifier.
    sizes = {n: shapes[0][0] for n, shapes in report.mismatched.items() if n.startswith("classifier.")}
    if (named and classes) or len(set(sizes.values())) == 1:
        count = class_counts(classes) if named and classes else min(sizes.values())
        model = replace(config, classes=count).build()
        report = import_weights(model, weights, classes=classes)
    show(report, sys.stderr)
    parameters = {n for n, _ in model.named_parameters() if classifier or not n.startswith("classifier.")}
    lacking = [n for n in (*report.missing, *report.mismatched) if n in parameters]
    if lacking:
        what, start = name or type(model).__name__, f" --model {name}" if name else ""
        raise GestaError(
            f"{weights.name} lacks {len(lacking)} parameters of {what} ({', '.join(lacking[:3])} …), so its answers "
            f"would be random; train the model first: gesta train finetune{start} --init.weights {weights.given}"
        )
    return TrainedModel(
        model=model,
        classes=classes or _fitting(named, model) or _numbered(model),
        metadata={},
        # an index of several files says nothing of what is in them
        path=str(weights.path) if weights.path and weights.path.suffix != ".json" else None,
        name=weights.name,
    )


def recognise(config: Mapping[str, Any] | None, weights: Source) -> ModelConfig | None:
    """The configuration of the model that public weights are of; None if no model here recognises them.

    Args:
        config: the ``config.json`` beside them; None if there is none.
        weights: their names count without the prefixes that most of them share.

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
                found = from_public(config, shapes)
                if found is not None:
                    found = cast(ModelConfig, from_json(to_json(found), ModelConfig))
            except GestaError as error:
                raise CheckpointError(f"{weights.name}: {error}") from None
            except Exception as error:  # whatever a config.json of others makes of sizes
                raise CheckpointError(
                    f"{weights.name}: its config.json does not fit its weights ({type(error).__name__}: "
                    f"{str(error)[:100]}); name their model (--model NAME --weights FILE)"
                ) from None
            if found is not None:
                check_size(found, weights.name, 1000 + 10 * len(shapes))
                return found
    return None


def _refuse_others(folder: Path) -> None:
    """Refuse a repository before its weights are downloaded if it says that its model is of another kind.

    Raises:
        CheckpointError: with what it is.
    """
    config = read_config(folder / "weights") or {}
    kind = config.get("model_type")
    if isinstance(kind, str) and kind != "gesta" and not kind.lower().startswith(_MODEL_TYPES):
        classes = config.get("architectures")
        what = f"{classes[0]}, " if isinstance(classes, list) and classes else ""
        raise CheckpointError(
            f"{folder / 'config.json'}: describes a model of another kind ({what}model type {kind}); gesta recognises "
            f"{', '.join(_MODEL_TYPES)}; name another repository, or the model (--model NAME --weights FILE)"
        )


# --- classes ---------------------------------------------------------------------------------------------------------


def _fitting(named: ClassNames | None, model: VideoModel) -> ClassNames | None:
    """The names of the classes if there are as many as the model has."""
    return named if named is not None and class_counts(named) == model.config.classes else None


def _numbered(model: VideoModel) -> ClassNames:
    """``"0"``, ``"1"`` … for every class of a model."""
    names = {space: [str(i) for i in range(count)] for space, count in by_space(model.config.classes).items()}
    return names.get(LABEL, names) if len(names) == 1 else names


def _check_same(weights: str, named: ClassNames, classes: ClassNames) -> None:
    """Refuse to score classes that are not those of the weights, in whatever order."""
    theirs, ours = ({(space, name) for space, names in by_space(c).items() for name in names} for c in (named, classes))
    if theirs != ours:
        sides = {"only in the file": theirs - ours, "only in the data": ours - theirs}
        only = [f"{name} {side}" for side, rest in sides.items() for _, name in sorted(rest)[:3]]
        raise GestaError(
            f"{weights}: its {len(theirs)} classes are not the {len(ours)} of the data ({', '.join(only)}); evaluate "
            "on data of the same classes, or give the names of the file's classes with --classes"
        )
