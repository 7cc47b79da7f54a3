"""Weights of others taken into a model: forms of files, wrappings of names, averages, classes, variants."""

from __future__ import annotations

import io
import math
import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from gesta.checkpoint import load, save_model, save_state
from gesta.checkpoint.formats import read_torch
from gesta.checkpoint.weights import import_weights, read_source
from gesta.errors import CheckpointError
from gesta.model import ClipSpec, VideoModel
from gesta.models.mvit import MViTConfig
from gesta.models.timesformer import TimeSformerConfig
from public_names import timesformer

CLASSES = ["run", "sit", "wave"]


def small(classes: int | dict[str, int] = 3, **changes: Any) -> VideoModel:
    clip = ClipSpec(frames=2, stride=1, size=8)
    return TimeSformerConfig(
        **{"width": 8, "depth": 2, "heads": 2, "patch": 4, "classes": classes, "clip": clip, **changes}
    ).build()


def shaken(model: VideoModel) -> VideoModel:
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


# --- forms of files --------------------------------------------------------------------------------------------------


class Gelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Clip(nn.Module):
    """As much of OpenAI's CLIP as makes every kind of entry of its TorchScript archive."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 2)
        self.blocks = nn.Sequential(nn.Linear(4, 4), Gelu(), nn.BatchNorm1d(4))
        self.proj = nn.Parameter(torch.randn(4, 2))
        self.register_buffer("resolution", torch.tensor(224))
        self.sizes, self.scales, self.large = [1, 2], {"x": 1.5}, 2**40

    def forward(self, image: Tensor) -> Tensor:
        features = self.blocks(self.conv1(image).mean((2, 3))) @ self.proj
        return features * self.scales["x"] + self.sizes[0] + self.large


@pytest.mark.parametrize("trace", [True, False])
@pytest.mark.filterwarnings("ignore")  # torch calls its scripts obsolete
def test_a_torchscript_archive_gives_its_tensors_and_nothing_runs(trace: bool, tmp_path: Path) -> None:
    model = Clip().half()
    image = torch.ones(2, 3, 4, 4).half()
    script = torch.jit.trace(model, image, check_trace=False) if trace else torch.jit.script(model)
    script.save(str(tmp_path / "clip.pt"))
    weights = read_source(tmp_path / "clip.pt").weights
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


class Payload:
    """What unpickling of it would do: make a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    ("compression", "repeat", "sentence"),
    [(0, 1, r"holds a Python object \(posix\.mkdir\)|cut short"), (8, 1, "compressed"), (0, 300, "cut short")],
)
def test_a_hostile_torchscript_archive_is_refused(compression: int, repeat: int, sentence: str, tmp_path: Path) -> None:
    trap, data = tmp_path / "trap", io.BytesIO()
    pickle.dump({"a": Payload(trap)} if repeat == 1 else [[]], data, protocol=2)
    with zipfile.ZipFile(tmp_path / "m.pt", "w", compression) as archive:
        archive.writestr("m/data.pkl", data.getvalue() if repeat == 1 else b"\x80\x02" + b"c__torch__.A\nB\n" * repeat)
        archive.writestr("m/constants.pkl", b"\x80\x02).")
        archive.writestr("m/version", b"3\n")
    with pytest.raises(CheckpointError, match=rf"m\.pt: .*({sentence})"):
        read_source(tmp_path / "m.pt")
    assert not trap.exists()


def test_numpy_scalars_are_plain_numbers(tmp_path: Path) -> None:
    scalars = {"a": np.float64(0.25), "b": np.int64(-3), "c": np.bool_(True), "d": np.float32(1.5)}
    torch.save({"state_dict": {"x": torch.ones(1)}, "best": scalars}, tmp_path / "a.pth")
    assert read_torch(tmp_path / "a.pth")["best"] == {"a": 0.25, "b": -3, "c": True, "d": 1.5}
    assert list(read_source(tmp_path / "a.pth").weights) == ["x"]
    torch.save({"x": torch.ones(1), "when": np.datetime64("2020-01-01")}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"b\.pth: "):  # no other type of numpy is made
        read_source(tmp_path / "b.pth")


