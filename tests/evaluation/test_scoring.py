"""Views become the scores of videos in one place: when they come, and what joint label spaces mean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gesta.data.batch import Batch
from gesta.evaluation.scoring import named_classes, score_videos, score_views
from gesta.model import ClipSpec, VideoModel
from gesta.models import model_config

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

    first = next(score_videos(model, batches(), "probabilities", 2, CPU))
    assert (first.index, first.views, read) == (3, 4, [3])
    views = score_views(model, batch(3, 4)["video"][0], "probabilities", CPU)["label"]
    torch.testing.assert_close(first.scores["label"], views.mean(0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 5, 64])
def test_videos_of_any_number_of_views_share_passes(model: VideoModel, size: int) -> None:
    scored = list(score_videos(model, [batch(i, views) for i, views in enumerate((1, 4, 2))], "logits", size, CPU))
    assert [(video.index, video.views) for video in scored] == [(0, 1), (1, 4), (2, 2)]
    for video in scored:
        logits = score_views(model, batch(video.index, video.views)["video"][0], "logits", CPU)["label"]
        torch.testing.assert_close(video.scores["label"], logits.mean(0), rtol=0, atol=1e-5)


def test_a_network_without_names_numbers_its_classes(model: VideoModel) -> None:
    assert named_classes(model) == (model, {"label": ["0", "1", "2"]})
