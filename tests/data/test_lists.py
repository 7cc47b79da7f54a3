"""Every list format users have is read, or refused with a sentence that says what to set."""

from __future__ import annotations

import errno
import functools
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from empty_files import COMPOSED, DECOMPOSED, frames, tree

from gesta.config import from_json, to_json
from gesta.data.listfile import read_list, read_rows
from gesta.data.lists import Folder, Lists, read_class_names
from gesta.data.locate import VideoFinder
from gesta.data.transforms import flip_targets
from gesta.errors import GestaError


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def _write(text: str, name: str = "list.txt") -> str:
        (tmp_path / name).write_bytes(text.encode())
        return str(tmp_path / name)

    return _write


def rows(path: str, **options: object) -> list[tuple[object, ...]]:
    return [(r.name, r.label, r.start, r.end) for r in read_list(path, **options)]  # type: ignore[arg-type]


# --- one label per line ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.mp4 0\nb.mp4 1\n", [("a.mp4", 0), ("b.mp4", 1)]),
        ("\ufeffa.mp4 0 \r\nb.mp4 1\r\n\r\n  \r\n", [("a.mp4", 0), ("b.mp4", 1)]),  # mark, CRLF, trailing blanks
        ("drinking (31).mp4 1\nrun.mp4 0\n", [("drinking (31).mp4", 1), ("run.mp4", 0)]),  # blanks in paths
        ("a.mp4  3\nb.mp4\t4\n", [("a.mp4", 3), ("b.mp4", 4)]),
        ("a, b.mp4,3\nc.mp4,4\r\n", [("a, b.mp4", 3), ("c.mp4", 4)]),
        ('"a, b.mp4",3\nc.mp4,4\n', [("a, b.mp4", 3), ("c.mp4", 4)]),
        ("a,b.mp4 3\nc.mp4 4\n", [("a,b.mp4", 3), ("c.mp4", 4)]),
        ("a b.mp4::3\nc.mp4::4\n", [("a b.mp4", 3), ("c.mp4", 4)]),
        ("a b.mp4\t3\nc d.mp4\t4\n", [("a b.mp4", 3), ("c d.mp4", 4)]),
        ("-mmq0PT 7\n--07WQ2iBlw 2\n", [("-mmq0PT", 7), ("--07WQ2iBlw", 2)]),  # ids with a leading hyphen
        ("74225 140\n116154 127\n", [("74225", 140), ("116154", 127)]),
        ("a.mp4 -1\nb.mp4 2\n", [("a.mp4", None), ("b.mp4", 2)]),
        ("my clip.mp4\nother.avi\n", [("my clip.mp4", None), ("other.avi", None)]),
        ("a.mp4 wave\nb.mp4 run\n", [("a.mp4", 1), ("b.mp4", 0)]),
        ("a b.mp4\tclean and jerk\nc.mp4\tbow\n", [("a b.mp4", 1), ("c.mp4", 0)]),
        ("path,label\na.mp4,wave\nb.mp4,run\n", [("a.mp4", 1), ("b.mp4", 0)]),
        ('video_path,class\n"x, y.mp4","Washing, hands"\nb.mp4,run\n', [("x, y.mp4", 0), ("b.mp4", 1)]),
        ("file_name\tlabel\na.mp4\t2\n", [("a.mp4", 2)]),
        ("path\tlabel\na.mp4\twave\nb.mp4\t\nc.mp4\t \r\n", [("a.mp4", 0), ("b.mp4", None), ("c.mp4", None)]),
        ("\tpath\tlabel\n0\ta.mp4\twave\n1\tb.mp4\t\n", [("a.mp4", 0), ("b.mp4", None)]),  # pandas' index
        ("label\tpath\nwave\ta.mp4\n\tb.mp4\n", [("a.mp4", 0), ("b.mp4", None)]),
        ("path\tlabel\t\r\na.mp4\twave\t\n\t\n \tb.mp4\trun\n", [("a.mp4", 1), ("b.mp4", 0)]),  # no cells at all
    ],
)
def test_path_and_label(write: Callable[..., str], text: str, expected: list) -> None:
    assert [(name, label) for name, label, _, _ in rows(write(text))] == expected


def test_json(write: Callable[..., str]) -> None:
    expected = [("a.mp4", 1, None, None), ("b.mp4", 0, None, None)]
    pairs = {"a.mp4": "wave", "b.mp4": "run"}
    items = [{"path": path, "label": label} for path, label in pairs.items()]
    assert rows(write(json.dumps(pairs), "a.json")) == expected
    assert rows(write(json.dumps(items), "b.json")) == expected
    assert rows(write("\n".join(map(json.dumps, items)), "c.jsonl")) == expected
    for text in ('{"labels": ["a"]}', "[1, 2]", "[]"):
        with pytest.raises(GestaError, match="this kind of JSON"):
            read_list(write(text, "d.json"))
    with pytest.raises(GestaError, match="not valid JSON"):
        read_list(write('{"a": 1', "e.json"))


