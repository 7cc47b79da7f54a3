"""``CKPT`` or ``--model NAME --weights FILE``: public weights are scored as they are, without a training."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gesta.cli.options import CommandParser
from gesta.errors import GestaError

if TYPE_CHECKING:  # for start-up time
    from gesta.checkpoint import TrainedModel
    from gesta.checkpoint.hub import LocalWeights
    from gesta.records import ClassNames


def model_options(sub: CommandParser) -> None:
    """A trained model, or a model by name with public weights."""
    text = "a run folder, a file of gesta (.safetensors, .onnx, .pt2), or public weights: file, folder, hf:OWNER/NAME"
    sub.add_argument("checkpoint", metavar="CKPT", nargs="?", help=text)
    sub.add_argument("--model", metavar="NAME", help="instead of CKPT: this model (all: gesta models) with --weights")
    sub.add_argument("--weights", metavar="FILE", help="public weights for --model, or hf:OWNER/NAME")
    sub.add_argument("--head", metavar="FILE", help="the head of public weights, where it has a file of its own")
    sub.add_argument("--classes", metavar="FILE", help="names of the classes of public weights, one a line")


def runtime_option(sub: CommandParser) -> None:
    """Which way the scores of a run are computed on a CPU."""
    text = "torch: never by the exported file that gesta bench model has found to be the fastest way on a CPU"
    sub.add_argument("--runtime", choices=["auto", "torch"], default="auto", help=text)


def check_model_options(options: argparse.Namespace) -> None:
    """Refuse two models, none, or half of one."""
    if options.model and options.checkpoint:
        raise GestaError(f"give a trained model ({options.checkpoint}) or --model {options.model}, not both")
    if not (options.model or options.checkpoint):
        raise GestaError("give a run folder or a .safetensors file, or --model NAME --weights FILE")
    if options.model and not options.weights:
        raise GestaError(f"--model {options.model} has random weights: give a file of them with --weights")
    if options.checkpoint and options.weights:
        raise GestaError(f"{options.checkpoint} has weights: --weights is for --model")


def take_videos(options: argparse.Namespace) -> None:
    """Tell a model from the videos behind it, and make ``options.sources`` the videos of a command: its words, or those
    that the file of ``--from`` lists.

    With ``--model`` there is no CKPT, and the word in its position is the first video.

    Raises:
        GestaError: words and a list, or a list that cannot be read.
    """
    from gesta.checkpoint import weights_file
    from gesta.checkpoint.hub import names_trained_model

    words = [options.checkpoint, *options.sources] if options.checkpoint else options.sources
    if options.model and options.checkpoint and not names_trained_model(options.checkpoint):
        options.sources, options.checkpoint = words, None
    if options.listed is None and not options.sources:
        if not options.model and words and words[0].endswith(_WEIGHTS):
            weights_file(words[0])  # says what it is, and what to do with it
        options.parser.error("the following arguments are required: VIDEO")
    if options.listed is not None:
        if options.sources:
            raise GestaError(f"--from {options.listed} lists the videos, so leave {options.sources[0]} out, or --from")
        from gesta.data.shares import read_paths

        options.sources = read_paths(options.listed)


def model_for_videos(options: argparse.Namespace, needs_classifier: bool = True) -> TrainedModel:
    """The model of a command whose videos :func:`take_videos` has told from it.

    Args:
        options: of the command.
        needs_classifier: refuse public weights that lack the model's classifier.
    """
    check_model_options(options)
    return load_model(options, needs_classifier=needs_classifier)


_WEIGHTS = (".pth", ".pt", ".pyth", ".ckpt", ".bin")


def load_model(
    options: argparse.Namespace,
    source: str | LocalWeights | None = None,
    label_order: ClassNames | None = None,
    needs_classifier: bool = True,
) -> TrainedModel:
    """The model that the options name, see :func:`gesta.load`.

    Args:
        options: of the command.
        source: the weights of CKPT, where they were downloaded or found already.
        label_order: class names of the data that is scored, see :func:`gesta.load`.
        needs_classifier: refuse public weights that lack the model's classifier.

    Raises:
        GestaError: class names that cannot be read, or as that function.
    """
    from gesta.data.lists import read_class_names
    from gesta.models.public import load

    return load(
        source or options.weights or options.checkpoint,
        model=options.model,
        head=options.head,
        classes=read_class_names(options.classes) if options.classes else None,
        label_order=label_order,
        needs_classifier=needs_classifier,
        trust_code=options.trust_code,
    )
