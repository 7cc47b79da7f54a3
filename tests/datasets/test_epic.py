"""EPIC-KITCHENS-100: frame numbers belong to extracted frames, time stamps to videos; verbs and nouns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gesta.checkpoint import load
from gesta.cli import main
from gesta.curation.describe import describe
from gesta.data.batch import Failure
from gesta.data.samples import TestViews, TrainingClips, collate
from gesta.datasets.epic import EPICKitchens
from gesta.errors import GestaError
from gesta.evaluation.metrics import measure_parts
from gesta.evaluation.result import Result
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.recipe import EvaluateConfig, Recipe, TrainConfig
from gesta.records import Record
from gesta.training.loop import train

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
ROWS = [
    "P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:00.50,1,30,take plate,take,0,plate,2,['plate'],[2]",
    'P01_11_1,P01,P01_11,00:00:01.700,00:00:00.50,00:00:01.45,30,87,"put down, plate",put-down,1,plate,2,"[\'plate\', '
    '\'bag:garbage\']","[2, 1]"',
]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    lists = tmp_path / "annotations"
    lists.mkdir()
    (lists / "EPIC_100_train.csv").write_text("\n".join([HEADER, *ROWS, ""]))
    (lists / "EPIC_100_validation.csv").write_text("\n".join([HEADER, ROWS[0]]))
    test = "\n".join(",".join(line.split(",")[:8]) for line in (HEADER, ROWS[0]))
    (lists / "EPIC_100_test_timestamps.csv").write_text(test)
    for space, names in (("verb", ["take", "put"]), ("noun", ["tap", "spoon", "plate"])):
        rows = [f"{i},{name},\"['{name}', 'x']\",some" for i, name in enumerate(names)]
        (lists / f"EPIC_100_{space}_classes.csv").write_text("\n".join(["id,key,instances,category", *rows]))
    return tmp_path


def test_unseen_participants_and_tail_classes(small: Path) -> None:
    data, lists = EPICKitchens(root=str(small)), small / "annotations"
    labels = [(0, 2), (1, 2), (0, 0), (1, 1)]
    records = [
        Record(path="x", name=f"P{person:02d}_11_{i}", label={"verb": verb, "noun": noun})
        for i, (person, (verb, noun)) in enumerate(zip((18, 1, 18, 1), labels))
    ]
    assert data.groups(records) == {}  # without the lists
    (lists / "EPIC_100_unseen_participant_ids_validation.csv").write_text("participant_id\nP18\nP32\n")
    (lists / "EPIC_100_tail_verbs.csv").write_text("verb\n1\n")
    (lists / "EPIC_100_tail_nouns.csv").write_text("noun\n0\n")
    groups = data.groups(records)
    assert groups == {
        "unseen": {"verb": [0, 2], "noun": [0, 2], "action": [0, 2]},
        "tail": {"verb": [1, 3], "noun": [2], "action": [1, 2, 3]},
    }
    assert data.groups([Record(path="x", name="P18_11_0")]) == {}  # a list without labels
    verbs: list[list[float] | None] = [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], None]
    nouns: list[list[float] | None] = [[0.1, 0.1, 0.8], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1], None]
    columns = {"verb": [v for v, _ in labels], "noun": [n for _, n in labels]}
    found = measure_parts({"verb": verbs, "noun": nouns}, columns, "probabilities", {}, groups)
    assert found == pytest.approx({
        "unseen/verb": 50, "unseen/noun": 100, "unseen/action": 50, "tail/verb": 50, "tail/noun": 100, "tail/action": 0,
    })  # fmt: skip


def test_videos_by_time_and_frames_by_number(small: Path) -> None:
    data = EPICKitchens(root=str(small))
    assert data.classes() == {"verb": ["take", "put"], "noun": ["tap", "spoon", "plate"]}
    first, second = data.records("train")
    assert (first.name, first.label) == ("P01_11_0", {"verb": 0, "noun": 2})
    assert (second.label, second.seconds, second.start) == ({"verb": 1, "noun": 2}, (0.5, 1.45), None)
    assert first.path == str(small / "P01/videos/P01_11.MP4")  # not on the disk: listed all the same
    assert len(data.records("val")) == 1 and data.records("test")[0].label is None
    frames = small / "P01" / "rgb_frames" / "P01_11"
    frames.mkdir(parents=True)
    for number in (1, 2):
        (frames / f"frame_{number:010d}.jpg").touch()
    first, second = data.records("train")
    assert first.path == str(frames)
    assert [(r.start, r.end, r.seconds) for r in (first, second)] == [(0, 30, None), (29, 87, None)]
    data.frame_rate = 10.0
    assert [(r.start, r.end) for r in data.records("train")] == [(0, 6), (5, 15)]


@pytest.mark.parametrize(
    ("place", "whole"),
    [
        ("P01/videos/P01_11.MP4", False),
        ("P01/P01_11.mp4", False),
        ("videos/P01_11.mp4", False),
        ("P01_11.webm", False),
        ("P01_11_0.mp4", True),
        ("clips/P01_11_0.mp4", True),
    ],
)
def test_places(small: Path, place: str, whole: bool) -> None:
    (small / place).parent.mkdir(parents=True, exist_ok=True)
    (small / place).touch()
    record = EPICKitchens(root=str(small)).records("val")[0]
    assert record.path == str(small / place) and record.seconds == (None if whole else (0, 0.5))


def test_frames_that_are_still_packed(small: Path) -> None:
    (small / "P01" / "rgb_frames").mkdir(parents=True)
    (small / "P01" / "rgb_frames" / "P01_11.tar").touch()
    with pytest.raises(GestaError, match=r"P01_11\.tar: is still packed; .*tar -xf"):
        EPICKitchens(root=str(small)).records("val")


@pytest.mark.parametrize("fps", [10, 20])
def test_the_same_moments_at_any_rate(small: Path, make_video: Callable[..., Path], fps: int) -> None:
    """Frame i of the video has grey level 4 i: the segment from 0.5 to 1.45 s begins at frame fps / 2."""
    make_video("P01_11.MP4", frames=3 * fps, fps=fps)
    data = EPICKitchens(root=str(small))
    records = data.records("train")
    clip = ClipSpec(frames=2, sampling="dense", stride=1, size=32)
    whole = TestViews(records, clip, EvaluateConfig(clips=1, coverage="contiguous"))[1]
    assert not isinstance(whole, Failure)
    shown = (whole["video"][:, :, :, :4].float().mean((2, 3, 4)) / 4).round().int().flatten()
    assert shown[0] == fps // 2 and shown.max() == int(1.45 * fps)
    assert whole["label"] == {"verb": 1, "noun": 2}
    sample = TrainingClips(records, clip, TrainConfig(), data.classes())[0, 0]
    batch = collate([sample])
    assert {space: column.tolist() for space, column in batch["label"].items()} == {"noun": [2], "verb": [0]}
    assert isinstance(batch["video"], torch.Tensor)


def test_description_has_both_spaces(small: Path) -> None:
    description = describe(EPICKitchens(root=str(small)))
    assert description.counts["train"] == [1, 1, 0, 0, 2] and description.sizes["train"] == 2
    text = str(description)
    assert "verb put" in text and "noun plate" in text and "0.5 to 1.45 s" in text


def test_refusals(small: Path) -> None:
    with pytest.raises(GestaError, match="is not a folder"):
        EPICKitchens(root=str(small / "absent")).records("train")
    path = small / "annotations" / "EPIC_100_train.csv"
    for row in (
        ROWS[0].replace("take,0", "take,2"),
        ROWS[0].replace("00:00:00.50", "0.5 s"),
        ROWS[0].split(",['")[0].rpartition(",")[0],
    ):
        path.write_text(f"{HEADER}\n{row}")
        with pytest.raises(GestaError, match="not a line of the official list"):
            EPICKitchens(root=str(small)).records("train")
    (small / "annotations" / "EPIC_100_noun_classes.csv").write_text("id,key\n1,tap\n")
    with pytest.raises(GestaError, match="noun classes"):
        EPICKitchens(root=str(small)).classes()


def test_official_lists(shared: Path, tmp_path: Path) -> None:
    lists = shared / "annotations" / "epic_kitchens_100"
    data = EPICKitchens(root=str(tmp_path), annotations=str(lists))
    assert {space: len(names) for space, names in data.classes().items()} == {"verb": 97, "noun": 300}
    val = data.records("val")
    assert (len(val), len(data.records("test"))) == (9668, 13_092)
    assert len({r.label["verb"] for r in val}) == 78 and len({r.label["noun"] for r in val}) == 211  # type: ignore[index]
    assert all(r.seconds and r.seconds[0] < r.seconds[1] for r in val) and len({r.name for r in val}) == 9668
    # a genuine part of the training list, beside a public frame list of all of it
    for name in ("verb", "noun"):
        (tmp_path / f"EPIC_100_{name}_classes.csv").write_bytes((lists / f"EPIC_100_{name}_classes.csv").read_bytes())
    part = (lists / "UDA_annotations" / "EPIC_100_uda_source_train.csv").read_bytes()
    (tmp_path / "EPIC_100_train.csv").write_bytes(part)
    videos = {line.split(",")[2] for line in part.decode().splitlines()[1:]}
    for video in videos:
        frames = tmp_path / "rgb_frames" / video
        frames.mkdir(parents=True)
        for number in (1, 2):
            (frames / f"frame_{number:010d}.jpg").touch()
    train = EPICKitchens(root=str(tmp_path)).records("train")
    public = set((lists / "derived_RaivoKoot_EPIC_100_train_new.txt").read_text().splitlines())
    assert len(train) == 16_115
    for r in train:
        video = Path(r.path).name
        line = f"{video[:3]}/rgb_frames/{video} {r.start + 1} {r.end} {r.label['verb']} {r.label['noun']}"  # type: ignore[operator, index]
        assert line in public, line


def test_from_the_lists_to_a_result(small: Path, make_video: Callable[..., Path]) -> None:
    """Two label spaces go through training, checkpoint and evaluation; the model gets its classes from the data."""
    make_video("P01_11.MP4", frames=20, fps=10)
    model = model_config("r3d_tiny", clip=ClipSpec(frames=2, sampling="uniform", size=32))
    recipe = Recipe(
        name="epic",
        model=model,
        data=EPICKitchens(root=str(small)),
        train=TrainConfig(epochs=1, batch_size=2, workers=0, precision="32-true"),
        evaluate=EvaluateConfig(split="val", clips=1, workers=0),
    )
    run = train(recipe, small / "run", quiet=True)
    assert (run / "verb.txt").read_text().split() == ["take", "put"] and (run / "noun.txt").exists()
    loaded = load(run / "best.safetensors")
    assert loaded.classes == recipe.data.classes() and loaded.model.config.classes == {"verb": 2, "noun": 3}
    result = Result.read(run / "result.json")
    assert result.counts.scored == 1 and {"verb/top1", "noun/top5", "action/top1"} <= set(result.metrics)
    (small / "annotations" / "EPIC_100_verb_classes.csv").write_text("id,key\n0,take\n1,lay\n")
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(run)])
    assert stop.value.code == 1
