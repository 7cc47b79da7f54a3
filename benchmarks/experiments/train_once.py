"""Trainings of an experiment that are kept: what is finished is not trained again, and what was stopped goes on."""

from __future__ import annotations

import copy
from pathlib import Path

from gesta.errors import GestaError
from gesta.recipe import Recipe
from gesta.training.folder import BEST, derive_rates, fit_classes, recipe_changes
from gesta.training.loop import train


def train_once(recipe: Recipe, run: Path, device: str = "auto") -> bool:
    """Train unless it is done; the training state of a finished run is removed.

    Args:
        recipe: what is trained.
        run: its folder.
        device: as of ``gesta train``.

    Returns:
        Whether it was trained now.

    Raises:
        GestaError: the folder holds a finished run of another recipe, which would be counted as this one's.
    """
    state = run / "last.ckpt"
    if (run / BEST).is_file() and not state.is_file():
        recipe = copy.deepcopy(recipe)
        fit_classes(recipe.model, recipe.data, recipe.data.classes())
        derive_rates(recipe)
        if changes := recipe_changes(run, recipe):
            different = "; ".join(list(changes.values())[:3])
            raise GestaError(f"{run}: is finished, but of another recipe ({different}); choose another --out")
        return False
    train(recipe, run, resume=state.is_file(), quiet=True, device=device)
    state.unlink(missing_ok=True)
    return True
