"""The recipes for videos of one's own: published fine-tunings, and the model that weights name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gesta.checkpoint import save_model
from gesta.cli import make_parser
from gesta.cli.options import named_recipe
from gesta.config import check, config
from gesta.errors import CheckpointError, GestaError
from gesta.model import ClipSpec
from gesta.models import list_models, model_config
from gesta.models.vit import ViTConfig
from gesta.recipe import Recipe
from gesta.recipes.own_videos import _TRANSFORMERS, FINE_TUNINGS, finetune, finetune_vit, probe
from gesta.training.folder import derive_rates

TINY = ViTConfig(classes=3, clip=ClipSpec(frames=2, size=16), width=16, depth=2, heads=4, patch=8, drop_path=0.3)


@config
class OutsideConfig(ViTConfig):
    """A model of somebody's own."""


def recipe_of(*words: str) -> Recipe:
    return named_recipe(words[0], make_parser().parse_args(["train", *words]))


@pytest.mark.parametrize(("model", "published"), [(m, name) for m, rows in FINE_TUNINGS.items() for name in rows])
def test_published_fine_tunings_are_consistent(model: str, published: str) -> None:
    recipe = finetune_vit(model, published, root="videos")
    check(recipe)
    assert recipe.train.mixup and recipe.train.repeats == 2 and recipe.train.layer_decay != 1


def test_learning_rates_are_of_256_videos() -> None:
    """Z. Tong et al.'s script for Something-Something: 5e-4 for 256, 30 epochs, layer decay 0.75, 2 clips x 3 crops."""
    recipe = recipe_of("finetune_vit", "--published", "ssv2", "--batch-size", "128", "--data.root", "videos")
    train = recipe.train
    assert (train.lr, train.min_lr, train.warmup_lr) == pytest.approx((2.5e-4, 5e-7, 5e-7))
    assert (train.epochs, train.batch_size, train.layer_decay, train.weight_decay) == (30, 128, 0.75, 0.05)
    assert train.clip_grad is None and train.augment.flip == 0
    assert recipe.model.clip.sampling == "uniform" and recipe.model.drop_path == 0.1
    assert (recipe.evaluate.clips, recipe.evaluate.crops, recipe.evaluate.short_side) == (2, 3, 224)
    ucf = finetune_vit(published="ucf101").train
    assert (ucf.layer_decay, ucf.min_lr, ucf.epochs) == (0.7, pytest.approx(2.5e-6), 100)
    giant = finetune_vit("videomae2_g", "k710")
    assert (giant.train.layer_decay, giant.train.weight_decay, giant.train.clip_grad) == (0.9, 0.1, 5)
    assert giant.model.drop_path == 0.3


def test_a_fine_tuning_that_is_not_published_is_refused() -> None:
    with pytest.raises(GestaError, match=r"no fine-tuning of r3d_50 is published.* choose one of videomae_s"):
        finetune_vit("r3d_50")
    with pytest.raises(GestaError, match=r"videomae_s has no fine-tuning 'ucf101'; published are k400, ssv2"):
        finetune_vit("videomae_s", "ucf101")


def test_weights_say_which_model(tmp_path: Path) -> None:
    path = save_model(tmp_path / "trained.safetensors", TINY.build(), ["a", "b", "c"])
    recipe = recipe_of("finetune", "--init.weights", str(path), "--data.root", "videos")
    assert isinstance(recipe.model, ViTConfig) and recipe.name == "finetune-vit" and recipe.init.weights == str(path)
    assert (recipe.model.width, recipe.model.heads, recipe.model.clip.size) == (16, 4, 16)
    assert (recipe.model.dropout, recipe.model.drop_path) == (0.2, 0.1)
    assert probe(weights=str(path)).model.drop_path == 0 and probe(weights=str(path)).name == "probe-vit"
    assert recipe_of("finetune", "--init.weights", str(path), "--model", "r3d_tiny").name == "finetune-r3d_tiny"
    assert recipe_of("finetune").name == recipe_of("finetune", "--init.weights", "None").name == "finetune-mvitv2_tiny"
    with pytest.raises(GestaError, match=r"weights and init\.weights both say which weights"):
        recipe_of("finetune", "--init.weights", str(path), "--weights", "other.pth")