# --- columns with names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,label,start_frame,end_frame\na.mp4,wave,0,10\nb.mp4,run,5,9\n", [(1, 0, 10, None), (0, 5, 9, None)]),
        ("path,label,start_frame,last_frame\na.mp4,wave,0,10\n", [(0, 0, 11, None)]),  # the last one included
        (
            "path,label,start,end\na.mp4,wave,0,0.5\nb.mp4,run,1,2\n",
            [(1, None, None, (0, 0.5)), (0, None, None, (1, 2))],
        ),
        ("path,label,t_start,t_end\na.mp4,wave,0:00:01.5,1:02\n", [(0, None, None, (1.5, 62))]),
        (
            "path,label,start_time,end_time\na.mp4,wave,,\nb.mp4,run,1,2\n",
            [(1, None, None, None), (0, None, None, (1, 2))],
        ),
        (",path,label\n0,a.mp4,wave\n1,b.mp4,run\n", [(1, None, None, None), (0, None, None, None)]),  # pandas' index
        ("path,action\na.mp4,wave\n", [(0, None, None, None)]),
        ("video_name,tag\na.mp4,wave\nb.mp4,run\n", [(1, None, None, None), (0, None, None, None)]),
        ("clip_name,clip_path,label\na,/x/a.mp4,2.0\n", [(2, None, None, None)]),
        ("a.mp4,wave\nb.mp4,run\n", [(1, None, None, None), (0, None, None, None)]),  # no header
    ],
)
def test_every_column_is_used(write: Callable[..., str], text: str, expected: list) -> None:
    records = read_list(write(text))
    assert [(r.label, r.start, r.end, r.seconds) for r in records] == expected
    assert {Path(r.path).name for r in records} <= {"a.mp4", "b.mp4"}  # never a path of the whole line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label,fps\na.mp4,wave,25\n", "the column 'fps' is not known; set columns to fps=skip"),
        ("path,label,start,end\na.mp4,wave,0,10\n", "start and end may be frames or seconds; .*start=start end=end"),
        ("path,label,start_frame\na.mp4,wave,x\n", "line 2: start is 'x', not a whole number"),
        ("path,label,start_time\na.mp4,wave,1\n", "line 2: gives a segment .* give both"),
        ("path,label,start_time,end_time\na.mp4,wave,2,1\n", "line 2: gives a segment .* the end after the start"),
        ("path,label,start_time,end_time\na.mp4,wave,nan,1\n", "line 2: gives a segment"),
        ("path,label,start_time,end_time\na.mp4,wave,1,1e999\n", "line 2: gives a segment"),
        ("path,label,start_frame,num_frames\na.mp4,wave,1,2\n", "frames beside start may count"),
        ("path,label,tag\na.mp4,wave,x\n", "both 'label' and 'tag' may be the label; .*tag=skip"),
        ("path,video_path,label\na.mp4,b.mp4,x\n", "both 'path' and 'video_path' may be the path"),
        ("path,label,split\na.mp4,wave,fold3\n", "line 2: its split is 'fold3'; write train, val or test"),
        ("path,label,split\na.mp4,wave,train\n", "has a column of splits"),
        ("where,species\na.mp4,wave\nb.mp4,run\n", "line 1: 'where,species' seems to be a header"),
        ("path,label\na.mp4,999999999\n", "line 2: label 999999999 is more than"),
        ("path,label\n,wave\n", "line 2: '' cannot be the path"),
        ("a.mp4\0,wave\nb.mp4,wave\n", "holds a NUL"),
        ("a.mp4,wave,train\nb.mp4,run,test\n", "line 1: .* more fields than columns path label; set columns"),
        ("a.mp4,wave,3\nb.mp4,run,4\n", "line 1: .* more fields than columns path label; set columns"),
        ("a.mp4 wave 3\nb.mp4 run 4\n", "line 1: .* more fields than columns path label; set columns"),
    ],
)
def test_columns_that_are_not_known_are_refused(write: Callable[..., str], text: str, message: str) -> None:
    with pytest.raises(GestaError, match=message):
        read_list(write(text))


def test_columns_are_given_by_their_names_or_in_order(write: Callable[..., str]) -> None:
    path = write("where,what,rate,from,to\na.mp4,wave,25,3,7\n")
    with pytest.raises(GestaError, match="if the first line is a header, set columns to NAME=COLUMN"):
        read_list(path)
    columns = ("where=path", "what=label", "rate=skip", "from=start", "to=last")
    assert rows(path, columns=columns) == [("a.mp4", 0, 3, 8)]
    with pytest.raises(GestaError, match="has no column 'wher'; did you mean 'where'"):
        read_list(path, columns=("wher=path", *columns[1:]))
    with pytest.raises(GestaError, match="either NAME=COLUMN for each"):
        read_list(path, columns=("where=path", "label"))
    known = write("path,label,start_frame,end_frame\na.mp4,wave,3,7\n")
    assert rows(known, columns=("path", "label", "start", "last")) == [("a.mp4", 0, 3, 8)]  # not the header as a video
    assert rows(known, columns=("end_frame=last",), frame_base=1) == [("a.mp4", 0, 2, 7)]
    with pytest.raises(GestaError, match="has 4 columns"):
        read_list(known, columns=("path", "label"))
    with pytest.raises(GestaError, match="has no header with such names"):
        read_list(write("a.mp4 1\n"), columns=("x=path",))


