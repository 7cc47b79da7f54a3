"""The catalogue: what is stored about the named models is true and needs no torch; timm's names work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from gesta.checkpoint import save_model
from gesta.config import check, replace
from gesta.cost import Style, count
from gesta.errors import CheckpointError, GestaError
from gesta.model import Insert
from gesta.models import MODELS, PAPERS, card, count_model, create_model, list_models, model_config, stored_cost
from gesta.models.cards import BACKBONES, PUBLISHED
from gesta.plugins.stan import STAN
from gesta.recipe import EvaluateConfig

FAST = ("mvitv2_s", "r3d_tiny", "mfst_rgbd_tiny")


def small(**changes: Any) -> Any:
    return create_model("mvitv2_tiny", **changes)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.full) for n in list_models()])
def test_stored_costs_are_true(name: str) -> None:
    """If this fails after a change of a model, run ``scripts/precompute``."""
    config = model_config(name)
    for style in get_args(Style):
        assert stored_cost(name, style) == count(config, style)
    counted = count_model(name)
    assert all(getattr(card(name), part) == counted[part] for part in ("summary", "clip", "normalisation"))


def test_every_model_has_a_card() -> None:
    for name in MODELS:
        lines = str(card(name)).splitlines()
        assert lines[0] == name and all(lines) and len(lines) > 5
        assert re.fullmatch(r"  clips: \d+.* px, mean [\d. ]+, std [\d. ]+", lines[4])
        nothing = "no published weights of it are known" in lines[5]
        assert nothing == (name not in PUBLISHED) == (name not in list_models(pretrained=True))
    assert {prefix for prefix in PAPERS if not list_models(f"{prefix}*")} == set()
    with pytest.raises(GestaError, match="did you mean 'mvitv2_tiny'"):
        card("mvit2_tiny")


def test_what_is_published_is_of_models_and_says_its_protocol() -> None:
    assert set(PUBLISHED) <= set(MODELS) and set(BACKBONES) <= set(MODELS) - set(PUBLISHED)
    assert set(BACKBONES.values()) <= set(PUBLISHED)
    for published in PUBLISHED.values():
        check(EvaluateConfig(**published.test))  # type: ignore[arg-type]
        assert published.weights and published.source and all(published.weights.values())
        assert all(0 < accuracy.top1 < 100 and accuracy.protocol for accuracy in published.accuracy)
        assert all(
            re.fullmatch(r"hf:[\w.-]+/[\w.-]+(/[\w./-]+)?", where)
            for where in published.weights
            if where.startswith("hf:")
        )
    text = str(card("hiera_l"))
    assert "facebookresearch/hiera, CC-BY-NC-4.0" in text and "hf:facebook/hiera_large_16x224.mae_k400_ft_k400" in text
    assert "Kinetics-400 87.3 % top-1, 5 clips × 3 crops of 16 frames" in text and "std 0.225" in text
    assert "those of mvitv2_s load" in str(card("stan_mvitv2_s"))


def test_cards_and_costs_need_no_torch() -> None:
    code = """
import sys
from gesta.models import card, list_models, stored_cost
[str(card(name)) + str(stored_cost(name)) for name in list_models()]
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_num_classes_is_the_field_classes() -> None:
    assert model_config("r3d_tiny", num_classes=5) == model_config("r3d_tiny", classes=5)
    with pytest.raises(GestaError, match="give one of them"):
        model_config("r3d_tiny", num_classes=5, classes=5)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"pretrained": True}, "weights=FILE"),
        ({"drop_rate": 0.1}, "dropout"),
        ({"img_size": 112}, r"clip=replace\(model_config\(NAME\).clip, size=…\)"),  # ClipSpec(size=…) resets its mean
        ({"drop_pth": 0.1}, "'drop_path'"),
    ],
)
def test_an_unknown_argument_names_the_right_one(changes: dict[str, Any], remedy: str) -> None:
    with pytest.raises(GestaError, match=remedy):
        create_model("r3d_tiny", **changes)


def test_weights_are_loaded_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = small(num_classes=3)
    path = save_model(tmp_path / "weights.safetensors", source, ["a", "b", "c"])
    model = small(num_classes=3, weights=path)
    assert "100.0 %" in capsys.readouterr().err
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())
    with pytest.raises(CheckpointError, match="min_matched"):
        create_model("r3d_tiny", weights=path)


def test_features_and_head_are_the_forward_pass() -> None:
    model = small(num_classes=3).eval()
    video = torch.randn(2, 3, 8, 64, 64)
    with torch.no_grad():
        state = model.forward_features(video)
        assert model.to_grid(state).shape == (2, *model.grid_at(len(model.blocks)))
        assert torch.equal(model.forward_head(state), model(video))
        assert torch.equal(model.forward_head(state, pre_logits=True), model.embed(video))


def test_the_classifier_can_be_replaced() -> None:
    model = small(num_classes=3).double().eval()
    video = torch.randn(2, 3, 8, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        features = model.embed(video)
        model.reset_classifier({"verb": 4, "noun": 5})
        assert {space: scores.shape[1] for space, scores in model(video).items()} == {"verb": 4, "noun": 5}
        assert torch.equal(model.embed(video), features)
        model.reset_classifier(0)
        assert torch.equal(model(video), features)
    assert model.config.classes == 0 and replace(model.config, classes=3) == model_config("mvitv2_tiny", classes=3)
    assert model.get_classifier() is model.classifier and not model.classifier.training


def test_a_classifier_that_cannot_be_changes_nothing() -> None:
    model = small(num_classes=3)
    with pytest.raises(GestaError, match="classes is -1"):
        model.reset_classifier(-1)
    assert model.config.classes == 3 and model.classifier.linear.out_features == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ({}, "names no label space"),
        ({"type": 3}, "a label space cannot be called 'type'"),
        ({"a.b": 3}, "a label space cannot be called 'a.b'"),
        ({0: 3}, "classes has the key 0, which is no text"),
        ({"../labels": 3}, "a label space cannot be called '../labels'"),
    ],
)
def test_label_spaces_that_no_classifier_can_have_are_refused(classes: dict[Any, int], sentence: str) -> None:
    with pytest.raises(GestaError, match=sentence):
        small(num_classes=classes)


def test_a_model_stays_as_it_was_built_while_its_configuration_changes() -> None:
    config = model_config("timesformer_tiny", depth=1, classes=3, inserts=[Insert(layer=STAN(p_scale=1.0), at=0)])
    model, clip = config.build().eval(), torch.randn(2, 3, 8, 64, 64)
    with torch.no_grad():
        expected = model(clip)
        config.readout, config.classes, config.clip.mean = "mean", 5, (0.0, 0.0, 0.0)
        config.inserts[0].layer.residual = "none"  # type: ignore[attr-defined]
        assert torch.equal(model(clip), expected)
    assert model.config.classes == 3 and model.config.clip.mean == model_config("timesformer_tiny").clip.mean


def test_a_model_that_is_not_stored_yet_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "r3d_new", "gesta.models.r3d")
    monkeypatch.setattr("gesta.models.r3d.r3d_new", lambda: model_config("r3d_tiny"), raising=False)
    monkeypatch.setattr("gesta.models.r3d.r3d_new.__doc__", "A new one.")
    assert stored_cost("r3d_new").params == stored_cost("r3d_tiny").params
    assert card("r3d_new").summary == "A new one."
