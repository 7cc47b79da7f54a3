"""Parts of a list of videos, merged, are what one run writes; what is not the whole of one run is refused by name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_video
from gesta.checkpoint import load, save_model
from gesta.cli import main
from gesta.data import shares
from gesta.data.shares import PART, Share, describe_part
from gesta.errors import GestaError
from gesta.files import lock_folder
from gesta.model import ClipSpec
from gesta.models.timesformer import TimeSformerConfig
from gesta.prediction.part import PREDICTIONS, describe_model, predict_part
from gesta.prediction.prediction import Prediction

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, five videos of which one is broken, a list of them, and the predictions of two parts."""
    root = tmp_path_factory.mktemp("parts")
    for i, name in enumerate(("a/0", "a/1", "b/0", "b/1")):
        write_video(root / f"videos/{name}.mp4", frames=4, size=(48, 32), shade=40 * i)
    (root / "videos/b/broken.mp4").write_bytes(bytes(range(256)) * 20)
    clip = ClipSpec(frames=2, stride=2, size=16)
    model = TimeSformerConfig(classes=2, width=8, depth=1, heads=2, mlp_ratio=1, patch=8, clip=clip).build()
    save_model(root / "model.safetensors", model, ["a", "b"])
    names = ["b/1", "a/0", "b/broken", "a/1", "b/0"]
    (root / "list.txt").write_text("".join(f"{root}/videos/{name}.mp4\n" for name in names))
    for part in (1, 2):
        with pytest.raises(SystemExit) as ended:
            main([*words("predict", root), "--part", f"{part}/2", "--out", str(root / f"p{part}")])
        assert ended.value.code == (part == 1)  # the broken one is the third
    return root


def words(verb: str, root: Path) -> list[str]:
    return [verb, str(root / "model.safetensors"), "--from", str(root / "list.txt"), "--clips", "1"]


@pytest.fixture
def gesta(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str | Path, status: int = 0) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert ended.value.code == status, captured.err
        return captured.out + captured.err

    return run


def test_shares_are_interleaved_and_make_the_whole() -> None:
    assert [Share(k, 3).take(range(7)) for k in (1, 2, 3)] == [[0, 3, 6], [1, 4], [2, 5]]


@pytest.mark.parametrize("format", ["csv", "json", "parquet"])
def test_merged_predictions_are_those_of_one_run(format: str, place: Path, tmp_path: Path, gesta: Run) -> None:
    gesta(*words("predict", place), "--format", format, "--out", tmp_path / "one", status=1)
    said = gesta("merge", place / "p2", place / "p1", "--out", tmp_path / "all", "--format", format, status=1)
    assert (tmp_path / "all").read_bytes() == (tmp_path / "one").read_bytes()
    assert "4 of 5 videos answered, 0 of them incomplete, 1 failed; from 2 parts" in said
    assert f"failed: {place}/videos/b/broken.mp4: cannot be opened as a video" in said


def test_the_ending_of_the_file_says_its_format_where_no_flag_does(place: Path, tmp_path: Path, gesta: Run) -> None:
    """A table, or CSV, in a file called .json would be found out by whoever reads it."""
    for name, flags in (("a.json", []), ("b.json", ["--format", "csv"]), ("c.CSV", [])):
        gesta("merge", place / "p2", place / "p1", "--out", tmp_path / name, *flags, status=1)
    assert len(json.loads((tmp_path / "a.json").read_text())) == 5
    assert (tmp_path / "b.json").read_text() == (tmp_path / "c.CSV").read_text()
    assert (tmp_path / "c.CSV").read_text().startswith("path,start,end,")
    refused = gesta("merge", place / "p2", place / "p1", "--out", tmp_path / "d.srt", status=1)
    assert "subtitles are of one video" in refused
    read = min(path for path in (place / "p1").iterdir() if path.name != "part.json")
    for path in (place / "p1" / "part.json", read):
        refused = gesta("merge", place / "p2", place / "p1", "--out", path, "--format", "csv", status=1)
        assert f"{path}: is itself read, and would be replaced" in refused
    gesta(*words("predict", place), "--out", tmp_path / "one.csv", status=1)
    assert (tmp_path / "one.csv").read_text().startswith("path,start,end,")