def test_keys_of_json_are_used_or_refused(write: Callable[..., str]) -> None:
    def labels(items: object, name: str = "a.json", **options: object) -> list:
        path = write("\n".join(map(json.dumps, items)) if name == "a.jsonl" else json.dumps(items), name)  # type: ignore
        return [(r.label, r.start, r.end, r.seconds) for r in read_list(path, **options)]  # type: ignore[arg-type]

    timed = [{"path": "a.mp4", "label": "wave", "start": 0.0, "end": 0.5}, {"path": "b.mp4", "label": "run"}]
    assert labels(timed) == labels(timed, "a.jsonl") == [(1, None, None, (0.0, 0.5)), (0, None, None, None)]
    assert labels([{"video": "a.mp4", "choice": "wave", "id": 1}]) == [(0, None, None, None)]  # Label Studio
    more = [{"path": "a.mp4", "label": 1, "more": [1]}]
    with pytest.raises(GestaError, match="the column 'more' is not known; set columns to more=skip"):
        labels(more)
    assert labels(more, columns=("more=skip",)) == [(1, None, None, None)]
    for options in ({"columns": ("path", "label", "skip")}, {"delimiter": ","}):
        with pytest.raises(GestaError, match="neither an order of columns nor a delimiter"):
            labels(more, **options)
    for item, message in (
        ({"path": "a.mp4", "label": ["x", "y"]}, "line 1: 'label' is .*several labels"),
        ({"path": "a.mp4", "label": True}, "line 1: 'label' is true"),
        ({"path": "a\ud800.mp4", "label": 1}, "half of a surrogate pair"),
        ({"id": 1, "annotations": [], "data": {"video": "a.mp4"}}, "make a list of it with gesta data import"),
    ):
        with pytest.raises(GestaError, match=message):
            labels([item])
    with pytest.raises(GestaError, match=r'"a\.mp4" occurs twice'):
        read_list(write('{"a.mp4": "wave", "a.mp4": "run"}', "b.json"))
    with pytest.raises(GestaError, match="64 levels deep"):
        read_list(write("[" * 100_000, "c.json"))


def test_the_inputs_that_went_wrong(shared: Path) -> None:
    folder = shared / "cases" / "lists"
    if not folder.is_dir():
        pytest.skip("no such cases beside this checkout")

    def read(name: str) -> list:
        listed = read_list(str(folder / name), root=str(folder / "v"))
        return [(Path(r.path).name, r.label, r.start, r.end, r.seconds) for r in listed]

    plain = [("c0.mp4", 1, None, None, None), ("c1.mp4", 0, None, None, None)]
    for name in ("action.csv", "pandas_index_names.csv", "kaggle_ucf.csv", "labelstudio_min.json"):
        assert read(name) == plain, name
    assert read("headerless_names.csv")[:2] == plain
    assert [item[2:4] for item in read("seg_frames_once.csv")] == [(0, 10), (10, 20), (5, 9), (20, 30)]
    assert [item[4] for item in read("seg_once.json")] == [(0.0, 0.5), (0.5, 1.0), (0.0, 0.2)]


def test_names_are_looked_up_and_misspelt_ones_suggested(write: Callable[..., str]) -> None:
    classes = ["brush_hair", "Clean and Jerk"]
    text = "a.mp4,Brush Hair\nb.mp4,clean_and_jerk\n"
    assert [r.label for r in read_list(write(text), class_names=classes)] == [0, 1]
    with pytest.raises(GestaError, match=r"line 2: 'brush_hare' is none of the 2 classes; did you mean 'brush_hair'"):
        read_list(write("a.mp4 brush_hair\nb.mp4 brush_hare\n"), class_names=classes)
    with pytest.raises(GestaError, match="some labels are numbers and some names"):
        read_list(write("a.mp4,1\nb.mp4,wave\n"))


def test_lists_that_count_from_one(write: Callable[..., str]) -> None:
    path, classes = write("a.mp4 1\nb.mp4 2\nc.mp4 3\n"), ["x", "y", "z"]
    with pytest.raises(GestaError, match="label_base=1"):
        read_list(path, class_names=classes)
    assert [r.label for r in read_list(path, class_names=classes, label_base=1)] == [0, 1, 2]
    with pytest.raises(GestaError, match="line 3: label 3, but labels are 0 to 2"):
        read_list(write("a 0\nb 1\nc 3\n"), class_names=classes)
    with pytest.raises(GestaError, match="line 1: label 0, but labels are 1"):
        read_list(write("a 0\nb 1\n"), label_base=1)


def test_label_from_folder(write: Callable[..., str]) -> None:
    path = write("/data/wave/v_1/,164\n/data/run/v_2/,123\n")
    found = read_list(path, columns=("path", "frames"), label_from_folder=True)
    assert [(r.path, r.label) for r in found] == [("/data/wave/v_1/", 1), ("/data/run/v_2/", 0)]


# --- more columns ----------------------------------------------------------------------------------------------------


