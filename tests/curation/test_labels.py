"""Exports of labelling tools, written by hand as documented, become lists that are read back as their segments."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from conftest import write_video
from gesta.curation.labels.convert import ImportSummary, import_labels
from gesta.data.lists import Lists
from gesta.errors import GestaError

Row = tuple[str, str, float, float, str]  # path, class, start, end, unit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``videos`` with two of 24 frames at 12 per second, and one elsewhere that no export may reach."""
    root = tmp_path_factory.mktemp("labels")
    (root / "videos" / "day 1").mkdir(parents=True)
    for name in ("videos/a.mp4", 'videos/day 1/wäsche, "neu".mp4', "secret.mp4"):
        write_video(root / name)
    return root


def imported(folder: Path, content: Any, **options: Any) -> tuple[list[Row], ImportSummary]:
    """The rows of the list as trainings read it, and the summary."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    (folder / "export").write_text(text, encoding="utf-8")
    out = str(folder / "lists" / "segments.csv")
    summary = import_labels(str(folder / "export"), str(folder / "videos"), out, **options)
    data = Lists(train=out)
    classes, rows = data.classes(), []
    for split in ("train", "val", "test"):
        for record in data.records(split):
            unit = "seconds" if record.seconds else "frames"
            start, end = record.seconds or (record.start, record.end)
            assert Path(record.path).is_file()
            rows.append((Path(record.path).name, classes[record.label], start, end, unit))
    assert sum(summary.classes.values()) == summary.segments == len(rows)
    return rows, summary


def task(*results: dict[str, Any], video: str = "/data/upload/1/0123abcd-a.mp4", **more: Any) -> dict[str, Any]:
    return {"id": 7, "data": {"video": video, "fps": 10}, "annotations": [{"id": 1, "result": [*results]}], **more}


def region(start: int, end: int, label: str) -> dict[str, Any]:
    value = {"ranges": [{"start": start, "end": end}], "timelinelabels": [label]}
    return {
        "id": "x",
        "type": "timelinelabels",
        "from_name": "t",
        "to_name": "video",
        "origin": "manual",
        "value": value,
    }


def test_labels_have_one_form_of_accents(folder: Path) -> None:
    names = ["caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")]
    rows, summary = imported(
        folder, [task(*(region(10 * i + 1, 10 * i + 9, name) for i, name in enumerate(names)))], frame_rate="12"
    )
    assert [row[1] for row in rows] == [names[0]] * 2 and summary.classes == {names[0]: 2}


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><task><id>3</id><name>n</name><frame_filter>{step}</frame_filter><source>a.mp4</source></task></meta>
{body}</annotations>"""
TRACK = """<track id="0" label="wave hands" source="manual">
<box frame="2" keyframe="1" outside="0" occluded="0" xtl="1" ytl="1" xbr="2" ybr="2" z_order="0"></box>
<box frame="3" keyframe="0" outside="0" occluded="0" xtl="1" ytl="1" xbr="2" ybr="2" z_order="0"></box>
<box frame="9" keyframe="1" outside="1" occluded="0" xtl="1" ytl="1" xbr="2" ybr="2" z_order="0"></box>
<box frame="12" keyframe="1" outside="0" occluded="0" xtl="1" ytl="1" xbr="2" ybr="2" z_order="0"></box></track>"""
TAGS = "".join(
    f'<image id="{n}" name="frame_{n:06}" width="9" height="9"><tag label="jump"/></image>' for n in (0, 2, 8)
)
VIA: dict[str, Any] = {
    "project": {"pname": "p"},
    "attribute": {"1": {"aname": "action", "anchor_id": "FILE1_Z2_XY0", "type": 4, "options": {"k": "wave hands"}}},
    "file": {"5": {"fid": "5", "fname": 'wäsche, "neu".mp4', "type": 4, "loc": 1, "src": ""}},
    "view": {"2": {"fid_list": ["5"]}},
    "metadata": {"2_a": {"vid": "2", "flg": 0, "z": [0.25, 1.5], "xy": [], "av": {"1": "k"}}},
}
ACTIVITYNET: dict[str, Any] = {
    "version": "1.3",
    "database": {
        "a": {"subset": "training", "duration": 2, "annotations": [{"segment": [0.5, 1.0], "label": "x y"}]},
        'wäsche, "neu"': {"subset": "validation", "annotations": [{"segment": [0, 9], "label": "x y"}]},
    },
}
AVA = "a,1,0.1,0.1,0.2,0.2,12,0\na,0,0.3,0.1,0.4,0.2,12,1\na,1,0.1,0.1,0.2,0.2,80,0\n"


