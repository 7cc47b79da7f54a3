"""Files of others: nothing in them runs, opens, downloads or imports anything, and what is wrong is one sentence.

``scripts/test --lowest`` runs this folder with the lowest versions that pyproject.toml allows.
"""

from __future__ import annotations

import importlib
import json
import pickle
import re
import time
import tomllib
import types
import typing
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gesta.checkpoint import load, load_state, save_model
from gesta.checkpoint.weights import read_source
from gesta.cli import main
from gesta.config import _hints, definitions, from_json, to_json
from gesta.errors import GestaError
from gesta.model import ModelConfig
from gesta.models import model_config
from gesta.models.frames import TimmFramesConfig, TimmOptions
from gesta.recipes.address import find_recipe, read_recipe

Video = Callable[..., Path]


class Payload:
    """What an attacker would put into a file: unpickling it writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


def describe(path: Path, model: Any, classes: Any = ("a", "b"), **changes: Any) -> Path:
    """A model file with a description of whatever kind, and hardly any weights."""
    path.parent.mkdir(exist_ok=True)
    metadata = {"format": 1, "gesta": "0.1.0", "model": model, "classes": classes, **changes}
    save_file({"x": torch.ones(1)}, path, {"gesta": json.dumps(metadata)})
    return path


def complaint_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says about a file, which must be one sentence and status 1."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, error = capsys.readouterr()
    assert ended.value.code == 1 and not out and error.startswith("gesta: ") and error.count("\n") == 1, error
    return error


# --- options that a library would open, download or unpickle ----------------------------------------------------------


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained_cfg_overlay", "cache_dir"])
@pytest.mark.parametrize("verb", ["predict", "filters"])
def test_a_given_run_hands_nothing_to_timm(
    tmp_path: Path, make_video: Video, capsys: pytest.CaptureFixture[str], name: str, verb: str
) -> None:
    """With timm 1.0.20, our former lower bound, ``checkpoint_path`` was unpickled and the mark was written."""
    mark, pickled = tmp_path / "mark", tmp_path / "given_run" / "last.ckpt"
    value = {"file": str(pickled)} if name == "pretrained_cfg_overlay" else str(pickled)
    model = to_json(TimmFramesConfig(image="resnet18", classes=2)) | {"options": {name: value}}
    describe(tmp_path / "given_run" / "best.safetensors", model)
    pickled.write_bytes(pickle.dumps(Payload(mark)))
    words = {
        "predict": ["predict", str(pickled.parent), str(make_video("clip.mp4"))],
        "filters": ["analyse", "filters"],
    }
    error = complaint_of(capsys, *words[verb], *[str(pickled.parent)] * (verb == "filters"))
    assert f'best.safetensors: TimmOptions has no field "{name}"' in error and not mark.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"depths": "given_run/last.ckpt"}},
        {"options": {"num_heads": {"class": "Folder"}}},
        {"options": {"class": "Folder"}},
        {"image": "hf-hub:someone/model"},
        {"image": "local-dir:given_run"},
        {"image": "resnet18/../x"},
        {"image": ["resnet18"]},
    ],
    ids=str,
)
def test_names_and_options_of_timm_are_plain(tmp_path: Path, change: dict[str, Any]) -> None:
    model = to_json(TimmFramesConfig(image="resnet18", classes=2)) | change
    with pytest.raises(GestaError, match=r"m\.safetensors"):
        load(describe(tmp_path / "m.safetensors", model))


def test_options_of_python_are_checked_like_those_of_files() -> None:
    options: Any = {"checkpoint_path": "last.ckpt"}
    with pytest.raises(GestaError, match='no field "checkpoint_path"'):
        TimmFramesConfig(image="resnet18", options=options).build()
    assert not [name for name in TimmOptions.__annotations__ if name.startswith(("pretrained", "checkpoint", "cache"))]


REACH = {
    **dict.fromkeys(
        ("root", "flow", "annotations", "class_names", "train", "val", "test", "test_labels"), "a path to read"
    ),
    **dict.fromkeys(
        ("leave_out", "columns", "delimiter", "label_delimiter", "flip_labels"), "words that a list is read with"
    ),
    **dict.fromkeys(("no_decay", "lr_multipliers", "freeze", "only"), "beginnings of parameters' names"),
    "classes": "names of label spaces",
    "cache": "a folder in which a probe keeps features, in a folder named by a hash",
    "image": "a name that timm's registry must have",
    **dict.fromkeys(
        ("weights", "head"), "a path that read_source reads, without unpickling; hf:owner/name downloads such a file"
    ),
    "name": "the folder of the run under runs/, see read_recipe",
    **dict.fromkeys(("paper", "expected"), "printed"),
    "file": "the name of an exported file in the same folder, see gesta.export.fastest; it is read as such files are",
    "checksum": "compared with that of weights",
    "device": "the name of a device; no file holds the settings of a server",
}
"""What the text in a field of a config class reaches. Nothing else in a file can hold text."""


def text_in(hint: Any) -> Iterator[Any]:
    """Types inside a type hint other than numbers, booleans, listed words and config classes."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal or hint in (int, float, bool, types.NoneType, ...) or is_dataclass(hint):
        return
    if typing.is_typeddict(hint):
        inner = tuple(_hints(hint).values())
    for part in inner[:1] if origin is typing.Annotated else inner:
        yield from text_in(part)
    if not inner:
        yield hint


