"""Views become the scores of videos in one place: when they come, and what joint label spaces mean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gesta.config import check
from gesta.data.batch import Batch
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.evaluation.evaluate import evaluate
from gesta.evaluation.scoring import named_classes, score_videos, score_views
from gesta.layers.attentive import Attentive
from gesta.model import ClipSpec, VideoModel, to_clips
from gesta.models import model_config
from gesta.prediction.predict import predict
from gesta.recipe import EvaluateConfig, Recipe
from gesta.records import Record

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> VideoModel:
    torch.manual_seed(0)
    return model_config("r3d_tiny", classes=3, clip=ClipSpec(frames=2, stride=1, size=32)).build().eval()


def batch(index: int, views: int) -> Batch:
    pixels = torch.randint(256, (1, views, 2, 3, 32, 32), generator=torch.Generator().manual_seed(index))
    return Batch(video=pixels.byte(), label={}, index=torch.tensor([index]), failures=[], partial=[])


def test_a_video_is_scored_before_the_next_one_is_read(model: VideoModel) -> None:
    read: list[int] = []

    def batches() -> Iterator[Batch]:
        for index in (3, 1):
            read.append(index)
            yield batch(index, views=4)

    first = next(score_videos(model, batches(), EvaluateConfig(), 2, CPU))
    assert (first.index, first.views, read) == (3, 4, [3])
    views = score_views(model, batch(3, 4)["video"][0], "probabilities", CPU)["label"]
    torch.testing.assert_close(first.scores["label"], views.mean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 5, 64])
def test_videos_of_any_number_of_views_share_passes(model: VideoModel, size: int) -> None:
    batches, config = [batch(i, views) for i, views in enumerate((1, 4, 2))], EvaluateConfig(average="logits")
    scored = list(score_videos(model, batches, config, size, CPU))
    assert [(video.index, video.views) for video in scored] == [(0, 1), (1, 4), (2, 2)]
    for video in scored:
        logits = score_views(model, batch(video.index, video.views)["video"][0], "logits", CPU)["label"]
        torch.testing.assert_close(video.scores["label"], logits.mean(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("crops", "size"), [(1, 2), (3, 4), (3, 64)])
def test_clips_of_a_crop_are_joined_along_their_tokens(crops: int, size: int) -> None:
    clip = ClipSpec(frames=2, stride=1, size=32)
    model = (
        model_config("r3d_tiny", classes=3, clip=clip, attentive=Attentive(depth=2, heads=2)).build().double().eval()
    )
    config = EvaluateConfig(average="tokens", crops=crops)  # type: ignore[arg-type]
    batches = [batch(i, clips * crops) for i, clips in enumerate((1, 4))]
    with torch.inference_mode():
        for video, scored in zip(batches, score_videos(model, batches, config, size, CPU)):
            per_crop = []
            for crop in range(crops):
                clips = to_clips(video["video"][:, crop::crops], clip, torch.float64)
                tokens = torch.cat([model.read_tokens(one[None])[0] for one in clips])
                per_crop.append(model.score_tokens(tokens[None]).softmax(-1)[0])  # type: ignore[union-attr]
            assert scored.views == video["video"].shape[1]
            torch.testing.assert_close(scored.scores["label"], torch.stack(per_crop).mean(0), rtol=0, atol=1e-6)
    alone, joined = EvaluateConfig(crops=crops), list(score_videos(model, batches, config, size, CPU))  # type: ignore[arg-type]
    apart = list(score_videos(model, batches, alone, size, CPU))
    torch.testing.assert_close(joined[0].scores, apart[0].scores, rtol=0, atol=1e-6)  # of a single clip
    assert (joined[1].scores["label"] - apart[1].scores["label"]).abs().max() > 1e-4


def test_tokens_are_joined_only_for_a_head_that_reads_them(model: VideoModel) -> None:
    views = EvaluateConfig(average="tokens")
    for refused in (
        lambda: evaluate(model, [Record(path="no.mp4", name="no.mp4", label=0)], views=views),
        lambda: next(predict(model, "no.mp4", views=views)),
        lambda: check(Recipe(name="x", model=model.config, data=Folder(root="x"), evaluate=views)),
    ):
        with pytest.raises(GestaError, match=r"evaluate.average is .?tokens.?, and the model has no attentive head"):
            refused()


def test_a_network_without_names_numbers_its_classes(model: VideoModel) -> None:
    assert named_classes(model) == (model, {"label": ["0", "1", "2"]})
