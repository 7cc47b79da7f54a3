"""The command that makes files for other runtimes, and a page for browsers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gesta.cli.options import Commands, print_results, trust_option
from gesta.cli.public_weights import check_model_options, load_model, model_options
from gesta.errors import GestaError
from gesta.files import check_not_read

_ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}

_EXAMPLES = """examples:
  gesta export runs/finetune-mvitv2_tiny --to onnx --uint8      makes runs/finetune-mvitv2_tiny/model.onnx
  gesta export runs/finetune-mvitv2_tiny --to torch --out clips.pt2
  gesta export runs/finetune-mvitv2_tiny --to onnx --int8       model-int8.onnx, and what it costs in accuracy
  gesta export runs/finetune-mvitv2_tiny --to web page          a folder that recognises actions in any browser
  gesta predict runs/finetune-mvitv2_tiny/model.onnx new.mp4    as with the run"""


def add_command(commands: Commands) -> None:
    sub = commands.add("export", _export, "write a trained model for another runtime: ONNX, torch.export, a browser")
    sub.epilog, sub.formatter_class = _EXAMPLES, argparse.RawDescriptionHelpFormatter
    model_options(sub)
    sub.add_argument("folder", metavar="DIR", nargs="?", help="with --to web: the folder, which is made")
    text = "onnx, torch for torch.export (.pt2), or web for a page that needs no server (DIR)"
    sub.add_argument("--to", required=True, choices=[*_ENDINGS, "web"], help=text)
    text = "the file takes frames as they are decoded, (clips, T, H, W, 3) uint8, and normalises them itself"
    sub.add_argument("--uint8", action="store_true", help=text)
    text = "any number of clips at once (default), or --no-dynamic: one, for runtimes that want fixed sizes"
    sub.add_argument("--dynamic", action=argparse.BooleanOptionalAction, default=True, help=text)
    text = "also quantise to 8 bits, with the run's training clips, and print the accuracy before and after"
    sub.add_argument("--int8", action="store_true", help=text)
    text = "the file (default: model.onnx or model.pt2 in the run's folder, or beside the weights)"
    sub.add_argument("--out", metavar="FILE", help=text)
    text = "with --to web: the npm package that the page needs, as npm pack writes it (default: npm is asked once)"
    sub.add_argument("--onnxruntime-web", metavar="TGZ", help=text)
    trust_option(sub)


def _export(options: argparse.Namespace) -> None:
    from gesta.checkpoint.hub import weights_in
    from gesta.export.write import CHECKED_CLIPS, export, views_of_data
    from gesta.models.public import find_model
    from gesta.recipes.address import read_recipe

    if options.model and options.checkpoint and not options.folder:  # with --model there is no CKPT
        options.folder, options.checkpoint = options.checkpoint, None
    check_model_options(options)
    _check_for_web(options)
    folder, recipe, local = Path(), None, None
    if options.checkpoint:
        local = weights_in(find_model(options.checkpoint))
        folder = Path() if local.from_hub else local.path.parent
        if (folder / "recipe.json").is_file():
            recipe = read_recipe(folder / "recipe.json", trust_code=options.trust_code)
    if options.int8 and not recipe:
        raise GestaError("--int8 needs a run, whose data it reads; give the folder of one")
    protocol, views = recipe.evaluate if recipe else None, None  # of a file without a recipe, what it says itself
    name = ("model" if recipe or not local else local.path.stem) + "-int8" * options.int8
    model = load_model(options, local)
    if options.int8:
        from gesta.export.quantise import export_int8  # onnxruntime's quantisation takes a second

        assert recipe is not None
        how: dict[str, Any] = {"uint8": options.uint8, "dynamic": options.dynamic}
        out = _out(options, folder, name)
        print_results(options, export_int8(model, out, data=recipe.data, protocol=recipe.evaluate, **how))
        return
    if recipe:
        split = recipe.evaluate.split
        read = views_of_data(recipe.data, model.model.config.clip, recipe.evaluate, CHECKED_CLIPS, split)
        views = read if len(read) == CHECKED_CLIPS else None  # its data may be elsewhere
    checked: dict[str, Any] = {"protocol": protocol, "views": views}
    if options.to == "web":
        from gesta.export.web import export_web

        print_results(options, export_web(model, options.folder, package=options.onnxruntime_web, **checked))
        return
    out = _out(options, folder, name)
    print_results(options, export(model, out, uint8=options.uint8, dynamic=options.dynamic, **checked))


def _check_for_web(options: argparse.Namespace) -> None:
    """Refuse flags of files for a page, and those of a page for files."""
    web = options.to == "web"
    if web and not options.folder:
        raise GestaError("--to web makes a folder; say which: gesta export RUN --to web DIR")
    of_files = {"--out": options.out, "--uint8": options.uint8, "--int8": options.int8}
    of_files["--no-dynamic"] = not options.dynamic
    of_pages = {"DIR": options.folder, "--onnxruntime-web": options.onnxruntime_web}
    for flag in (flag for flag, given in (of_files if web else of_pages).items() if given):
        other = "files; a page has a folder and a form of its own" if web else "--to web; a file has --out"
        raise GestaError(f"{flag} is for {other}; leave it out")
    if options.int8 and options.to != "onnx":
        raise GestaError("--int8 writes ONNX; add --to onnx")


def _out(options: argparse.Namespace, folder: Path, name: str) -> Path:
    """The file that is written."""
    ending = _ENDINGS[options.to]
    out = Path(options.out) if options.out else folder / f"{name}{ending}"
    if out.suffix != ending:
        raise GestaError(f"{out}: --to {options.to} writes {ending} files; choose such a name with --out")
    check_not_read(out, filter(None, [options.checkpoint, options.weights]))  # the default name, too
    return out
