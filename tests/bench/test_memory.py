"""The memory of a training step that is computed without values is that of a real one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from conftest import fast_first
from gesta.bench import memory
from gesta.bench.memory import (
    MemoryTable,
    Setting,
    StepMemory,
    _backward,
    _fitting,
    _LiveStorages,
    _row,
    measure_memory,
    step_memory,
)
from gesta.config import replace
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.models.vit import ViTConfig
from gesta.processes import choose_autocast
from gesta.recipe import LoRA, TrainConfig
from gesta.training.lora import add_adapters
from gesta.training.optim import build_optimizer, freeze, frozen_prefixes

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
TINY = ViTConfig(classes=5, clip=ClipSpec(frames=4, size=32), width=32, depth=2, heads=2, patch=8)


@pytest.mark.parametrize(
    ("checkpointing", "lora"),
    fast_first([(True, True), (False, False), (True, False), (False, True)], 1),
)
def test_computed_is_what_a_real_step_takes(checkpointing: bool, lora: bool) -> None:
    """The optimiser's step, too: of all parameters at once, as on CUDA."""
    config = replace(TINY, activation_checkpointing=checkpointing)
    train = TrainConfig(lora=LoRA() if lora else None)
    with _LiveStorages() as live:
        model = config.build().train()
        if train.lora:
            add_adapters(model, train.lora)
        freeze(model, frozen_prefixes(model, train))
        optimizer = build_optimizer(model, train)
        for group in optimizer.param_groups:
            group["foreach"] = True
        for _ in range(2):
            optimizer.zero_grad()
            live.peak_since()
            _backward(model, 3, choose_autocast(CPU, "bf16-mixed"), CPU)
            backward = live.peak_since()
            optimizer.step()
            update = live.peak_since()
    computed = step_memory(config, 3, precision="bf16-mixed", lora=lora)
    assert computed.backward == pytest.approx(backward, rel=0.01)
    assert computed.update == pytest.approx(update, rel=0.01)


def test_each_clip_takes_what_its_backward_pass_keeps() -> None:
    """Counted by torch's hooks for saved tensors, each storage once, and without parameters."""
    model: nn.Module = TINY.build().train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def saved(clips: int) -> int:
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            scores = model(torch.zeros(clips, 3, 4, 32, 32))
        del scores
        return sum(kept.values())

    by_hooks = saved(6) - saved(5)
    one, two = (step_memory(TINY, clips).backward for clips in (5, 6))
    assert by_hooks <= two - one <= 1.5 * by_hooks  # and gradients of the largest layer


@pytest.mark.parametrize("checkpointing", fast_first([(True,), (False,)], 1))
def test_what_fits_is_what_a_step_of_so_many_clips_takes(checkpointing: bool) -> None:
    setting = Setting(frames=4, checkpointing=checkpointing, lora=False)
    row = _row(TINY, setting, "bf16-mixed", None, (2,))
    assert row is not None
    config = replace(TINY, activation_checkpointing=checkpointing)
    peak = step_memory(config, row.clips[2], precision="bf16-mixed").backward
    assert 0.97 * 2**30 < peak <= 2**30  # a GiB is left to the driver
    table = MemoryTable(
        model="tiny", precision="bf16-mixed", known="computed", batch=16, rows=[row], remarks=["left out"]
    )
    assert "tiny, bf16-mixed, computed: clips at once" in str(table) and f"| {row.clips[2]} (×1) |" in str(table)
    assert table.to_json()["rows"][0]["clips"] == row.clips and "left out" in str(table)
    assert [_fitting(clips, 16) for clips in (0, 1, 5, 16)] == ["–", "1 (×16)", "5 (×4)", "16 (×1)"]


def test_a_card_with_room_for_one_clip_promises_no_more_than_that_clip_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured, the second clip may not fit; each further one is then counted with all that the first takes."""

    def one_clip_fits(config: ViTConfig, clips: int, **_: object) -> StepMemory:
        if clips > 1:
            raise torch.OutOfMemoryError
        return StepMemory(backward=3 * 2**30, update=2**30)

    monkeypatch.setattr(memory, "step_memory", one_clip_fits)
    row = _row(TINY, Setting(frames=4, checkpointing=False, lora=False), "32-true", CPU, (3, 4, 8))
    assert row is not None and row.clips == {3: 0, 4: 1, 8: 2} and row.each == 3 * 2**30


def test_what_does_not_fit_the_card_that_measures_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def small_card(config: ViTConfig, clips: int, **_: object) -> StepMemory:
        if not config.activation_checkpointing:
            raise torch.OutOfMemoryError
        return StepMemory(backward=clips * 2**30, update=2**30)

    monkeypatch.setattr(memory, "step_memory", small_card)
    monkeypatch.setattr(memory, "choose_device", lambda device: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a small card")
    table = measure_memory(TINY, "tiny")
    assert [(row.setting.lora, row.setting.checkpointing) for row in table.rows] == [(False, True), (True, True)]
    remark = "left out: 4 frames, all weights: not one clip fits; compute it with --device cpu"
    assert table.remarks[0] == remark and len(table.remarks) == 2 and "0.00 GiB" not in str(table)
    with pytest.raises(GestaError, match="4 frames, all weights: not one clip fits"):
        monkeypatch.setattr(memory, "step_memory", lambda *_, **__: small_card(TINY, 1))
        measure_memory(TINY, "tiny")


def test_sizes_of_cards_are_checked() -> None:
    with pytest.raises(GestaError, match="--sizes of cards"):
        measure_memory(TINY, "tiny", sizes=(8, -8))


def test_models_that_cannot_be_computed_say_so() -> None:
    with pytest.raises(GestaError, match=r"TimeSformer matches tokens by their values.* device cuda"):
        measure_memory(model_config("ata_timesformer_tiny"), "ata_timesformer_tiny")
