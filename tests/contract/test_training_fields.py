"""Every field of a training, its augmentation, its evaluation and its start changes something, or is refused.

Each field has a line in ``EFFECTS``: another value, the values of other fields beside which it matters, and where the
difference is seen. A field without a line fails. tests/test_fields.py has the combinations that are refused;
test_fields_matter.py has the fields of models and plug-ins.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gesta.config import check, definitions, replace, to_json
from gesta.data.lists import Folder
from gesta.data.loader import Loader, test_loader, training_batches
from gesta.data.samples import TrainingClips
from gesta.errors import GestaError
from gesta.evaluation.evaluate import evaluate
from gesta.model import ClipSpec
from gesta.models.r3d import r3d_tiny
from gesta.models.timesformer import TimeSformerConfig
from gesta.recipe import Augment, EvaluateConfig, Init, LoRA, Recipe, TrainConfig
from gesta.records import DataConfig
from gesta.training.loop import train
from gesta.training.lora import add_adapters
from gesta.training.loss import loss_weights
from gesta.training.optim import build_optimizer, freeze, frozen_prefixes, learning_rate
from gesta.training.setup import Training, with_few_clips
from gesta.training.step import batch_losses

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("turn left", "turn right")
MODEL = TimeSformerConfig(
    classes=2,
    clip=ClipSpec(frames=4, stride=8, size=16),
    width=16,
    depth=1,
    heads=2,
    mlp_ratio=1,
    patch=8,
    small_init=True,
)


@dataclass(frozen=True)
class Effect:
    """A value other than the default one, what it needs beside it, and where it is seen.

    Attributes:
        seen: the config → what differs.
        value: of the field.
        beside: other fields, in both configs.
    """

    seen: Callable[[Any, Folder], Any]
    value: Any
    beside: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Two classes of wide, coloured videos of 20 frames, fewer than a clip spans; one of the test is longer."""
    root = tmp_path_factory.mktemp("videos")
    colours = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        for i, split in enumerate(("train", "train", "train", "val", "test")):
            path = root / split / name / f"{i}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(path), "w") as container:
                stream = container.add_stream("libx264", rate=12)
                stream.width, stream.height, stream.pix_fmt, stream.options = 48, 32, "yuv420p", {"preset": "ultrafast"}
                for _ in range(40 if (label, split) == (1, "test") else 20):
                    picture = colours.integers(256, size=(4, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                container.mux(stream.encode())
    return Folder(root=str(root))


# --- where differences are seen --------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return MODEL.build()


def samples(config: TrainConfig, data: Folder) -> Any:
    """Training clips and their labels."""
    clips = TrainingClips(data.records("train"), MODEL.clip, config, data.classes())
    read = [clips[0, index] for index in range(len(clips))]
    return [sample["video"] for sample in read], [sample["label"] for sample in read]


def augmented(config: Augment, data: Folder) -> Any:
    return samples(TrainConfig(augment=config), data)


def batches(config: TrainConfig, data: Folder) -> Any:
    return training_batches(data.records("train"), config, epoch=0)


def optimizer(config: TrainConfig, data: Folder) -> Any:
    """The optimiser's kind and settings, and which parameters it changes how."""
    model: Any = network()
    if config.lora:
        add_adapters(model, config.lora)
    freeze(model, frozen_prefixes(model, config))
    names = {parameter: name for name, parameter in model.named_parameters()}
    made = build_optimizer(model, config)
    groups = [group | {"params": [names[p] for p in group["params"]]} for group in made.param_groups]
    return type(made).__name__, groups


def adapted(config: LoRA, data: Folder) -> Any:
    """What adapters with values other than the first ones give in training."""
    model: Any = network()
    add_adapters(model, config)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            nn.init.constant_(parameter, 0.1)
    torch.manual_seed(2)
    return model.train()(torch.randn(2, 3, 4, 16, 16)).detach()


def rates(config: TrainConfig, data: Folder) -> Any:
    return [learning_rate(config, epoch / 2) for epoch in range(2 * config.epochs)]


def losses(config: TrainConfig, data: Folder) -> Any:
    """Of a few batches, whose mixing is drawn anew."""
    clips = torch.randint(256, (8, 1, 4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    batch: Any = {"video": clips, "label": {"label": torch.arange(8) % 2}}
    model = network().eval()
    labels = {"label": [record.label for record in data.records("train")[1:]]}  # one class is rarer than the other
    weights, _ = loss_weights(labels, list(CLASSES), config)
    torch.manual_seed(2)
    how = MODEL, config, torch.device("cpu"), weights
    return [batch_losses(model, batch, *how)["loss"].detach() for _ in range(4)]


def without_workers(loader: Callable[..., Any], place: int, calls: list[Any]) -> Callable[..., Any]:
    """The loader without worker processes, which notes how many it should have: an argument at this place."""

    def make(*arguments: Any) -> Any:
        calls.append(arguments[place])
        return loader(*arguments[:place], 0, *arguments[place + 1 :])

    return make


@contextlib.contextmanager
def watched(calls: list[Any]) -> Iterator[pytest.MonkeyPatch]:
    """A training without other processes, of which is noted when it saves its state and what else it calls."""
    save = Training.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "save", lambda training: (calls.append("save"), save(training)))
        patch.setattr(torch, "compile", lambda model: (calls.append("compile"), model)[1])
        patch.setattr(nn.SyncBatchNorm, "convert_sync_batchnorm", lambda model: calls.append("sync"))
        patch.setattr("gesta.training.setup.can_sync_batch_norms", lambda fabric: True)
        patch.setattr("gesta.training.setup.Loader", without_workers(Loader, 2, calls))
        yield patch


def steps(config: TrainConfig, data: Folder) -> Any:
    """What a whole training writes down, but for the time that it takes."""
    run, calls = Path(data.root).parent / f"run{next(NUMBERS)}", []  # type: ignore[var-annotated]
    with watched(calls):
        train(recipe(data, train=config), run, quiet=True)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    kept = ("kind", "epoch", "step", "loss", "lr", "grad_norm", "val")
    scores = json.loads((run / "result.json").read_text())["scores"]
    files = sorted(path.name for path in run.iterdir())
    return [{k: v for k, v in line.items() if k in kept} for line in lines], scores, calls, files


class Begun(Exception):
    """Ends a training before its first step."""


def beginning(whole: Recipe, run: Path) -> Any:
    """The weights and all else with which a training begins, and what it says of them."""
    calls: list[Any] = []

    def stop(training: Training) -> None:
        calls.append(str(training.fabric.strategy.precision.precision))
        calls.append({name: value.clone() for name, value in training.model.state_dict().items()})
        raise Begun

    shutil.rmtree(run, ignore_errors=True)
    with watched(calls) as patch, contextlib.redirect_stderr(io.StringIO()) as said:
        patch.setattr("gesta.training.loop.train_epoch", stop)
        with pytest.raises(Begun):
            train(whole, run)
    return calls, said.getvalue()


def begins(config: TrainConfig, data: Folder) -> Any:
    return beginning(recipe(data, train=config), Path(data.root).parent / "run")


def shares(config: TrainConfig, data: Folder) -> Any:
    """What shares a model out among processes."""
    made: list[Any] = []

    class Made(Exception):
        pass

    def fabric(*arguments: Any) -> None:
        made.append(arguments[2])
        raise Made

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Made):
        patch.setattr("gesta.training.setup.make_fabric", fabric)
        train(recipe(data, train=config), Path(data.root).parent / "run", quiet=True)
    return made


def starts(config: Init, data: Folder) -> Any:
    """As :func:`begins`, from files that lie beside the videos."""
    files = Path(data.root).parent
    model, other = network().state_dict(), {k: 2 * v for k, v in network().state_dict().items()}
    kinds: dict[str, Any] = {
        "both.pt": {"state_dict": model, "state_dict_ema": other},
        "trunk.pt": {k: v for k, v in model.items() if not k.startswith("classifier.")},
        "half.pt": {k: v for k, v in model.items() if not k.startswith("blocks.0.mlp.")},
        "head.pt": {k: 9 * v for k, v in model.items() if k.startswith("classifier.")},
    }
    for name, tensors in kinds.items():
        torch.save(tensors, files / name)
    paths = {k: str(files / v) for k in ("weights", "head") if (v := getattr(config, k))}
    return beginning(recipe(data, init=replace(config, **paths)), files / "run")


def norms(config: TrainConfig, data: Folder) -> Any:
    """What is done to batch norms, and said."""
    model = r3d_tiny().build()
    return with_few_clips(model, config.batch_size, config), [type(module) for module in model.modules()]


def scored(config: EvaluateConfig, data: Folder) -> Any:
    """Scores, and how many views the network is given at once."""
    model: Any = network()
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    workers: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gesta.evaluation.scoring.test_loader", without_workers(test_loader, 3, workers))
        result = evaluate(model, data, views=config)
    return result.scores.values, result.scores.names, result.metrics, sizes, workers


def recipe(data: Folder, **parts: Any) -> Recipe:
    parts = {"train": TrainConfig(**QUICK), **parts}
    return Recipe(name="r", model=MODEL, data=data, evaluate=EvaluateConfig(clips=1, workers=0), **parts)


NUMBERS = itertools.count()
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "workers": 0, "validate_every": 0}
SGD = {"optimizer": "sgd", **QUICK}
VALIDATED = {**QUICK, "epochs": 3, "validate_every": 1}
STEPS = {"schedule": "steps", "epochs": 4, "milestones": (2,)}

EFFECTS: dict[type, dict[str, Effect]] = {
    Augment: {
        "crop": Effect(augmented, "short_side"),
        "scale": Effect(augmented, (0.5, 1.0)),
        "ratio": Effect(augmented, (1.0, 1.0)),
        "independent_sides": Effect(augmented, True, {"crop": "short_side"}),
        "short_side": Effect(augmented, (256, 480), {"crop": "jitter"}),
        "inverse_uniform": Effect(augmented, True, {"crop": "jitter"}),
        "interpolation": Effect(augmented, "bicubic"),
        "flip": Effect(augmented, 1.0, {"flip_labels": {CLASSES[0]: CLASSES[1]}}),
        "flip_labels": Effect(augmented, {CLASSES[0]: CLASSES[1]}),
        "rotate": Effect(augmented, 30.0),
        "rotate_probability": Effect(augmented, 1.0, {"rotate": 30.0}),
        "color_jitter": Effect(augmented, 0.5),
        "hue": Effect(augmented, 0.5, {"color_jitter": 0.5}),
        "jitter_probability": Effect(augmented, 0.5, {"color_jitter": 0.5}),
        "randaugment": Effect(augmented, 2),
        "magnitude": Effect(augmented, 20, {"randaugment": 2}),
        "erasing": Effect(augmented, 1.0),
    },
    TrainConfig: {
        "epochs": Effect(rates, 9),
        "batch_size": Effect(batches, 4, {"batch_size": 2}),
        "accumulate": Effect(batches, 2, {"batch_size": 4}),
        "repeats": Effect(samples, 2),
        "optimizer": Effect(optimizer, "sgd"),
        "lr": Effect(rates, 1e-2),
        "betas": Effect(optimizer, (0.8, 0.9)),
        "momentum": Effect(optimizer, 0.5, {"optimizer": "sgd"}),
        "nesterov": Effect(optimizer, True, {"optimizer": "sgd"}),
        "weight_decay": Effect(optimizer, 0.1),
        "decay_biases": Effect(optimizer, True),
        "no_decay": Effect(optimizer, ("attn",)),
        "layer_decay": Effect(optimizer, 0.5),
        "lr_multipliers": Effect(optimizer, {"blocks.0.": 0.1}),
        "schedule": Effect(rates, "constant", {"min_lr": None}),
        "warmup_epochs": Effect(rates, 2.0),
        "warmup_lr": Effect(rates, 1e-5, {"warmup_epochs": 2.0}),
        "min_lr": Effect(rates, 1e-5),
        "milestones": Effect(rates, (3,), STEPS),
        "gamma": Effect(rates, 0.5, STEPS),
        "clip_grad": Effect(steps, 1e-3, SGD),
        "precision": Effect(begins, "bf16-mixed", QUICK),
        "ema": Effect(steps, 0.5, QUICK),
        "ema_warmup": Effect(steps, False, {"ema": 0.9, **QUICK}),
        "label_smoothing": Effect(losses, 0.1),
        "mixup": Effect(losses, 0.8),
        "cutmix": Effect(losses, 0.8),
        "mix_probability": Effect(losses, 0.5, {"mixup": 0.8}),
        "mix_switch": Effect(losses, 0.1, {"mixup": 0.8, "cutmix": 0.8}),
        "balanced": Effect(batches, True, {"batch_size": 2}),
        "class_weights": Effect(losses, "balanced"),
        "effective_beta": Effect(losses, 0.9, {"class_weights": "effective"}),
        "focal_gamma": Effect(losses, 2.0),
        "sync_bn": Effect(begins, True, QUICK),
        "few_clips": Effect(norms, "alone", {"batch_size": 2}),
        "freeze": Effect(optimizer, ("blocks.0.",)),
        "lora": Effect(optimizer, LoRA()),
        "compile": Effect(begins, True, QUICK),
        "strategy": Effect(shares, "fsdp"),
        "seed": Effect(batches, 1),
        "workers": Effect(begins, 1, QUICK),
        "short_videos": Effect(samples, "clamp"),
        "decoder": Effect(samples, "torchcodec"),
        "augment": Effect(samples, Augment(flip=0.0, scale=(0.5, 0.6))),
        "validate_every": Effect(steps, 1, QUICK),
        "patience": Effect(steps, 1, VALIDATED),
        "keep_best": Effect(steps, 2, VALIDATED),
        "save_every_s": Effect(steps, 0.0, QUICK),
        "logger": Effect(steps, (), QUICK),
    },
    LoRA: {
        "rank": Effect(adapted, 4),
        "alpha": Effect(adapted, 8),
        "dropout": Effect(adapted, 0.5),
        "targets": Effect(adapted, ("mlp",)),
    },
    EvaluateConfig: {
        "split": Effect(scored, "val"),
        "clips": Effect(scored, 2),
        "crops": Effect(scored, 3),
        "coverage": Effect(scored, "contiguous"),
        "short_side": Effect(scored, 300),
        "average": Effect(scored, "logits", {"clips": 3}),
        "batch_size": Effect(scored, 1),
        "workers": Effect(scored, 1),
        "short_videos": Effect(scored, "clamp", {"split": "val"}),
        "decoder": Effect(scored, "torchcodec"),
    },
    Init: {
        "weights": Effect(starts, "both.pt"),
        "average": Effect(starts, False, {"weights": "both.pt"}),
        "head": Effect(starts, "head.pt", {"weights": "trunk.pt"}),
        "only": Effect(starts, ("blocks.0.",), {"weights": "both.pt"}),
        "min_matched": Effect(starts, 1.0, {"weights": "half.pt"}),
        "expected": Effect(starts, "ImageNet's"),
    },
}
"""By class and field, in the order of the class."""


def load_class(definition: tuple[str, str]) -> Any:
    name, module = definition
    return getattr(importlib.import_module(module), name)


CASES = [(cls, name) for cls, table in EFFECTS.items() for name in table]


@pytest.mark.parametrize("cls", EFFECTS)
def test_every_field_has_a_line(cls: type) -> None:
    assert [f.name for f in fields(cls)] == list(EFFECTS[cls])


SEEN: dict[Any, Any] = {}
"""What is seen of the default configs, which several fields change."""


def outcome(effect: Effect, config: Any, data: Folder) -> Any:
    check(config)
    try:
        return effect.seen(config, data)
    except GestaError as error:
        return str(error)


@pytest.mark.parametrize(("cls", "name"), CASES, ids=lambda case: case if isinstance(case, str) else case.__name__)
def test_a_field_changes_something(cls: type, name: str, data: Folder) -> None:
    effect = EFFECTS[cls][name]
    base = cls(**effect.beside)
    key = effect.seen, json.dumps(to_json(base))
    if key not in SEEN:
        SEEN[key] = outcome(effect, base, data)
    changed = outcome(effect, replace(base, **{name: effect.value}), data)
    assert not isinstance(SEEN[key], str), SEEN[key]
    assert differ(SEEN[key], changed)


@pytest.mark.parametrize("seen", {e.seen: None for table in EFFECTS.values() for e in table.values()})
def test_nothing_else_changes_what_is_seen(seen: Callable[[Any, Folder], Any], data: Folder) -> None:
    effect, cls = next((e, c) for c, table in EFFECTS.items() for e in table.values() if e.seen is seen)
    assert not differ(*(outcome(effect, cls(**effect.beside), data) for _ in range(2)))


DATA = [cls for cls in map(load_class, definitions().items()) if issubclass(cls, DataConfig) and fields(cls)]


@pytest.mark.parametrize("cls", DATA)
def test_every_field_of_a_data_set_is_read(cls: type) -> None:
    """What each changes is tested with the data sets, whose files differ."""
    source = inspect.getsource(cls)
    shared = {f.name for f in fields(DataConfig)}  # tests/data/test_frame_cache.py
    own = [f.name for f in fields(cls) if f.name not in shared]
    assert not [name for name in own if not re.search(rf"\bself\.{name}\b", source)]


def differ(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return not torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() != other.keys() or any(differ(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) != len(other) or any(map(differ, one, other))
    return bool(one != other)