def test_weights_may_name_a_model_outside_gesta(tmp_path: Path) -> None:
    """The flag was accepted and not used: what it allows was refused with the advice to give it."""
    outside = OutsideConfig(classes=3, clip=TINY.clip, width=16, depth=2, heads=4, patch=8)
    path = str(save_model(tmp_path / "trained.safetensors", outside.build(), ["a", "b", "c"]))
    words = ("--init.weights", path, "--data.root", "videos")
    for name in ("finetune", "probe"):
        with pytest.raises(GestaError, match="trust_code=True"):
            recipe_of(name, *words)
        assert type(recipe_of(name, *words, "--trust-code").model) is OutsideConfig
    assert type(finetune(weights=path, trust_code=True).model) is OutsideConfig


def test_public_weights_say_which_model(tmp_path: Path) -> None:
    """In VideoMAE's own names, with the config.json of a hub beside them, which alone says how many heads."""
    ours = {
        "classifier.linear.": "head.",
        ".mlp.0.": ".mlp.fc1.",
        ".mlp.2.": ".mlp.fc2.",
        "patch_embed.": "patch_embed.proj.",
    }
    ours |= {".qkv.query_bias": ".q_bias", ".qkv.value_bias": ".v_bias"}
    weights = {}
    for name, value in TINY.build().state_dict().items():
        for part, public in ours.items():
            name = name.replace(part, public)
        weights[name] = value
    torch.save({"module": weights}, tmp_path / "checkpoint.pth")
    described = {
        "model_type": "videomae",
        "hidden_size": 16,
        "num_attention_heads": 4,
        "image_size": 16,
        "num_frames": 2,
    }
    (tmp_path / "config.json").write_text(json.dumps(described))
    recipe = finetune(weights=str(tmp_path))
    assert isinstance(recipe.model, ViTConfig)
    assert (recipe.model.width, recipe.model.heads, recipe.model.patch, recipe.model.clip.frames) == (16, 4, 8, 2)
    torch.save({"odd": torch.zeros(3)}, tmp_path / "checkpoint.pth")
    with pytest.raises(CheckpointError, match="nothing says of which model its weights are; name it with model"):
        finetune(weights=str(tmp_path / "checkpoint.pth"))


@pytest.mark.parametrize(("model", "decay"), [("vit_tiny", 0.75), ("r3d_tiny", 1.0)])
def test_transformers_get_a_layer_decay_from_weights(model: str, decay: float) -> None:
    scratch, pretrained = finetune(model), finetune(model, weights="w.pt")
    derive_rates(scratch)
    derive_rates(pretrained)
    assert (scratch.train.layer_decay, pretrained.train.layer_decay) == (1.0, decay)
    later = finetune(model)
    later.init.weights = "w.pt"
    derive_rates(later)
    assert later.train == pretrained.train


def test_the_learning_rate_from_weights_follows_the_size_that_flags_give() -> None:
    words = ("finetune", "--model", "vit_tiny", "--init.weights", "w.pt", "--data.root", "videos")
    rates = []
    for flags in ((), ("--model.width", "512", "--model.depth", "8"), ("--train.lr", "3e-4")):
        recipe = recipe_of(*words, *flags)
        derive_rates(recipe)
        rates.append(recipe.train.lr)
    assert rates == [1e-3, 1e-4, 3e-4]


def test_every_file_of_models_is_among_the_transformers_or_known_not_to_be() -> None:
    modules = {type(model_config(name)).__module__.removeprefix("gesta.models.") for name in list_models()}
    assert modules - set(_TRANSFORMERS) == {"cyclemlp", "frames", "r3d", "st_manet"}
    assert set(_TRANSFORMERS) <= modules