def test_a_run_folder_is_a_source_of_weights(tmp_path: Path) -> None:
    trained = shaken(small())
    save_model(tmp_path / "best.safetensors", trained, CLASSES)
    model = small()
    assert import_weights(model, tmp_path).matched_fraction == 1
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), trained.state_dict().values()))


def test_weights_that_are_not_finite_are_refused_when_read(tmp_path: Path) -> None:
    model = small()
    nn.init.constant_(model.blocks[1].mlp[0].bias, math.nan)
    save_model(tmp_path / "m.safetensors", model, CLASSES)
    with pytest.raises(CheckpointError, match=r"m\.safetensors: 1 of its \d+ weights are not finite .*blocks\.1\.mlp"):
        load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64])
@pytest.mark.parametrize("names", [(".attn.qkv.weight",), ("classifier.linear.weight",)])
def test_quantised_weights_are_refused(dtype: torch.dtype, names: tuple[str, ...]) -> None:
    """Their numbers fit the shapes, and are those of the model only when multiplied by scales that lie beside them."""
    model = shaken(small())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: value.to(dtype) if name.endswith(names) else value for name, value in before.items()}
    with pytest.raises(CheckpointError, match=rf"weights: \d of its weights are of the type {str(dtype)[6:]} \(\S+"):
        import_weights(model, weights, classes=CLASSES, source_classes=CLASSES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    halves = {name: value.to(torch.bfloat16) for name, value in before.items()}
    assert import_weights(model, halves).matched_fraction == 1


def test_files_that_are_no_trained_model_are_named_for_what_they_are(tmp_path: Path) -> None:
    torch.save({"model_state": small().state_dict()}, tmp_path / "X.pyth")
    save_state(tmp_path / "last.ckpt", {"model": {}})
    (tmp_path / "a.mp4").write_bytes(b"no weights")
    for name, sentence in (
        (
            "X.pyth",
            r"a file of weights without a description .*gesta\.load\(FILE, model=NAME\)",
        ),
        ("last.ckpt", "the training state of a run; give the folder of the run"),
        ("a.mp4", "neither a run folder nor"),
    ):
        with pytest.raises(CheckpointError, match=rf"{name}: {sentence}"):
            load(tmp_path / name)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {f"model.{k}": v for k, v in weights.items()},
        lambda weights: {f"backbone.{k}": v for k, v in weights.items()} | {"cls_head.fc.weight": torch.ones(2, 2)},
        lambda weights: {f"module.model.backbone.{k}": v for k, v in weights.items()},
        lambda weights: {f"_orig_mod.module.net.{k}": v for k, v in weights.items()},
        lambda weights: {f"model.module.{k}": v for k, v in weights.items()} | {"criterion.weight": torch.ones(9)},
    ],
    ids=["model", "backbone", "nested", "compiled", "lightning"],
)
def test_prefixes_are_taken_off(wrap: Any, tmp_path: Path) -> None:
    trained, model = shaken(small()), small()
    torch.save({"state_dict": wrap(timesformer(trained)), "hyper_parameters": OrderedDict(lr=0.1)}, tmp_path / "a.ckpt")
    report = import_weights(model, tmp_path / "a.ckpt")
    assert report.matched_fraction == 1 and not report.missing and len(report.unexpected) <= 1
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), trained.state_dict().values()))


def test_weights_of_torchs_averaged_model_load(tmp_path: Path) -> None:
    trained, model = shaken(small()), small()
    torch.save(AveragedModel(trained).state_dict(), tmp_path / "a.pth")
    report = import_weights(model, tmp_path / "a.pth")
    assert report.matched_fraction == 1 and report.unexpected == ("n_averaged",)


