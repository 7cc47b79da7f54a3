"""All of the front door, as a user's script calls it; ``test_typing.py`` runs mypy on it with the flags of --strict."""

from __future__ import annotations

from pathlib import Path

import torch

import gesta


def use_a_trained_model(run: Path, videos: Path) -> float:
    model: gesta.TrainedModel = gesta.load(run)
    for answer in gesta.predict(model, ["clip.mp4"], clips=2, top=3):
        prediction: gesta.Prediction = answer
        label, probability = prediction.labels[0]
        print(label.upper(), probability + 1)
    for segment in gesta.timeline(model, "long.mp4", config=gesta.TimelineConfig(hop=0.25)):
        print(segment.start, segment.end)
    result: gesta.Result = gesta.evaluate(model, gesta.datasets.folder(videos), clips=4, split="val")
    result.write(run / "again.json")
    return result.metrics["top1"]


def train_a_model(videos: Path) -> Path:
    recipe: gesta.Recipe = gesta.recipes.finetune("mvitv2_tiny", root=str(videos))
    recipe.train.epochs = 1
    recipe.train.augment = gesta.Augment(scale=(0.5, 1.0))
    return gesta.train(recipe, run="runs/mine", resume=False)


def use_public_weights(data: gesta.DataConfig) -> gesta.Result:
    model: gesta.VideoModel = gesta.create_model("mvitv2_s", weights="MViTv2_S_16x4.pyth", num_classes=400)
    return gesta.evaluate(model, data, views=gesta.EvaluateConfig(clips=5, crops=1))


def use_features(video: torch.Tensor) -> torch.Tensor:
    model = gesta.create_model("r3d_tiny", inserts=[gesta.Insert(layer=gesta.STAN(), at=1)])
    state = model.forward_features(video)
    grid: torch.Tensor = model.to_grid(state)
    features: torch.Tensor = model.forward_head(state, pre_logits=True)
    model.reset_classifier(7)
    taps: dict[str, torch.Tensor] = model.taps(video, ["stem", "block.0"])
    return features + grid.mean() + taps["stem"].mean()


def look_around() -> list[str]:
    try:
        gesta.data_config("ufc101")
    except gesta.GestaError as error:
        print(error)
    cost = gesta.count(gesta.model_config("r3d_tiny"), style="fvcore")
    print(cost.params, cost.macs)
    recipe = gesta.find_recipe("stan.ucf101")
    print(recipe.paper.strip(), gesta.recipes.list_tables())
    return [*gesta.list_models("stan_*"), *gesta.list_recipes(), *gesta.list_datasets(), gesta.__version__]