def test_a_part_that_was_killed_goes_on_where_it_stopped(place: Path, tmp_path: Path, gesta: Run) -> None:
    part, file = tmp_path / "p1", tmp_path / "p1" / PREDICTIONS
    shutil.copytree(place / "p1", part)
    state = json.loads((part / PART).read_text()) | {"finished": False, "failed": {}}
    (part / PART).write_text(json.dumps(state))
    whole = file.read_bytes()
    first, second, _ = whole.splitlines(keepends=True)
    file.write_bytes(first + second[:20])  # half a line is lost, a whole one is not
    assert "part 1 of 2 is not finished; run its" in gesta("merge", part, place / "p2", "--out", "x", status=1)
    gesta(*words("predict", place), "--part", "1/2", "--out", part, status=1)
    assert file.read_bytes() == whole
    assert json.loads((part / PART).read_text()) == json.loads((place / "p1" / PART).read_text())


@pytest.fixture
def own(place: Path, tmp_path: Path) -> Path:
    """A copy of the place, with parts of its own list of its own videos, which a test may change."""
    shutil.copytree(place / "videos", tmp_path / "videos")
    shutil.copy(place / "model.safetensors", tmp_path)
    (tmp_path / "list.txt").write_text((place / "list.txt").read_text().replace(str(place), str(tmp_path)))
    return tmp_path


def test_videos_that_were_replaced_or_mended_are_predicted_again(own: Path, gesta: Run) -> None:
    """The same commands again, as ``--ray`` gives them, whose folders of parts stay."""

    def both_parts() -> bytes:
        for part, status in (("1/2", broken), ("2/2", 0)):
            gesta(*words("predict", own), "--part", part, "--out", own / f"p{part[0]}", status=status)
        gesta("merge", own / "p1", own / "p2", "--out", own / "all", status=broken)
        return (own / "all").read_bytes()

    broken = 1
    before, lines = both_parts(), [(own / f"p{part}" / PREDICTIONS).read_bytes() for part in (1, 2)]
    assert both_parts() == before
    assert [(own / f"p{part}" / PREDICTIONS).read_bytes() for part in (1, 2)] == lines
    write_video(own / "videos/b/1.mp4", frames=9, size=(48, 32), shade=150)  # the first of the list
    os.utime(own / "videos/b/1.mp4", (1e9, 1e9))
    shutil.copy(own / "videos/a/0.mp4", own / "videos/b/broken.mp4")
    broken = 0
    after = both_parts()
    gesta(*words("predict", own), "--format", "csv", "--out", own / "one")
    assert after == (own / "one").read_bytes() != before