@pytest.mark.parametrize(
    ("content", "options", "rows"),
    [
        # frames 1 to 5 of ten a second are half a second
        ([task(region(1, 5, "wave hands"))], {"frame_rate": "10"}, [("a.mp4", "wave hands", 0, 0.5, "seconds")]),
        ([task(region(6, 6, "x"))], {"frame_rate": "fps"}, [("a.mp4", "x", 0.5, 0.6, "seconds")]),
        (
            [
                {
                    "id": 1,
                    "video": "/data/local-files/?d=day%201/a.mp4",
                    "t": [region(1, 5, "x")["value"]],
                    "lead_time": 3,
                }
            ],
            {"frame_rate": "10"},
            [("a.mp4", "x", 0, 0.5, "seconds")],
        ),
        (
            'video,id,t\ns3://bucket/a.mp4,1,"[{""ranges"":[{""start"":1,""end"":5}],""timelinelabels"":[""x""]}]"\n',
            {"frame_rate": "10"},
            [("a.mp4", "x", 0, 0.5, "seconds")],
        ),
        (
            CVAT.format(step="", body=TRACK),
            {},
            [("a.mp4", "wave hands", 2, 9, "frames"), ("a.mp4", "wave hands", 12, 13, "frames")],
        ),
        (
            CVAT.format(step="step=2", body=TAGS),
            {},
            [("a.mp4", "jump", 0, 4, "frames"), ("a.mp4", "jump", 8, 10, "frames")],
        ),
        (VIA, {}, [('wäsche, "neu".mp4', "wave hands", 0.25, 1.5, "seconds")]),
        (
            {
                "classes": ["x", "y"],
                "labels": {"a": [{"label": 1, "support": [3, 4]}, {"label": 0, "timestamps": [0, 1]}]},
            },
            {},
            [("a.mp4", "x", 0, 1, "seconds"), ("a.mp4", "y", 2, 4, "frames")],
        ),
        (
            {
                "samples": [
                    {
                        "filepath": "data/a.mp4",
                        "events": {"_cls": "TemporalDetections", "detections": [{"label": "x", "support": [1, 24]}]},
                    }
                ]
            },
            {},
            [("a.mp4", "x", 0, 24, "frames")],
        ),
        (
            ACTIVITYNET,
            {},
            [("a.mp4", "x y", 0.5, 1, "seconds"), ('wäsche, "neu".mp4', "x y", 0, 2, "seconds")],
        ),
        (AVA, {}, [("a.mp4", "12", 0, 1.5, "seconds"), ("a.mp4", "80", 0.5, 1.5, "seconds")]),
    ],
    ids=["label-studio", "field", "min", "csv", "tracks", "tags", "via", "fiftyone", "samples", "activitynet", "ava"],
)
def test_segments_of_every_format(folder: Path, content: Any, options: dict[str, Any], rows: list[Row]) -> None:
    found, _ = imported(folder, content, **options)
    assert [row[:2] + row[4:] for row in found] == [row[:2] + row[4:] for row in rows]
    assert [row[2:4] for row in found] == [pytest.approx(row[2:4], abs=1e-6) for row in rows]


def test_nothing_is_dropped_silently(folder: Path) -> None:
    regions = [region(1, 5, "x"), region(1, 5, "x"), region(3, 8, "y"), region(9, 3, "x"), region(15, 90, "x")]
    outside = [region(21, 22, "x"), {"id": "r", "type": "videorectangle", "value": {"sequence": []}}]
    tasks = [
        task(*regions, *outside, predictions=[{"result": []}]),
        task(region(1, 2, "x"), video="gone.mp4"),
        {"data": {"video": "http://host/day%201/w%C3%A4sche,%20%22neu%22.mp4"}, "annotations": []},
    ]
    rows, summary = imported(folder, tasks, frame_rate="10", skip=["videorectangle"])
    assert [row[1:4] for row in rows] == [("x", 0, 0.5), ("y", 0.2, 0.8), ("x", 1.4, 2.0)]
    assert summary.missing == ["gone.mp4"] and "gone.mp4" in str(summary)
    assert summary.left_out == {
        "repeated segments": 1,
        "segments whose end is not after their start": 1,
        "ends of segments after the end of their video (cut there)": 1,
        "segments outside of their video": 1,
        "regions of the type 'videorectangle'": 1,
        "predictions beside annotations": 1,
        "videos that have no segments": 1,
    }
    assert summary.notes == ["1 segments begin before the one before them ends"]


