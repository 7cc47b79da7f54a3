"""Class weights and the focal loss, against plain transcriptions in float64."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from conftest import write_video
from gesta.config import check
from gesta.data.lists import Folder
from gesta.data.mix import mix
from gesta.errors import GestaError
from gesta.model import ClipSpec, ModelConfig
from gesta.models.timesformer import TimeSformerConfig
from gesta.recipe import ProbeConfig, Recipe, TrainConfig
from gesta.training.loop import train
from gesta.training.loss import class_loss, class_weights, loss_weights
from gesta.training.probe import VideoRows, train_probes
from gesta.training.step import batch_losses

pytestmark = pytest.mark.usefixtures("one_thread")

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 0.0], [0.0, 9.0, 1.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.5, 2.0, 1.25], dtype=torch.float64)
HARD = torch.tensor([0, 2, 1, 0])
SOFT = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0], [0.2, 0.2, 0.6], [0.5, 0.5, 0.0]], dtype=torch.float64)


def transcribed(logits: Tensor, targets: Tensor, smoothing: float, gamma: float, weights: Any) -> float:
    """-Σ_c w_c t_c (1 - p_c)^γ log p_c, mean over the clips."""
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist()):
        exponentials = [math.exp(value) for value in row]
        for c, exponential in enumerate(exponentials):
            p = exponential / sum(exponentials)
            t = target[c] if isinstance(target, list) else float(target == c)
            t = t * (1 - smoothing) + smoothing / len(row)
            total -= (1.0 if weights is None else float(weights[c])) * t * (1 - p) ** gamma * math.log(p)
    return total / len(logits)


@pytest.mark.parametrize("targets", [HARD, SOFT], ids=["hard", "soft"])
def test_the_loss_is_its_formula(targets: Tensor) -> None:
    for smoothing, gamma, weights in itertools.product((0.0, 0.1), (0.0, 0.5, 2.0), (None, WEIGHTS)):
        how: dict[str, Any] = {"smoothing": smoothing, "gamma": gamma, "weights": weights}
        loss = float(class_loss(LOGITS, targets, multi_label=False, **how))
        assert loss == pytest.approx(transcribed(LOGITS, targets, **how), rel=1e-12), how


def test_of_two_classes_and_of_multi_label_data_it_is_the_published_focal_loss() -> None:
    scores = LOGITS[:, 0] - LOGITS[:, 1]  # the softmax of two scores is the sigmoid of their difference
    labels = torch.tensor([1, 0, 1, 1])
    how: dict[str, Any] = {"alpha": -1, "gamma": 2.0, "reduction": "mean"}
    ours = class_loss(LOGITS[:, [1, 0]], labels, multi_label=False, gamma=2.0)
    torch.testing.assert_close(ours, sigmoid_focal_loss(scores, labels.double(), **how), rtol=1e-12, atol=0)
    several = (SOFT > 0).double()
    ours = class_loss(LOGITS, several, multi_label=True, gamma=2.0)
    torch.testing.assert_close(ours, sigmoid_focal_loss(LOGITS, several, **how), rtol=1e-12, atol=0)
    plain = functional.binary_cross_entropy_with_logits(LOGITS, several)
    torch.testing.assert_close(class_loss(LOGITS, several, multi_label=True, gamma=1e-12), plain, rtol=1e-9, atol=0)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_a_clip_that_is_certain_has_a_finite_gradient(multi_label: bool, gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # right and wrong
    class_loss(logits, targets, multi_label=multi_label, gamma=gamma).backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[1].any()


def test_weights_of_classes_follow_their_videos() -> None:
    counts = (30, 5, 1, 0)
    balanced = class_weights(counts, TrainConfig(class_weights="balanced"))
    assert balanced == pytest.approx([36 / (3 * 30), 36 / (3 * 5), 36 / 3, 0])  # scikit-learn's, of 3 classes
    effective = class_weights(counts, TrainConfig(class_weights="effective", effective_beta=0.9))
    raw = [(1 - 0.9) / (1 - 0.9**n) for n in counts[:3]]  # Cui et al., Eq. 3
    assert [a / effective[0] for a in effective[:3]] == pytest.approx([a / raw[0] for a in raw]) and effective[3] == 0
    for weights in (balanced, effective):
        assert sum(n * weight for n, weight in zip(counts, weights)) / 36 == pytest.approx(1)
    ends = (0.0, [1.0] * 3), (1 - 1e-9, balanced[:3])
    for beta, expected in ends:
        config = TrainConfig(class_weights="effective", effective_beta=beta)
        assert class_weights(counts, config)[:3] == pytest.approx(expected, rel=1e-4)


def test_label_spaces_have_weights_of_their_own_and_mixed_clips_those_of_their_parts() -> None:
    config = TrainConfig(class_weights="balanced", focal_gamma=1.5, label_smoothing=0.1, mixup=0.4)
    classes = {"verb": ["open", "close"], "noun": ["door", "box", "jar"]}
    labels = {"verb": [0, 0, 0, 1], "noun": [0, 0, 1, 2]}
    weights, remark = loss_weights(labels, classes, config)
    assert remark == (
        "balanced class weights: open (3 videos) 0.667, close (1 video) 2, door (2 videos) 0.667, jar (1 video) 1.33"
    )
    model = ModelConfig(classes={"verb": 2, "noun": 3}, clip=ClipSpec(frames=1, stride=1, size=4))
    scores = {"verb": LOGITS[:, :2].float(), "noun": LOGITS.float()}
    targets = {space: torch.tensor(values) for space, values in labels.items()}
    batch: Any = {"video": torch.zeros(4, 1, 1, 3, 4, 4, dtype=torch.uint8), "label": targets}
    seen: list[Tensor] = []

    def forward(clips: Tensor, with_losses: bool) -> Any:
        seen.append(clips)
        return scores, {}

    torch.manual_seed(3)
    losses = batch_losses(forward, batch, model, config, torch.device("cpu"), weights)
    torch.manual_seed(3)
    mixed = mix(torch.zeros_like(seen[0]), targets, config, model.classes)[1]
    assert any(0 < float(value) < 1 for value in mixed["verb"].flatten())
    for space in classes:
        expected = transcribed(scores[space].double(), mixed[space], 0.1, 1.5, weights[space])
        assert float(losses[f"focal/{space}"]) == pytest.approx(expected, rel=1e-5)
    assert float(losses["loss"]) == pytest.approx(float(losses["focal/verb"] + losses["focal/noun"]) / 2)


def test_the_probes_of_rare_classes_are_found_with_weights() -> None:
    """One of two overlapping classes has a twentieth of the videos: the plain loss gives it up, weights do not."""
    draw = torch.Generator().manual_seed(0)
    labels = [int(i % 21 == 0) for i in range(210)]
    rows = [torch.randn(1, 4, generator=draw) + label for label in labels]
    data, names = VideoRows(rows, {"label": labels}), ["common", "rare"]
    accuracies = {}
    for weights in (None, "balanced"):
        config = TrainConfig(epochs=10, batch_size=32, class_weights=weights)  # type: ignore[arg-type]
        grid = ProbeConfig(lrs=(0.1,), weight_decays=(0.0,))
        network: Any = type("Network", (), {})()
        network.config, network.attentive = ModelConfig(classes=2), None
        probe = train_probes(data, data, names, grid, config, network)[0]
        accuracies[weights] = probe.val["mean_class"]
    assert accuracies[None] + 10 < accuracies["balanced"], accuracies


def test_a_training_counts_its_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, number in (("common", 3), ("rare", 1)):
        for i in range(number):
            write_video(tmp_path / "videos" / name / f"{i}.mp4", frames=2, size=(48, 32))
    clip = ClipSpec(frames=2, stride=1, size=16)
    recipe = Recipe(
        name="toy",
        model=TimeSformerConfig(width=8, depth=1, heads=2, mlp_ratio=1, patch=8, clip=clip),
        data=Folder(root=str(tmp_path / "videos"), val=0.0),
        train=TrainConfig(epochs=1, batch_size=4, workers=0, class_weights="balanced"),
    )
    given: list[Any] = []

    def losses(*arguments: Any) -> Any:
        given.append(arguments[5])
        return batch_losses(*arguments)

    monkeypatch.setattr("gesta.training.step.batch_losses", losses)
    train(recipe, tmp_path / "run")
    assert given[0]["label"].tolist() == pytest.approx([4 / (2 * 3), 4 / 2])
    assert "balanced class weights: common (3 videos) 0.667, rare (1 video) 2" in capsys.readouterr().err


def test_what_would_count_twice_or_cannot_be_counted_is_refused() -> None:
    config = TrainConfig(class_weights="balanced", balanced=True)
    with pytest.raises(
        GestaError, match="class_weights is balanced, and balanced draws rare classes more often already"
    ):
        check(config, "x")
    with pytest.raises(GestaError, match=r"effective_beta is 0\.9, which changes nothing without class_weights='effec"):
        check(TrainConfig(effective_beta=0.9, class_weights="balanced"), "x")