def test_columns_that_are_named(write: Callable[..., str]) -> None:
    three = write("my clip 10 3\nother 20 4\n")
    assert rows(three, columns=("path", "frames", "label"))[0] == ("my clip", 3, None, None)
    assert rows(three, columns=("path", "start", "label"))[0] == ("my clip", 3, 10, None)
    assert rows(three, columns=("path", "start", "label"), frame_base=1)[1] == ("other", 4, 19, None)
    four = write("x 8 20 3\n")
    assert rows(four, columns=("path", "start", "end", "label")) == [("x", 3, 8, 20)]
    assert rows(four, columns=("path", "start", "last", "label")) == [("x", 3, 8, 21)]
    assert rows(four, columns=("path", "start", "last", "label"), frame_base=1) == [("x", 3, 7, 20)]
    assert rows(four, columns=("path", "offset", "frames", "label")) == [("x", 3, 8, 28)]
    assert rows(four, columns=("path", "label", "skip", "skip")) == [("x", 8, None, None)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("path", "lable"), "did you mean 'label'"),
        (("label", "path"), "path comes first"),
        (("path", "label", "label"), "every column once"),
        (("path", "offset", "label"), "offset needs frames"),
        (("path", "end", "last", "label"), "exclude each other"),
        (("path", "start", "end", "label"), "line 1: .* does not have the 4 columns"),
    ],
)
def test_wrong_columns(write: Callable[..., str], columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(GestaError, match=message):
        read_list(write("x 8 3\n"), columns=columns)


def test_wrong_segments(write: Callable[..., str]) -> None:
    columns = ("path", "start", "end", "label")
    for text in ("x 8 8 0\n", "x -1 5 0\n"):
        with pytest.raises(GestaError, match=r"line 1: gives frames"):
            read_list(write(text), columns=columns)
    with pytest.raises(GestaError, match="start is 'b', not a whole number"):
        read_list(write("a b 5 0\n"), columns=columns)


def test_three_columns_are_proved_on_the_videos_or_refused(write: Callable[..., str], tmp_path: Path) -> None:
    frames(tmp_path / "one", 5)
    frames(tmp_path / "two", 3)
    (tmp_path / "one" / "flow_x_00001.jpg").touch()
    assert rows(write("one 5 7\ntwo 3 8\n")) == [("one", 7, None, None), ("two", 8, None, None)]
    both = "path frames label .* or path start label .*data.columns"
    for text in ("one 5 7\ntwo 2 8\n", "one 1 7\none 17 7\n", "one 5 7\nabsent 3 8\n"):  # wrong, C3D's, not there
        with pytest.raises(GestaError, match=both):
            read_list(write(text))


def test_frame_counts_are_not_taken_for_labels(write: Callable[..., str], tmp_path: Path) -> None:
    for name, count in (("a", 4), ("b", 7), ("c", 5)):
        frames(tmp_path / name, count)
    with pytest.raises(GestaError, match="columns to path frames"):
        read_list(write("a 4\nb 7\nc 5\n"))
    assert [r.label for r in read_list(write("a 4\nb 7\nc 6\n"))] == [4, 7, 6]


def test_four_columns_are_never_guessed(write: Callable[..., str]) -> None:
    with pytest.raises(GestaError, match=r"path start end label .*path start last label .*path offset frames label"):
        read_list(write("x 1 5 0\ny 2 6 1\n"))


def test_several_labels_are_refused_unless_the_list_is_multi_label(write: Callable[..., str]) -> None:
    with pytest.raises(GestaError, match=r"for several labels per video set multi_label .*, and if the numbers belong"):
        read_list(write("a.mp4 0 3\nb.mp4 0 2 4\n"))
    with pytest.raises(GestaError, match=r"line 2: .*several labels per video"):
        read_list(write("imgs 5 1\nimgs 5 3 5\n"), columns=("path", "frames", "label"))
    assert [r.name for r in read_list(write("a 7 0\nb 1\n"), columns=("path",), delimiter="\t")] == ["a 7 0", "b 1"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "a.mp4 0 3\nb.mp4 0 2 4\nc.mp4\nd (1).mp4 2\ne.mp4 -1\n", [(0, 3), (0, 2, 4), None, (2,), None]),
        ("a.txt", "a.mp4 1;2\nb.mp4 0\n", [(1, 2), (0,)]),
        ("a.csv", "path,label\na.mp4,wave;clap\nb.mp4,run\nc.mp4,\nd.mp4,;\n", [(0, 2), (1,), None, ()]),
        ("a.csv", 'video,label\na.mp4,"wave, clap"\nb.mp4,run\nc.mp4,wave\n', [(0, 2), (1,), (2,)]),
        ("a.csv", 'video,label\na.mp4,"{""choices"": [""run"", ""wave""]}"\nb.mp4,wave\n', [(0, 1), (1,)]),
        ("a.csv", "a.mp4,wave,clap\nb.mp4,run\n", [(0, 2), (1,)]),
        ("a.json", '{"a.mp4": ["wave", "clap", "wave"], "b.mp4": "run", "c.mp4": []}', [(0, 2), (1,), ()]),
        ("a.json", '[{"path": "a.mp4", "label": [3, 1]}, {"path": "b.mp4", "label": null}]', [(1, 3), None]),
        ("a.jsonl", '{"path": "a.mp4", "label": "wave|clap"}\n{"path": "b.mp4", "label": ["run"]}\n', [(0, 2), (1,)]),
    ],
)
def test_lists_with_several_labels(write: Callable[..., str], name: str, text: str, expected: list) -> None:
    path = write(text, name)
    records = read_list(path, multi_label=True)
    assert [record.label for record in records] == expected
    data = Lists(train=path, multi_label=True)
    assert data.is_multi_label() and [record.label for record in data.records("train")] == expected
    assert len(data.classes()) == 1 + max(k for label in expected for k in label or ())


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,label\na.mp4,x;y\nb.mp4,x|z\n", {}, "hold both ';' and '|'; set label_delimiter"),
        ("path,label\na.mp4,x;y\n", {"class_names": ["x", "w"]}, "line 2: 'y' is none of the 2 classes"),
        ('path,label\na.mp4,"[1, [2]]"\n', {}, 'line 2: its labels are .*; write a list of them, as \\["wave"'),
        ("path,label\na.mp4,['x']\n", {}, "its label: is not valid JSON"),
        ("a 5 1\na 5 3 5\n", {}, "may be its number of frames or a label; set columns to path label or"),
        (
            "a 5 1\na\n",
            {"columns": ("path", "frames", "label"), "delimiter": " "},
            "line 2: 'a' does not have the columns path frames",
        ),
    ],
)
def test_several_labels_that_are_not_clear(write: Callable[..., str], text: str, options: dict, message: str) -> None:
    with pytest.raises(GestaError, match=message):
        read_list(write(text, "a.csv"), multi_label=True, **options)


