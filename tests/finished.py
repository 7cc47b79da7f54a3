"""A finished run made on the spot: what training and evaluation would have written, without either."""

from __future__ import annotations

import json
from pathlib import Path

from gesta.config import replace, to_json
from gesta.data.transforms import test_short_side as side_of
from gesta.evaluation.result import Result, json_hash
from gesta.recipe import Recipe
from results import changed, result


def finish(recipe: Recipe, folder: Path, metrics: dict[str, float], seed: int = 0, file: str = "result.json") -> Path:
    """Write ``recipe.json`` and a result with these metrics, as a run of the recipe leaves them; gives the folder.

    Args:
        recipe: what was trained; where it expects weights, it started from some.
        folder: of the run.
        metrics: percent.
        seed: of the training.
        file: name of the result.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recipe = replace(recipe, name=folder.name)
    recipe.train.seed = seed
    recipe.init.weights = recipe.init.weights or ("weights.safetensors" if recipe.init.expected else None)
    (folder / "recipe.json").write_text(json.dumps(to_json(recipe)))
    scored(recipe, metrics).write(folder / file)
    return folder


def scored(recipe: Recipe, metrics: dict[str, float]) -> Result:
    """The result of a recipe's model on its data, by its protocol."""
    model, how = recipe.model, recipe.evaluate
    protocol = {name: getattr(how, name) for name in ("split", "crops", "coverage", "short_videos", "average")}
    protocol["clips"] = None if how.coverage == "contiguous" else how.clips
    config = to_json(model)
    return changed(
        result([0, 1], [0, 1]),
        metrics=metrics,
        config=config,
        config_sha256=json_hash(config),
        data=to_json(recipe.data),
        **protocol,
        short_side=side_of(how.short_side, model.clip.size),
        size=model.clip.size,
    )