def test_only_what_has_changed_or_failed_is_asked_for(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in "abcde"]
    for path in paths:
        Path(path).write_bytes(b"1")
    folder, file = tmp_path / "part", tmp_path / "part" / PREDICTIONS
    asked: list[str] = []
    fails = {paths[2]: "is damaged"}
    part = describe_part("predict", Share(1, 1), paths, {})

    def answer(wanted: list[str], stops: int = 9) -> Iterator[tuple[str, list[Prediction]]]:
        asked[:] = [Path(path).name for path in wanted]
        for number, path in enumerate(wanted):
            if number == stops:
                raise KeyboardInterrupt
            error = fails.get(path, "")
            labels = () if error else ((Path(path).read_text(), 0.9),)
            yield path, [Prediction(path=path, labels=labels, error=error)]

    def compute() -> tuple[str, list[str]]:
        done = predict_part(folder, part, paths, answer)
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert done.finished and [line["path"] for line in lines] == paths
        return "".join(asked), [
            line["predictions"][0]["labels"][0][0] if line["predictions"][0]["labels"] else "" for line in lines
        ]

    assert compute() == ("abcde", ["1", "1", "", "1", "1"])
    assert compute() == ("c", ["1", "1", "", "1", "1"])  # it may be mended in ways that its file does not show
    for name in "bd":
        (tmp_path / name).write_text("22")
    fails.clear()
    with pytest.raises(KeyboardInterrupt):
        predict_part(folder, part, paths, lambda wanted: answer(wanted, stops=2))
    with open(file, "ab") as lines:
        lines.write(b'{"path": "half')
    assert asked == ["b", "c", "d"]  # of which d is still to be done
    (tmp_path / "e").rename(tmp_path / "away")  # as on a disk that is not mounted: no reason to give up what is there
    assert compute() == ("d", ["1", "22", "1", "22", "1"])
    assert compute() == ("", ["1", "22", "1", "22", "1"])
    file.write_text(
        "".join(json.dumps({**json.loads(line), "path": "x"}) + "\n" for line in file.read_text().splitlines())
    )
    with pytest.raises(GestaError, match="line 1 is about another video; remove the folder"):
        compute()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"settings": {"weights": "another"}}, "is a part with other "),
        ({"listed": "0"}, "is a part with another list of videos than"),
        ({"command": "features"}, "is a part with another command than"),
        ({"of": 3}, "is a part with another number of parts than"),
        ({"number": 1}, "is part 1 of 2, as "),
        ({"finished": False}, "part 2 of 2 is not finished; run its command again"),
    ],
)
def test_what_is_not_the_whole_is_refused(
    change: dict[str, object], sentence: str, place: Path, tmp_path: Path, gesta: Run
) -> None:
    shutil.copytree(place / "p2", tmp_path / "p2")
    state = json.loads((tmp_path / "p2" / PART).read_text()) | change
    (tmp_path / "p2" / PART).write_text(json.dumps(state))
    assert sentence in gesta("merge", place / "p1", tmp_path / "p2", "--out", tmp_path / "all", status=1)
    assert "1 are missing (2); give" in gesta("merge", place / "p1", "--out", tmp_path / "all", status=1)
    (tmp_path / "p2" / PART).write_bytes((place / "p2" / PART).read_bytes())
    lines = (tmp_path / "p2" / PREDICTIONS).read_bytes().splitlines(keepends=True)
    (tmp_path / "p2" / PREDICTIONS).write_bytes(lines[0])
    assert "hold 4 videos, which are not the 5" in gesta(
        "merge", place / "p1", tmp_path / "p2", "--out", tmp_path / "all", status=1
    )
    assert not (tmp_path / "all").exists()


def test_parts_of_other_classifiers_are_not_one_computation(place: Path) -> None:
    """A classifier that ``--head`` gives is not in the file of weights, whose name and hash stay."""
    model = load(place / "model.safetensors")
    before = describe_model(model)
    assert describe_model(load(place / "model.safetensors")) == before
    with torch.no_grad():
        model.model.classifier.linear.weight += 1
    assert describe_model(model)["weights"] != before["weights"]


def test_options_that_a_part_would_not_use_are_refused(place: Path, tmp_path: Path, gesta: Run) -> None:
    predict = [*words("predict", place), "--part", "1/2"]
    assert "--part needs a folder" in gesta(*predict, status=1)
    assert "--format is about all videos" in gesta(*predict, "--out", tmp_path / "p", "--format", "csv", status=1)
    assert "lists the videos, so leave" in gesta(*words("predict", place), "x.mp4", status=1)
    assert "there are 5 videos, so that some" in gesta(*predict[:-1], "1/6", "--out", tmp_path / "p", status=1)
    assert "'0/2' is no part of" in gesta(*predict[:-1], "0/2", status=2)
    for flags, sentence in (
        (["--threshold", "2"], "--threshold is 2.0, not from 0 to 1"),
        (["--precision", "16-mixed"], "16-mixed"),
        (["--device", "nowhere"], "nowhere"),
    ):
        assert sentence in gesta(*predict, "--device", "cpu", *flags, "--out", tmp_path / "p", status=1)
    without_clips = predict[: predict.index("--clips")]
    timeline = [*without_clips, "--part", "1/2", "--timeline", "--threshold", "2", "--out", tmp_path / "p"]
    assert "threshold is 2.0" in gesta(*timeline, status=1)
    (tmp_path / "folders.txt").write_text(f"{place}/videos\n")
    listed = ["predict", place / "model.safetensors", "--from", tmp_path / "folders.txt"]
    assert "stands for other videos" in gesta(*listed, "--part", "1/1", "--out", tmp_path / "p", status=1)
    assert "--format csv is given, too" in gesta(*listed, "--json", "--format", "csv", status=1)
    assert "holds part 1 of 2" in gesta("features", *words("predict", place)[1:], "--out", place / "p1", status=1)
    assert not (tmp_path / "p").exists()