def test_numbers_before_several_labels_are_labels_only_where_videos_say_so(
    write: Callable[..., str], make_video: Callable[..., Path]
) -> None:
    for name in ("m1.mp4", "m2.mp4"):
        make_video(name, frames=12)
    assert [r.label for r in read_list(write("m1.mp4 12 0 1\nm2.mp4 12 2\n"), multi_label=True)] == [(0, 1), (2,)]
    assert [r.label for r in read_list(write("m1.mp4 1 2\nm3.mp4 12 2\n"), multi_label=True)] == [(1, 2), (2, 12)]
    write("no video", "broken.mp4")
    for text in ("m1.mp4 12 0 1\nm3.mp4 12 2\n", "m1.mp4 12 0 1\nbroken.mp4 12 2\n", "m3.mp4 5 1\nm4.mp4 6\n"):
        with pytest.raises(GestaError, match=r"may be its number of frames or a label; set columns"):
            read_list(write(text), multi_label=True)


def test_frames_before_several_labels(write: Callable[..., str], tmp_path: Path) -> None:
    path = write("a 5 1\na 5 3 5\n")
    columns = ("path", "frames", "label")
    assert [r.label for r in read_list(path, columns=columns, multi_label=True)] == [(1,), (3, 5)]
    assert [r.label for r in read_list(path, columns=("path", "label"), multi_label=True)] == [(1, 5), (3, 5)]
    options = {"label_delimiter": "/", "multi_label": True}
    assert [r.label for r in read_list(write("p,label\na.mp4,x;1/y\n", "b.csv"), columns=("p=path",), **options)] == [
        (0, 1)
    ]
    assert [r.label for r in read_list(write("w/a.mp4\n"), label_from_folder=True, multi_label=True)] == [(0,)]


@pytest.mark.parametrize("line", ["left left/a b.mp4", "0 left/a b.mp4", "left,left/a b.mp4", "1\tleft/a b.mp4"])
def test_a_label_before_the_path_is_refused(
    write: Callable[..., str], make_video: Callable[..., Path], tmp_path: Path, line: str
) -> None:
    """Where the video is there without it; what is a path with a blank is read as one."""
    for name in ("left/a b.mp4", "left/a c.mp4"):
        make_video(name, frames=2)
    (tmp_path / "f" / "clip").mkdir(parents=True)  # of frames
    for multi_label in (False, True):
        with pytest.raises(GestaError, match=r"line 1: begins with .* path 'left/a b\.mp4'; write the path first"):
            read_list(write(f"{line}\n{line.replace('b', 'c')}\n"), multi_label=multi_label)
    with pytest.raises(GestaError, match="line 1: begins with something else than the path 'f/clip'"):
        read_list(write("left f/clip\n"))
    assert [record.label for record in read_list(write("left/a b.mp4 0\nleft/a c.mp4 1\n"))] == [0, 1]
    assert [record.label for record in read_list(write("left/a b.mp4\nleft/a d.mp4\n"))] == [None, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list is empty; write a line for each video"),
        ("path,label\n", "the list is empty below its header; write a line for each video"),
        ("label,youtube_id,time_start,time_end,split\nx,y,1,2,val\n", "names no files; set columns to NAME=path"),
        ("original_vido_id video_id frame_id labels\nx 1 2 3\n", "names no files"),
        ("path,label\na.mp4,b.mp4,1\n", "line 2: 3 fields, but the header has 2"),
        ("one two three\nfour five\n", "cannot tell where paths end"),
    ],
)
def test_refusals(write: Callable[..., str], text: str, message: str) -> None:
    with pytest.raises(GestaError, match=message):
        read_list(write(text))


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(GestaError, match=r"nothing\.txt: cannot be read \(No such file"):
        read_list(str(tmp_path / "nothing.txt"))


