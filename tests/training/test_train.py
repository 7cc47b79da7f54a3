"""The training loop: what it writes, what it computes, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
from dataclasses import field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import write_video
from gesta.checkpoint import load, load_state, save_model
from gesta.checkpoint.weights import read_source
from gesta.config import config, copy, from_json, replace
from gesta.data.batch import Batch
from gesta.data.lists import Folder, read_class_names
from gesta.data.mix import mix
from gesta.errors import GestaError
from gesta.evaluation.health import Health
from gesta.evaluation.result import Result
from gesta.model import Classifier, ClipSpec, Grid, Insert, ModelConfig, VideoModel, to_clips
from gesta.models import model_config
from gesta.models.r3d import R3DConfig
from gesta.plugins.stan import STAN
from gesta.processes import Interruption, can_sync_batch_norms, choose_device
from gesta.recipe import EvaluateConfig, Recipe, TrainConfig
from gesta.records import DataConfig, Record, SplitName
from gesta.training.folder import TrainingProgress
from gesta.training.log import RunLog
from gesta.training.loop import train
from gesta.training.optim import learning_rate
from gesta.training.step import Hits, batch_losses

CLIP = ClipSpec(frames=2, stride=2, size=16)


@config
class ToyConfig(ModelConfig):
    """A linear model of the mean colour: no randomness, no batch norm."""

    clip: ClipSpec = field(default_factory=lambda: replace(CLIP))
    aux: float = 0.0

    def build(self) -> Toy:
        return Toy(self)


class Toy(VideoModel):
    config: ToyConfig

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Linear(3, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])
        self.classifier = Classifier(4, config.classes)
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
        return 4, 2, 16, 16

    def losses(self, state: Tensor) -> dict[str, Tensor]:
        return {"aux": self.config.aux * state.square().mean()} if self.config.aux else {}


@config
class Unlabelled(DataConfig):
    label: int | None = None
    held_out: int | None = None

    def records(self, split: SplitName) -> list[Record]:
        label = self.label if split == "train" else self.held_out
        return [Record(path="a.mp4", name="a.mp4", label=0), Record(path="b.mp4", name="b.mp4", label=label)]

    def classes(self) -> list[str]:
        return ["x", "y"]


LIGHT = "l\udcefght"
"""A class whose name is no UTF-8 but Latin-1, like those of the videos: a run and its result hold such names, too."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of six short videos, two of each held out for validation, and one that is broken."""
    root = tmp_path_factory.mktemp("videos")
    for label, name in enumerate(("dark", LIGHT)):
        for i in range(6):
            split = "train" if i < 4 else "val"
            write_video(root / split / name / f"gar\udce7on {i}.mp4", frames=6, size=(48, 32), shade=90 * label + i)
    (root / "train" / LIGHT / "broken.mp4").write_bytes(b"not a video")
    return root


def recipe(videos: Path, model: ModelConfig | None = None, **changes: Any) -> Recipe:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 1e-2, "workers": 0, "warmup_epochs": 0.5}
    return Recipe(
        name="toy",
        model=model or R3DConfig(depths=(1, 1, 1, 1), width=4, clip=replace(CLIP)),
        data=Folder(root=str(videos)),
        train=TrainConfig(**settings | changes),
        evaluate=EvaluateConfig(split="val", clips=2, workers=0),
    )


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if entry["kind"] == kind]


