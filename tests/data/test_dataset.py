"""Samples are a function of (seed, epoch, index, copy); broken videos are named; batches are shared fairly."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from gesta.data.batch import Failure, Sample
from gesta.data.loader import Loader, test_loader, training_batches
from gesta.data.samples import TestViews, TrainingClips, collate
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.processes import loader_workers
from gesta.recipe import Augment, EvaluateConfig, TrainConfig
from gesta.records import Label, Record
from gesta.video.deadline import TIMEOUT_S
from gesta.video.depth import Depth

CLIP = ClipSpec(frames=4, stride=2, size=32)
CLASSES = ["a", "b", "c"]


@pytest.fixture
def records(make_video: Callable[..., Path]) -> list[Record]:
    paths = [make_video(f"{i}.mp4", shade=10 * i) for i in range(5)]
    return [Record(path=str(path), name=path.name, label=i % 3) for i, path in enumerate(paths)]


@pytest.fixture
def broken(tmp_path: Path) -> Record:
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"this is no video")
    return Record(path=str(path), name="broken.mp4", label=1)


def config(**changes: object) -> TrainConfig:
    changes = {
        "augment": Augment(rotate=10, color_jitter=0.3, randaugment=1, erasing=0.5),
        "repeats": 2,
        "batch_size": 2,
    } | changes
    return TrainConfig(**changes)  # type: ignore[arg-type]


# --- samples ---------------------------------------------------------------------------------------------------------


def test_a_sample_depends_on_seed_epoch_index_and_copy_alone(records: list[Record]) -> None:
    one, two = (TrainingClips(records, CLIP, config(), CLASSES) for _ in range(2))
    items = [(epoch, index) for epoch in range(2) for index in range(3)]
    forward = {item: one[item]["video"] for item in items}
    torch.manual_seed(99)
    backward = {item: two[item]["video"] for item in reversed(items)}
    for item in items:
        assert forward[item].shape == (2, 4, 3, 32, 32) and forward[item].dtype == torch.uint8
        assert torch.equal(forward[item], backward[item])
        assert not torch.equal(forward[item][0], forward[item][1])  # the copies are different draws
    assert not torch.equal(forward[0, 0], forward[1, 0])
    other = TrainingClips(records, CLIP, config(seed=1), CLASSES)
    assert not torch.equal(other[0, 0]["video"], forward[0, 0])
    more = TrainingClips(records, CLIP, config(repeats=3), CLASSES)
    assert torch.equal(more[0, 0]["video"][:2], forward[0, 0])  # a third copy does not change the first two


def test_draws_depend_on_their_arguments_alone(records: list[Record]) -> None:
    """A file that ends early is drawn for twice, with two numbers of frames: the first draw must leave no trace."""
    dataset = TrainingClips(records, CLIP, config(), CLASSES)
    expected = dataset.draw(1, 2, 12)
    dataset.draw(1, 2, 30)
    draws = dataset.draw(1, 2, 12)
    assert torch.equal(draws.indices, expected.indices) and draws.flips == expected.flips
    for one, other in zip(draws.generators, expected.generators, strict=True):
        assert torch.equal(one.get_state(), other.get_state())


def test_a_broken_video_is_replaced_in_training_and_named(records: list[Record], broken: Record) -> None:
    dataset = TrainingClips([*records, broken], CLIP, config(), CLASSES)
    sample, again = dataset[3, 5], dataset[3, 5]
    assert [failure.name for failure in sample["failures"]] == ["broken.mp4"]
    assert sample["failures"][0].index == 5 and "broken.mp4: " in sample["failures"][0].reason
    assert sample["index"] in range(5) and sample["label"] == records[sample["index"]].label
    assert again["index"] == sample["index"] and torch.equal(again["video"], sample["video"])
    assert len({dataset[epoch, 5]["index"] for epoch in range(12)}) > 1  # not always the same stand-in


def test_nothing_but_broken_videos_is_an_error(broken: Record) -> None:
    for count, tried in ((3, 3), (30, 10)):
        dataset = TrainingClips([broken] * count, CLIP, config(), CLASSES)
        with pytest.raises(GestaError, match=rf"^training videos cannot be read, {tried} in a row.*broken\.mp4"):
            dataset[0, 0]


def test_a_missing_decoder_is_not_the_videos_fault(records: list[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise GestaError("torchcodec is not installed")

    monkeypatch.setattr("gesta.data.samples.read_frames", read)
    with pytest.raises(GestaError, match="not installed"):
        TrainingClips(records, CLIP, config(), CLASSES)[0, 0]
    with pytest.raises(GestaError, match="not installed"):
        TestViews(records, CLIP, EvaluateConfig())[0]


def test_pairs_are_found_whatever_the_form_of_accents() -> None:
    classes = ["c\u00f4te\u0301G", "c\u00f4te\u0301D"]  # as folders of macOS have them
    augment = Augment(flip_labels={"c\u00f4t\u00e9G": "c\u00f4t\u00e9D"})
    assert TrainingClips([], ClipSpec(), TrainConfig(augment=augment), classes).mirror == {"label": [1, 0]}


def test_flips_follow_the_label_map(make_video: Callable[..., Path]) -> None:
    path = make_video("clip.mp4", frames=8, size=(48, 48))
    classes = ["wave", "swipe left", "swipe right", "turn left"]
    augment = Augment(crop="short_side", scale=(1.0, 1.0), flip=0.5, flip_labels={"swipe left": "swipe right"})
    records = [Record(path=str(path), name=name, label=label) for label, name in enumerate(classes)]
    clip = ClipSpec(frames=8, stride=1, size=48)
    dataset = TrainingClips(records, clip, TrainConfig(augment=augment, repeats=2), classes)

    def mirrored(view: torch.Tensor) -> bool:
        """The bright square starts at the left edge and moves right; in a mirror it comes from the other side."""
        first, last = (frame[0, 24:32].float().mean(0) for frame in (view[0], view[-1]))
        return bool(first.argmax() > last.argmax())

    labels = {index: Counter[tuple[int, ...]]() for index in range(4)}
    for epoch in range(24):
        for index in range(4):
            sample = dataset[epoch, index]
            labels[index][(sample["label"], *map(mirrored, sample["video"]))] += 1
    assert set(labels[0]) == {(0, a, b) for a in (False, True) for b in (False, True)}  # each copy for itself
    assert set(labels[1]) == {(1, False, False), (2, True, True)}  # all copies or none, and the label follows
    assert set(labels[2]) == {(2, False, False), (1, True, True)}
    assert set(labels[3]) == {(3, False, False)}  # no partner: never
    spaces = {"verb": ["swipe left", "swipe right"], "noun": ["hand"]}
    double = [Record(path=str(path), name="x", label={"verb": 0, "noun": 0})]
    dataset = TrainingClips(double, clip, TrainConfig(augment=augment), spaces)
    assert {str(dataset[epoch, 0]["label"]) for epoch in range(16)} == {
        "{'verb': 0, 'noun': 0}",
        "{'verb': 1, 'noun': 0}",
    }


def test_views(records: list[Record], broken: Record) -> None:
    views = TestViews([*records, broken], CLIP, EvaluateConfig(clips=2, crops=3))
    sample = views[1]
    assert not isinstance(sample, Failure)
    assert sample["video"].shape == (6, 4, 3, 32, 32) and sample["label"] == 1 and sample["index"] == 1
    grey = sample["video"].float().mean((1, 2, 3, 4))
    assert grey[:3].max() < grey[3:].min()  # the second clip is later, and later frames are brighter
    failure = views[5]
    assert isinstance(failure, Failure) and failure.index == 5 and failure.name == "broken.mp4" and failure.reason
    contiguous = TestViews(records, CLIP, EvaluateConfig(coverage="contiguous"))[0]
    assert not isinstance(contiguous, Failure) and contiguous["video"].shape[0] == 3  # 24 frames in spans of 8
    with pytest.raises(GestaError, match="at least 224"):
        TestViews(records, CLIP, EvaluateConfig(short_side=200))


def test_only_the_segment_is_read(make_video: Callable[..., Path]) -> None:
    path = str(make_video("clip.mp4", frames=40))
    parts = [Record(path=path, name="x", label=0, start=start, end=start + 8) for start in (0, 30)]
    views = TestViews(parts, CLIP, EvaluateConfig(clips=1))
    early, late = (views[i]["video"].float().median() for i in (0, 1))  # type: ignore[index]
    assert late - early > 80  # grey grows by 4 per frame
    gone = TestViews([Record(path=path, name="x", label=0, start=90)], CLIP, EvaluateConfig())[0]
    assert isinstance(gone, Failure) and "40" in gone.reason


def test_collate() -> None:
    video = torch.zeros(2, 1, 3, 4, 4, dtype=torch.uint8)
    failure = Failure(7, "x", "why")

    def sample(label: Label, index: int) -> Sample:
        partial = [Failure(index, "x", "half")] if index == 4 else []
        return Sample(video=video, label=label, index=index, failures=[failure] if index else [], partial=partial)

    batch = collate([sample(2, 0), Failure(3, "y", "no"), sample(None, 4)])
    assert batch["video"].shape == (2, 2, 1, 3, 4, 4) and batch["index"].tolist() == [0, 4]
    assert {space: values.tolist() for space, values in batch["label"].items()} == {"label": [2, -1]}
    assert batch["failures"] == [Failure(3, "y", "no"), failure] and batch["partial"] == [Failure(4, "x", "half")]
    several = collate([sample({"verb": 1}, 0), sample(None, 1), sample({"verb": 0, "noun": 5}, 2)])
    assert {s: v.tolist() for s, v in several["label"].items()} == {"noun": [-1, -1, 5], "verb": [1, -1, 0]}
    nothing = collate([failure])
    assert len(nothing["video"]) == 0 and nothing["index"].tolist() == [] and nothing["label"]["label"].tolist() == []


# --- batches ---------------------------------------------------------------------------------------------------------


def listed(count: int, labels: int = 1) -> list[Record]:
    return [Record(path=f"{i}", name=f"{i}", label=i % labels) for i in range(count)]


def test_batches_are_shuffled_by_seed_and_epoch_and_drop_the_incomplete_one() -> None:
    records, settings = listed(22), TrainConfig(batch_size=4)
    epochs = [training_batches(records, settings, epoch) for epoch in range(3)]
    for epoch, batches in enumerate(epochs):
        assert [len(batch) for batch in batches] == [4] * 5
        flat = [item for batch in batches for item in batch]
        assert len(set(flat)) == 20 and {e for e, _ in flat} == {epoch}
    assert len({str([i for batch in batches for _, i in batch]) for batches in epochs}) == 3
    assert training_batches(records, settings, 1) == epochs[1]
    assert {i for batches in epochs for batch in batches for _, i in batch} == set(range(22))
    assert training_batches(records, TrainConfig(batch_size=4, seed=1), 0) != epochs[0]


def test_processes_and_accumulation_share_the_same_steps() -> None:
    records = listed(30)
    alone = training_batches(records, TrainConfig(batch_size=8), 2)
    shared = [training_batches(records, TrainConfig(batch_size=8, accumulate=2), 2, rank, 2) for rank in range(2)]
    assert [len(part) for part in shared] == [6, 6] and {len(m) for part in shared for m in part} == {2}
    for step, whole in enumerate(alone):
        together = [item for part in shared for micro in part[2 * step : 2 * step + 2] for item in micro]
        assert together == whole
    with pytest.raises(GestaError, match="multiple of 4"):
        training_batches(records, TrainConfig(batch_size=6, accumulate=2), 0, 0, 2)


def test_few_records_make_one_step_with_as_little_repetition_as_possible() -> None:
    assert [len(batch) for batch in training_batches(listed(3), TrainConfig(batch_size=16), 0)] == [3]
    parts = [training_batches(listed(3), TrainConfig(batch_size=16), 0, rank, 2) for rank in range(2)]
    assert [len(batch) for part in parts for batch in part] == [2, 2]
    assert Counter(i for part in parts for batch in part for _, i in batch).most_common()[0][1] == 2
    assert training_batches([], TrainConfig(), 0) == []


def test_balanced_draws_classes_equally_often() -> None:
    labels = [0] * 40 + [1] * 8 + [2] * 2
    records = [Record(path=f"{i}", name=f"{i}", label=label) for i, label in enumerate(labels)]
    batches = training_batches(records, TrainConfig(batch_size=10, balanced=True), 0)
    drawn = [i for batch in batches for _, i in batch]
    counts = Counter(labels[i] for i in drawn)
    assert len(drawn) == 50 and set(counts.values()) <= {16, 17}
    times = Counter(drawn)
    assert {times[i] for i in range(48, 50)} == {8} or sum(times[i] for i in range(48, 50)) == 17
    assert max(times[i] for i in range(40)) == 1 and {times[i] for i in range(40, 48)} <= {2, 3}
    assert training_batches(records, TrainConfig(batch_size=10, balanced=True), 1) != batches


# --- loaders ---------------------------------------------------------------------------------------------------------


def test_loaders_give_the_same_with_and_without_workers(records: list[Record], broken: Record) -> None:
    everything = [*records, broken]
    dataset = TrainingClips(everything, CLIP, config(), CLASSES)
    batches = [batch for epoch in range(2) for batch in training_batches(everything, config(), epoch)]
    here, there = (list(Loader(dataset, batches, workers)) for workers in (0, 2))
    assert len(here) == 6 and [len(batch["video"]) for batch in here] == [2] * 6
    for one, two in zip(here, there, strict=True):
        assert torch.equal(one["video"], two["video"]) and torch.equal(one["index"], two["index"])
        assert torch.equal(one["label"]["label"], two["label"]["label"]) and one["failures"] == two["failures"]
    assert [f.name for batch in here for f in batch["failures"]] == ["broken.mp4"] * 2
    views = TestViews(everything, CLIP, EvaluateConfig(clips=1))
    scored = list(test_loader(views, [5, 0, 3], 2, 1))
    assert [batch["index"].tolist() for batch in scored] == [[0], [3]]
    assert [[f.index for f in batch["failures"]] for batch in scored] == [[5], []]
    hopeless = Loader(TrainingClips([broken], CLIP, config(), CLASSES), [[(0, 0)]], 1)
    with pytest.raises(GestaError) as caught:
        list(hopeless)
    assert str(caught.value).startswith("training videos cannot be read, 1 in a row") and "Traceback" not in str(
        caught.value
    )


def test_workers_are_chosen_by_cpu_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert loader_workers(-1) == 6 and loader_workers(0) == 0 and loader_workers(3) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader_workers(-1) == 1


class Deadly(Depth):
    """A way to show depth in which the process ends."""

    def encode(self, picture: np.ndarray) -> np.ndarray:
        os._exit(11)


class Endless(Depth):
    """A way to show depth that never ends."""

    def encode(self, picture: np.ndarray) -> np.ndarray:
        while True:
            time.sleep(1)


class DeadlyOnce(Depth):
    """A way to show depth in which the first process ends; the encoding is the name of a file."""

    def encode(self, picture: np.ndarray) -> np.ndarray:
        if not os.path.exists(self.encoding):
            Path(self.encoding).touch()
            os._exit(11)
        return Depth().encode(picture)


def test_a_video_that_kills_or_stops_its_loader_has_failed_and_the_others_are_loaded(
    make_video: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.5,))  # how often it looks
    path = str(make_video("a.mp4"))
    kinds = {1: Deadly(), 2: Endless(), 4: DeadlyOnce(encoding=str(tmp_path / "died"))}  # type: ignore[arg-type]
    records = [Record(path=path, name=f"{i}", label=0, shows=kinds.get(i)) for i in range(8)]
    views = TestViews(records, ClipSpec(frames=2, stride=2, size=16), EvaluateConfig(clips=1))
    views.kill_after_s = 2.0 - TIMEOUT_S
    batches = list(test_loader(views, range(8), 1, workers=2))
    assert [index for batch in batches for index in batch["index"].tolist()] == [0, 3, 4, 5, 6, 7]
    failures = [failure for batch in batches for failure in batch["failures"]]
    assert [failure.index for failure in failures] == [1, 2] and all(path in failure.reason for failure in failures)
    assert "kills the process that reads it (status 11)" in failures[0].reason
    assert "is not read in time" in failures[1].reason