@pytest.mark.parametrize(
    ("sample", "columns", "expected"),
    [
        ("c3d_dir_STARTFRAME_label.lst", None, "path frames label .* or path start label"),
        ("c3d_dir_STARTFRAME_label.lst", "path start label", ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01/", 0, 1, None)),
        (
            "coclr_path_comma_frames_nolabel.csv",
            "path frames",
            ("/users/htd/beegfs/DATA/UCF101/frame/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01/", None, None, None),
        ),
        ("id_label_ONEBASED_noext.txt", None, ("0wR5jVB-WPk_000417_000427", 1, None, None)),
        ("id_webm_label.txt", None, ("74225.webm", 140, None, None)),
        ("mmaction2_rawframe_test_list.txt", "path frames label", ("imgs", 127, None, None)),
        ("mmaction2_rawframe_test_list_multi_label.txt", None, "several labels per video"),
        ("mmaction2_rawframe_test_list_multi_label.txt", "path frames label", "several labels per video"),
        ("mmaction2_rawframe_test_list_with_offset.txt", None, "path offset frames label"),
        ("mmaction2_rawframe_test_list_with_offset.txt", "path offset frames label", ("imgs", 127, 2, 7)),
        ("mmaction2_rawvideo_test_anno.txt", None, "path start end label"),
        ("mmaction2_rawvideo_test_anno.txt", "path label skip skip", ("rawvideo_dataset", 1, None, None)),
        ("mmaction2_video_test_list.txt", None, ("test.mp4", 0, None, None)),
        ("mmaction2_video_test_list_multi_label.txt", None, "several labels per video"),
        ("name_frames_label_noext_noclassdir.txt", "path frames label",
         ("THE_PROTECTOR_fall_floor_f_cm_np1_le_med_98", 12, None, None)),
        ("rawframes_depth_dir_frames_label.txt", "path frames label",
         ("/vision/group/ntu-rgbd/depth_s007/S007C003P027R001A034", 33, None, None)),
        ("slowfast_comma_no_header_CRLF.csv", None, ("0wR5jVB-WPk.mp4", 341, None, None)),
        ("slowfast_space_in_dot_csv.csv", None, ("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", 0, None, None)),
        ("space_CRLF_path_label.txt", None, ("val/0wR5jVB-WPk_000417_000427.mp4", 0, None, None)),
        ("tsn_tsm_rawframes_dir_frames_label.txt", "path frames label", ("--07WQ2iBlw", 166, None, None)),
        ("tsn_tsm_video_path_label.txt", None, ("0wR5jVB-WPk.mp4", 0, None, None)),
        ("videoframedataset_dir_start_end_label.txt", "path start last label", ("74225", 140, 0, 58)),
        ("videoframedataset_dir_start_end_verb_noun.txt", None, "set columns to"),
        ("videoframedataset_dir_start_end_verb_noun.txt", "path start last label skip",
         ("P01/rgb_frames/P01_01", 3, 8, 203)),
    ],
)  # fmt: skip
def test_genuine_samples(shared: Path, sample: str, columns: str | None, expected: str | tuple) -> None:
    path = str(shared / "annotations" / "_list_formats" / "samples" / sample)
    options = {"columns": tuple(columns.split())} if columns else {}
    if isinstance(expected, str):
        with pytest.raises(GestaError, match=expected):
            read_list(path, **options)
    else:
        assert rows(path, **options)[0] == expected


def test_genuine_samples_with_several_labels(shared: Path) -> None:
    folder = shared / "annotations" / "_list_formats" / "samples"
    videos, frames = (str(folder / f"mmaction2_{kind}_test_list_multi_label.txt") for kind in ("video", "rawframe"))
    assert [r.label for r in read_list(videos, multi_label=True)] == [(0, 3), (0, 2, 4)]
    records = read_list(frames, multi_label=True, columns=("path", "frames", "label"))
    assert [r.label for r in records] == [(1,), (3, 5)]


def test_every_genuine_sample_is_tested(shared: Path) -> None:
    folder = shared / "annotations" / "_list_formats" / "samples"
    mark = next(m for m in test_genuine_samples.pytestmark if m.name == "parametrize")
    assert {path.name for path in folder.iterdir()} == {case[0] for case in mark.args[1]}


def test_a_genuine_list_is_proved_by_its_frames(shared: Path) -> None:
    folder = shared / "videos" / "frames" / "mmaction2"
    (first, _) = read_list(str(folder / "rawframe_test_list.txt"))
    assert first.path == str(folder / "imgs") and first.label == 127


# --- where the videos are --------------------------------------------------------------------------------------------


def test_names_that_differ_in_capitals_or_accents(tmp_path: Path) -> None:
    nfc, nfd = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    tree(tmp_path, [f"{nfd}/{nfd}.mp4", "aBc.mp4", "abC.mp4", "once.mp4", "x/Xy.mp4", "x/xY.mp4"])
    finder = VideoFinder([str(tmp_path)])
    assert finder.find(f"{nfc}/{nfc}.mp4") == str(tmp_path / nfd / f"{nfd}.mp4")
    assert finder.find("aBc.mkv") == str(tmp_path / "aBc.mp4") and finder.find("abC") == str(tmp_path / "abC.mp4")
    with pytest.raises(GestaError, match=r"x/xy: could be Xy\.mp4 or xY\.mp4, which differ in capitals"):
        finder.find("x/xy")
    assert finder.find("ONCE") == str(tmp_path / "once.mp4") == finder.find("ONCE.avi")
    with pytest.raises(GestaError, match=r"once\.mp4: is all there is for both 'ONCE' and 'once'"):
        finder.find("once")  # the other one is missing, so one of them would show the other's video
    assert VideoFinder([str(tmp_path)]).find("/once.mp4") == str(tmp_path / "once.mp4")  # of an unpacked archive


def test_a_folder_that_cannot_be_listed_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, ["a/1.mp4", "b/1.mp4", "lost+found/x/1.mp4", "__MACOSX/a/1.mp4", "a/@eaDir/1.mp4"])
    assert (
        Folder(root=str(tmp_path)).classes() == ["a", "b"]
        and len(Folder(root=str(tmp_path), val=0).records("train")) == 2
    )
    listdir, scandir = os.listdir, os.scandir

    def refuse(real: Callable[..., Any], path: str) -> Any:
        if os.fspath(path).endswith("/b"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "listdir", functools.partial(refuse, listdir))
    monkeypatch.setattr(os, "scandir", functools.partial(refuse, scandir))
    for call in (lambda: VideoFinder([str(tmp_path)]).find("b/1"), lambda: Folder(root=str(tmp_path)).records("train")):
        with pytest.raises(
            GestaError, match=r"/b: its files cannot be listed \(Permission denied\); check its permissions"
        ):
            call()