def test_the_run_folder_tells_the_whole_story(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    toy = recipe(videos, ema=0.5)
    assert train(toy, run) == run
    assert toy.model.classes == 400  # the caller's recipe is left alone
    assert {path.name for path in run.iterdir()} == {
        *("recipe.json", "labels.txt", "log.jsonl", "events", "last.ckpt", "previous.ckpt"),
        *("best.safetensors", "result.json"),
    }
    saved = from_json(json.loads((run / "recipe.json").read_text()))
    assert saved.model.classes == 2 and saved.train == toy.train and saved.data == toy.data
    assert read_class_names(str(run / "labels.txt")) == ["dark", LIGHT]
    assert list((run / "events").glob("events.out.tfevents.*"))

    steps = lines(run, "step")
    assert [(s["epoch"], s["step"]) for s in steps] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    assert [s["lr"] for s in steps] == [learning_rate(toy.train, e) for e in (0, 0.5, 1, 1.5)]
    assert all(s["losses"]["cross_entropy"] == s["loss"] and s["grad_norm"] > 0 for s in steps)
    assert all(s["data_s"] > 0 and s["compute_s"] > 0 for s in steps)
    epochs = lines(run, "epoch")
    assert [e["loss"] for e in epochs] == pytest.approx(
        [(a["loss"] + b["loss"]) / 2 for a, b in (steps[:2], steps[2:])]
    )
    assert {round(e["train_top1"] * 8 / 100, 6) % 1 for e in epochs} == {0}  # of 8 clips
    assert {name for e in epochs for name in e["failures"]} == {f"train/{LIGHT}/broken.mp4"}
    assert sum(len(e["failures"]) for e in epochs) == sum(len(s["failures"]) for s in steps)
    assert epochs[-1]["best"] == max(e["val"]["top1"] for e in epochs)

    result = json.loads((run / "result.json").read_text())
    assert result["counts"]["listed"] == result["counts"]["scored"] == 4
    assert f"val/{LIGHT}/gar\udce7on 4.mp4" in result["scores"]["names"]
    assert result["model"]["checkpoint"].endswith("best.safetensors")
    loaded = load(run / "best.safetensors")
    assert loaded.classes == ["dark", LIGHT] and loaded.metadata["notes"]["recipe"] == "toy"
    shown = capsys.readouterr().err
    assert (
        "model.classes: 400 → 2" in shown
        and "epoch 2/2: loss" in shown
        and ", train top-1 " in shown
        and "1 clip × 1 crop" in shown
    )

    resume_a_finished_run(videos, run, toy, capsys)


def resume_a_finished_run(videos: Path, run: Path, toy: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused and changes nothing, or ``recipe.json`` and ``result.json`` say what was done."""

    def content() -> dict[str, bytes]:
        return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def changed(name: str, value: Any) -> Recipe:
        other, (part, name) = copy(toy), name.split(".")
        setattr(getattr(other, part), name, value)
        return other

    before = content()
    for name, value, message in (
        ("train.batch_size", 8, r"another recipe \(train\.batch_size: 4 → 8\)"),
        ("init.weights", "/w.pth", r"another recipe \(init\.weights: null → \"/w\.pth\"\)"),
        ("train.epochs", 1, r"2 epochs are done already; give more"),
        ("train.lr", 0.1, r"nothing is left to be trained with train\.lr: 0\.01 → 0\.1; resume it without"),
        ("data.root", str(videos / "train"), r"the list of training videos is not the one"),
    ):
        with pytest.raises(GestaError, match=message):
            train(changed(name, value), run, resume=True)
    with pytest.raises(GestaError, match=r"already holds files; .*resume=True.*run"):
        train(toy, run)
    train(toy, run, resume=True)
    assert "nothing is left to resume" in capsys.readouterr().err
    assert content() == before

    train(changed("evaluate.clips", 3), run, resume=True)
    assert "resumed with changes: evaluate.clips: 2 → 3" in capsys.readouterr().err
    after = content()
    assert json.loads(after["result.json"])["protocol"]["clips"] == 3
    assert json.loads(after["recipe.json"])["evaluate"]["clips"] == 3
    assert all(after[name] == before[name] for name in ("best.safetensors", "last.ckpt", "log.jsonl"))

    train(changed("train.epochs", 3), run, resume=True)
    assert "train.epochs: 2 → 3" in capsys.readouterr().err
    assert [s["step"] for s in lines(run, "step")] == [1, 2, 3, 4, 5, 6]
    assert json.loads((run / "result.json").read_text())["protocol"]["clips"] == 2
    assert [(start["step"], start["precision"], start["changes"]) for start in lines(run, "start")] == [
        (0, "32-true", []),
        (4, "32-true", ["train.epochs: 2 → 3", "evaluate.clips: 3 → 2"]),
    ]


def test_folders_that_are_no_run(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(GestaError, match=r"holds no recipe\.json"):
        train(recipe(videos), tmp_path, resume=True)


@pytest.mark.parametrize("label", [None, -1, 2])
def test_labels_that_cannot_be_trained_on(tmp_path: Path, label: int | None) -> None:
    toy = Recipe(name="toy", model=ToyConfig(), data=Unlabelled(label=label))
    with pytest.raises(GestaError, match=rf"b\.mp4: its label is {label}, .*0 to 1"):
        train(toy, tmp_path / "run", trust_code=True)
    toy.data = Unlabelled(label=1, held_out=2)
    with pytest.raises(GestaError, match=r"b\.mp4: label 2, but the 2 classes"):
        train(toy, tmp_path / "run", trust_code=True)
    assert not (tmp_path / "run").exists()


def test_what_a_disk_or_a_device_cannot_do_is_refused_before_the_first_step(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = recipe(videos, ToyConfig(), precision="16-mixed")
    with pytest.raises(
        GestaError, match=r"precision 16-mixed cannot be computed on cpu \(.*\); choose 32-true or bf16-mixed"
    ):
        train(toy, tmp_path / "run", trust_code=True)
    toy.train.precision = "bf16-mixed"
    # 46 numbers: the weights, AdamW's two moments; three states and two model files
    monkeypatch.setattr("shutil.disk_usage", lambda path: (10**9, 10**9, 4 * 46 * (3 * 3 + 2) - 1))
    with pytest.raises(GestaError, match=r"run: its disk has 0 MB free, and the checkpoints of this run need 0 MB"):
        train(toy, tmp_path / "run", trust_code=True)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda path: (10**9, 10**9, 4 * 46 * (3 * 3 + 2)))
    train(toy, tmp_path / "run", trust_code=True)
    assert [start["precision"] for start in lines(tmp_path / "run", "start")] == ["bf16-mixed"]


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta", "mps:3", "hpu", ""])
def test_a_device_that_is_not_there_is_one_sentence(device: str) -> None:
    with pytest.raises(GestaError, match=rf"the device '{device}' cannot be used here \([^;]+\); choose cpu, or auto"):
        choose_device(device)
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")


def test_classes_outside_gesta_need_trust(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(GestaError, match="trust_code=True"):
        train(recipe(videos, ToyConfig()), tmp_path / "run")


def test_a_loss_that_is_not_finite_ends_the_run_with_good_weights(videos: Path, tmp_path: Path) -> None:
    toy = recipe(videos, ToyConfig(), lr=1e30, optimizer="sgd", clip_grad=None, warmup_epochs=0, save_every_s=0.0)
    toy.train.epochs = 5
    with pytest.raises(GestaError, match=r"the loss became .*lower train\.lr.*last\.ckpt still holds good weights"):
        train(toy, tmp_path / "run", trust_code=True)
    state = load_state(tmp_path / "run" / "last.ckpt")
    assert all(value.isfinite().all() for value in state["model"].values())
    assert all(math.isfinite(s["loss"]) for s in lines(tmp_path / "run", "step"))


@config
class OneClass(Folder):
    def records(self, split: SplitName) -> list[Record]:
        return [record for record in Folder.records(self, split) if record.label == 0]


def test_extra_losses_are_added_and_logged_by_name_and_a_dead_plug_in_is_named(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ToyConfig(aux=0.1, inserts=[Insert(layer=STAN(), at=0)])
    toy = replace(recipe(videos, model, lr_multipliers={"inserts.": 1e-9}), data=OneClass(root=str(videos)))
    train(toy, tmp_path / "run", trust_code=True)
    for step in lines(tmp_path / "run", "step"):
        assert set(step["losses"]) == {"cross_entropy", "aux"} and step["losses"]["aux"] > 0
        assert step["loss"] == pytest.approx(sum(step["losses"].values()), rel=1e-6)
    dead = "insert.0.0 (STAN): θ is the same for all clips"
    (fault,) = lines(tmp_path / "run", "epoch")[-1]["faults"]
    assert fault.startswith(dead) and Result.read(tmp_path / "run" / "result.json").faults[0].startswith(dead)
    shown = capsys.readouterr().err
    assert shown.count(f"warning: {dead}") == 3  # two validations and the end
    assert shown.count("all videos have one class, so a model gives it to every video") == 1


def test_accumulation_is_one_large_batch(videos: Path, tmp_path: Path) -> None:
    train(recipe(videos, ToyConfig(), batch_size=8), tmp_path / "one", trust_code=True)
    train(recipe(videos, ToyConfig(), batch_size=8, accumulate=4), tmp_path / "four", trust_code=True)
    one, four = (read_source(tmp_path / name / "last.ckpt").weights for name in ("one", "four"))
    for name, value in one.items():
        torch.testing.assert_close(four[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("ema", "warmup", "start"), [(0.75, False, 0.75), (0.9995, True, 0.0)])
def test_the_average_follows_the_weights(
    ema: float, warmup: bool, start: float, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = recipe(videos, ToyConfig(classes=2), batch_size=8, epochs=1, ema=ema, ema_warmup=warmup, warmup_epochs=0)
    train(toy, tmp_path / "run", trust_code=True)
    torch.manual_seed(toy.train.seed)
    first = toy.model.build().state_dict()
    last = load_state(tmp_path / "run" / "last.ckpt")["model"]
    average = read_source(tmp_path / "run" / "best.safetensors").weights
    for name, value in average.items():
        assert not torch.equal(first[name], last[name])
        torch.testing.assert_close(value, start * first[name] + (1 - start) * last[name])
    assert f"average of the weights: decay {start:g}" in (said := capsys.readouterr().err)
    assert f"{100 * start:.1f} % of the start is left" in said
    if not warmup:  # both are in the training state
        both = tmp_path / "run" / "last.ckpt"
        for name, value in read_source(both).weights.items():
            assert torch.equal(value, average[name]) and torch.equal(
                read_source(both, average=False).weights[name], last[name]
            )


def test_frozen_parts_stay_as_they_are(videos: Path, tmp_path: Path) -> None:
    toy = recipe(videos, freeze=("conv1.", "bn1.", "layer1."))
    toy.model.classes = 2
    with pytest.raises(
        GestaError, match=r"train\.freeze keeps conv1\.weight and others .* random: .* by init\.weights"
    ):
        train(toy, tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.json").exists()
    first = toy.model.build().state_dict()
    torch.save(first, tmp_path / "start.pth")
    toy.init.weights = str(tmp_path / "start.pth")
    train(toy, tmp_path / "run")
    last = read_source(tmp_path / "run" / "last.ckpt").weights
    for name, value in last.items():
        assert torch.equal(value, first[name]) == name.startswith(toy.train.freeze), name


def processes(count: int, device: str) -> Any:
    return SimpleNamespace(world_size=count, device=torch.device(device))


@pytest.mark.parametrize("name", ["mfst_tiny", "r3d_tiny", "ctn_tiny", "stan_mvitv2_tiny"])
def test_batch_norms_of_several_processes_are_joined(name: str) -> None:
    """Every one of them, under the same names, with the same weights, and in evaluation with the same scores."""
    norms = nn.modules.batchnorm._BatchNorm
    config = model_config(name, classes=3)
    alone, joined = config.build(), config.build()
    for module in alone.modules():
        if isinstance(module, norms) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean)
    joined.load_state_dict(alone.state_dict())
    nn.SyncBatchNorm.convert_sync_batchnorm(joined)
    found = {place: type(module) for place, module in joined.named_modules() if isinstance(module, norms)}
    assert found and set(found.values()) == {nn.SyncBatchNorm}
    assert set(found) == {place for place, module in alone.named_modules() if isinstance(module, norms)}
    assert list(joined.state_dict()) == list(alone.state_dict())
    video = torch.randn(2, 3, config.clip.frames, config.clip.size, config.clip.size)
    with torch.no_grad():
        torch.testing.assert_close(joined.eval()(video), alone.eval()(video), atol=1e-6, rtol=1e-5)
        if name == "mfst_tiny":
            torch.testing.assert_close(joined.folded()(video), alone(video), atol=1e-4, rtol=1e-4)  # type: ignore[operator]
            assert not any(isinstance(module, norms) for module in joined.folded().cdc_stem.modules())  # type: ignore[operator]


def test_batch_norms_are_joined_where_it_can_be_done(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said of one process, SyncBatchNorm is a batch norm: training ends with the same weights."""
    assert [can_sync_batch_norms(processes(*where)) for where in ((1, "cpu"), (1, "cuda"), (2, "cuda"))] == [0, 0, 1]
    with pytest.raises(GestaError, match=r"on CUDA only, and these 2 train on cpu; .* train\.sync_bn False"):
        can_sync_batch_norms(processes(2, "cpu"))

    convert, converted = nn.SyncBatchNorm.convert_sync_batchnorm, []

    def counting(model: nn.Module, group: Any = None) -> nn.Module:
        converted.extend([model] * isinstance(model, VideoModel))
        return convert(model, group)

    monkeypatch.setattr("gesta.training.setup.can_sync_batch_norms", lambda fabric: True)
    monkeypatch.setattr("gesta.training.setup.nn.SyncBatchNorm.convert_sync_batchnorm", counting)
    for name, sync in (("joined", True), ("alone", False)):
        train(recipe(videos, epochs=1, sync_bn=sync, freeze=("bn1.",)), tmp_path / name, quiet=True)
    assert len(converted) == 1 and isinstance(converted[0].bn1, nn.SyncBatchNorm) and not converted[0].bn1.training
    joined, alone = (read_source(tmp_path / name / "last.ckpt").weights for name in ("joined", "alone"))
    for name, value in alone.items():
        torch.testing.assert_close(joined[name], value, atol=1e-6, rtol=1e-5)

    monkeypatch.undo()
    monkeypatch.setattr(
        "gesta.training.setup.can_sync_batch_norms", lambda fabric: can_sync_batch_norms(processes(2, "cpu"))
    )
    with pytest.raises(GestaError, match="on CUDA only"):
        train(recipe(videos, sync_bn=True), tmp_path / "refused", quiet=True)
    assert not (tmp_path / "refused").exists()


def test_training_begins_with_the_given_weights(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ToyConfig(classes=5).build()
    path = save_model(tmp_path / "given.safetensors", given, list("abcde"))
    toy = recipe(videos, ToyConfig(), lr=1e-30, min_lr=0.0, warmup_epochs=0, epochs=1)
    toy.init.weights = str(tmp_path / "givne.safetensors")
    with pytest.raises(GestaError, match=r"givne\.safetensors: there is no such file"):
        train(toy, tmp_path / "run", trust_code=True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()  # what a run leaves that ends before its first training state
    for name in ("recipe.json", "log.jsonl", "labels.txt"):
        (tmp_path / "run" / name).write_text("of another recipe")
    (tmp_path / "run" / "notes").touch()
    toy.init.weights = str(path)
    with pytest.raises(GestaError, match="already holds files"):
        train(toy, tmp_path / "run", trust_code=True)
    with pytest.raises(GestaError, match=r"videos.*: holds .* and no recipe\.json, so it is not a run; choose another"):
        train(toy, videos, trust_code=True)  # which no resume would help
    (tmp_path / "run" / "notes").unlink()
    train(toy, tmp_path / "run", trust_code=True)
    shown = capsys.readouterr().err
    assert "stopped before its first training state was written, so it begins again" in shown
    assert from_json(json.loads((tmp_path / "run" / "recipe.json").read_text()), trust_code=True).train == toy.train
    last = read_source(tmp_path / "run" / "last.ckpt").weights
    assert torch.equal(last["embedding.weight"], given.embedding.weight)
    assert "given.safetensors: 100.0 %" in shown and "[5, 4] in the source, [2, 4] in the model" in shown


def test_too_few_videos_for_the_processes(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(GestaError, match="batch_size"):
        train(recipe(videos, ToyConfig(), batch_size=3, accumulate=2), tmp_path / "run", trust_code=True)


# --- one batch -------------------------------------------------------------------------------------------------------


def batch(views: int) -> Batch:
    """Three videos whose brightness is their label."""
    labels = torch.tensor([2, 0, 1])
    video = (labels * 100).to(torch.uint8).view(3, 1, 1, 1, 1, 1).expand(3, views, 2, 3, 16, 16).clone()
    return Batch(video=video, label={"label": labels}, index=torch.arange(3), failures=[], partial=[])


def by_brightness(clips: Tensor, with_losses: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Scores that are all but certain of the brightness's class."""
    brightness = (clips.mean((1, 2, 3, 4)) * CLIP.std[0] + CLIP.mean[0]) * 2.55
    return -100 * (brightness[:, None] - torch.arange(3)).square(), {}


def losses(forward: Any, views: int = 1, **changes: Any) -> dict[str, Tensor]:
    return batch_losses(forward, batch(views), ToyConfig(classes=3), TrainConfig(**changes), torch.device("cpu"))


@pytest.mark.parametrize("views", [1, 4])
def test_every_clip_of_a_video_has_its_label(views: int) -> None:
    assert losses(by_brightness, views)["loss"] < 1e-4


def test_label_smoothing() -> None:
    def certain(clips: Tensor, with_losses: bool) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.tensor([[0.0, 0, 2], [2, 0, 0], [0, 2, 0]]), {}

    log_odds = torch.tensor([2.0, 0, 0]).log_softmax(0)
    expected = -(0.8 * log_odds[0] + 0.1 * log_odds[1] + 0.1 * log_odds[2])
    torch.testing.assert_close(losses(certain, label_smoothing=0.3)["loss"], expected)


def test_mixed_clips_have_mixed_targets() -> None:
    seen: list[Tensor] = []

    def scores(clips: Tensor, with_losses: bool) -> tuple[Tensor, dict[str, Tensor]]:
        seen.append(clips)
        return by_brightness(clips, True)[0] / 1000, {}

    changes = {"mixup": 0.8, "mix_probability": 1.0}
    torch.manual_seed(5)
    found = losses(scores, **changes)["loss"]
    plain = batch(1)
    torch.manual_seed(5)
    clips, targets = mix(to_clips(plain["video"], CLIP), plain["label"], TrainConfig(**changes), 3)
    assert torch.equal(seen[0], clips) and not torch.equal(clips, to_clips(plain["video"], CLIP))
    expected = -(targets["label"] * scores(clips, True)[0].log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(found, expected)


def test_right_clips_of_the_training_are_counted() -> None:
    def count(forward: Any, changed: dict[str, Tensor], model: ModelConfig, **changes: Any) -> tuple[float, float]:
        labelled, hits = batch(2), Hits()
        labelled["label"] = changed
        batch_losses(forward, labelled, model, TrainConfig(**changes), torch.device("cpu"), None, hits)
        return float(hits.right), hits.counted

    def two(clips: Tensor, with_losses: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {"verb": torch.eye(4)[[0, 0, 1, 1, 2, 2]], "noun": torch.eye(8)[[7, 7, 1, 1, 3, 3]]}, {}

    one = ToyConfig(classes=3)
    assert count(by_brightness, {"label": torch.tensor([2, 0, 1])}, one) == (6, 6)
    assert count(by_brightness, {"label": torch.tensor([2, 1, 0])}, one) == (2, 6)
    assert count(by_brightness, {"label": torch.tensor([2, 0, 1])}, one, mixup=0.8) == (0, 0)
    both = {"verb": torch.tensor([0, 1, 2]), "noun": torch.tensor([7, 1, 2])}
    assert count(two, both, ToyConfig(classes={"verb": 4, "noun": 8})) == (4, 6)
    assert TrainingProgress(right=3.0, counted=4.0).train_top1 == 75 and TrainingProgress().train_top1 is None


def test_several_label_spaces_count_alike() -> None:
    def two(clips: Tensor, with_losses: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return {"verb": torch.zeros(3, 4), "noun": torch.zeros(3, 8)}, {"extra": torch.tensor(0.5)}

    labelled = batch(1)
    labelled["label"] = {"verb": torch.tensor([0, 1, 2]), "noun": torch.tensor([7, 1, 2])}
    model = ToyConfig(classes={"verb": 4, "noun": 8})
    found = batch_losses(two, labelled, model, TrainConfig(), torch.device("cpu"))
    assert float(found["cross_entropy/verb"]) == pytest.approx(math.log(4))
    assert float(found["cross_entropy/noun"]) == pytest.approx(math.log(8))
    assert float(found["loss"]) == pytest.approx((math.log(4) + math.log(8)) / 2 + 0.5)


# --- signals and the log ---------------------------------------------------------------------------------------------


def test_the_first_signal_asks_and_the_second_insists() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        with interruption.at_once(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert not interruption.requested
        signal.raise_signal(signal.SIGTERM)
        assert interruption.requested
        with pytest.raises(KeyboardInterrupt), interruption.at_once():
            pytest.fail("what may be broken off is not even begun")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_slow_loader_is_named_with_the_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path)
    fast = TrainingProgress(epoch_steps=2, step=2, loss_sum=2.0, clips=8, seconds=10.0, data_s=2.0)
    health = Health({"insert.3.0/det": 0.5}, [f"insert.{i} does nothing" for i in range(7)])
    log.epoch(2, None, None, health, fast, show_faults=False)
    shown = capsys.readouterr().err
    assert "too slow" not in shown and "warning" not in shown
    slow = TrainingProgress(epoch=1, epoch_steps=2, step=4, best_top1=75.0, seconds=10.0, data_s=4.0)
    log.epoch(2, {"top1": 50.0}, 50.0, health, slow, show_faults=True)
    log.close()
    shown = capsys.readouterr().err
    assert (
        "40 % of the time" in shown
        and "--train.workers" not in shown
        and "train.workers" in shown
        and "val top-1 50.0 %" in shown
    )
    assert "best 75.0" in shown
    assert "warning: insert.4 does nothing" in shown and "warning: 2 more parts of the model" in shown
    assert lines(tmp_path, "epoch")[0]["faults"] == health.faults


def test_the_loss_of_an_epoch_is_the_mean_of_its_finite_steps(tmp_path: Path) -> None:
    """A step in fp16 may overflow; the loss scaler skips it."""
    log, progress = RunLog(tmp_path, quiet=True), TrainingProgress()
    for steps in ((math.nan, math.inf), (2.0, 4.0)):
        for loss in steps:
            progress.add(loss, 4, 1.0, 0.1)
        log.epoch(1, None, None, Health(), progress, show_faults=False)
    log.close()
    assert [entry["loss"] for entry in lines(tmp_path, "epoch")] == [None, 3.0]


@config
class Segments(DataConfig):
    """Two videos, and two segments of one that cannot be read."""

    root: str = ""

    def records(self, split: SplitName) -> list[Record]:
        folder = Path(self.root, "train")
        whole = [Record(path=str(path), name=path.name, label=0) for path in sorted((folder / "dark").iterdir())[:2]]
        broken = Record(path=str(folder / LIGHT / "broken.mp4"), name="broken.mp4", label=1, end=3)
        return [*whole, broken, dataclasses.replace(broken, start=3, end=6)]

    def classes(self) -> list[str]:
        return ["x", "y"]


def test_segments_of_one_broken_video_are_all_named(videos: Path, tmp_path: Path) -> None:
    run = train(
        replace(recipe(videos, epochs=1), data=Segments(root=str(videos))),
        tmp_path / "run",
        quiet=True,
        trust_code=True,
    )
    (epoch,), (step,) = lines(run, "epoch"), lines(run, "step")
    assert sorted(epoch["failures"]) == sorted(step["failures"]) == ["broken.mp4 0-3", "broken.mp4 3-6"]


def test_numbers_that_are_not_finite_stay_json(tmp_path: Path) -> None:
    log = RunLog(tmp_path, quiet=True)
    log.step(
        {"epoch": 1, "step": 1, "loss": math.nan, "losses": {"x": math.inf}, "lr": 1, "grad_norm": 1},
        TrainingProgress(),
    )
    log.close()
    assert lines(tmp_path, "step")[0] == {
        "kind": "step", "epoch": 1, "step": 1, "loss": None, "losses": {"x": None}, "lr": 1, "grad_norm": 1,
    }  # fmt: skip
