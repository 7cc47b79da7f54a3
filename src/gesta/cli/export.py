"""The verb that makes files for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gesta.cli.options import Verbs, print_results, trust_option
from gesta.cli.public_weights import check_model_options, load_model, model_options
from gesta.errors import GestaError

_ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}

_EXAMPLES = """examples:
  gesta export runs/finetune-mvitv2_tiny --to onnx --uint8      makes runs/finetune-mvitv2_tiny/model.onnx
  gesta export runs/finetune-mvitv2_tiny --to torch --out clips.pt2
  gesta export runs/finetune-mvitv2_tiny --to onnx --int8       model-int8.onnx, and what it costs in accuracy
  gesta predict runs/finetune-mvitv2_tiny/model.onnx new.mp4    as with the run"""


def add_verb(verbs: Verbs) -> None:
    sub = verbs.add("export", _export, "write a trained model for another runtime: ONNX, or torch.export's .pt2")
    sub.epilog, sub.formatter_class = _EXAMPLES, argparse.RawDescriptionHelpFormatter
    model_options(sub)
    sub.add_argument("--to", required=True, choices=list(_ENDINGS), help="onnx, or torch for torch.export (.pt2)")
    text = "the file takes frames as they are decoded, (clips, T, H, W, 3) uint8, and normalises them itself"
    sub.add_argument("--uint8", action="store_true", help=text)
    text = "any number of clips at once (default), or --no-dynamic: one, for runtimes that want fixed sizes"
    sub.add_argument("--dynamic", action=argparse.BooleanOptionalAction, default=True, help=text)
    text = "also quantise to 8 bits, with the run's training clips, and print the accuracy before and after"
    sub.add_argument("--int8", action="store_true", help=text)
    text = "the file (default: model.onnx or model.pt2 in the run's folder, or beside the weights)"
    sub.add_argument("--out", metavar="FILE", help=text)
    trust_option(sub)


def _export(options: argparse.Namespace) -> None:
    from gesta.checkpoint.hub import weights_in
    from gesta.export.write import CHECKED_CLIPS, export, views_of_data
    from gesta.models.public import find_model
    from gesta.recipe import EvaluateConfig
    from gesta.recipes.address import read_recipe

    check_model_options(options)
    folder, recipe, local = Path(), None, None
    if options.checkpoint:
        local = weights_in(find_model(options.checkpoint))
        folder = Path() if local.from_hub else local.path.parent
        if (folder / "recipe.json").is_file():
            recipe = read_recipe(folder / "recipe.json", trust_code=options.trust_code)
    name = ("model" if recipe or not local else local.path.stem) + "-int8" * options.int8
    out = Path(options.out) if options.out else folder / f"{name}{_ENDINGS[options.to]}"
    if out.suffix != _ENDINGS[options.to]:
        raise GestaError(f"{out}: --to {options.to} writes {_ENDINGS[options.to]} files; choose such a name with --out")
    if options.int8 and (options.to != "onnx" or not recipe):
        what = "writes ONNX; add --to onnx" if recipe else "needs a run, whose data it reads; give the folder of one"
        raise GestaError(f"--int8 {what}")
    model = load_model(options, local)
    protocol, views = recipe.evaluate if recipe else EvaluateConfig(), None
    if recipe and options.int8:
        from gesta.export.quantise import export_int8  # onnxruntime's quantisation takes a second

        how: dict[str, Any] = {
            "data": recipe.data,
            "protocol": protocol,
            "uint8": options.uint8,
            "dynamic": options.dynamic,
        }
        print_results(options, export_int8(model, out, **how))
        return
    if recipe:
        clip = model.model.config.clip
        read = views_of_data(recipe.data, clip, protocol, CHECKED_CLIPS, protocol.split)
        views = read if len(read) == CHECKED_CLIPS else None  # its data may be elsewhere
    report = export(model, out, uint8=options.uint8, dynamic=options.dynamic, protocol=protocol, views=views)
    print_results(options, report)
