"""Learning rates as pure functions of the epoch; parameters in the groups that they belong to."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gesta.errors import GestaError
from gesta.model import VideoModel, hooked
from gesta.models import create_model
from gesta.recipe import TrainConfig
from gesta.training.optim import build_optimizer, freeze, learning_rate, parameter_groups, set_learning_rate


@pytest.fixture
def model() -> VideoModel:
    return create_model("r3d_tiny", classes=3)


def test_cosine_with_warm_up() -> None:
    config = TrainConfig(epochs=10, lr=1.0, min_lr=0.2, warmup_epochs=2, warmup_lr=0.1)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 0.5) == pytest.approx(0.325)
    assert learning_rate(config, 2) == pytest.approx(1.0)
    assert learning_rate(config, 6) == pytest.approx(0.6)
    assert learning_rate(config, 10) == pytest.approx(0.2)
    assert learning_rate(config, 4) == pytest.approx(0.2 + 0.8 * (1 + 2**-0.5) / 2)


def test_steps_and_constant() -> None:
    config = TrainConfig(epochs=10, lr=1.0, schedule="steps", milestones=(3, 6), gamma=0.1)
    assert [learning_rate(config, e) for e in (0, 2.99, 3, 5.9, 6, 9)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    config = TrainConfig(epochs=10, lr=0.3, schedule="constant", warmup_epochs=1, warmup_lr=0)
    assert [learning_rate(config, e) for e in (0, 0.5, 1, 9)] == pytest.approx([0, 0.15, 0.3, 0.3])


def test_warm_up_as_long_as_the_training() -> None:
    config = TrainConfig(epochs=2, lr=1.0, warmup_epochs=2, warmup_lr=0, min_lr=0)
    assert [learning_rate(config, e) for e in (0, 1, 2)] == pytest.approx([0, 0.5, 1])


def groups_by_name(model: VideoModel, config: TrainConfig) -> dict[str, dict[str, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, config)
    assert len({id(p) for g in groups for p in g["params"]}) == sum(len(g["params"]) for g in groups)
    return {names[id(p)]: {k: v for k, v in g.items() if k != "params"} for g in groups for p in g["params"]}


def test_weight_decay_spares_biases_one_dimensional_and_named_parameters(
    model: VideoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "no_weight_decay", lambda: {"layer1.0.conv1.weight"})
    groups = groups_by_name(model, TrainConfig(weight_decay=0.3, no_decay=("layer2",)))
    assert set(groups) == {name for name, _ in model.named_parameters()}
    decayed = {name for name, group in groups.items() if group["weight_decay"]}
    spared = {"layer1.0.conv1.weight"} | {name for name in groups if name.startswith("layer2.")}
    assert decayed == {name for name, p in model.named_parameters() if p.ndim > 1} - spared
    assert {group["weight_decay"] for group in groups.values()} == {0.0, 0.3}
    groups = groups_by_name(model, TrainConfig(weight_decay=0.3, no_decay=("layer2",), decay_biases=True))
    assert {name for name, group in groups.items() if not group["weight_decay"]} == spared


def test_layer_decay_counts_from_the_head(model: VideoModel) -> None:
    groups = groups_by_name(model, TrainConfig(layer_decay=0.5))
    assert groups["classifier.linear.weight"]["lr_factor"] == 1
    assert groups["layer4.0.conv1.weight"]["lr_factor"] == 0.5
    assert groups["layer1.0.conv1.weight"]["lr_factor"] == 0.5**4
    assert groups["conv1.weight"]["lr_factor"] == 0.5**5


def test_the_longest_prefix_gives_the_multiplier(model: VideoModel) -> None:
    config = TrainConfig(lr=2.0, lr_multipliers={"layer1.": 0.1, "layer1.0.conv1.": 0.2, "classifier.": 10})
    groups = groups_by_name(model, config)
    factors = {name: group["lr_factor"] for name, group in groups.items()}
    assert factors["layer1.0.conv1.weight"] == 0.2 and factors["layer1.0.conv2.weight"] == 0.1
    assert factors["classifier.linear.bias"] == 10 and factors["layer2.0.conv1.weight"] == 1
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, 0.5)
    assert {g["lr"] for g in optimizer.param_groups} == {0.5, 0.05, 0.1, 5.0}


def test_frozen_parameters_are_in_no_group(model: VideoModel) -> None:
    norms = freeze(model, ("conv1.", "bn1.", "layer1."))
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        name for name, _ in model.named_parameters() if name.startswith(("conv1.", "bn1.", "layer1."))
    }
    assert len(norms) == 5 and all(isinstance(norm, nn.BatchNorm3d) for norm in norms)
    assert not any(name.startswith(("conv1.", "bn1.", "layer1.")) for name in groups_by_name(model, TrainConfig()))


def test_misspelt_prefixes_are_refused(model: VideoModel) -> None:
    with pytest.raises(GestaError, match=r"^train\.freeze.*'layr1\.'; did you mean 'layer1\.'"):
        freeze(model, ("layr1.",))
    with pytest.raises(GestaError, match=r"^train\.lr_multipliers.*'head\.'"):
        parameter_groups(model, TrainConfig(lr_multipliers={"head.": 2}))
    with pytest.raises(GestaError, match=r"^train\.no_decay: .* contains 'con1'; did you mean 'conv1'"):
        parameter_groups(model, TrainConfig(no_decay=("con1",)))
    freeze(model, ("",))
    with pytest.raises(GestaError, match="no parameter to train"):
        parameter_groups(model, TrainConfig())


def test_optimizers(model: VideoModel) -> None:
    adamw = build_optimizer(model, TrainConfig(betas=(0.8, 0.95)))
    assert isinstance(adamw, torch.optim.AdamW) and adamw.param_groups[0]["betas"] == (0.8, 0.95)
    sgd = build_optimizer(model, TrainConfig(optimizer="sgd", momentum=0.5, nesterov=True))
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["momentum"] == 0.5 and sgd.param_groups[0]["nesterov"]


def test_mvit_decays_its_tables_of_positions_as_its_public_recipe_does() -> None:
    """``MVIT.ZERO_DECAY_POS_CLS: False`` in PySlowFast's MVITv2_S_16x4.yaml."""
    groups = groups_by_name(create_model("mvitv2_tiny", cls_token=True), TrainConfig(weight_decay=0.3))
    for name in ("cls_token", "blocks.0.attn.rel_pos.t", "blocks.2.attn.rel_pos.h"):
        assert groups[name]["weight_decay"] == 0.3
    assert groups["blocks.0.norm1.weight"]["weight_decay"] == 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_frozen_beginning_keeps_nothing_and_changes_no_gradient(checkpointing: bool) -> None:
    """It is as if it ran under no_grad, so that its activations take no memory."""
    torch.manual_seed(0)
    model = create_model("timesformer_tiny", classes=3, activation_checkpointing=checkpointing, drop_path=0.1).train()
    freeze(model, tuple(name for name, _ in model.named_parameters() if model.depth_of(name) <= 2))
    other = copy.deepcopy(model)
    clip = model.config.clip
    video = torch.randn(2, 3, clip.frames, clip.size, clip.size)
    kept: list[int] = []
    after_frozen: list[int] = []
    hooks = {model.blocks[1]: lambda *_: after_frozen.append(sum(kept))}
    torch.manual_seed(1)  # stochastic depth
    with hooked(hooks), torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        model(video).square().sum().backward()
    assert after_frozen == [0] and sum(kept) > 0

    torch.manual_seed(1)
    with torch.no_grad():
        state = other.stem(video)
        for block in other.blocks[:2]:
            state = block(state)
    for block in other.blocks[2:]:
        state = block(state)
    other.forward_head(state).square().sum().backward()
    for (name, parameter), of_other in zip(model.named_parameters(), other.parameters()):
        assert (parameter.grad is None) is (model.depth_of(name) <= 2)
        assert parameter.grad is None or torch.equal(parameter.grad, of_other.grad), name
