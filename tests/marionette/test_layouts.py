"""Layouts of the synthetic data set: every reader reads what is made for it, with the labels and lengths it should."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gesta.curation.check import check
from gesta.datasets.isogd import IsoGD
from gesta.datasets.ntu import NTU
from gesta.errors import GestaError
from gesta.marionette import filming
from gesta.marionette.dataset import Marionette, make_set, plan_clips, split_of
from gesta.marionette.filming import count_frames
from gesta.marionette.layouts import names, video
from gesta.marionette.layouts.arrange import LAYOUT_FAMILIES, LAYOUTS, LabelledClip
from gesta.marionette.layouts.layout import LAYOUT_DATA, data_fields, make_layout
from gesta.marionette.motions import FAMILIES
from gesta.records import DataConfig, Record
from gesta.video.probe import probe
from gesta.video.read import read

SIZE, SEED = 32, 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two actions of three short clips in every layout; a clip that several of them show is filmed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filming, "FRAMES", (12, 15))
        render_clip = functools.cache(filming.render_clip)
        patch.setattr(video, "render_clip", render_clip)
        patch.setattr(
            video, "render_clip_masked", lambda *clip: (render_clip(*clip)[0], np.minimum(render_clip(*clip)[1], 4))
        )
        root = tmp_path_factory.mktemp("layouts")
        for layout in LAYOUT_DATA:
            make_layout(root / layout, layout, clips=6, seed=SEED, workers=1, size=SIZE, classes=2)
        yield root


def _open(layout: str, root: Path) -> DataConfig:
    return LAYOUT_DATA[layout](**data_fields(layout, str(root)))


def _labelled(data: DataConfig) -> dict[str, list[Record]]:
    return {split: data.records(split) for split in ("train", "val", "test")}  # type: ignore[arg-type]


def _names(layout: str) -> list[str]:
    """The classes of the two actions, in the family's order."""
    table = getattr(names, layout.partition("_")[0].upper())
    return [
        str(table[action]).replace("[", "").replace("]", "") for action in list(FAMILIES[LAYOUT_FAMILIES[layout]])[:2]
    ]


@pytest.mark.parametrize("layout", LAYOUT_DATA)
def test_readers_read_what_is_made_for_them(root: Path, layout: str) -> None:
    data = _open(layout, root / layout)
    records, classes = _labelled(data), data.classes()
    tested = "val" if layout in ("kinetics400", "something_v1", "something_v2", "epic_kitchens", "isogd") else "test"
    assert records["train"] and records[tested]
    frames = {str(clip): count_frames(clip, SEED, LAYOUT_FAMILIES[layout]) for clip in plan_clips(6, SEED, 2)}
    seen = []
    for record in records["train"] + records[tested]:
        if isinstance(record.label, dict):
            assert isinstance(classes, dict) and record.seconds is not None
            seen.append(" ".join(classes[space][label] for space, label in record.label.items()))
            assert (record.seconds[1] - record.seconds[0]) * 12 == pytest.approx(min(frames.values()), abs=9)
        else:
            assert isinstance(classes, list) and isinstance(record.label, int)
            seen.append(str(record.label + 1) if layout == "ntu" else classes[record.label])
            assert probe(record.path, exact=True).frames in frames.values()  # type: ignore[arg-type]
    assert sorted(set(seen)) == sorted(_names(layout)) and seen.count(seen[0]) * 2 == len(seen)
    report = check(data, flip=False, workers=0, progress=False)
    expected = {"no label", "class without videos", "one training video", "no validation videos"}
    assert report.ok and {finding.kind for finding in report.findings} <= expected


def test_every_clip_is_filed_under_its_own_class(root: Path) -> None:
    """The second action is seen where the second class's name says so."""
    for layout in ("ucf101", "hmdb51", "diving48", "something_v2"):
        data = _open(layout, root / layout)
        classes = data.classes()
        assert isinstance(classes, list)
        record = data.records("train")[0]
        assert isinstance(record.label, int)
        action = _names(layout).index(classes[record.label]) + 1
        got = read(record.path, np.arange).permute(0, 2, 3, 1).numpy().astype(int)
        films = {
            clip: video.render_clip(clip, SEED, SIZE, LAYOUT_FAMILIES[layout])[0] for clip in plan_clips(6, SEED, 2)
        }
        apart = {clip: np.abs(frames[: len(got)] - got[: len(frames)]).mean() for clip, frames in films.items()}
        assert min(apart, key=lambda clip: apart[clip]).action == action and min(apart.values()) < 10


