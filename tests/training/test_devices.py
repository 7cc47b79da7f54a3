"""One device and one precision for every verb that runs a model, with one check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import write_video
from gesta.checkpoint import TrainedModel, save_model
from gesta.cli import main
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.evaluation.evaluate import evaluate
from gesta.features.compute import compute_features
from gesta.features.windows import Windows
from gesta.model import ClipSpec
from gesta.models import create_model
from gesta.models.timesformer import TimeSformerConfig
from gesta.prediction.predict import predict
from gesta.prediction.timeline import timeline
from gesta.processes import choose_autocast, choose_device, make_fabric
from gesta.recipe import EvaluateConfig

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = TimeSformerConfig(
    classes=2, width=8, depth=1, heads=2, mlp_ratio=1, patch=8, clip=ClipSpec(frames=2, stride=2, size=16)
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of two videos, and a model file beside them."""
    root = tmp_path_factory.mktemp("devices") / "videos"
    for name in ("a", "b"):
        for i in range(2):
            write_video(root / name / f"{i}.mp4", frames=4, size=(48, 32))
    save_model(root.parent / "model.safetensors", MODEL.build(), ["a", "b"])
    return root


VERBS: dict[str, str] = {
    "train": "train finetune --model r3d_tiny --data.root VIDEOS --run OUT",
    "train probe": "train probe --model r3d_tiny --init.weights MODEL --data.root VIDEOS --run OUT",
    "sweep": "sweep finetune --model r3d_tiny --data.root VIDEOS --field train.lr --values 1e-3 --out OUT",
    "evaluate": "evaluate MODEL --data folder --data.root VIDEOS --evaluate.split val --out OUT",
    "predict": "predict MODEL VIDEOS --out OUT",
    "timeline": "predict MODEL VIDEOS --timeline --out OUT",
    "features": "features MODEL VIDEOS --out OUT",
    "bench model": "bench model r3d_tiny",
}
WITHOUT_PRECISION: dict[str, str] = {
    "bench data": "bench data VIDEOS",
    "bench align": "bench align --model ata_timesformer_tiny",
    "complexity": "analyse complexity r3d_tiny --out OUT",
    "mi": "analyse mi r3d_tiny VIDEOS",
}


def refusal(words: str, flags: str, videos: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    names = {"VIDEOS": str(videos), "MODEL": str(videos.parent / "model.safetensors"), "OUT": str(out)}
    with pytest.raises(SystemExit) as ended:
        main([*(names.get(word, word) for word in words.split()), *flags.split()])
    assert ended.value.code == 1 and not out.exists()
    return capsys.readouterr().err


@pytest.mark.parametrize("verb", [*VERBS, *WITHOUT_PRECISION])
def test_a_device_or_precision_that_cannot_be_used_is_one_sentence_before_anything_is_written(
    verb: str, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (VERBS | WITHOUT_PRECISION)[verb]
    said = refusal(words, "--device cuda:99", videos, tmp_path / "out", capsys)
    assert "the device 'cuda:99' cannot be used here (" in said and "choose cpu, or auto for what there is" in said
    if verb in VERBS:
        said = refusal(words, "--device cpu --precision 16-mixed", videos, tmp_path / "out", capsys)
        assert (
            "the precision 16-mixed cannot be computed on cpu (float16 is for accelerators); choose 32-true or" in said
        )


def test_all_forward_passes_run_in_the_precision(videos: Path, tmp_path: Path) -> None:
    network, kinds = MODEL.build(), []
    network.blocks[0].register_forward_pre_hook(lambda *_: kinds.append(torch.get_autocast_dtype("cpu")))
    autocasts: list[bool] = []
    network.blocks[0].register_forward_pre_hook(lambda *_: autocasts.append(torch.is_autocast_enabled("cpu")))
    model, video = TrainedModel(model=network, classes=["a", "b"], metadata={}), str(videos / "a" / "0.mp4")
    data, views = Folder(root=str(videos)), EvaluateConfig(split="val", clips=1, workers=0)
    how: dict[str, Any] = {"device": "cpu", "precision": "bf16-mixed"}
    runs: dict[str, Callable[[dict[str, Any]], Any]] = {
        "predict": lambda how: list(predict(model, video, views=views, **how)),
        "timeline": lambda how: list(timeline(model, video, **how)),
        "features": lambda how: compute_features(model, [video], tmp_path / f"f{len(how)}", views=views, **how),
        "windows": lambda how: compute_features(
            model, [video], tmp_path / f"w{len(how)}", views=views, windows=Windows(2, 2), **how
        ),
        "evaluate": lambda how: evaluate(model, data, views=views, **how),
    }
    for name, run in runs.items():
        autocasts.clear()
        run({})
        assert autocasts and not any(autocasts), name
        autocasts.clear()
        result = run(how)
        assert autocasts and all(autocasts) and kinds[-1] == torch.bfloat16, name
    assert result.environment.precision == "bf16-mixed" and result.environment.device == "cpu"
    with pytest.raises(GestaError, match="holds features"):  # of the other precision
        compute_features(model, [video], tmp_path / "f0", views=views, **how)


def test_several_processes_get_a_device_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    strategies: list[Any] = []

    class Made(Exception):
        pass

    def fabric(**settings: Any) -> None:
        made.append((settings["accelerator"], settings["devices"]))
        strategies.append(settings.get("strategy"))
        raise Made

    monkeypatch.setattr("lightning.fabric.Fabric", fabric)
    monkeypatch.setattr("gesta.processes.choose_device", torch.device)
    for device in ("auto", "cpu", "cpu:0", "cuda", "cuda:1", "mps"):
        with pytest.raises(Made):
            make_fabric("32-true", device)
    assert made == [("auto", 1), ("cpu", 1), ("cpu", 1), ("cuda", 1), ("cuda", [1]), ("mps", 1)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        GestaError, match=r"the device 'cuda:1' is one, and 2 processes were started, .* choose cuda, or"
    ):
        make_fabric("32-true", "cuda:1")
    with pytest.raises(Made):
        make_fabric("32-true", "cuda")
    assert made[-1] == ("cuda", 2)
    with pytest.raises(Made):
        make_fabric("32-true", "cuda", unread=True)
    assert not any(strategies[:-1]) and strategies[-1]._ddp_kwargs["find_unused_parameters"]


def test_the_precision_of_a_training_is_a_field_of_its_recipe(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[Any] = []
    monkeypatch.setattr("gesta.training.loop.train", lambda recipe, run, **how: trained.append((recipe, how)))
    words = ["train", "finetune", "--data.root", str(videos), "--precision", "bf16-mixed", "--device", "cpu"]
    with pytest.raises(SystemExit, match="0"):
        main(words)
    assert trained[0][0].train.precision == "bf16-mixed" and trained[0][1]["device"] == "cpu"
    with pytest.raises(SystemExit, match="2"):
        main([*words, "--train.precision", "32-true"])
    assert "--precision and --train.precision are the same: give one of them" in capsys.readouterr().err


def test_python_is_told_the_same(videos: Path) -> None:
    for wrong in ("fp16", "16-true"):
        for check in (lambda p: choose_autocast(choose_device("cpu"), p), make_fabric):
            with pytest.raises(
                GestaError, match=f"precision cannot be '{wrong}'.*possible: 32-true, bf16-mixed, 16-mixed"
            ):
                check(wrong)  # type: ignore[operator]
    fabric = make_fabric("32-true", "cpu")
    with pytest.raises(GestaError, match="fabric has a device and a precision: leave device and precision out"):
        evaluate(create_model("r3d_tiny"), Folder(root=str(videos)), split="val", fabric=fabric, device="cpu")
