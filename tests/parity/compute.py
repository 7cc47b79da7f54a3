"""The values that ``goldens.json`` keeps: what tiny models, samplers, decoding and evaluation gave when it was written.

    python tests/parity/compute.py        # write goldens.json anew

Run it only after a change that is meant to change numbers, and say in the commit which ones and why. Weights do not
depend on the order in which a model makes its layers: every parameter is drawn from one generator, in the order of the
names. Models compute in float64, so that another processor gives the same numbers to 1e-9.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gesta.alignment.assignment import assign
from gesta.config import from_json, replace, to_json
from gesta.data.clips import crop_boxes, test_indices, train_indices
from gesta.data.lists import Folder
from gesta.data.samples import TestViews, TrainingClips
from gesta.evaluation.evaluate import evaluate
from gesta.marionette.filming import ClipName, render_clip
from gesta.model import ClipSpec, Insert, VideoModel
from gesta.models import model_config
from gesta.plugins.ata import ATA
from gesta.plugins.smem import SMEM
from gesta.plugins.st_manet import SDA, TDA
from gesta.plugins.stan import STAN
from gesta.plugins.stdm import STDM
from gesta.prediction.predict import predict
from gesta.prediction.segments import Segmenter, Window
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig
from gesta.records import Record
from gesta.training.loop import train
from gesta.training.optim import build_optimizer, learning_rate

FILE = Path(__file__).with_name("goldens.json")

MODELS = (
    "ata_convnext_tiny", "ata_cyclemlp_tiny", "ata_timesformer_tiny", "convnext_tiny", "ctn_tiny", "cyclemlp_tiny",
    "mfst_rgbd_tiny", "mfst_tiny", "mvitv2_tiny", "r3d_tiny", "rpe_stdt_tiny", "st_manet_tiny", "stan_mvitv2_tiny",
    "std_former_tiny", "timesformer_tiny",
)  # fmt: skip
"""Those that there were when the values were written; later ones are compared with their originals."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mvitv2_tiny+token": ("mvitv2_tiny", {"cls_token": True}),
    "timesformer_tiny+joint": ("timesformer_tiny", {"temporal": "joint"}),
    "timesformer_tiny+soft": ("timesformer_tiny", {"around": ATA(alignment="straight_through", align_on="norm")}),
    "ctn_tiny+vivit": ("ctn_tiny", {"embed": "tube", "mapping": "linear", "positions": "learned"}),
}

STAN_1: dict[str, Any] = {"norm": "none", "p_scale": 1.0, "tanh_bound": None}
"""The deformation network that was the default when the values were written."""

AS_WRITTEN: dict[str, dict[str, Any]] = {
    "stan_mvitv2_tiny": {"inserts": [Insert(layer=STAN(**STAN_1), at=3)]},
    "st_manet_tiny": {"second_softmax": "position", "attn_out_norm": "none", "tda_value": "concat"},
}
"""Fields of models whose defaults have changed since."""

PLUGINS: dict[str, Any] = {
    "stan": STAN(**STAN_1),
    "stan.attention": STAN(mode="attention", separable=False, residual="mean", **STAN_1),
    "stan.homography": STAN(mode="homography", scale="medium", residual="none", **STAN_1),
    "tda": TDA(second_softmax="position", out_norm="none"),
    "sda": SDA(second_softmax="position", out_norm="none"),
    "smem": SMEM(),
    "stdm": STDM(),
}

GRID = (24, 4, 6, 6)


def fill(module: nn.Module, seed: int = 0) -> None:
    """Draw every parameter, in the order of the names: matrices with variance 1 / inputs, vectors near their start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim > 1:
                noise /= math.sqrt(math.prod(parameter.shape[1:]))
                parameter.copy_(noise)
            else:
                parameter.add_(0.1 * noise)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def few(values: Tensor) -> list[float]:
    """A tensor in six numbers: mean, root mean square, and four of its values."""
    flat = values.detach().double().flatten()
    some = flat[torch.linspace(0, len(flat) - 1, 4, dtype=torch.float64).long()]
    return [float(flat.mean()), float(flat.square().mean().sqrt()), *map(float, some)]


def gradient_norm(module: nn.Module) -> float:
    return math.sqrt(sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None))


def of_model(name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Fresh weights, features, scores, losses by name and the norm of the gradient of a small network."""
    config = model_config(name, classes=3, **changes)
    config.clip.frames //= 2
    torch.manual_seed(0)
    fresh = config.build()
    found: dict[str, Any] = {
        "fresh": [
            float(sum(p.detach().double().sum() for p in fresh.parameters())),
            sum(p.numel() for p in fresh.parameters()),
        ]
    }
    model = fresh.double()
    fill(model)
    clip = config.clip
    video = noise(2, clip.channels, clip.frames, clip.size, clip.size)
    model.eval()
    with torch.no_grad():
        found["features"] = few(model.embed(video))
        scores = model(video)
    assert isinstance(scores, Tensor)
    found["scores"] = scores.flatten().tolist()
    model.train()
    torch.manual_seed(1)
    answer, losses = model(video, with_losses=True)
    assert isinstance(answer, Tensor)
    loss = nn.functional.cross_entropy(answer, torch.tensor([0, 2]))
    (loss + sum(losses.values())).backward()
    found["losses"] = {"cross_entropy": loss.item(), **{key: value.item() for key, value in sorted(losses.items())}}
    found["gradient"] = gradient_norm(model)
    return found