def test_the_names_are_genuine(shared: Path) -> None:
    annotations = shared / "annotations"
    lines = (annotations / "ucf101/ucfTrainTestlist/classInd.txt").read_text().split()
    assert set(names.UCF101.values()) <= set(lines)
    lists = {path.name for path in (annotations / "hmdb51/testTrainMulti_7030_splits").iterdir()}
    assert {f"{name}_test_split1.txt" for name in names.HMDB51.values()} <= lists
    kinetics = (annotations / "kinetics400/label_map_k400.txt").read_text().splitlines()
    assert set(names.KINETICS400.values()) <= set(kinetics)
    something = (annotations / "something_something_v1/something-something-v1-labels.csv").read_text().splitlines()
    assert {name.replace("[", "").replace("]", "") for name in names.SOMETHING.values()} <= set(something)
    dives = LAYOUT_DATA["diving48"](root=str(annotations / "diving48")).classes()  # type: ignore[call-arg]
    assert isinstance(dives, list)
    assert list(names.DIVING48.values()) == [name for name in dives if name in names.DIVING48.values()]
    kitchen = LAYOUT_DATA["epic_kitchens"](root=str(annotations / "epic_kitchens_100")).classes()  # type: ignore[call-arg]
    assert isinstance(kitchen, dict)
    for space, words in (("verb", names.EPIC_VERBS), ("noun", names.EPIC_NOUNS)):
        assert list(words) == [name for name in kitchen[space] if name in words]
    assert {part for pair in names.EPIC.values() for part in pair.split()} == {*names.EPIC_VERBS, *names.EPIC_NOUNS}


def test_official_forms(root: Path) -> None:
    """What is easy to lose: CRLF, trailing blanks, numbers from 1, numbers as strings, no header."""
    lists = root / "ucf101" / "ucfTrainTestlist"
    assert (lists / "classInd.txt").read_bytes() == b"1 Hammering\r\n2 JumpingJack\r\n"
    assert (lists / "trainlist01.txt").read_bytes().splitlines()[-1].endswith(b"_c01.avi 2")
    assert (lists / "testlist01.txt").read_bytes().count(b".avi\r\n") == 2
    for path in (root / "hmdb51" / "testTrainMulti_7030_splits").iterdir():
        assert {line[-3:] for line in path.read_text().splitlines()} <= {" 0 ", " 1 ", " 2 "}
    assert ";" in (root / "something_v1" / "something-something-v1-train.csv").read_text().splitlines()[0]
    assert ':"0"' in (root / "something_v2" / "something-something-v2-labels.json").read_text()
    assert (root / "isogd" / "IsoGD_phase_2" / "test_list.txt").read_text().splitlines()[0].endswith("K_00001.avi 0")
    assert "time_end,split,is_cc" in (root / "kinetics400" / "kinetics-400_val.csv").read_text()
    kinds = {path.suffix for path in root.rglob("*") if path.is_file()}
    assert {".avi", ".mp4", ".MP4", ".webm", ".jpg", ".png"} <= kinds
    assert probe(str(next((root / "ucf101").rglob("*.avi")))).codec == "mpeg4"
    assert probe(str(next((root / "something_v2").rglob("*.webm")))).codec == "vp9"
    assert len({probe(str(path)).fps for path in (root / "isogd").rglob("M_*.avi")}) > 1


def test_depth_is_there_where_the_data_set_has_it(root: Path) -> None:
    ntu, isogd = _open("ntu", root / "ntu"), _open("isogd", root / "isogd")
    assert isinstance(ntu, NTU) and isinstance(isogd, IsoGD)
    ntu.modality = isogd.modality = "depth"
    for data in (ntu, isogd):
        report = check(data, flip=False, workers=0, progress=False)
        assert report.ok and report.frames > 0
    metres = filming.render_clip(plan_clips(1, SEED, 2)[0], SEED, SIZE)[1]
    masked = filming.render_clip_masked(plan_clips(1, SEED, 2)[0], SEED, SIZE)[1]
    person = masked > 0
    assert 0.02 < person.mean() < 0.4 and (masked[person] == metres[person]).all()
    for seen, box in zip(person, filming.puppet_boxes(plan_clips(1, SEED, 2)[0], SEED)):
        rows, columns = np.nonzero(seen.any(1))[0], np.nonzero(seen.any(0))[0]
        edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / SIZE
        assert np.abs(edges - box.clip(0, 1)).max() < 1.5 / SIZE


