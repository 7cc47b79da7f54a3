"""Adapters of low rank are trained beside weights that stay, and become part of them in the model file."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import write_video
from gesta.checkpoint import load, load_state, save_model
from gesta.checkpoint.formats import file_hash
from gesta.checkpoint.lora import merge_adapters
from gesta.checkpoint.weights import read_source
from gesta.cli import make_parser
from gesta.cli.options import named_recipe
from gesta.config import check, replace
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models import create_model, list_models
from gesta.models.vit import ViTConfig
from gesta.recipe import EvaluateConfig, Init, LoRA, Recipe, TrainConfig
from gesta.training.loop import train
from gesta.training.lora import adapted_layers, add_adapters, is_adapter, unchanged_adapters
from gesta.training.optim import freeze, frozen_prefixes, parameter_groups
from gesta.training.setup import Training

pytestmark = pytest.mark.usefixtures("one_thread")

FAST = ("ctn_tiny", "rpe_stdt_tiny", "std_former_tiny", "vit_tiny")
"""Each kind of layer whose weight a model reads itself, and a fused one with biases of its own."""

WITHOUT_ATTENTION = {"convnext_tiny", "ata_convnext_tiny"}
WITHOUT_LINEAR_LAYERS = {"r3d_tiny", "st_manet_tiny"}
MODELS = [name for name in list_models("*_tiny") if name not in WITHOUT_LINEAR_LAYERS]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.full]) for name in MODELS]
)
def test_every_adapter_is_used_and_merging_changes_no_score(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, classes=3).double()
    plain = create_model(name, classes=3).double().eval()
    lora = LoRA(rank=2, targets=("mlp",) if name in WITHOUT_ATTENTION else ("attn", "mlp"))
    said = add_adapters(model, lora)
    names = adapted_layers(plain, lora.targets)
    assert f"in {len(names)} layers" in said
    norms = freeze(model, frozen_prefixes(model, TrainConfig(lora=lora)))
    assert all(isinstance(norm, nn.modules.batchnorm._BatchNorm) for norm in norms)
    for parameter_name, parameter in model.named_parameters():
        if is_adapter(parameter_name):
            nn.init.normal_(parameter, std=0.05)
    clip = model.config.clip
    video = torch.randn(2, clip.channels, clip.frames, clip.size, clip.size, dtype=torch.float64)
    scores = model.train()(video)
    assert isinstance(scores, Tensor)
    F.cross_entropy(scores, torch.arange(2)).backward()
    head = len(model.blocks) + 1
    for parameter_name, parameter in model.named_parameters():
        is_trained = (
            is_adapter(parameter_name)
            or parameter_name.startswith("inserts.")
            or model.depth_of(parameter_name) == head
        )
        assert parameter.requires_grad == is_trained, parameter_name
        if is_adapter(parameter_name):
            assert parameter.grad is not None and parameter.grad.any(), parameter_name
    plain.load_state_dict(merge_adapters(model.state_dict(), lora.scale))
    with torch.no_grad():
        adapted, merged = model.eval()(video), plain(video)
        assert isinstance(adapted, Tensor) and isinstance(merged, Tensor)
        torch.testing.assert_close(merged, adapted, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(plain.float()(video.float()), model.float()(video.float()), rtol=1e-4, atol=1e-4)


def test_models_without_such_layers_are_refused_with_what_they_have() -> None:
    """A layer of another class computes something else by its weight, as CycleMLP's do: no product can be added."""
    with pytest.raises(GestaError, match="R3D has no linear layers of attn; its blocks have no linear layers at all"):
        add_adapters(create_model("r3d_tiny"), LoRA())
    with pytest.raises(GestaError, match=r"TimmFrames .* of attn; .* those of mlp: use train\.lora\.targets mlp"):
        add_adapters(create_model("convnext_tiny"), LoRA())
    layers = adapted_layers(create_model("cyclemlp_tiny"), ("attn", "mlp"))
    assert not [name for name in layers if "sfc" in name] and "blocks.0.attn.mlp_c" in layers


