"""``--model NAME --weights FILE``: public weights are scored as they are, without a training."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from gesta.cli.options import VerbParser
from gesta.errors import GestaError
from gesta.progress import show

if TYPE_CHECKING:  # for start-up time
    from gesta.checkpoint import TrainedModel
    from gesta.records import ClassNames


def model_options(sub: VerbParser) -> None:
    """A trained model, or a model by name with public weights."""
    sub.add_argument("checkpoint", metavar="CKPT", nargs="?", help="a run folder or a .safetensors file of gesta")
    sub.add_argument("--model", metavar="NAME", help="instead of CKPT: this model (all: gesta models) with --weights")
    sub.add_argument("--weights", metavar="FILE", help="public weights for --model")
    sub.add_argument("--classes", metavar="FILE", help="class names for --model, one a line, in label order")


def check_model_options(options: argparse.Namespace) -> None:
    """Refuse two models, none, or half of one."""
    if options.model and options.checkpoint:
        raise GestaError(f"give a trained model ({options.checkpoint}) or --model {options.model}, not both")
    if not (options.model or options.checkpoint):
        raise GestaError("give a run folder or a .safetensors file, or --model NAME --weights FILE")
    if options.model and not options.weights:
        raise GestaError(f"--model {options.model} has random weights: give a file of them with --weights")
    if options.checkpoint and (options.weights or options.classes):
        raise GestaError(f"{options.checkpoint} has weights and class names: --weights and --classes are for --model")


def load_public(options: argparse.Namespace, classes: ClassNames | None = None) -> TrainedModel:
    """The model of ``--model`` with ``--weights``; what became of the weights is printed on standard error.

    Args:
        options: of the verb.
        classes: class names where ``--classes`` is not given; None numbers them.

    Raises:
        GestaError: class names that cannot be read, or weights of which a part is missing.
    """
    from gesta.checkpoint import TrainedModel
    from gesta.checkpoint.weights import import_weights
    from gesta.evaluation.scoring import named_classes
    from gesta.models import create_model

    if options.classes:
        from gesta.data.lists import read_class_names  # start-up time

        classes = read_class_names(options.classes)
    model = create_model(options.model)
    report = import_weights(model, options.weights)
    # How many classes there are is known from the weights alone: build the model again to fit their classifier.
    sizes = {name: shapes[0][0] for name, shapes in report.mismatched.items() if name.startswith("classifier.")}
    if len(set(sizes.values())) == 1:
        model = create_model(options.model, classes=next(iter(sizes.values())))
        report = import_weights(model, options.weights)
    show(report, sys.stderr)
    parameters = {name for name, _ in model.named_parameters()}
    lacking = [name for name in (*report.missing, *report.mismatched) if name in parameters]
    if lacking:
        raise GestaError(
            f"{options.weights} lacks {len(lacking)} parameters of {options.model} ({', '.join(lacking[:3])} …), so "
            "its answers would be random; train the model first: "
            f"gesta train finetune --model {options.model} --init.weights {options.weights}"
        )
    if classes is None:
        _, classes = named_classes(model)
    return TrainedModel(model=model.eval(), classes=classes, metadata={}, path=str(options.weights))