def test_all_protocols_exist_at_the_usual_size() -> None:
    """48 clips: three splits of UCF-101 and HMDB-51, both of NTU; nobody is in both parts of one."""
    for layout, arrange in LAYOUTS.items():
        actions = list(FAMILIES[LAYOUT_FAMILIES[layout]])
        clips = [clip for clip in plan_clips(4 * len(actions), 0, len(actions))]
        videos, texts = arrange([LabelledClip(clip, split_of(clip), actions[clip.action - 1]) for clip in clips], 0)
        assert len({video.path.casefold() for video in videos}) == len(videos)
        assert sorted(clip for video in videos for clip in video.clips) == sorted(clips)
        if layout == "ucf101":
            for split in (1, 2, 3):
                train, test = (texts[f"ucfTrainTestlist/{part}list{split:02}.txt"] for part in ("train", "test"))
                assert train.count(".avi") > test.count(".avi") > 0
        elif layout == "hmdb51":
            for split in (1, 2, 3):
                codes = "".join(text for path, text in texts.items() if path.endswith(f"split{split}.txt"))
                assert codes.count(" 1 ") > codes.count(" 2 ") > 0 and codes.count(" 0 ")


def test_ntu_has_both_protocols(tmp_path: Path) -> None:
    actions = list(FAMILIES["coarse"])
    shots = [LabelledClip(clip, split_of(clip), actions[clip.action - 1]) for clip in plan_clips(240)]
    videos, texts = LAYOUTS["ntu"](shots, 0)
    (tmp_path / "samples_not_here.txt").write_text(texts["samples_not_here.txt"])
    made = {Path(video.masked).name: video.clips[0].subject for video in videos}
    for split in ("cross_subject", "cross_view"):
        data = _open("ntu", tmp_path)
        assert isinstance(data, NTU)
        data.split = split  # type: ignore[assignment]
        train, test = ({record.name for record in data.records(part)} for part in ("train", "test"))  # type: ignore[arg-type]
        assert train and test and train | test == set(made)
        if split == "cross_subject":
            assert {made[name] for name in train} == set(range(1, 9))


def test_what_cannot_be_made(root: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (root / "something_v1").rglob("*.jpg")}
    again = make_layout(root / "something_v1", "something_v1", clips=6, seed=SEED, workers=1, size=SIZE, classes=2)
    assert (
        again.videos_written == 0
        and {p: p.stat().st_mtime_ns for p in (root / "something_v1").rglob("*.jpg")} == before
    )
    assert str(again).endswith("train 2, val 2, test 2")
    with pytest.raises(GestaError, match=r"no layout 'ucf'.*ucf101"):
        make_layout(tmp_path / "a", "ucf")
    with pytest.raises(GestaError, match="workers 0 is below 1; give a number"):
        make_layout(tmp_path / "none", "ucf101", workers=0)
    with pytest.raises(GestaError, match="36 to 240 clips"):
        make_layout(tmp_path / "a", "ucf101", clips=10)
    for classes in (0, -1):
        with pytest.raises(GestaError, match=rf"ucf101 with {classes} classes; give at least 1"):
            make_layout(tmp_path / "a", "ucf101", classes=classes)
    with pytest.raises(GestaError, match="made with layout something_v1, not something_v2"):
        make_layout(root / "something_v1", "something_v2", clips=6, seed=SEED, size=SIZE, classes=2)
    with pytest.raises(GestaError, match="made with layout something_v1"):
        make_set(root / "something_v1", clips=6, seed=SEED, size=SIZE, family="objects")
    with pytest.raises(GestaError, match="laid out as something_v1"):
        Marionette(root=str(root / "something_v1")).records("train")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(GestaError, match="is not empty"):
        make_layout(tmp_path, "ucf101")