def test_finder(tmp_path: Path) -> None:
    for name in ("a/x.webm", "a/x [1]!; &.mkv", "B/Y.MP4", "B/z.avi", "B/z.txt", "list/rel.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    frames(tmp_path / "B" / "z", 2)
    frames(tmp_path / "B" / "1.5", 2)
    finder = VideoFinder([str(tmp_path), str(tmp_path / "list")])

    def found(entry: str) -> str | None:
        path = VideoFinder(finder.bases).find(entry)
        return path and Path(path).relative_to(tmp_path).as_posix()

    assert found("a/x") == found("a/x.mp4") == found("a/X.avi") == found("A/x.webm") == "a/x.webm"
    assert found("a/x [1]!; &") == found("a/x [1]!; &.avi") == "a/x [1]!; &.mkv"
    assert found("B/y.mp4") == found("b\\Y.mp4") == "B/Y.MP4"
    assert found("B/z") == found("B/z/") == "B/z" and found("B/z.avi") == "B/z.avi" and found("B/z.mkv") is not None
    assert found("B/1.5") == "B/1.5" and found("B/1") is None
    assert found("rel") == "list/rel.mp4" and found("z") is None and found("absent/z") is None
    assert finder.path("absent/z") == str(tmp_path / "absent/z")
    assert finder.find(str(tmp_path / "B" / "z.avi")) == str(tmp_path / "B" / "z.avi")
    flat = VideoFinder([str(tmp_path / "B")], flat=True)
    assert flat.find("Some_Class/z.avi") == str(tmp_path / "B" / "z.avi")
    for depth in (1500, 5000):  # deeper than functions may call each other; longer than any path
        assert flat.find("a/" * depth + "z.avi") == str(tmp_path / "B" / "z.avi")
        assert VideoFinder([str(tmp_path)]).find("b/" * depth + "z.avi") is None


# --- class names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "wave\nclap two\n", "1 wave\r\n2 clap two\r\n", "id,name\n0,wave\n1,clap two\n", "0\twave\n1\tclap two\n",
        "clap two\t1\nwave\t0\n", "label\nwave\nclap two", "2 clap two\n1 wave\n",
    ],
)  # fmt: skip
def test_class_names(write: Callable[..., str], text: str) -> None:
    assert read_class_names(write(text)) == ["wave", "clap two"]


def test_class_names_in_json_and_wrong_ones(write: Callable[..., str]) -> None:
    assert read_class_names(write('{"clap": "1", "wave": "0"}', "a.json")) == ["wave", "clap"]
    assert read_class_names(write('["wave", "clap"]', "b.json")) == ["wave", "clap"]
    assert read_class_names(write('{"1": "wave", "0": "clap"}', "c.json")) == ["clap", "wave"]
    assert read_class_names(write('{"1": 0, "2": 1}', "d.json")) == ["1", "2"]
    for text in ('"wave"', '{"wave": 0.7, "clap": 1.2}', '{"wave": true, "clap": 0}', '{"a": "b"}', "3", "null"):
        with pytest.raises(GestaError, match=r'e\.json: cannot be read as class names; write \["wave", "jump"\], '):
            read_class_names(write(text, "e.json"))
    for text, message in (("", "is empty"), ("0 a\n2 b\n", "holes"), ("a\nb\na\n", "'a' occurs twice")):
        with pytest.raises(GestaError, match=message):
            read_class_names(write(text))


def test_carriage_returns_inside_csv_are_named(write: Callable[..., str]) -> None:
    path = write('a.mp4,0\n"b.mp4",1\rc.mp4,0\n', "list.csv")
    for read in (read_list, read_rows):
        with pytest.raises(GestaError, match=r"list\.csv: cannot be read as CSV .*ends of lines"):
            read(path)


@pytest.mark.parametrize("name", ["names.txt", "names.json"])
def test_class_names_have_one_form_of_accents(write: Callable[..., str], name: str) -> None:
    names = [DECOMPOSED, "wave"]
    path = write(json.dumps(names) if name.endswith("json") else "\n".join(names), name)
    assert read_class_names(path) == [COMPOSED, "wave"]
    with pytest.raises(GestaError, match="occurs twice"):
        read_class_names(write(f"{COMPOSED}\n{DECOMPOSED}\n"))
    assert flip_targets([COMPOSED, "wave_left"], {"wave_left": DECOMPOSED}) == [1, 0]


# --- Lists -----------------------------------------------------------------------------------------------------------


