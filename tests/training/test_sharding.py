"""Processes that share weights train as one process does, and resume on another number of processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from conftest import write_video
from gesta.checkpoint import load_state
from gesta.checkpoint.weights import read_source
from gesta.config import check, to_json
from gesta.data.lists import Folder
from gesta.errors import CheckpointError, GestaError
from gesta.models import model_config
from gesta.recipe import EvaluateConfig, LoRA, Recipe, TrainConfig
from gesta.training.loop import train
from gesta.training.sharding import Shards, WholeState, fill

pytestmark = pytest.mark.usefixtures("one_thread")


def test_rows_of_any_number_of_files_make_whole_tensors(tmp_path: Path) -> None:
    layer = nn.Linear(3, 5)
    optimizer = torch.optim.AdamW(layer.parameters())
    whole = {f"{kind}/{name}": torch.randn_like(p) for name, p in layer.named_parameters() for kind in KINDS}
    for rank, cut in enumerate((slice(0, 2), slice(2, 4), slice(4, 5), slice(5, 5))):
        save_file({k: v[cut].detach().contiguous() for k, v in whole.items()}, tmp_path / f"{rank}-of-4.safetensors")
    with Shards(tmp_path) as shards:
        assert not list(fill(layer, optimizer, shards, {0: torch.tensor(7.0)}))
        assert torch.equal(layer.weight, whole["weights/weight"]) and torch.equal(layer.bias, whole["weights/bias"])
        assert torch.equal(optimizer.state[layer.weight]["exp_avg_sq"], whole["exp_avg_sq/weight"])
        assert optimizer.state[layer.weight]["step"] == 7
        assert torch.equal(shards.read("weights/weight", 1, 5), whole["weights/weight"][1:5])
        other = nn.Linear(3, 6)
        assert "weights/weight" in list(fill(other, torch.optim.AdamW(other.parameters()), shards, {}))
    with pytest.raises(SafetensorError):  # its files are closed
        shards.read("weights/weight", 0, 1)
    state = WholeState({"weight": layer.weight, "bias": layer.bias}, {0: {"exp_avg": layer.weight}}, ["weight", "bias"])
    assert not list(fill(layer, optimizer, state, {}))
    (tmp_path / "2-of-4.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks files of the training state"):
        Shards(tmp_path)


KINDS = ("weights", "exp_avg", "exp_avg_sq")


def test_what_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    for other in ({"lora": LoRA()}, {"ema": 0.9}, {"compile": True}, {"precision": "16-mixed"}):
        with pytest.raises(GestaError, match=r"strategy is fsdp, "):
            check(TrainConfig(strategy="fsdp", **other), "the recipe")  # type: ignore[arg-type]
    write_video(tmp_path / "videos/a/0.mp4", frames=4)
    with pytest.raises(GestaError, match="over processes, and there is one; start several with torchrun"):
        train(recipe("r3d_tiny", tmp_path / "videos", strategy="fsdp"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def recipe(model: str, videos: Path, **changes: Any) -> Recipe:
    """No dropout, and batch norms that see a part of the batch are frozen: both would differ between processes."""
    config = model_config(model)
    config.drop_path = config.dropout = 0.0
    config.clip.frames, config.clip.size = min(config.clip.frames, 8), 64
    config.classes = 2
    if hasattr(config, "small_init"):
        config.small_init = False  # which standardises features over the clips of a pass
    norms = [n for n, m in config.build().named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    how: dict[str, Any] = {"epochs": 2, "batch_size": 4, "workers": 0, "freeze": tuple(f"{n}." for n in norms)}
    return Recipe(
        name=model,
        model=config,
        data=Folder(root=str(videos), val=0.25),
        train=TrainConfig(**how | changes),
        evaluate=EvaluateConfig(split="val", clips=1, workers=0),
    )


def torchrun(processes: int, *words: str) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "gesta", "train", *words], stderr=subprocess.PIPE, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.timeout(1500)  # seven times torchrun, each of whose processes imports torch
@pytest.mark.full  # the rows and their files are tested above
@pytest.mark.parametrize("model", ["timesformer_tiny", "st_manet_tiny", "stan_mvitv2_tiny"])
def test_two_and_four_processes_train_as_one(model: str, tmp_path: Path) -> None:
    for i in range(8):
        write_video(tmp_path / f"videos/{'ab'[i % 2]}/{i}.mp4", frames=12, shade=20 * i)
    plain = recipe(model, tmp_path / "videos")
    train(plain, tmp_path / "one", quiet=True)
    one = read_source(tmp_path / "one/best.safetensors").weights
    (tmp_path / "plain.json").write_text(json.dumps(to_json(plain)))
    for processes, strategy in ((2, "ddp"), (2, "fsdp"), (4, "fsdp")):
        run = tmp_path / f"{strategy}{processes}"
        torchrun(processes, str(tmp_path / "plain.json"), "--run-dir", str(run), "--train.strategy", strategy)
        several = read_source(run / "best.safetensors").weights
        assert several.keys() == one.keys()
        for name, value in one.items():
            torch.testing.assert_close(several[name], value, rtol=0, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")
    names = sorted(path.name for path in (tmp_path / "fsdp4").glob("shards-*"))
    assert load_state(tmp_path / "fsdp4/last.ckpt")["shards"] == names[-1] and len(names) == 2
    # longer, on two processes instead of four, and then with whole weights
    again = ("--resume", "--run-dir", str(tmp_path / "fsdp4"))
    torchrun(2, *again, "--train.epochs", "3")
    torchrun(2, *again, "--train.epochs", "4", "--train.strategy", "ddp")
    torchrun(2, *again, "--train.epochs", "5", "--train.strategy", "fsdp")
    for epochs in (3, 4, 5):
        plain.train.epochs = epochs
        train(plain, tmp_path / "one", resume=True, quiet=True)
    one, several = (read_source(tmp_path / name / "best.safetensors").weights for name in ("one", "fsdp4"))
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=0, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
