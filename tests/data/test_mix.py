"""MixUp and CutMix: clips and targets are weighted alike, by label space, and from one generator."""

from __future__ import annotations

import torch

from gesta.data.mix import mix
from gesta.recipe import TrainConfig


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 5, classes: int = 7) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Clip i is i everywhere, and its label is i."""
    clips = torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1, 1).expand(n, 3, 4, 16, 20).clone()
    return clips, {"label": torch.arange(n)}


def test_mixup_weighs_clips_and_targets_alike() -> None:
    clips, labels = batch()
    before = clips.clone()
    mixed, targets = mix(clips, labels, TrainConfig(mixup=0.8), 7, generator(1))
    assert torch.equal(clips, before) and targets["label"].shape == (5, 7)
    values = targets["label"] @ torch.arange(7.0)
    torch.testing.assert_close(mixed, values.view(5, 1, 1, 1, 1).expand_as(mixed))
    torch.testing.assert_close(targets["label"].sum(1), torch.ones(5))
    assert ((targets["label"] > 0).sum(1) == 2).all()  # nobody is mixed with itself


def test_cutmix_exchanges_one_box_in_all_frames() -> None:
    clips, labels = batch()
    for seed in range(20):
        mixed, targets = mix(clips, labels, TrainConfig(cutmix=1.0), 7, generator(seed))
        assert all(torch.equal(mixed[:, :, 0], mixed[:, :, t]) for t in range(4))
        kept = (mixed == clips).flatten(1).float().mean(1)
        torch.testing.assert_close(targets["label"].diagonal(), kept)
        torch.testing.assert_close(mixed.mean((1, 2, 3, 4)), targets["label"] @ torch.arange(7.0))


def test_switch_and_probability() -> None:
    clips, labels = batch()

    def kind(seed: int, **options: float) -> str:
        mixed, _ = mix(clips, labels, TrainConfig(mixup=1.0, cutmix=1.0, **options), 7, generator(seed))
        if torch.equal(mixed, clips):
            return "none"
        return "cutmix" if set(mixed.unique().tolist()) <= set(range(5)) else "mixup"

    kinds = [kind(seed, mix_probability=0.8, mix_switch=0.25) for seed in range(300)]
    assert 30 <= kinds.count("none") <= 95 and 150 <= kinds.count("mixup") <= 215 and 30 <= kinds.count("cutmix") <= 90
    assert {kind(seed, mix_switch=0.0) for seed in range(30)} == {"mixup"}


def test_mix_by_label_space_with_unknown_labels_and_the_global_generator() -> None:
    clips, _ = batch(2)
    labels = {"verb": torch.tensor([1, -1]), "noun": torch.tensor([0, 2])}
    torch.manual_seed(3)
    _, targets = mix(clips, labels, TrainConfig(mixup=1.0), {"verb": 2, "noun": 3})
    assert targets["verb"].shape == (2, 2) and targets["noun"].shape == (2, 3)
    torch.testing.assert_close(targets["noun"].sum(1), torch.ones(2))
    torch.testing.assert_close(targets["verb"].sum(), torch.tensor(1.0))  # the unknown one adds nothing
    single, alone = mix(clips[:1], {"label": torch.tensor([4])}, TrainConfig(mixup=1.0), 5)
    assert torch.equal(single, clips[:1]) and alone["label"].tolist() == [[0, 0, 0, 0, 1]]