def test_lists(write: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    train = write("a.mp4 wave\nb.mp4 run\n", "train.txt")
    test = write("c.mp4 clap\n", "test.txt")
    data = Lists(train=train, test=test, root=str(tmp_path / "videos"))
    assert data.classes() == ["clap", "run", "wave"]  # of all lists together
    assert [(r.name, r.label) for r in data.records("train")] == [("a.mp4", 2), ("b.mp4", 1)]
    assert data.records("train")[0].path == str(tmp_path / "videos" / "a.mp4")
    assert [r.label for r in data.records("test")] == [0] and data.records("val") == []
    numbers = Lists(train=write("a 0\nb 4\n"))
    assert numbers.classes() == ["0", "1", "2", "3", "4"]
    based = Lists(train=write("a 1\nb 2\n"), label_base=1)
    assert based.classes() == ["1", "2"] and [r.label for r in based.records("train")] == [0, 1]
    named = Lists(train=write("a 1\nb 2\n"), class_names=write("x\ny\n", "names.txt"))
    with pytest.raises(GestaError, match="label_base=1"):
        named.records("train")
    with pytest.raises(GestaError, match=r"data\.train FILE"):
        Lists().classes()
    columns = Lists(train="t", columns=("path", "frames", "label"))
    assert from_json(json.loads(json.dumps(to_json(columns)))) == columns


@pytest.mark.parametrize(
    "form",
    [
        "a.mp4,{0}\nb.mp4,wave\n", "path,label\na.mp4,{0}\nb.mp4,wave\n", '{{"a.mp4": "{0}", "b.mp4": "wave"}}',
        "{0}/a.mp4\nwave/b.mp4\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("multi_label", [False, True])
def test_labels_have_one_form_of_accents(write: Callable[..., str], form: str, multi_label: bool) -> None:
    ending = "json" if form.startswith("{{") else "txt"
    how: dict[str, Any] = {"multi_label": multi_label, "label_from_folder": form.startswith("{0}")}
    train, val = (write(form.format(n), f"{i}.{ending}") for i, n in enumerate((COMPOSED, DECOMPOSED)))
    data = Lists(train=train, val=val, **how)
    assert data.classes() == [COMPOSED, "wave"]
    labels = [(0,), (1,)] if multi_label else [0, 1]
    assert [r.label for split in ("train", "val") for r in data.records(split)] == labels * 2  # type: ignore[arg-type]
    given = read_list(train, class_names=["wave", DECOMPOSED], **how)
    assert [r.label for r in given] == labels[::-1]


def test_a_column_of_splits_divides_a_list(write: Callable[..., str]) -> None:
    path = write("path,label,split\na.mp4,wave,train\nb.mp4,run,Validation\nc.mp4,wave,test\nd.mp4,run,training\n")
    data = Lists(train=path)
    assert data.classes() == ["run", "wave"]
    parts = [[(r.name, r.label) for r in data.records(split)] for split in ("train", "val", "test")]  # type: ignore[arg-type]
    assert parts == [[("a.mp4", 1), ("d.mp4", 0)], [("b.mp4", 0)], [("c.mp4", 1)]]
    assert [r.name for r in Lists(train=path, val=path).records("val")] == ["b.mp4"]
    unlabelled = Lists(train=write("path\tsplit\tlabel\na.mp4\ttrain\twave\nb.mp4\ttest\t\n", "list.tsv"))
    assert [(r.name, r.label) for r in unlabelled.records("test")] == [("b.mp4", None)]
    with pytest.raises(GestaError, match=r"leave data\.val_fraction out"):
        Lists(train=path, val_fraction=0.5).records("train")
    with pytest.raises(GestaError, match="both say what the validation videos are"):
        Lists(train=path, val=path, val_fraction=0.5).records("train")
    part = write("path,label,split\na.mp4,wave,train\nd.mp4,run,train\ne.mp4,run,train\n", "part.csv")
    with pytest.raises(GestaError, match=r"part\.csv: none of its rows is of the split val"):
        Lists(train=path, val=part).records("val")
    held_out = Lists(train=part, val_fraction=0.5)
    assert len(held_out.records("train")) == 2 and len(held_out.records("val")) == 1


def test_lists_hold_out_a_share_for_validation(write: Callable[..., str]) -> None:
    text = "".join(f"{c}{i}.mp4 {c}\n" for c in (0, 1) for i in range(20))
    data = Lists(train=write(text), val_fraction=0.25)
    train, val = data.records("train"), data.records("val")
    assert len(train) == 30 and [r.label for r in val].count(0) == 5 == [r.label for r in val].count(1)
    assert not {r.name for r in train} & {r.name for r in val}
    assert {r.name for r in Lists(train=data.train, val_fraction=0.25, seed=1).records("val")} != {r.name for r in val}
    with pytest.raises(GestaError, match="val_fraction"):
        Lists(train=data.train, val_fraction=1.5).records("train")


def test_segments_of_one_video_are_held_out_together(write: Callable[..., str], tmp_path: Path) -> None:
    rows = [f"long{v:02d}.mp4,{'abcde'[(v * k + k) % 5]},{k}.0,{k + 1}.0\n" for v in range(30) for k in range(8)]
    path = write("path,label,start_time,end_time\n" + "".join(rows), "segments.csv")
    val = {}
    for seed in range(4):
        data = Lists(train=path, val_fraction=0.2, seed=seed)
        parts = data.records("train"), data.records("val")
        assert not {r.name for r in parts[0]} & {r.name for r in parts[1]} and sum(map(len, parts)) == 240
        assert 40 <= len(parts[1]) <= 56 and {r.label for r in parts[0]} == {r.label for r in parts[1]} == set(range(5))
        val[seed] = {r.name for r in parts[1]}
    assert len({frozenset(names) for names in val.values()}) == 4
    (tmp_path / "elsewhere").mkdir()  # the same list of a copy, of another suffix, in another folder
    for v in range(30):
        (tmp_path / "elsewhere" / f"long{v:02d}.webm").touch()
    copy = Lists(train=path, root=str(tmp_path / "elsewhere"), val_fraction=0.2)
    assert {r.name for r in copy.records("val")} == val[0]