def test_peft_merges_as_we_do() -> None:
    torch.manual_seed(0)
    model = create_model("vit_tiny", classes=3)
    add_adapters(model, LoRA(rank=3, alpha=7))
    for parameter_name, parameter in model.named_parameters():
        if is_adapter(parameter_name):
            nn.init.normal_(parameter)
    ours = merge_adapters(model.state_dict(), 7 / 3)
    for name, layer in model.named_modules():
        if hasattr(layer, "merge"):
            layer.merge()
            torch.testing.assert_close(ours[f"{name}.weight"], layer.base_layer.weight)
    assert ours.keys() == create_model("vit_tiny", classes=3).state_dict().keys()


# --- a whole training ------------------------------------------------------------------------------------------------

TINY = ViTConfig(
    classes=2, clip=ClipSpec(frames=2, stride=2, size=16), width=16, depth=2, heads=2, patch=8, small_init=True
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A recipe with all that LoRA meets: average, decay by layer, dropout, and a plug-in's place; and its weights."""
    folder = tmp_path_factory.mktemp("lora")
    for label, name in enumerate(("dark", "light")):
        for i in range(4):
            write_video(folder / "videos" / name / f"{i}.mp4", frames=6, size=(48, 32), shade=90 * label + i)
    torch.manual_seed(0)
    save_model(folder / "start.safetensors", TINY.build(), ["dark", "light"])
    return Recipe(
        name="toy",
        model=replace(TINY),
        data=Folder(root=str(folder / "videos"), val=0.3),
        train=TrainConfig(
            epochs=2, batch_size=2, lr=1e-2, ema=0.5, layer_decay=0.8, workers=0, lora=LoRA(rank=2, dropout=0.1)
        ),
        evaluate=EvaluateConfig(split="val", clips=1, workers=0),
        init=Init(weights=str(folder / "start.safetensors")),
    )


def test_the_model_file_is_ordinary_and_a_stopped_run_ends_the_same(
    toy: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, straight, run = read_source(str(toy.init.weights)).weights, tmp_path / "straight", tmp_path / "run"
    scored: list[Tensor] = []
    video = torch.randn(2, 3, 2, 16, 16)
    plain_weights = Training.plain_weights

    def note(training: Training) -> dict[str, Tensor]:
        scored.append(training.final_model.eval()(video).detach())
        return plain_weights(training)

    monkeypatch.setattr(Training, "plain_weights", note)
    train(toy, straight)
    said = capsys.readouterr().err
    assert "LoRA: 1,024 parameters of rank 2 in 8 layers (attn, mlp) are trained" in said
    trained = load(straight / "best.safetensors").model
    weights = trained.state_dict()
    assert weights.keys() == start.keys()
    torch.testing.assert_close(trained(video), scored[-1], rtol=1e-5, atol=1e-5)  # rounding
    adapted = {f"{name}.weight" for name in adapted_layers(TINY.build(), ("attn", "mlp"))}
    changed = {name for name, value in weights.items() if not torch.equal(value, start[name])}
    assert adapted < changed and not any(name.startswith(("patch_embed.", "blocks.")) for name in changed - adapted)

    count = itertools.count()

    def stop(training: Training) -> None:  # noticed in the next, amid the second epoch
        average(training)
        if next(count) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    average = Training.average_weights
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Training, "average_weights", stop)
        train(toy, run, quiet=True)
    assert load_state(run / "last.ckpt")["progress"]["step"] == 5
    train(toy, run, resume=True, quiet=True)
    ours, theirs = load_state(run / "last.ckpt"), load_state(straight / "last.ckpt")
    for part in ("model", "weights"):
        assert all(torch.equal(value, theirs[part][name]) for name, value in ours[part].items())
    assert file_hash(run / "best.safetensors") == file_hash(straight / "best.safetensors")
    # another training can start from its training state, whose adapters are merged likewise
    from_state = read_source(run / "last.ckpt").weights
    merged = merge_adapters(ours["weights"], 16 / 2)
    assert from_state.keys() == weights.keys() and all(torch.equal(v, merged[name]) for name, v in from_state.items())


def test_what_would_stay_random_is_refused(toy: Recipe, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(GestaError, match=r"train\.lora keeps patch_embed\.weight .* random: .* without train\.lora"):
        train(replace(toy, init=Init()), run, quiet=True)
    lacking = {k: v for k, v in read_source(str(toy.init.weights)).weights.items() if "blocks.1.mlp" not in k}
    torch.save(lacking, tmp_path / "lacking.pth")
    incomplete = replace(toy, init=Init(weights=str(tmp_path / "lacking.pth"), min_matched=0.1))
    with pytest.raises(GestaError, match=r"train\.lora keeps blocks\.1\.mlp\.0\.weight"):
        train(incomplete, run, quiet=True)
    incomplete.train = replace(toy.train, lora=None, freeze=("blocks.",))
    with pytest.raises(GestaError, match=r"train\.freeze keeps blocks\.1\.mlp\.0\.weight"):
        train(incomplete, run, quiet=True)
    with pytest.raises(GestaError, match=r"freeze is blocks\., beside lora, which trains only"):
        check(replace(toy.train, freeze=("blocks.",)))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(GestaError, match="peft is not installed"):
        patch.setitem(sys.modules, "peft", None)
        train(toy, run, quiet=True)
    assert not (run / "recipe.json").exists()


def test_an_adapter_that_nothing_reaches_is_named(toy: Recipe, tmp_path: Path) -> None:
    model = TINY.build()
    add_adapters(model, LoRA(rank=2))
    names = {name: value.clone().fill_(1) for name, value in model.state_dict().items()}
    assert unchanged_adapters(names) == []
    (sentence,) = unchanged_adapters(names | {"blocks.1.mlp.2.lora_B.default.weight": torch.zeros(16, 2)})
    assert sentence.startswith("LoRA has not changed blocks.1.mlp.2: no gradient")

    with pytest.MonkeyPatch.context() as patch:  # a model that reads the weights of its layers itself
        patch.setattr("peft.tuners.lora.layer.Linear.forward", lambda layer, x: layer.base_layer(x))
        train(replace(toy, train=replace(toy.train, epochs=1)), tmp_path / "run", quiet=True)
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    (fault,) = (fault for entry in entries if entry["kind"] == "epoch" for fault in entry["faults"] if "LoRA" in fault)
    assert "LoRA has not changed blocks.0.attn.qkv, blocks.0.attn.proj" in fault and "and 4 more" in fault


def test_groups_of_adapters_have_the_depth_of_their_block() -> None:
    model = TINY.build()
    config = TrainConfig(layer_decay=0.5, weight_decay=0.1, lora=LoRA(rank=2), lr_multipliers={"classifier.": 2.0})
    assert config.lora is not None
    add_adapters(model, config.lora)
    freeze(model, frozen_prefixes(model, config))
    names = {parameter: name for name, parameter in model.named_parameters()}
    factors = {names[p]: group["lr_factor"] for group in parameter_groups(model, config) for p in group["params"]}
    assert factors["blocks.0.attn.qkv.lora_A.default.weight"] == 0.25
    assert factors["blocks.1.mlp.2.lora_B.default.weight"] == 0.5
    assert factors["classifier.linear.weight"] == 2 and factors["fc_norm.weight"] == 1
    config.lr_multipliers = {"patch_embed.": 2.0}
    with pytest.raises(GestaError, match=r"train\.lr_multipliers: no trained parameter's name begins with 'patch_emb"):
        parameter_groups(model, config)


def test_a_flag_of_a_field_turns_it_on() -> None:
    words = ["train", "finetune", "--model", "vit_tiny", "--train.lora.rank", "4", "--train.lora.targets", "mlp"]
    recipe = named_recipe("finetune", make_parser().parse_args(words))
    assert recipe.train.lora == LoRA(rank=4, targets=("mlp",))
    assert named_recipe("finetune", make_parser().parse_args(words[:4])).train.lora is None
