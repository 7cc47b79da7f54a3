"""``--model NAME --weights FILE``: public weights are scored as they are, without a training."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from gesta.cli.options import VerbParser
from gesta.errors import GestaError
from gesta.files import is_hub
from gesta.progress import show

if TYPE_CHECKING:  # for start-up time
    from gesta.checkpoint import TrainedModel
    from gesta.records import ClassNames


def model_options(sub: VerbParser) -> None:
    """A trained model, or a model by name with public weights."""
    sub.add_argument("checkpoint", metavar="CKPT", nargs="?", help="a run folder or a .safetensors file of gesta")
    sub.add_argument("--model", metavar="NAME", help="instead of CKPT: this model (all: gesta models) with --weights")
    sub.add_argument("--weights", metavar="FILE", help="public weights for --model")
    sub.add_argument("--head", metavar="FILE", help="the head of these weights, where it has a file of its own")
    sub.add_argument("--classes", metavar="FILE", help="class names for --model, one a line, in label order")


def check_model_options(options: argparse.Namespace) -> None:
    """Refuse two models, none, or half of one."""
    if options.model and options.checkpoint:
        raise GestaError(f"give a trained model ({options.checkpoint}) or --model {options.model}, not both")
    if not (options.model or options.checkpoint):
        raise GestaError("give a run folder or a .safetensors file, or --model NAME --weights FILE")
    if options.model and not options.weights:
        raise GestaError(f"--model {options.model} has random weights: give a file of them with --weights")
    if options.checkpoint and (options.weights or options.head or options.classes):
        flags = "--weights, --head and --classes"
        raise GestaError(f"{options.checkpoint} has weights, a head and class names: {flags} are for --model")


def model_for_videos(options: argparse.Namespace, classifier: bool = True) -> TrainedModel:
    """The model of a verb whose videos follow it as ``options.sources``.

    Args:
        options: of the verb; without CKPT, for which ``--model`` stands, its word is the first video.
        classifier: whether public weights without the model's classifier are refused.
    """
    from gesta.checkpoint import load, weights_file

    if options.model and options.checkpoint and not _is_trained(options.checkpoint):
        options.sources, options.checkpoint = [options.checkpoint, *options.sources], None
    if not (options.model or options.checkpoint):  # one word is the VIDEO that is required
        if options.sources[0].endswith(_WEIGHTS):
            weights_file(options.sources[0])  # says what it is, and what to do with it
        options.parser.error("the following arguments are required: VIDEO")
    check_model_options(options)
    if options.model:
        return load_public(options, classifier=classifier)
    return load(options.checkpoint, trust_code=options.trust_code)


_WEIGHTS = (".pth", ".pt", ".pyth", ".ckpt", ".bin")


def _is_trained(path: str) -> bool:
    return is_hub(path) or path.endswith(".safetensors") or os.path.isfile(os.path.join(path, "best.safetensors"))


def load_public(
    options: argparse.Namespace, classes: ClassNames | None = None, classifier: bool = True
) -> TrainedModel:
    """The model of ``--model`` with ``--weights``; what became of the weights is printed on standard error.

    Args:
        options: of the verb.
        classes: those that are scored, in label order; the classifier is brought into their order where ``--classes``
            or the file names its own. None takes these, or numbers them.
        classifier: whether weights without one are refused.

    Raises:
        GestaError: class names that cannot be read or are others, or weights of which a part is missing.
    """
    from gesta.checkpoint import TrainedModel
    from gesta.checkpoint.weights import import_weights
    from gesta.evaluation.scoring import named_classes
    from gesta.models import create_model
    from gesta.records import class_counts

    named: ClassNames | None = None
    if options.classes:
        from gesta.data.lists import read_class_names  # start-up time

        named = read_class_names(options.classes)
    model = create_model(options.model)
    report = import_weights(model, options.weights, head=options.head)
    named = named or report.classes
    # How many classes there are is known from the weights alone: build the model again to fit their classifier.
    sizes = {name: shapes[0][0] for name, shapes in report.mismatched.items() if name.startswith("classifier.")}
    if named and classes:
        _check_same(str(options.weights), named, classes)
    if (named and classes) or len(set(sizes.values())) == 1:
        model = create_model(options.model, classes=class_counts(classes) if named and classes else min(sizes.values()))
        report = import_weights(model, options.weights, head=options.head, classes=classes, source_classes=named)
    show(report, sys.stderr)
    parameters = {n for n, _ in model.named_parameters() if classifier or not n.startswith("classifier.")}
    lacking = [name for name in (*report.missing, *report.mismatched) if name in parameters]
    if lacking:
        raise GestaError(
            f"{options.weights} lacks {len(lacking)} parameters of {options.model} ({', '.join(lacking[:3])} …), so "
            "its answers would be random; train the model first: "
            f"gesta train finetune --model {options.model} --init.weights {options.weights}"
        )
    classes = classes or named or named_classes(model)[1]
    return TrainedModel(model=model, classes=classes, metadata={}, path=str(options.weights), name=report.source)


def _check_same(weights: str, named: ClassNames, classes: ClassNames) -> None:
    """Refuse to score classes that are not those of the weights, in whatever order."""
    from gesta.records import by_space  # start-up time

    theirs, ours = ({(space, name) for space, names in by_space(c).items() for name in names} for c in (named, classes))
    if theirs != ours:
        sides = {"only in the file": theirs - ours, "only in the data": ours - theirs}
        only = [f"{name} {side}" for side, rest in sides.items() for _, name in sorted(rest)[:3]]
        raise GestaError(
            f"{weights}: its {len(theirs)} classes are not the {len(ours)} of the data ({', '.join(only)}); evaluate "
            "on data of the same classes, or give the names of the file's classes with --classes"
        )