def sampled(*paths: str) -> dict[str, Any]:
    """FiftyOne's samples; the k-th has the class ``ck``."""
    found = [{"label": f"c{k}", "timestamps": [0.1, 0.2]} for k in range(len(paths))]
    kind = "TemporalDetections"
    return {"samples": [{"filepath": p, "e": {"_cls": kind, "detections": [d]}} for p, d in zip(paths, found)]}


def tasks_of_cvat(*tasks: tuple[str, str]) -> str:
    """An export of a project with tasks of these names and sources; the k-th has a track of the class ``ck``."""
    meta, tracks = "", ""
    for k, (name, source) in enumerate(tasks):
        meta += f"<task><id>{k}</id><name>{name}</name><source>{source}</source></task>"
        tracks += f'<track label="c{k}" task_id="{k}"><box frame="2" outside="0"/><box frame="9" outside="1"/></track>'
    return f"<annotations><meta><project><tasks>{meta}</tasks></project></meta>{tracks}</annotations>"


def files_of_via(*sources: str) -> dict[str, Any]:
    """A project with a file ``clip.mp4`` from each source; the k-th has a segment of the class ``ck``."""
    attribute = {"aname": "action", "type": 1}
    return {
        "attribute": {"1": attribute},
        "file": {str(k): {"fname": "clip.mp4", "src": source} for k, source in enumerate(sources)},
        "view": {str(k): {"fid_list": [str(k)]} for k in range(len(sources))},
        "metadata": {str(k): {"vid": str(k), "z": [0.1, 0.2], "av": {"1": f"c{k}"}} for k in range(len(sources))},
    }


@pytest.mark.parametrize(
    ("content", "options", "rows", "missing"),
    [
        (sampled("/data/cam1/clip.mp4", "/data/cam2/clip.mp4"), {}, ["c1"], ["/data/cam1/clip.mp4"]),
        (sampled("/data/cam2/clip.mp4", "/data/cam1/clip.mp4"), {}, ["c0"], ["/data/cam1/clip.mp4"]),
        (sampled("/x/clip.mp4", "/y/clip.mp4", "/d/cam2/clip.mp4"), {}, ["c2"], ["/x/clip.mp4", "/y/clip.mp4"]),
        (sampled("clip.avi", "clip.mp4"), {}, ["c1"], ["clip.avi"]),
        (sampled("cam2/clip.mp4", "./cam2/clip.mp4"), {}, ["c0", "c1"], []),  # one name
        (
            [task(region(1, 2, "c0"), video="0123abcd-clip.mp4"), task(region(1, 2, "c1"), video="clip.mp4")],
            {"frame_rate": "10"},
            ["c1"],
            ["0123abcd-clip.mp4"],
        ),
        (tasks_of_cvat(("cam1", "clip.mp4"), ("cam2", "clip.mp4")), {}, ["c1"], ["cam1/clip.mp4"]),
        (tasks_of_cvat(("cam1/clip.mp4", "clip.mp4"), ("cam2/clip.mp4", "clip.mp4")), {}, ["c1"], ["cam1/clip.mp4"]),
        (files_of_via("/cam1/clip.mp4", "/cam2/clip.mp4"), {}, ["c1"], ["/cam1/clip.mp4"]),
    ],
)
def test_a_video_is_of_the_name_that_agrees_more(
    folder: Path, content: Any, options: dict[str, Any], rows: list[str], missing: list[str]
) -> None:
    """Of two videos of one name in different folders, one is on the disk."""
    if not (folder / "videos/cam2").exists():
        write_video(folder / "videos/cam2/clip.mp4")
    found, summary = imported(folder, content, **options)
    assert [(row[0], row[1]) for row in found] == [("clip.mp4", label) for label in rows]
    assert summary.missing == missing


def test_names_that_both_may_be_of_a_video_are_refused(folder: Path, tmp_path: Path) -> None:
    """Also after the advice of the error before was taken, and one of two videos was moved away."""
    videos = tmp_path / "videos"
    for name in ("cam1", "cam2"):
        write_video(videos / name / "clip.mp4")
    for content, message in (
        (
            sampled("/data/x/clip.mp4", "/data/y/clip.mp4"),
            "'/data/./clip.mp4' may be .*give the folder of the one that",
        ),
        (tasks_of_cvat(("day1", "clip.mp4"), ("day2", "clip.mp4")), "'day1/clip.mp4' may be .*cam./clip.mp4"),
        (tasks_of_cvat(("day", "clip.mp4"), ("day", "clip.mp4")), "has two tasks 'day' of 'clip.mp4'; name each task"),
        (tasks_of_cvat(("clip.mp4", ""), ("clip.mp4", "")), "has two tasks 'clip.mp4' of 'clip.mp4'"),
        (files_of_via("", ""), "holds 2 files called 'clip.mp4'"),
    ):
        with pytest.raises(GestaError, match=message):
            imported(tmp_path, content)
    shutil.rmtree(videos / "cam1")
    both = "may both be .*cam2/clip.mp4; put each video into a folder that the export names"
    uploads = [task(region(1, 2, "x"), video=f"{n}123abcd-clip.mp4") for n in range(2)]
    exports: list[tuple[Any, dict[str, Any]]] = [
        (sampled("/data/x/clip.mp4", "/data/y/clip.mp4"), {}),
        (tasks_of_cvat(("day1", "clip.mp4"), ("day2", "clip.mp4")), {}),
        (uploads, {"frame_rate": "10"}),
    ]
    for left, options in exports:
        with pytest.raises(GestaError, match=both):
            imported(tmp_path, left, **options)
    assert not (tmp_path / "lists").exists()


