"""Timelines as pre-annotations of Label Studio, read back by gesta, and in the order of their certainty."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_timeline import SHADES, shade_model, shaded_video

from conftest import write_video
from gesta.cli import main
from gesta.cli.predict import write_predictions
from gesta.curation.labels.convert import import_labels
from gesta.data.lists import Lists
from gesta.errors import GestaError
from gesta.prediction.prediction import Prediction
from gesta.prediction.timeline import TimelineConfig, timeline

CONFIG = TimelineConfig(hop=1.0, smoothing=1)  # windows of 8 frames, one after the other


def test_certainty_is_the_margin_before_the_next_class() -> None:
    pairs = (("a", 0.5), ("b", 0.3), ("c", 0.2))
    assert Prediction(path="v", labels=pairs).certainty == pytest.approx(0.2)
    assert Prediction(path="v", labels=(pairs[1], pairs[0])).certainty == pytest.approx(-0.2)  # of its windows' mean
    assert Prediction(path="v", labels=(("a", 0.75),)).certainty == pytest.approx(0.5)  # named alone: 0.75 to 0.25
    assert Prediction(path="v", error="v: is broken").certainty == -1


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first changes in the middle of a window, whose segment is hence less certain; the second at its end."""
    folder = tmp_path_factory.mktemp("videos")
    shaded_video(folder / "one.mp4", [("dark", 8), ("grey", 5), ("bright", 3)])
    shaded_video(folder / "two, too.mp4", [("bright", 8), ("dark", 8)])
    return folder


@pytest.mark.parametrize("prefix", [None, "/data/local-files/?d=", "https://host/files/"])
def test_pre_annotations_are_read_back(videos: Path, tmp_path: Path, prefix: str | None) -> None:
    out, model = tmp_path / "tasks.json", shade_model()
    paths = sorted(map(str, videos.iterdir()))
    how = {"classes": SHADES, "timeline": True, "config": CONFIG, "format": "label-studio", "out": str(out)}
    assert write_predictions(model, [str(videos)], url_prefix=prefix, **how) == 0  # type: ignore[arg-type]
    tasks = json.loads(out.read_text())
    assert [task["data"]["fps"] for task in tasks] == [10, 10]
    assert all(0 < p["score"] <= 1 and p["model_version"] for task in tasks for p in task["predictions"])
    summary = import_labels(str(out), str(videos), str(tmp_path / "list.csv"), frame_rate="fps")
    assert not summary.left_out and not summary.missing
    records, names = Lists(train=summary.out).records("train"), Lists(train=summary.out).classes()
    read = [(Path(r.path).name, names[r.label], *r.seconds) for r in records]  # type: ignore[index,misc]
    found = [p for path in paths for p in timeline(model, path, classes=SHADES, config=CONFIG)]
    assert read == [(Path(p.path).name, p.labels[0][0], pytest.approx(p.start), pytest.approx(p.end)) for p in found]
    assert len(read) == 4


def test_a_video_that_is_gone_at_the_end_loses_nothing(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor an address, whose password predictions do not hold."""
    video, out = tmp_path / "a.mp4", tmp_path / "tasks.json"
    shutil.copy(videos / "one.mp4", video)

    def found(*_: object, **__: object) -> Iterator[Prediction]:
        video.unlink()
        yield Prediction(path=str(video), start=0.0, end=1.0, labels=(("dark", 0.9),))

    monkeypatch.setattr("gesta.prediction.timeline.timeline", found)
    how = {"classes": SHADES, "timeline": True, "config": CONFIG, "format": "label-studio", "out": str(out)}
    assert write_predictions(shade_model(), [str(video)], **how) == 0  # type: ignore[arg-type]
    assert [task["data"]["fps"] for task in json.loads(out.read_text())] == [10]


def test_the_least_certain_segments_come_first(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = {"classes": SHADES, "timeline": True, "config": CONFIG}
    assert write_predictions(shade_model(), [str(videos)], review=True, format="json", **how) == 0  # type: ignore[arg-type]
    found = [(Path(item["path"]).name, item["labels"][0]["class"]) for item in json.loads(capsys.readouterr().out)]
    assert found[0] == ("one.mp4", "grey") and len(found) == 4
    for wrong, sentence in (
        ({"review": True, "format": "srt"}, "stand in that of time"),
        ({"review": True, "top": 1}, "leave top out"),
        ({"review": True, "timeline": False}, "add timeline=True"),
        ({"format": "label-studio", "timeline": False}, "add timeline=True"),
        ({"url_prefix": "x"}, "about pre-annotations"),
    ):
        with pytest.raises(GestaError, match=sentence):
            write_predictions(shade_model(), [str(videos)], **how | wrong)  # type: ignore[arg-type]


@pytest.mark.full  # test_pre_annotations_are_read_back and tests of each format in test_labels.py find the same faults
def test_from_labels_to_a_model_to_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export of Label Studio trains a model, whose timelines are scored, and become the tasks of the next round."""
    monkeypatch.chdir(tmp_path)

    def gesta(command: str) -> None:
        with pytest.raises(SystemExit) as end:
            main(command.split())
        assert not end.value.code, command

    export = []
    for name in "abcd":
        write_video(tmp_path / "videos" / f"{name}.mp4", frames=48)
        parts = ((1, 24, "wave"), (25, 48, "clap hands"))
        values = [{"ranges": [{"start": start, "end": end}], "timelinelabels": [label]} for start, end, label in parts]
        result = [{"type": "timelinelabels", "value": value} for value in values]
        export.append({"data": {"video": f"/data/upload/1/{name}.mp4"}, "annotations": [{"result": result}]})
    (tmp_path / "export.json").write_text(json.dumps(export))
    gesta("data import export.json --videos videos --out segments.csv --frame-rate 12")
    lists = "--data lists --data.train segments.csv --data.val-fraction 0.25"
    gesta(f"train finetune --model mvitv2_tiny {lists} --train.epochs 1 --train.batch-size 4 --run runs/mine")
    gesta("evaluate runs/mine --timeline --evaluate.split val --window 1 --threshold 0 --hop 1")
    scored = json.loads((tmp_path / "runs" / "mine" / "timeline-val.json").read_text())
    assert scored["videos"][0]["frames"] == 48 and set(scored["per_class"]) == {"wave", "clap hands"}
    gesta("predict runs/mine videos --timeline --threshold 0 --review --format label-studio --out tasks.json")
    gesta("data import tasks.json --videos videos --out again.csv --frame-rate fps")
    records = Lists(train="again.csv").records("train")
    assert {Path(record.path).name for record in records} == {f"{name}.mp4" for name in "abcd"}