def of_plugin(layer: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    module = layer.build(GRID).double()
    fill(module)
    module.train()
    torch.manual_seed(1)
    x = noise(2, *GRID).requires_grad_()
    y = module(x)
    y.square().mean().backward()
    assert x.grad is not None
    return {"output": few(y), "input_gradient": few(x.grad), "gradient": gradient_norm(module)}


def inserted() -> dict[str, Any]:
    """A plug-in of each kind inside one network."""
    return {
        name: of_model("r3d_tiny", {"inserts": [Insert(layer=PLUGINS[name], at=1)]})["scores"]
        for name in ("stan", "tda", "smem")
    }


def samplers() -> dict[str, Any]:
    specs = {
        "dense": ClipSpec(frames=8, stride=4),
        "shrink": ClipSpec(frames=8, stride=32, shrink=True),
        "uniform": ClipSpec(frames=8, sampling="uniform"),
    }
    found: dict[str, Any] = {"crops": [crop_boxes(48, 64, 32, n) for n in (1, 3)] + [crop_boxes(64, 48, 32, 3)]}
    for name, spec in specs.items():
        for n in (5, 30, 100):
            for short in ("loop", "clamp"):
                generator = torch.Generator().manual_seed(3)
                found[f"{name}/{n}/{short}"] = [
                    train_indices(n, spec, short, generator).tolist(),  # type: ignore[arg-type]
                    test_indices(n, spec, 3, "even", short).tolist(),  # type: ignore[arg-type]
                    test_indices(n, spec, 1, "contiguous", short).tolist(),  # type: ignore[arg-type]
                ]
    return found


def write_frames(folder: Path, frames: int = 20, height: int = 60, width: int = 80, seed: int = 0) -> None:
    """A folder of PNG frames: smooth moving pictures, the same bytes everywhere."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[0:height, 0:width]
    for t in range(frames):
        planes = [(3 * x + (2 + seed) * y * (c + 1) + 7 * t * (c + 1)) % 256 for c in range(3)]
        Image.fromarray(np.stack(planes, -1).astype(np.uint8)).save(folder / f"{t:05d}.png")


def records(root: Path, count: int = 3) -> list[Record]:
    found = []
    for i in range(count):
        folder = root / f"video{i}"
        if not folder.exists():
            write_frames(folder, frames=20 - 6 * i, seed=i)
        found.append(Record(path=str(folder), name=f"video{i}", label=i % 3))
    return found


def digest(pixels: Tensor) -> str:
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()


def batches(root: Path) -> dict[str, Any]:
    """One decoded and transformed training sample and test sample, by hash."""
    clip = ClipSpec(frames=4, stride=2, size=32)
    config = TrainConfig(augment=Augment(scale=(0.3, 1.0), flip=0.5, color_jitter=0.2, erasing=0.5))
    training = TrainingClips(records(root), clip, config, ["a", "b", "c"])
    testing = TestViews(records(root), clip, EvaluateConfig(clips=2, crops=3))
    found: dict[str, Any] = {}
    for epoch in (0, 1):
        video = training[epoch, 1]["video"]
        found[f"training/{epoch}"] = [list(video.shape), digest(video), float(video.double().mean())]
    sample = testing[2]
    assert isinstance(sample, dict)
    found["testing"] = [list(sample["video"].shape), digest(sample["video"]), float(sample["video"].double().mean())]
    return found


def small_model() -> VideoModel:
    config = model_config("r3d_tiny", classes=3)
    config.clip = replace(config.clip, frames=4, stride=2, size=32)
    torch.manual_seed(0)
    model = config.build().double()
    fill(model)
    return model


def evaluation(root: Path) -> dict[str, Any]:
    protocol = EvaluateConfig(clips=2, crops=3, workers=0)
    result = evaluate(small_model(), records(root), classes=["a", "b", "c"], views=protocol)
    scores = result.scores.values["label"]
    return {"metrics": accuracies(result.metrics), "confusion": result.scores.confusion["label"], "scores": scores}


def prediction(root: Path) -> list[Any]:
    answers = predict(
        small_model().float(), [r.path for r in records(root)], classes=["a", "b", "c"], views=EvaluateConfig(clips=2)
    )
    return [[[name, round(p, 5)] for name, p in answer.labels] for answer in answers]


def segments() -> list[Any]:
    segmenter = Segmenter(0.5, 0.25, 0.5)
    probabilities = noise(20, 3, seed=4).mul(2).softmax(-1)
    windows = [Window(0.5 * i, 0.5 * i + 2, p) for i, p in enumerate(probabilities)]
    found = [s for window in windows for s in segmenter.push(window)] + list(segmenter.finish())
    return [[s.label, s.start, s.end, s.count] for s in found]


def optimisation() -> dict[str, Any]:
    config = TrainConfig(epochs=10, warmup_epochs=1.5, lr=1e-3, layer_decay=0.75)
    model = model_config("mvitv2_tiny", classes=3).build()
    groups = build_optimizer(model, config).param_groups
    return {
        "rates": [learning_rate(config, 0.5 * i) for i in range(21)],
        "groups": [[len(g["params"]), g["weight_decay"], g["lr_factor"]] for g in groups],
    }


def training(root: Path) -> list[Any]:
    """Losses of four steps in two epochs, rounded because training computes in float32, and what they ended in."""
    for record in records(root / "source", 4):
        target = root / "videos" / ("train" if record.name != "video3" else "test") / f"action{record.label}"
        target.mkdir(parents=True, exist_ok=True)
        Path(record.path).rename(target / record.name)
    config = model_config("r3d_tiny")
    config.clip = replace(config.clip, frames=4, stride=2, size=32)
    recipe = Recipe(
        name="golden",
        model=config,
        data=Folder(root=str(root / "videos")),
        train=TrainConfig(
            epochs=2, batch_size=2, workers=0, mixup=0.2, ema=0.9, ema_warmup=False, few_clips="alone", validate_every=0
        ),
        evaluate=EvaluateConfig(clips=1, workers=0),
    )
    train(recipe, root / "run", quiet=True)
    entries = [json.loads(line) for line in (root / "run" / "log.jsonl").read_text().splitlines()]
    steps = [[e["epoch"], round(e["loss"], 4), e["lr"]] for e in entries if e["kind"] == "step"]
    return [steps, accuracies(json.loads((root / "run" / "result.json").read_text())["metrics"])]


def accuracies(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that there were when the values were stored."""
    return {name: value for name, value in metrics.items() if not name.startswith("macro_")}


def alignment() -> list[Any]:
    return assign(noise(2, 12, 12, seed=6).float()).tolist()


def drawn() -> list[Any]:
    """One clip of the synthetic data set, as its renderer draws it."""
    frames, depth = render_clip(ClipName(3, 5, 2, 1), seed=0, size=32)
    return [list(frames.shape), float(frames.mean()), float(depth.mean())]


def configs() -> dict[str, str]:
    """Each model's configuration survives JSON."""
    return {name: str(from_json(to_json(model_config(name))) == model_config(name)) for name in MODELS}


def everything() -> dict[str, Callable[[Path], Any]]:
    """Name → what computes it, given an empty folder."""
    found: dict[str, Callable[[Path], Any]] = {}
    for name in MODELS:
        found[f"model/{name}"] = lambda _, name=name: of_model(name, AS_WRITTEN.get(name, {}))  # type: ignore[misc]
    for key, (name, changes) in VARIANTS.items():
        found[f"model/{key}"] = lambda _, name=name, changes=changes: of_model(name, changes)  # type: ignore[misc]
    for key, layer in PLUGINS.items():
        found[f"plugin/{key}"] = lambda _, layer=layer: of_plugin(layer)  # type: ignore[misc]
    found |= {
        "inserted": lambda _: inserted(),
        "samplers": lambda _: samplers(),
        "segments": lambda _: segments(),
        "optimisation": lambda _: optimisation(),
        "configs": lambda _: configs(),
        "alignment": lambda _: alignment(),
        "drawn": lambda _: drawn(),
        "batches": batches,
        "evaluation": evaluation,
        "prediction": prediction,
        "training": training,
    }
    return found


def main() -> None:
    values = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, compute in everything().items():
            values[name] = compute(Path(folder) / name.replace("/", "_"))
            print(name, file=sys.stderr)
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