def test_text_in_a_file_reaches_only_what_is_listed() -> None:
    """A new field of text, or of no type, must be thought about: what can a stranger make it do?"""
    found = set()
    for name, module in definitions().items():
        for field, hint in _hints(getattr(importlib.import_module(module), name)).items():
            kinds = set(text_in(hint))
            assert kinds <= {str}, (name, field, kinds)
            found |= {field} if kinds else set()
    assert found == REACH.keys()


def test_nothing_in_the_source_unpickles_or_evaluates() -> None:
    words = ("pickle.load", "import pickle", "eval(", "exec(", "yaml.", "joblib", "allow_pickle", "weights_only=False")
    source = Path(__file__).parents[2] / "src" / "gesta"
    texts = {file.name: file.read_text() for file in source.rglob("*.py")}
    for name, text in texts.items():
        text = text.replace("allow_pickle=False", "")
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        calls = [word for line in lines for word in words if word in line.replace(".eval(", "").replace("_eval(", "")]
        assert not calls, (name, calls)
    assert [name for name, text in texts.items() if "torch.load(" in text] == ["formats.py"]


def test_every_library_has_a_lower_bound() -> None:
    """So that scripts/test --lowest tries all of them."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert all(re.fullmatch(r"\w+>=\d+(\.\d+)+", dependency) for dependency in project["dependencies"])


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/elsewhere", "a/b", "", ".", ".ssh", "nul\0", "n" * 244])
def test_a_given_recipe_names_no_folder_elsewhere(tmp_path: Path, name: str) -> None:
    fields = to_json(find_recipe("finetune", model="r3d_tiny")) | {"name": name}
    (tmp_path / "recipe.json").write_text(json.dumps(fields))
    with pytest.raises(GestaError, match=r"recipe\.json: .*give the recipe\.json of a run folder"):
        read_recipe(tmp_path / "recipe.json")


# --- descriptions and weights that no one can build ------------------------------------------------------------------


SIZES: list[tuple[str, dict[str, Any], str]] = [
    ("mvitv2_tiny", {"depths": [100_000] * 3}, "more than 1010 parts"),
    ("timm_frames", {"image": "vit_tiny_patch16_224", "options": {"depth": 100_000}}, "more than 1010 parts"),
    ("r3d_50", {"width": 10**7}, "Gi numbers"),
    ("r3d_50", {"width": 10**17}, "width is 100000000000000000, not 2147483647 or less"),
    ("r3d_50", {"width": 0}, "width is 0, not 1 or more"),
    ("r3d_50", {"width": -1}, "width is -1, not 1 or more"),
    ("r3d_50", {}, "do not fit the R3D it describes"),
    ("r3d_50", {"classes": 999_999_999}, "names 2 classes, but its model has 999999999"),
    ("rpe_stdt_b12", {"clip": {"class": "ClipSpec", "size": 4096}}, "more than 4096 squared"),
    ("vivit_b", {"clip": {"class": "ClipSpec", "frames": 10**9}}, r"clip\.frames is 1000000000, not from 1 to 4096"),
]


@pytest.mark.parametrize(("name", "change", "sentence"), SIZES, ids=range(len(SIZES)))
def test_a_model_that_no_one_can_build_is_refused_at_once(
    tmp_path: Path, name: str, change: dict[str, Any], sentence: str
) -> None:
    """100,000 blocks, or 768 GB of numbers, are refused before memory is taken; 20 seconds are the stated limit."""
    path = describe(tmp_path / "m.safetensors", to_json(model_config(name, classes=2)) | change)
    begin = time.process_time()
    with pytest.raises(GestaError, match=sentence):
        load(path)
    assert time.process_time() - begin < 20


@pytest.mark.parametrize(
    "changes",
    [
        *({"model": value} for value in (None, 3, [], "resnet18", {}, {"class": "Folder"}, {"class": 3})),
        *({"classes": value} for value in (None, 3, "ab", [1, 2], {"verb": "ab"}, ["a"], {"verb": ["a"]}, [])),
        *({"format": value} for value in (None, "1", [1], 1.5, True)),
        {"format": 99, "gesta": ["x"] * 9},
        *({"depth": value} for value in (3, "jet", {"encoding": "x"}, {"far": "1"}, {"fur": 1})),
        {"person_crop": "yes"},
        {"notes": [1]},
        {"gesta": None},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_description_of_wrong_types_is_one_sentence(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = to_json(model_config("r3d_tiny", classes=2))
    path = describe(tmp_path / "m.safetensors", **{"model": model} | changes)
    with pytest.raises(GestaError, match=r"m\.safetensors:? [^\n]*$"):
        load(path)


def test_every_field_of_a_description_may_be_of_a_wrong_type(tmp_path: Path) -> None:
    """Each field of three models becomes each kind of JSON value; only the type that it has may be accepted."""
    for name in ("mvitv2_tiny", "ata_convnext_tiny", "mfst_rgbd_tiny"):
        plain = to_json(model_config(name))
        for field in plain:
            for value in (None, True, "x", -1, 0.5, [], {}, [[]], ["x"], {"class": "Insert"}, 10**17):
                try:
                    config = from_json(plain | {field: value}, ModelConfig, source="m")
                except GestaError:
                    continue
                assert type(value) is not bool or isinstance(plain[field], bool), (field, value)
                assert isinstance(config, ModelConfig)


def test_what_other_libraries_let_torch_make_is_refused_in_given_files(tmp_path: Path) -> None:
    """torch.distributed, for one, lets files make a DeviceMesh, which may start a process group."""
    mark = tmp_path / "mark"
    torch.save({"state_dict": Payload(mark)}, tmp_path / "w.pth")
    with torch.serialization.safe_globals([open]):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(GestaError, match=r"w\.pth: holds a Python object \(\w*io\.open\)"):
            read_source(tmp_path / "w.pth")
        assert set(torch.serialization.get_safe_globals()) == before and not mark.exists()


def test_strange_weights_are_refused(tmp_path: Path) -> None:
    weights = {"blocks.0.weight": torch.ones(2, 2)}
    ring: dict[str, Any] = {}
    ring["state_dict"] = ring
    chain: Any = weights
    for _ in range(50):
        chain = {"model": chain}
    for name, content, sentence in (
        ("ring", ring, "no named weights"),
        ("chain", chain, "no named weights"),
        ("expanded", {"x": torch.ones(1).expand(10**12)}, "claims more numbers than the file holds"),
        ("sparse", {"x": torch.eye(2).to_sparse()}, "is sparse"),
        ("numbers", {1: torch.ones(1), ("a",): torch.ones(1)}, "no named weights"),
        ("magic", {"magic": "gesta training state", "state": [1]}, "no named weights"),
    ):
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(GestaError, match=rf"{name}\.pth: .*{sentence}"):
            read_source(tmp_path / f"{name}.pth")
    torch.save(weights, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w", 8) as packed:
        for member in plain.namelist():
            packed.writestr(member, plain.read(member))
    with pytest.raises(GestaError, match=r"bomb\.pth: a compressed archive"):
        read_source(tmp_path / "bomb.pth")
    assert read_source(tmp_path / "plain.pth").weights.keys() == weights.keys()


@pytest.mark.parametrize("change", [{"format": "1"}, {"format": torch.ones(2)}, {"state": 3}, {"state": None}], ids=str)
def test_a_training_state_of_wrong_types_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    torch.save({"magic": "gesta training state", "format": 1, "state": {}} | change, tmp_path / "last.ckpt")
    with pytest.raises(GestaError, match=r"last\.ckpt: a damaged training state"):
        load_state(tmp_path / "last.ckpt")


def test_a_metric_that_is_not_a_number_does_not_spoil_the_model_file(tmp_path: Path) -> None:
    model = model_config("r3d_tiny", classes=2).build()
    path = save_model(tmp_path / "m.safetensors", model, ["a", "b"], notes={"val": {"top1": float("nan")}})
    assert load(path).metadata["notes"] == {"val": {"top1": None}}
