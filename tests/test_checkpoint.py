"""Files of weights: self-sufficient, atomic, never unpickled, and honest about what matched."""

from __future__ import annotations

import argparse
import math
import os
import pickle
import signal
from collections.abc import Callable
from dataclasses import field
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gesta import checkpoint
from gesta.checkpoint import load, load_state, read_metadata, save_model, save_state
from gesta.checkpoint.formats import file_hash
from gesta.checkpoint.weights import import_weights, read_source
from gesta.config import config
from gesta.errors import CheckpointError, GestaError
from gesta.model import Classifier, ClipSpec, Grid, ModelConfig, VideoModel


@config
class ToyConfig(ModelConfig):
    width: int = 4
    clip: ClipSpec = field(default_factory=lambda: ClipSpec(frames=2, size=8, mean=(0.1, 0.2, 0.3)))

    def build(self) -> Toy:
        return Toy(self)


class Toy(VideoModel):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Linear(3, config.width)
        self.blocks = nn.ModuleList([nn.Linear(config.width, config.width) for _ in range(2)])
        self.twin = self.blocks[0]  # tied weights
        self.classifier = Classifier(config.width, config.classes)
        self.finish()

    def stem(self, video: Tensor) -> Tensor:
        return self.embedding(video.movedim(1, -1))

    def pool(self, state: Tensor) -> Tensor:
        return state.mean((1, 2, 3))

    def to_grid(self, state: Tensor) -> Tensor:
        return state.movedim(-1, 1)

    def from_grid(self, grid: Tensor, state: Tensor) -> Tensor:
        return grid.movedim(1, -1)

    def grid_at(self, block: int) -> Grid:
        return 4, 2, 8, 8

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name.replace("patch.", "embedding."): value for name, value in weights.items()}