def test_a_head_can_be_taken_alone() -> None:
    trained, model = shaken(small()), small()
    report = import_weights(model, trained.state_dict(), only=("classifier.",))
    assert report.matched_fraction == 1 and len(report.matched) == 2
    assert torch.equal(model.classifier.linear.bias, trained.classifier.linear.bias)
    assert not torch.equal(model.blocks[0].mlp[0].weight, trained.blocks[0].mlp[0].weight)
    with pytest.raises(CheckpointError, match=r"only 0\.0 % of the parameters"):
        import_weights(model, {"other.weight": torch.ones(2)}, only=("classifier.",))


def test_the_model_is_in_evaluation_mode_afterwards() -> None:
    model = small().train()
    import_weights(model, small().state_dict())
    assert not any(module.training for module in model.modules())


# --- averages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_the_average_is_taken_and_said(keys: tuple[str, str], tmp_path: Path) -> None:
    raw, average = shaken(small()), shaken(small())
    torch.save(dict(zip(keys, (raw.state_dict(), average.state_dict()))), tmp_path / "a.pth")
    for take, source, sentence in (
        (True, average, rf"the moving average ({keys[1]}) is taken; init.average=False takes the weights ({keys[0]})"),
        (False, raw, rf"the weights ({keys[0]}) are taken, not their moving average ({keys[1]})"),
    ):
        model = small()
        report = import_weights(model, tmp_path / "a.pth", average=take)
        assert torch.equal(model.cls_token, source.cls_token) and sentence in report.remarks
        assert sentence in str(report)


@pytest.mark.parametrize("average_key", ["target_encoder", "ema_encoder"])
def test_of_vjepas_files_the_moving_average_is_taken_and_said(average_key: str, tmp_path: Path) -> None:
    raw, average = shaken(small()), shaken(small())
    wrapped = [{f"module.backbone.{k}": v for k, v in timesformer(model).items()} for model in (raw, average)]
    content = {"encoder": wrapped[0], "predictor": {"module.mask_token": torch.ones(1)}, average_key: wrapped[1]}
    torch.save(
        content | {"opt": {"state": {0: {"step": torch.ones(1)}}}, "scaler": None, "epoch": 3}, tmp_path / "l.pt"
    )
    for take, trained, sentence in (
        (True, average, f"the moving average ({average_key}) is taken; init.average=False takes the weights (encoder)"),
        (False, raw, f"the weights (encoder) are taken, not their moving average ({average_key})"),
    ):
        model = small()
        report = import_weights(model, tmp_path / "l.pt", average=take)
        assert torch.equal(model.cls_token, trained.cls_token) and not report.unexpected
        assert report.remarks[:2] == (sentence, "not used of the file: predictor")


def test_a_head_in_a_second_file_is_joined(tmp_path: Path) -> None:
    trained = timesformer(shaken(small()))
    head = {name: trained.pop(name) for name in ("head.weight", "head.bias")}
    other = {f"module.{name}": value + 1 for name, value in head.items()}
    torch.save({"target_encoder": {f"module.backbone.{k}": v for k, v in trained.items()}}, tmp_path / "encoder.pt")
    torch.save({"classifiers": [{f"module.{k}": v for k, v in head.items()}, other], "epoch": 3}, tmp_path / "head.pt")
    model = small()
    report = import_weights(model, tmp_path / "encoder.pt", head=tmp_path / "head.pt")
    assert not (report.missing or report.unexpected or report.mismatched)
    assert torch.equal(model.state_dict()["classifier.linear.weight"], head["head.weight"])
    assert "the first of 2 heads (classifiers) is taken" in report.remarks and "head.pt" in report.source
    with pytest.raises(
        CheckpointError, match=r"head\.pt: 2 of its weights are in .*head\.pt, too \(head\.bias, head\.w"
    ):
        import_weights(small(), tmp_path / "head.pt", head=tmp_path / "head.pt")


# --- classes ---------------------------------------------------------------------------------------------------------


