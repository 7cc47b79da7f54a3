"""Does STAN's θ follow the puppet? Known positions against θ, and what the network makes of other clips' θ.

    python benchmarks/experiments/stan_theta.py runs/mvitv2 [--crops 4] [--seed 0]

Of every test clip of the run's Marionette set, squares are cut at random (0.7 to 1 of the picture's side), as training
cuts them; where the puppet stands in each is known from its geometry. Printed are the spread of θ over clips, the
fraction of samples outside the map, and correlations of the puppet's centre and height with θ: of the single entry that
would shift or zoom with it, and of the best linear combination of all entries, fitted on the clips of one half of the
videos and read on the other, beside the same with the puppets shuffled. Then top-1 on the test clips (one centre crop)
with the clip's own θ, another clip's, the mean θ and the identity. Asserts nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gesta.checkpoint import load
from gesta.data.clips import test_indices
from gesta.data.transforms import test_short_side
from gesta.marionette.dataset import Marionette
from gesta.marionette.files import read_manifest
from gesta.marionette.filming import Array, ClipName, puppet_boxes
from gesta.model import VideoModel, to_clips
from gesta.plugins.stan import STANLayer, statistics, thetas
from gesta.recipe import Recipe
from gesta.recipes.address import read_recipe
from gesta.video.read import Selection, read_frames

ENTRIES = {"centre, across": "p8", "centre, down": "p12", "height (zoom across)": "p6", "height (zoom down)": "p11"}
WHERE = {"centre, across": 0, "centre, down": 1, "height": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--crops", type=int, default=4, help="squares cut of each clip")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    recipe: Recipe = read_recipe(options.run / "recipe.json")
    assert isinstance(recipe.data, Marionette)
    model, rng = load(options.run).model.eval(), np.random.default_rng(options.seed)
    records = recipe.data.records("test")
    spec, labels = model.config.clip, torch.tensor([record.label for record in records])
    seed = read_manifest(Path(recipe.data.root))["seed"]  # type: ignore[index]
    cut: list[Tensor] = []
    centred: list[Tensor] = []
    puppets: list[tuple[float, float, float]] = []

    def select(n: int) -> Selection:
        return Selection(test_indices(n, spec, 1, "even", "loop")[0])

    margin = (1 - spec.size / test_short_side(recipe.evaluate.short_side, spec.size)) / 2
    for record in records:
        frames, selection, *_ = read_frames(record.path, select)
        name = ClipName(*(int(part[1:]) for part in Path(record.path).stem.split("_")))
        boxes = puppet_boxes(name, seed)[selection.indices.numpy()].mean(0)
        centred.append(_cut(frames, margin, margin, 1 - 2 * margin, spec.size))
        for _ in range(options.crops):
            side = rng.uniform(0.7, 1)
            left, top = rng.uniform(0, 1 - side, 2)
            cut.append(_cut(frames, left, top, side, spec.size))
            across, down = (boxes[0] + boxes[2]) / 2, (boxes[1] + boxes[3]) / 2
            puppets.append(((across - left) / side, (down - top) / side, (boxes[3] - boxes[1]) / side))
    theta, size = _thetas(model, torch.stack(cut))
    _report(theta, size, np.array(puppets), options.crops, rng)
    print(f"top-1 of {len(records)} clips, one centre crop:")
    for which in ("own", "another clip's", "mean", "identity"):
        print(f"  with θ {which + ':':16} {_top1(model, torch.stack(centred), labels, which):5.1f} %")


def _cut(frames: Tensor, left: float, top: float, side: float, size: int) -> Tensor:
    """A square of all frames ``(T, 3, H, W)``, edges as fractions of the picture, scaled to ``size``."""
    height, width = frames.shape[2:]
    rows, columns = (
        slice(round(top * height), round((top + side) * height)),
        slice(round(left * width), round((left + side) * width)),
    )
    return F.interpolate(frames[:, :, rows, columns].float(), (size, size), mode="bilinear", antialias=True).byte()


@torch.inference_mode()
def _thetas(model: VideoModel, clips: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    parts = [thetas(model, to_clips(part[:, None], model.config.clip)) for part in clips.split(32)]
    (name,) = parts[0]
    return torch.cat([part[name][0] for part in parts]), parts[0][name][1]


def _report(theta: Tensor, size: tuple[int, int, int], puppets: Array, crops: int, rng: np.random.Generator) -> None:
    figures = statistics(theta, size)
    print(f"θ of {len(theta)} clips: determinant {figures['det']:.2f}, outside {100 * figures['outside']:.1f} %")
    print("  mean      " + "  ".join(f"p{i} {figures[f'p{i}']:+.3f}" for i in range(1, 13)))
    print("  deviation " + "  ".join(f"p{i} {figures[f'p{i}.std']:.3f} " for i in range(1, 13)))
    entries = (theta - torch.eye(4)).flatten(1)[:, :12].double().numpy()
    print("correlation with the puppet's            one entry   all entries, held out   shuffled")
    first_half = np.arange(len(entries)) < len(entries) // crops // 2 * crops
    order = rng.permutation(len(entries) // crops).repeat(crops) * crops + np.arange(len(entries)) % crops
    for name, column in WHERE.items():
        single = [
            f"{entry} {np.corrcoef(entries[:, int(entry[1:]) - 1], puppets[:, column])[0, 1]:+.2f}"
            for label, entry in ENTRIES.items()
            if label.startswith(name)
        ]
        known = puppets[:, column]
        fitted, shuffled = _held_out(entries, known, first_half), _held_out(entries, known[order], first_half)
        print(f"  {name:24} {', '.join(single):>24}   {fitted:+21.2f}   {shuffled:+8.2f}")


def _held_out(entries: Array, known: Array, first: Array) -> float:
    """Correlation of a linear fit, made on the clips of ``first``, with the truth on the others."""
    design = np.c_[entries, np.ones(len(entries))]
    weights = np.linalg.lstsq(design[first], known[first], rcond=None)[0]
    return float(np.corrcoef(design[~first] @ weights, known[~first])[0, 1])


@torch.inference_mode()
def _top1(model: VideoModel, clips: Tensor, labels: Tensor, which: str) -> float:
    own, _ = _thetas(model, clips)
    (layer,) = (module for module in model.modules() if isinstance(module, STANLayer))
    given = {
        "own": own,
        "another clip's": own[torch.randperm(len(own), generator=torch.Generator().manual_seed(0))],
        "mean": own.mean(0).expand_as(own),
        "identity": torch.eye(4).expand_as(own),
    }[which]
    right = 0
    for part, theta, label in zip(clips.split(32), given.split(32), labels.split(32)):
        layer.theta = lambda x, theta=theta: theta  # type: ignore[method-assign, misc]
        right += int((model(to_clips(part[:, None], model.config.clip)).argmax(1) == label).sum())
    del layer.theta
    return 100 * right / len(labels)


if __name__ == "__main__":
    main()