def test_merged_features_are_those_of_one_run(place: Path, tmp_path: Path, gesta: Run) -> None:
    gesta(*words("features", place), "--out", tmp_path / "one", status=1)
    for part in (1, 2):
        gesta(*words("features", place), "--part", f"{part}/2", "--out", tmp_path / f"p{part}", status=int(part == 1))
    said = gesta("merge", tmp_path / "p1", tmp_path / "p2", "--out", tmp_path / "all", status=1)
    assert "4 of 5 videos answered" in said and "failed: " in said
    assert contents(tmp_path / "all") == contents(tmp_path / "one")
    assert np.load(tmp_path / "all/a/0.npy").shape == (1, 8)
    assert "is not a new or empty folder" in gesta(
        "merge", tmp_path / "p1", tmp_path / "p2", "--out", tmp_path / "all", status=1
    )
    (tmp_path / "p2/a/0.npy").unlink()
    assert "holds the features of 1 videos, not of 2" in gesta(
        "merge", tmp_path / "p1", tmp_path / "p2", "--out", tmp_path / "new", status=1
    )


def test_merged_copies_are_those_of_one_run(place: Path, tmp_path: Path, gesta: Run) -> None:
    prepare = ["data", "prepare", place / "videos", tmp_path / "one", "--short-side", "32", "--workers", "0"]
    gesta(*prepare, status=1)
    for part in (1, 2):
        prepare[3] = tmp_path / f"p{part}"
        gesta(*prepare, "--part", f"{part}/2", status=int(part == 1))
    said = gesta("merge", tmp_path / "p1", tmp_path / "p2", "--out", tmp_path / "all", status=1)
    assert "4 of 5 videos answered" in said and "broken.mp4" in said
    assert contents(tmp_path / "all") == contents(tmp_path / "one")
    assert "--lists and --shards are of all" in gesta(*prepare, "--part", "2/2", "--lists", status=1)
    prepare[3] = tmp_path / "some"
    gesta(*prepare, "--from", place / "list.txt", "--part", "2/3")
    assert list(contents(tmp_path / "some")) == ["a/0.mp4", "b/0.mp4", "part.json", "prepare.json", "sources.jsonl"]
    (tmp_path / "other.txt").write_text(str(place / "model.safetensors"))
    assert "is listed and not below" in gesta(*prepare, "--from", tmp_path / "other.txt", status=1)


@pytest.fixture
def hidden(place: Path, tmp_path: Path) -> Path:
    """A folder of two videos of which one is in a hidden folder, and a list of both."""
    for name, video in ((".x/0", "a/0"), ("y/1", "b/1")):
        (tmp_path / f"v/{name}.mp4").parent.mkdir(parents=True)
        shutil.copy(place / f"videos/{video}.mp4", tmp_path / f"v/{name}.mp4")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/v/.x/0.mp4\n{tmp_path}/v/y/1.mp4\n")
    return tmp_path


def test_features_of_videos_in_hidden_folders_are_merged(place: Path, hidden: Path, gesta: Run) -> None:
    features = ["features", place / "model.safetensors", "--from", hidden / "list.txt", "--clips", "1", "--out"]
    gesta(*features, hidden / "one")
    for part in (1, 2):
        gesta(*features, hidden / f"p{part}", "--part", f"{part}/2")
    (hidden / "p1/.DS_Store").touch()
    (hidden / "p2/.DS_Store").touch()  # what systems leave is no result
    gesta("merge", hidden / "p1", hidden / "p2", "--out", hidden / "all")
    assert contents(hidden / "all") == contents(hidden / "one")
    assert {".x/0.npy", "y/1.npy"} < set(contents(hidden / "all"))