def test_a_classifier_is_matched_by_the_names_of_its_classes(tmp_path: Path) -> None:
    trained = shaken(small())
    path = save_model(tmp_path / "best.safetensors", trained, CLASSES)
    theirs = trained.classifier.linear
    for ours, rows, sentence in (
        (CLASSES, [0, 1, 2], "the classifier has all 3 classes by name"),
        (["wave", "run", "sit"], [2, 0, 1], "all 3 classes by name (in another order or number there)"),
        (["sit", "jump", "run", "wave"], [1, None, 0, 2], "3 of 4 classes by name"),
        (["jump", "fall", "kick"], [None] * 3, "0 of 3 classes by name"),
    ):
        model = small(len(ours))
        fresh = {name: value.clone() for name, value in model.classifier.linear.state_dict().items()}
        report = import_weights(model, path, classes=ours)
        for i, row in enumerate(rows):
            expected = fresh["weight"][i] if row is None else theirs.weight[row]
            assert torch.equal(model.classifier.linear.weight[i], expected)
            assert torch.equal(model.classifier.linear.bias[i], fresh["bias"][i] if row is None else theirs.bias[row])
        assert sentence in str(report) and report.matched_fraction == 1
        assert "shapes differ" not in str(report)
        assert all(label in str(report) for label, row in zip(ours, rows) if row is None)


def test_each_label_space_is_matched_by_its_own_names(tmp_path: Path) -> None:
    names = {"verb": ["cut", "wash"], "noun": ["pan", "cup", "egg"]}
    trained = shaken(small({"verb": 2, "noun": 3}))
    path = save_model(tmp_path / "best.safetensors", trained, names)
    model = small({"verb": 2, "noun": 2})
    report = import_weights(model, path, classes={"verb": ["wash", "cut"], "noun": ["egg", "tin"]})
    assert torch.equal(model.classifier.linear["verb"].weight, trained.classifier.linear["verb"].weight.flip(0))
    assert torch.equal(model.classifier.linear["noun"].bias[0], trained.classifier.linear["noun"].bias[2])
    assert report.fresh_classes == {"noun": ("tin",)}


def test_a_classifier_without_names_is_taken_as_it_is_and_said() -> None:
    weights = shaken(small()).state_dict()
    model = small()
    report = import_weights(model, weights, classes=CLASSES)
    assert torch.equal(model.classifier.linear.weight, weights["classifier.linear.weight"])
    assert "the order of its classes is not known" in str(report)
    assert "order" not in str(import_weights(small(4), weights))  # of another number: it stays fresh


# --- variants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temporal", ["attention", "averaging"])
def test_joint_attention_in_another_timesformer_is_warned_of(temporal: str) -> None:
    joint = timesformer(shaken(small(temporal="joint")))
    with pytest.warns(UserWarning, match=rf"use temporal='joint' \(--model\.temporal joint\), not '{temporal}'"):
        import_weights(small(temporal=temporal), joint)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import_weights(small(temporal="joint"), joint)
        del joint["time_embed"]  # as of an image, from which attention over time starts
        import_weights(small(temporal=temporal), joint)


def test_what_is_left_over_names_the_switch_that_would_use_it() -> None:
    attention = timesformer(shaken(small()))
    said = str(import_weights(small(temporal="averaging"), attention))
    assert "with temporal='attention' (--model.temporal attention) 16 of the 16 tensors" in said
    sizes: dict[str, Any] = {"widths": (8,), "depths": (1,), "heads": (1,), "clip": ClipSpec(frames=4, size=32)}
    with_token = MViTConfig(cls_token=True, **sizes).build().state_dict()
    report = import_weights(MViTConfig(**sizes).build(), with_token)
    assert "with cls_token=True (--model.cls-token True) 1 of the 1 tensors" in str(report)
    assert not import_weights(MViTConfig(cls_token=True, **sizes).build(), with_token).remarks[1:]
    strange = with_token | {"text.weight": torch.ones(1)}
    assert "variant" not in str(import_weights(MViTConfig(cls_token=True, **sizes).build(), strange))


def test_a_file_of_another_configuration_says_so(tmp_path: Path) -> None:
    path = save_model(tmp_path / "best.safetensors", small(temporal="averaging"), CLASSES)
    assert "the file's model has temporal 'averaging' (here 'attention')" in str(import_weights(small(), path))
    assert "the file's model" not in str(import_weights(small(temporal="averaging"), path))
