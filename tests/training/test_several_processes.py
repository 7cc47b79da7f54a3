"""Two processes validate one model, resume it, and wait for no gradient of parameters that no step uses."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import write_video
from gesta.checkpoint import load_state
from gesta.checkpoint.weights import read_source
from gesta.config import replace
from gesta.data.lists import Folder, Videos
from gesta.evaluation.evaluate import evaluate
from gesta.evaluation.result import Result
from gesta.layers.attentive import Attentive
from gesta.model import ClipSpec, ModelConfig, VideoModel
from gesta.models import model_config
from gesta.models.r3d import R3DConfig
from gesta.models.vit import ViTConfig
from gesta.pretraining.simmim import simmim_of
from gesta.pretraining.videomae import videomae_of
from gesta.recipe import Augment, EvaluateConfig, Recipe, TrainConfig
from gesta.records import by_space
from gesta.training import loop
from gesta.training.unread import unread_parameters

HERE = Path(__file__)


def recipe(videos: Path, model: ModelConfig, **changes: Any) -> Recipe:
    """Of four training clips in each process, so that a step is an epoch; the rate does not depend on the epochs."""
    how: dict[str, Any] = {"epochs": 2, "batch_size": 8, "workers": 0, "schedule": "constant", "lr": 1e-2}
    how |= {"min_lr": None, "warmup_lr": None, "logger": ()}
    return Recipe(
        name="two",
        model=model,
        data=Folder(root=str(videos), val=0.34) if model.learns_classes else Videos(root=str(videos)),
        train=TrainConfig(**how | changes),
        evaluate=EvaluateConfig(split="val", clips=1, workers=0) if model.learns_classes else EvaluateConfig(),
    )


def with_batch_norms() -> ModelConfig:
    return R3DConfig(depths=(1, 1, 1, 1), width=4, clip=ClipSpec(frames=2, stride=2, size=16))


def with_parameters_that_are_not_read() -> dict[str, ModelConfig]:
    """Those of single images, of a last norm that another part passes by, of blocks that a readout leaves out."""
    clip = ClipSpec(frames=4, stride=1, size=32)
    vit = ViTConfig(width=16, depth=2, heads=2, patch=8, position_size=32, clip=clip)
    norm_first = replace(vit, tail="norm_mean")
    convnext, std_former = model_config("convnext_tiny"), model_config("std_former_tiny")
    return {
        "images": replace(vit, modality_embed=True),
        "blocks": replace(norm_first, attentive=Attentive(heads=2, depth=1, layers=(0,))),
        "simmim": simmim_of(vit, square=8),
        "simmim_convnext": simmim_of(convnext, square=convnext.clip.size // 4),
        "attentive": replace(std_former, attentive=Attentive(heads=1, depth=1)),
    }


def digest(weights: Mapping[str, Tensor]) -> str:
    parts = [name.encode() + value.contiguous().numpy().tobytes() for name, value in sorted(weights.items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("name", ["images", "blocks", "simmim", "simmim_convnext", "attentive"])
def test_parameters_that_no_step_uses_are_found_without_a_step(name: str) -> None:
    config = with_parameters_that_are_not_read()[name]
    model, clip = config.build().train(), config.clip
    scores, losses = model(torch.rand(2, 3, clip.frames, clip.size, clip.size), with_losses=True)
    sum(value.sum() for value in [*by_space(scores).values(), *losses.values()]).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert unread_parameters(config) == without != set()


@pytest.mark.parametrize("name", ["r3d_tiny", "vit_tiny", "st_manet_tiny", "ata_timesformer_tiny"])
def test_most_models_use_all_of_their_parameters(name: str) -> None:
    state = torch.get_rng_state()
    assert not unread_parameters(model_config(name)) and torch.equal(state, torch.get_rng_state())
    assert not unread_parameters(videomae_of(model_config("vit_tiny"), decoder_heads=2))  # type: ignore[arg-type]


@pytest.mark.full  # two trainings by processes that import torch
@pytest.mark.timeout(900)
def test_all_processes_validate_the_model_that_is_saved_and_use_what_they_can(tmp_path: Path) -> None:
    for i in range(12):
        write_video(tmp_path / f"videos/{'ab'[i % 2]}/{i}.mp4", frames=6, size=(48, 32), shade=15 * i)
    tests = os.pathsep.join([str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    launcher = ("-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = subprocess.run(
        [sys.executable, *launcher, str(HERE), str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": tests},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for run in ("ddp", "average", "fsdp"):
        first, second = (json.loads((tmp_path / f"{run}-{rank}.json").read_text()) for rank in (0, 1))
        assert first == second and len(set(first)) == 2, run  # of two epochs
        assert digest(read_source(tmp_path / run / "best.safetensors").weights) in first
    for run in ("ddp", "average"):  # one epoch and then another are two
        straight, resumed = (load_state(tmp_path / name / "last.ckpt") for name in (run, f"{run}-resumed"))
        for part in ("model", "weights"):
            assert digest(straight[part]) == digest(resumed[part]), run
        logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in (run, f"{run}-resumed")]
        epochs = [[e for e in map(json.loads, log) if e["kind"] == "epoch"] for log in logs]
        assert [e["val"] for e in epochs[0]] == [e["val"] for e in epochs[1]]
    assert "find_unused_parameters" not in done.stderr
    for name in with_parameters_that_are_not_read():
        moved = {i for i, held in load_state(tmp_path / name / "last.ckpt")["optimizer"]["state"].items() if held}
        weights = read_source(tmp_path / name / "best.safetensors").weights
        assert 0 < len(moved) < len(weights), name


def _train_all(folder: Path) -> None:
    """What each of the two processes does."""
    rank, videos = os.environ["RANK"], folder / "videos"
    models: list[str] = []

    def recorded(model: VideoModel, *arguments: Any, **how: Any) -> Result:
        models.append(digest(model.state_dict()))
        return evaluate(model, *arguments, **how)

    settings: dict[str, dict[str, Any]] = {"ddp": {}, "average": {"ema": 0.5}, "fsdp": {"strategy": "fsdp"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "evaluate", recorded)
        for name, changes in settings.items():
            models.clear()
            loop.train(recipe(videos, with_batch_norms(), **changes), folder / name, quiet=True, device="cpu")
            (folder / f"{name}-{rank}.json").write_text(json.dumps(models))
    for name in ("ddp", "average"):
        for epochs in (1, 2):
            again = recipe(videos, with_batch_norms(), epochs=epochs, **settings[name])
            loop.train(again, folder / f"{name}-resumed", resume=epochs > 1, quiet=True, device="cpu")
    for name, model in with_parameters_that_are_not_read().items():
        made = recipe(videos, model, augment=Augment(crop="short_side", scale=(0.8, 1.0)))
        loop.train(made, folder / name, quiet=True, device="cpu")


if __name__ == "__main__":  # one of the processes
    torch.set_num_threads(1)
    _train_all(Path(sys.argv[1]))