LAUGHS = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]>'


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ([task(region(1, 5, "x"))], {}, "counts frames by the frameRate of the Video tag"),
        ([task(region(1, 5, "x"))], {"frame_rate": "rate"}, "no number in a field 'rate'"),
        (
            [task({"type": "videorectangle", "value": {}})],
            {},
            "regions of the type 'videorectangle', which are no segm",
        ),
        ([task(region(1, 5, "x"))], {"frame_rate": "10", "skip": ["audio"]}, "holds nothing called 'audio'"),
        ([task(region(1, 5, "x"), video="../secret.mp4")], {"frame_rate": "10"}, "holds none of the 1 videos"),
        ([task(region(1, 5, "x") | {"speed": 3})], {"frame_rate": "10"}, "fields 'speed' of regions"),
        ([task(region(1, 5, "two\nlines"))], {"frame_rate": "10"}, r"cannot hold the label 'two\\nlines'"),
        ([task(annotations=[{"result": []}, {"result": []}])], {}, "has 2 annotations; mark one"),
        (
            [{"id": 4, "video": "a.mp4"}, {"id": 4, "video": "a.mp4"}],
            {"format": "label-studio"},
            "are annotations of one",
        ),
        (CVAT.format(step="", body=TRACK), {"frame_rate": "3"}, "says its times without a frame rate"),
        (CVAT.replace("?>\n", f"?>\n{LAUGHS}", 1).format(step="", body=""), {}, "has a document type"),
        (CVAT.format(step="", body='<image name="cat.jpg"/>'), {}, "lists the picture 'cat.jpg'"),
        (VIA | {"metadata": {"1": {"vid": "2", "z": [0.1], "xy": [2, 3], "av": {}}}}, {}, "regions of the picture"),
        ({"_via_img_metadata": {}}, {}, "VIA 2"),
        (
            [task(region(1, 5, "1" * 9))],
            {"frame_rate": "10"},
            r"would not be read .* \(.*line 2: label 111111111 is more",
        ),
        ({"database": {"a": {"annotations": [{"segment": [0, 1], "label": "x", "person": 3}]}}}, {}, "fields 'person'"),
        ({"results": {"a": [{"segment": ["0", 1], "label": "x"}]}}, {}, "is '0', not a number"),
        ("path,label\na.mp4,wave\n", {}, "its format is not recognised"),
        ("a,1,0,0,1\n", {"format": "ava"}, "line 1 has 5 columns"),
    ],
)
def test_what_is_refused(folder: Path, content: Any, options: dict[str, Any], message: str) -> None:
    out = folder / "lists" / "segments.csv"
    out.unlink(missing_ok=True)
    with pytest.raises(GestaError, match=message):
        imported(folder, content, **options)
    assert not out.exists()


def test_a_list_replaces_nothing_that_is_read_and_is_csv(folder: Path, tmp_path: Path) -> None:
    export, videos = tmp_path / "ava.csv", tmp_path / "videos"
    export.write_text("a,1,0,0,1,1,3,1\n")
    shutil.copytree(folder / "videos", videos)
    for out, message in (
        (export, "ava.csv: is itself read, and would be replaced"),
        (videos / "a.mp4", "a.mp4: is itself read, and would be replaced"),
        (
            tmp_path / "seg.json",
            "seg.json: the list is CSV, and would be read as JSON; choose a name that ends in .csv",
        ),
        (tmp_path / "seg.JSONL", "the list is CSV"),
    ):
        before = out.read_bytes() if out.exists() else None
        with pytest.raises(GestaError, match=message):
            import_labels(str(export), str(videos), str(out))
        assert (out.read_bytes() if out.exists() else None) == before
    again = [import_labels(str(export), str(videos), str(tmp_path / "seg.csv")) for _ in range(2)]
    assert again[0] == again[1]