@pytest.mark.parametrize("how", [[], ["--frames"]])
def test_copies_in_hidden_folders_are_merged(how: list[str], hidden: Path, gesta: Run) -> None:
    (hidden / "v/y/.2").mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64)).save(hidden / f"v/y/.2/img_{number}.png")
    (hidden / "v/y/.2/img_1.png").write_bytes(b"no picture")
    with open(hidden / "list.txt", "a") as file:
        file.write(f"{hidden}/v/y/.2\n")
    prepare = ["data", "prepare", hidden / "v", "--from", hidden / "list.txt", "--workers", "0", *how]
    gesta(*prepare, hidden / "one")
    for part in (1, 2):
        gesta(*prepare, hidden / f"p{part}", "--part", f"{part}/2")
    (hidden / "p1/y/._2.mp4").touch()  # what systems leave is no result
    said = gesta("merge", hidden / "p1", hidden / "p2", "--out", hidden / "all", status=1)
    assert "3 of 3 videos answered, 1 of them incomplete" in said
    assert contents(hidden / "all") == contents(hidden / "one")
    assert "v/y/.2: 1 damaged packets" in gesta(*prepare, hidden / "all")
    copy = hidden / "p2/y/1"
    shutil.rmtree(copy) if how else copy.with_suffix(".mp4").unlink()
    said = gesta("merge", hidden / "p1", hidden / "p2", "--out", hidden / "new", status=1)
    assert "p2: holds 0 copies, not 1 as its part.json says (y/1" in said and "run its command again" in said


@pytest.mark.parametrize("verb", ["features", "prepare"])
def test_a_merge_that_ends_early_leaves_no_folder_and_is_done_again(
    verb: str, place: Path, hidden: Path, gesta: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = {"features": ["features", place / "model.safetensors", "--clips", "1", "--out"]}
    command["prepare"] = ["data", "prepare", hidden / "v", "--workers", "0"]
    for part in (1, 2):
        gesta(*command[verb], hidden / f"p{part}", "--from", hidden / "list.txt", "--part", f"{part}/2")
    merge = ["merge", hidden / "p1", hidden / "p2", "--out", hidden / "all"]
    (hidden / "all").mkdir()
    link, done = shares._link_or_copy, list[str]()

    def full(path: str, copy: str) -> None:
        if done:
            raise GestaError(f"{copy}: cannot be written (No space left on device)")
        done.append(path)
        link(path, copy)

    with monkeypatch.context() as patch:
        patch.setattr(shares, "_link_or_copy", full)
        assert "No space left" in gesta(*merge, status=1)
    assert done and not contents(hidden / "all") and not (hidden / ".all.part").exists()
    for name in (".all.part/new/y/1.npy", ".all.part/new/y/1.mp4", ".all.part/.lock", ".all.part/mine", ".al.part/x"):
        (hidden / name).parent.mkdir(parents=True, exist_ok=True)
        (hidden / name).write_text("of a killed merge")
    gesta(*merge)
    assert len(contents(hidden / "all")) == {"features": 4, "prepare": 4}[verb]
    assert list(contents(hidden / ".all.part")) == ["mine"] and (hidden / ".al.part/x").is_file()
    with lock_folder(hidden / ".new.part"):
        assert "is writing to it" in gesta(*merge[:-1], hidden / "new", status=1)
    assert "is where a disk is mounted" in gesta(*merge[:-1], "/", status=1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_only_a_line_feed_ends_a_line_of_a_list_of_videos(tmp_path: Path) -> None:
    names = ["a\x85b.mp4", "c\x0cd.mp4", "e\u2028f.mp4", "g\rh.mp4", " i.mp4 "]
    for end in ("\n", "\r\n"):
        (tmp_path / "list.txt").write_bytes(end.join([*names, "", names[0], ""]).encode())
        assert shares.read_paths(tmp_path / "list.txt") == names
