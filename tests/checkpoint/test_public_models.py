"""Public weights whose model is recognised, with their class names and how their pixels become floats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import Hub, Repository, hub_fixture, server_fixture  # noqa: F401
from safetensors.torch import save
from torch import nn

import gesta
from gesta.checkpoint.description import read_pixels
from gesta.checkpoint.weights import import_weights
from gesta.cli import main
from gesta.config import replace
from gesta.errors import CheckpointError, GestaError
from gesta.evaluation.evaluate import model_source
from gesta.model import ClipSpec
from gesta.models import public
from gesta.models.timesformer import TimeSformer, TimeSformerConfig
from gesta.video.depth import Depth
from public_names import timesformer

CLASSES = ["wave", "jump", "run"]
CONFIG = {"model_type": "timesformer", "num_attention_heads": 2, "id2label": dict(enumerate(CLASSES))}
PIXELS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "crop_size": {"height": 16, "width": 16}}


def trained(classes: int = 3) -> TimeSformer:
    torch.manual_seed(0)
    clip = ClipSpec(frames=8, stride=32, size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    config = TimeSformerConfig(width=12, depth=2, heads=2, patch=8, classes=classes, clip=clip)
    model = config.build().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def files(model: nn.Module, **config: Any) -> dict[str, bytes]:
    return {
        "config.json": json.dumps(CONFIG | config).encode(),
        "preprocessor_config.json": json.dumps(PIXELS).encode(),
        "model.safetensors": save(timesformer(model, "model.")),
    }


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    return int(end.value.code or 0)


def test_weights_whose_description_is_multi_label_get_a_sigmoid(
    tmp_path: Path, make_video: Callable[..., Path]
) -> None:
    model = trained()
    for name, content in files(model, problem_type="multi_label_classification").items():
        (tmp_path / name).write_bytes(content)
    loaded = gesta.load(str(tmp_path))
    assert loaded.model.config.multi_label
    (prediction,) = gesta.predict(loaded, [make_video("a.mp4", frames=12)], clips=1, threshold=0.0)
    assert len(prediction.labels) == 3 and sum(p for _, p in prediction.labels) != pytest.approx(1.0, abs=1e-3)


def named(monkeypatch: pytest.MonkeyPatch, model: TimeSformer) -> str:
    """A name under which such a model can be asked for."""
    monkeypatch.setattr(public, "model_config", lambda name: replace(model.config, multi_label=False))
    return "timesformer_b"


def test_what_scores_mean_is_taken_from_the_weights_also_of_a_model_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained()
    name = named(monkeypatch, model)
    for file, content in files(model, problem_type="multi_label_classification").items():
        (tmp_path / file).write_bytes(content)
    assert gesta.load(str(tmp_path), model=name).model.config.multi_label
    (tmp_path / "config.json").write_text("{}")
    assert not gesta.load(str(tmp_path), model=name).model.config.multi_label
    model.config.multi_label = True
    gesta.save_model(tmp_path / "best.safetensors", model, CLASSES, shows=Depth(encoding="repeat3"), person_crop=True)
    loaded = gesta.load(tmp_path / "best.safetensors", model=name)
    assert loaded.model.config.multi_label and loaded.shows == Depth(encoding="repeat3") and loaded.person_crop


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"classes": ["a", "a", "b"]}, "the class 'a' is named twice"),
        ({"classes": ["a", "b"]}, "names for 2 classes, but its classifier has 3"),
        ({"label_order": ["a", "b"]}, "its classifier has 3 classes, the data 2"),
        ({"label_order": list("abcd")}, "its classifier has 3 classes, the data 4"),
    ],
)
def test_classes_that_are_not_those_of_the_classifier_are_refused(
    how: dict[str, list[str]], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained()
    torch.save(timesformer(model), tmp_path / "w.pt")
    with pytest.raises(GestaError, match=sentence):
        gesta.load(tmp_path / "w.pt", model=named(monkeypatch, model), **how)  # type: ignore[arg-type]


def test_results_know_which_head_they_are_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained()
    weights = timesformer(model)
    head = {key: weights.pop(key) for key in ("head.weight", "head.bias")}
    torch.save(weights, tmp_path / "encoder.pt")
    hashes = []
    for number in (0, 1, 1):
        torch.save({key: value + number for key, value in head.items()}, tmp_path / "head.pt")
        loaded = gesta.load(tmp_path / "encoder.pt", model=named(monkeypatch, model), head=tmp_path / "head.pt")
        hashes.append(model_source(loaded.model, loaded).checkpoint_sha256)
    assert None not in hashes and hashes[0] != hashes[1] == hashes[2]


@pytest.mark.parametrize("where", ["folder", "file", "hub"])
def test_public_weights_need_nothing_else(
    where: str, hub: Hub, tmp_path: Path, make_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained()
    for name, content in files(model).items():
        (tmp_path / name).write_bytes(content)
    hub.repositories["us/public"] = Repository(files(model))
    source = {"folder": str(tmp_path), "file": str(tmp_path / "model.safetensors"), "hub": "hf:us/public"}[where]
    loaded = gesta.load(source)
    assert loaded.model.config == model.config and loaded.classes == CLASSES and not loaded.metadata
    video = torch.randn(1, 3, 8, 16, 16)
    assert torch.equal(loaded.model(video), model(video))
    said = capsys.readouterr().err
    assert "100.0 % of the parameters match" in said
    assert "pixels: mean 0.4 0.5 0.6, std 0.2 0.25 0.3 from preprocessor_config.json" in said
    assert "the public code of its model has mean 0.45, std 0.225" in said
    if where == "hub":
        path = str(make_video("a.mp4", frames=12))
        assert run("predict", source, path, "--json", "--clips", "1", "--top", "3") == 0
        (prediction,) = json.loads(capsys.readouterr().out)
        assert {label["class"] for label in prediction["labels"]} == set(CLASSES)


def test_evaluate_brings_the_classes_of_public_weights_into_the_order_of_the_data(
    hub: Hub, tmp_path: Path, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in CLASSES:
        make_video(f"videos/{name}/0.mp4", frames=8)
        make_video(f"videos/{name}/1.mp4", frames=9)
    hub.repositories["us/public"] = Repository(files(trained()))
    data = ["--data", "folder", "--data.root", "videos", "--data.val", "0.5", "--evaluate.split", "val"]
    assert run("evaluate", "hf:us/public", *data, "--evaluate.clips", "1", "--evaluate.workers", "0") == 0
    result = json.loads((tmp_path / "result-public-val.json").read_text())
    assert result["model"]["checkpoint"].startswith("hf:us/public@") and result["model"]["checkpoint_sha256"]
    assert result["scores"]["classes"] == {"label": sorted(CLASSES)}
    name, values = result["scores"]["names"][0], result["scores"]["values"]["label"][0]
    (prediction,) = gesta.predict(gesta.load("hf:us/public"), f"videos/{name}", clips=1)
    assert dict(prediction.labels) == pytest.approx(dict(zip(sorted(CLASSES), values)), abs=1e-5)


def test_a_model_of_another_kind_is_refused_before_its_weights_are_downloaded(hub: Hub) -> None:
    text = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    hub.repositories["us/text"] = Repository({"config.json": json.dumps(text).encode(), "model.safetensors": b"x"})
    with pytest.raises(CheckpointError, match=r"config\.json: describes a model of another kind \(BertForMaskedLM, "):
        gesta.load("hf:us/text")
    assert hub.downloads() == ["config.json"]
    hub.repositories["us/unknown"] = Repository({"model.safetensors": save({"lstm.weight": torch.ones(3)})})
    with pytest.raises(CheckpointError, match=r"its weights \(lstm\.weight …\) are of no model .*model=NAME"):
        gesta.load("hf:us/unknown")


def test_weights_without_a_classifier_give_features_and_no_answers(
    hub: Hub, make_video: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained()
    encoder = {name: value for name, value in timesformer(model, "model.").items() if ".head." not in name}
    hub.repositories["us/encoder"] = Repository(files(model) | {"model.safetensors": save(encoder)})
    video = torch.randn(1, 3, 8, 16, 16)
    assert torch.equal(gesta.load("hf:us/encoder").model(video), model.embed(video))
    assert run("predict", "hf:us/encoder", str(make_video("a.mp4", frames=8))) == 1
    assert "gives features, not classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [{"num_attention_heads": 5}, {"num_attention_heads": "two"}, {"num_attention_heads": -1}, {"id2label": [1]}],
    ids=str,
)
def test_a_description_that_does_not_fit_is_one_sentence(change: dict[str, Any], tmp_path: Path) -> None:
    for name, content in files(trained(), **change).items():
        (tmp_path / name).write_bytes(content)
    if "id2label" in change:
        assert gesta.load(tmp_path).classes == ["0", "1", "2"]
        return
    with pytest.raises(GestaError, match=str(tmp_path)):
        gesta.load(tmp_path)


@pytest.mark.parametrize("model", [None, "timesformer_tiny"])
def test_a_training_state_is_no_public_model(model: str | None, tmp_path: Path) -> None:
    from gesta.checkpoint import save_state

    save_state(tmp_path / "last.ckpt", {"model": timesformer(trained(), "model.")})
    with pytest.raises(CheckpointError, match=r"the training state of a run; give the folder of the run"):
        gesta.load(tmp_path / "last.ckpt", model=model)


@pytest.mark.parametrize(
    ("given", "mean", "std", "sentence"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, 0.5, 0.5, "code of its model has mean 0.45, std 0.2"),
        ({"image_mean": [0.45] * 3, "image_std": [0.225] * 3}, 0.45, 0.225, "pixels: mean 0.45, std 0.225 from pre"),
        ({"rescale_factor": 1 / 127.5, "offset": True, "do_normalize": True, "image_mean": [0.5] * 3,
          "image_std": [0.5] * 3}, 0.5, 0.5, "(x · rescale_factor − 1; do_normalize would do it twice"),
        ({"rescale_factor": 1 / 127.5, "offset": True, "do_normalize": False}, 0.5, 0.5, "x · rescale_factor − 1)"),
        ({"do_normalize": False}, 0.0, 1.0, "do_normalize: false"),
        ({"image_mean": [0.45] * 3, "image_std": [0.225] * 3, "size": 112}, 0.45, 0.225, "clips of 224 px, as the pos"),
        ({"image_mean": [0.4] * 3, "image_std": [0.0] * 3}, 0, 0, None),
        ({"image_mean": ["a"], "image_std": [1.0] * 3}, 0, 0, None),
    ],
)  # fmt: skip
def test_pixels_become_floats_as_the_description_says(
    given: dict[str, Any], mean: float, std: float, sentence: str | None, tmp_path: Path
) -> None:
    clip = ClipSpec()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(given))
    if sentence is None:
        with pytest.raises(CheckpointError, match="has no image_mean and image_std that can be used"):
            read_pixels(tmp_path / "model.safetensors")
        return
    pixels = read_pixels(tmp_path / "model.safetensors")
    assert pixels is not None
    assert any(sentence in remark for remark in [*pixels.take(clip), pixels.remark(clip)])
    assert clip.mean == pytest.approx((mean,) * 3) and clip.std == pytest.approx((std,) * 3)


def test_a_training_from_public_weights_says_where_its_pixels_differ(tmp_path: Path) -> None:
    model = trained()
    for name, content in files(model).items():
        (tmp_path / name).write_bytes(content)
    config = TimeSformerConfig(width=12, depth=2, heads=2, patch=8, classes=3, clip=ClipSpec(frames=8, size=16))
    remarks = import_weights(config.build(), tmp_path, classes=["run", "sit", "wave"]).remarks
    assert any(remark.startswith("pixels: mean 0.45, std 0.225 in the model, but mean 0.4 0.5") for remark in remarks)
    assert any("the classifier has 2 of 3 classes by name" in remark for remark in remarks)


def test_without_a_description_the_values_of_the_family_are_taken_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.safetensors").write_bytes(save(timesformer(trained(), "model.")))
    (tmp_path / "config.json").write_text("no JSON")
    with pytest.raises(GestaError, match=r"config\.json: is not valid JSON"):  # it could name the heads
        gesta.load(tmp_path)
    (tmp_path / "config.json").write_text('{"num_attention_heads": 2}')
    assert gesta.load(tmp_path).classes == ["0", "1", "2"]
    assert gesta.load(tmp_path, classes=CLASSES).classes == CLASSES
    with pytest.raises(GestaError, match="there are names for 2 classes, but its classifier has 3"):
        gesta.load(tmp_path, classes=CLASSES[:2])
    assert "pixels: mean 0.45, std 0.225, as in the public code of its model" in capsys.readouterr().err


@pytest.mark.full  # with names and values of our own: the tests above, and those of each family
@pytest.mark.parametrize("family", ["VideoMAE", "Timesformer", "Vivit", "VJEPA2"])
def test_what_transformers_saves_predicts_by_its_name_as_it_does_there(
    family: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    labels = {i: f"class {i}" for i in range(5)}
    sizes: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "id2label": labels}
    if family == "VJEPA2":
        sizes |= {"crop_size": 32, "frames_per_clip": 4, "mlp_ratio": 2}
        sizes |= {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    else:
        sizes |= {"image_size": 32, "num_frames": 4, "intermediate_size": 96}
    config = getattr(transformers, f"{family}Config")(**sizes)
    theirs = getattr(transformers, f"{family}ForVideoClassification")(config).eval()
    theirs.save_pretrained(tmp_path)
    if family in ("VideoMAE", "Vivit"):
        getattr(transformers, f"{family}ImageProcessor")(crop_size={"height": 32, "width": 32}).save_pretrained(
            tmp_path
        )
    hub.repositories["us/theirs"] = Repository(
        {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    )
    ours = gesta.load("hf:us/theirs")
    video = torch.randn(2, 4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.double()(video).logits
        scores = ours.model.double()(video.transpose(1, 2))
    assert torch.allclose(scores, expected, rtol=0, atol=1e-9)
    assert ours.classes == list(labels.values())
    if family in ("VideoMAE", "Vivit"):
        assert ours.model.config.clip.mean == ours.model.config.clip.std == (0.5, 0.5, 0.5)