class Payload:
    """What an attacker would put into a file: unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_model_file_needs_nothing_else(tmp_path: Path) -> None:
    model = ToyConfig(classes=3).build()
    path = save_model(tmp_path / "best.safetensors", model, ["run", "sit", "wave"], licence="CC0", notes={"top1": 50.0})
    loaded = load(path, trust_code=True)
    assert loaded.classes == ["run", "sit", "wave"]
    assert loaded.model.config == model.config and not loaded.model.training
    assert loaded.metadata["licence"] == "CC0" and loaded.metadata["notes"] == {"top1": 50.0}
    video = torch.rand(1, 3, 2, 8, 8)
    assert torch.equal(loaded.model(video), model(video))
    assert os.listdir(tmp_path) == ["best.safetensors"]


def test_a_run_folder_stands_for_its_best_weights(tmp_path: Path) -> None:
    path = save_model(tmp_path / "best.safetensors", ToyConfig(classes=3).build(), ["run", "sit", "wave"])
    loaded = load(tmp_path, trust_code=True)
    assert loaded.path == str(path) and "3 classes" in str(loaded) and str(path) in str(loaded)
    assert "Linear" not in repr(loaded)  # not the whole network
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty: no best\.safetensors"):
        load(tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"last\.ckpt: there is no such file or folder"):
        load(tmp_path / "last.ckpt")
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"last\.ckpt: neither a run folder nor"):
        load(tmp_path / "last.ckpt")


def test_names_of_other_classes_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(GestaError, match="2 class names cannot be saved with a model of 3 classes"):
        save_model(tmp_path / "m.safetensors", ToyConfig(classes=3).build(), ["a", "b"])
    assert not list(tmp_path.iterdir())


def test_equal_weights_give_equal_files(tmp_path: Path) -> None:
    model = ToyConfig(classes=3).build()
    paths = [save_model(tmp_path / f"{i}.safetensors", model, ["a", "b", "c"], licence="CC0") for i in range(8)]
    assert len({file_hash(path) for path in paths}) == 1


def test_loading_leaves_the_callers_randomness_alone(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.safetensors", ToyConfig(classes=3).build(), ["a", "b", "c"])
    before = torch.random.get_rng_state()
    load(path, trust_code=True)
    assert torch.equal(before, torch.random.get_rng_state())


def test_model_classes_outside_gesta_need_trust(tmp_path: Path) -> None:
    path = save_model(tmp_path / "m.safetensors", ToyConfig(classes=3).build(), ["a", "b", "c"])
    with pytest.raises(GestaError, match="trust_code=True"):
        load(path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_model_file_cut_short(tmp_path: Path, keep: int) -> None:
    path = save_model(tmp_path / "m.safetensors", ToyConfig(classes=3).build(), ["a", "b", "c"])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"m\.safetensors: .*copy it again"):
        load(path)


def test_files_that_are_no_model_file(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match=r"init\.weights"):
        load(tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "absent.safetensors")


def test_files_of_a_later_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    path = save_model(tmp_path / "m.safetensors", ToyConfig(classes=3).build(), ["a", "b", "c"])
    state = save_state(tmp_path / "last.ckpt", {})
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    with pytest.raises(CheckpointError, match="later version"):
        read_metadata(path)
    with pytest.raises(CheckpointError, match="later version"):
        load_state(state)


def test_state_round_trip(tmp_path: Path) -> None:
    state = {"step": 3, "best": None, "rates": [0.1, 0.2], "weights": {"a": torch.arange(3)}, "name": "x"}
    back = load_state(save_state(tmp_path / "last.ckpt", state))
    assert torch.equal(back["weights"].pop("a"), state["weights"].pop("a")) and back == state  # type: ignore[attr-defined]


@pytest.mark.parametrize("keep", [0, 1, 100, 1000, -1])
def test_state_cut_short(tmp_path: Path, keep: int) -> None:
    path = save_state(tmp_path / "last.ckpt", {"weights": torch.arange(1000)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: "):
        load_state(path)


@pytest.mark.parametrize("at", [0.05, 0.3, 0.6, 0.9])
def test_one_changed_byte_is_noticed(tmp_path: Path, at: float) -> None:
    state, model = tmp_path / "last.ckpt", tmp_path / "best.safetensors"
    save_state(state, {"weights": torch.arange(1000.0)})
    save_model(model, ToyConfig(classes=2, width=100).build(), ["a", "b"])
    for path, read in ((state, load_state), (model, lambda path: load(path, trust_code=True))):
        read(path)
        data = bytearray(path.read_bytes())
        data[int(at * len(data))] ^= 1
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=rf"{path.name}: .*(copy|copied)"):
            read(path)


@pytest.mark.full  # a byte of each part is changed in the test above
def test_no_changed_byte_changes_a_state(tmp_path: Path) -> None:
    path = save_state(tmp_path / "last.ckpt", {"weights": torch.arange(30.0), "step": 3})
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << position % 8]) + whole[position + 1 :])
        try:
            state = load_state(path)
        except CheckpointError:
            refused += 1
        else:  # padding, dates
            assert state["step"] == 3 and torch.equal(state["weights"], torch.arange(30.0))
    assert refused > len(whole) / 3


def test_weights_that_are_not_numbers_are_named(tmp_path: Path) -> None:
    model = ToyConfig(classes=2).build()
    weights = {name: torch.full_like(value, math.nan) for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"10 of its 10 weights are not finite numbers \(embedding\.weight"):
        import_weights(model, weights)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_failed_write_leaves_the_previous_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_state(tmp_path / "last.ckpt", {"step": 1})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(GestaError, match=r"last\.ckpt: cannot be written \(No space left"):
        save_state(path, {"step": 2})
    assert load_state(path) == {"step": 1} and os.listdir(tmp_path) == ["last.ckpt"]


def test_full_disk_leaves_the_previous_state(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = save_state(tmp_path / "last.ckpt", {"step": 1})
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"last\.ckpt: cannot be written"):
            save_state(path, {"step": 2, "weights": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert load_state(path) == {"step": 1} and os.listdir(tmp_path) == ["last.ckpt"]


def test_the_state_before_is_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_state(tmp_path / "last.ckpt", {"step": step})
    assert load_state(tmp_path / "last.ckpt") == {"step": 3} and load_state(tmp_path / "previous.ckpt") == {"step": 2}


@pytest.mark.parametrize(
    "write", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))], ids=["torch", "plain"]
)
@pytest.mark.parametrize("read", [load_state, read_source])
def test_pickles_are_refused_and_not_run(
    tmp_path: Path, read: Callable[[Path], object], write: Callable[[object, Path], object]
) -> None:
    path = tmp_path / "gift.pth"
    write({"state_dict": {"a": Payload(tmp_path / "trap")}}, path)
    with pytest.raises(CheckpointError, match=r"gift\.pth: "):
        read(path)
    assert not (tmp_path / "trap").exists()


def test_the_refusal_names_the_object(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear.*model\.state_dict\(\)"):
        read_source(tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match="not a training state"):
        torch.save({"a": torch.ones(1)}, tmp_path / "other.ckpt")
        load_state(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    "content",
    [
        {"patch.weight": 1},
        {"state_dict": {"module.patch.weight": 1}},
        {"model_state": {"patch.weight": 1}, "cfg": "text", "epoch": 3},
        {"model": {"_orig_mod.module.patch.weight": 1}, "args": argparse.Namespace(lr=0.1)},
        {"module": {"module._orig_mod.patch.weight": 1}},
        {"model_ema": {"state_dict": {"patch.weight": 1}}},
        {"target_encoder": {"module.patch.weight": 1}, "epoch": 3, "opt": {"state": {}, "param_groups": []}},
        {"classifiers": [{"module.patch.weight": 1}], "epoch": 3},
    ],
    ids=lambda content: next(iter(content)),
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_wrappings_of_public_checkpoints(tmp_path: Path, content: dict[str, object], zipped: bool) -> None:
    def fill(value: object) -> object:
        if isinstance(value, dict):
            return {k: torch.ones(2) if v == 1 else fill(v) for k, v in value.items()}
        return [fill(v) for v in value] if isinstance(value, list) else value

    torch.save(fill(content), tmp_path / "public.tar", _use_new_zipfile_serialization=zipped)
    assert list(read_source(tmp_path / "public.tar").weights) == ["patch.weight"]


def test_weights_of_a_training_state_and_of_a_model_file(tmp_path: Path) -> None:
    model = ToyConfig(classes=3).build()
    save_state(tmp_path / "last.ckpt", {"step": 1, "model": model.state_dict(), "optimizer": {"state": {}}})
    save_model(tmp_path / "best.safetensors", model, ["a", "b", "c"])
    for name in ("last.ckpt", "best.safetensors"):
        assert set(read_source(tmp_path / name).weights) == set(model.state_dict())


def test_file_without_weights(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="no named weights"):
        read_source(tmp_path / "none.pth")


def test_import_reports_everything(tmp_path: Path) -> None:
    theirs = {k.replace("embedding.", "patch."): v + 1 for k, v in ToyConfig(classes=5).build().state_dict().items()}
    del theirs["blocks.1.bias"], theirs["twin.weight"], theirs["twin.bias"]
    theirs["head.extra"] = torch.ones(1)
    torch.save({"state_dict": theirs}, tmp_path / "public.pth")
    model = ToyConfig(classes=3).build()
    report = import_weights(model, tmp_path / "public.pth")
    assert set(report.matched) == {
        "embedding.weight",
        "embedding.bias",
        "blocks.0.weight",
        "blocks.0.bias",
        "blocks.1.weight",
    }
    assert set(report.missing) == {"blocks.1.bias", "twin.weight", "twin.bias"}
    assert report.unexpected == ("head.extra",)
    assert report.mismatched["classifier.linear.weight"] == ((5, 4), (3, 4))
    assert report.matched_fraction == pytest.approx(52 / 56)  # 16 + 20 + 20 parameters, one bias of 4 missing
    assert torch.equal(model.embedding.weight, theirs["patch.weight"])
    text = str(report)
    assert "92.9 %" in text and "blocks.1.bias" in text and "head.extra" in text
    assert "[5, 4] in the source, [3, 4] in the model" in text
    assert report.to_json()["mismatched"]["classifier.linear.bias"] == [[5], [3]]


def test_import_below_the_bar_changes_nothing() -> None:
    model = ToyConfig(classes=3).build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"35\.7 % .*90 % are required"):
        import_weights(model, {"blocks.0.weight": torch.ones(4, 4), "blocks.0.bias": torch.ones(4)}, min_matched=0.9)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_some_parameters_are_taken() -> None:
    model, other = ToyConfig(classes=3).build(), ToyConfig(classes=3).build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    theirs = {name: value + 1 for name, value in other.state_dict().items()}
    report = import_weights(model, theirs, min_matched=1.0, only=("blocks.1.",))
    assert report.matched == ("blocks.1.weight", "blocks.1.bias") and report.matched_fraction == 1
    assert report.missing == () and report.unexpected == ()
    for name, value in model.state_dict().items():
        assert torch.equal(value, theirs[name] if name.startswith("blocks.1.") else before[name]), name
    with pytest.raises(GestaError, match=r"init\.only: .*'block\.'; did you mean 'blocks\.'"):
        import_weights(model, theirs, only=("block.",))


def test_file_hash(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
