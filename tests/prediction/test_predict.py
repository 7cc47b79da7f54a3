"""One answer per video, whatever is thrown at it; the formats of answers."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gesta.checkpoint import load, save_model
from gesta.cli import main
from gesta.cli.predict import write_predictions
from gesta.config import config, replace, to_json
from gesta.errors import GestaError, VideoError
from gesta.evaluation.evaluate import evaluate
from gesta.evaluation.result import Result
from gesta.evaluation.scoring import (
    joint_names,
    joint_probabilities,
    named_classes,
    prediction_protocol,
    protocol_of,
    rank,
)
from gesta.features.compute import compute_features
from gesta.features.windows import Windows
from gesta.marionette.dataset import Marionette, make_set
from gesta.model import Classifier, ClipSpec, Grid, ModelConfig, VideoModel
from gesta.models import create_model
from gesta.prediction.predict import find_sources, predict
from gesta.prediction.prediction import Prediction, clock
from gesta.prediction.timeline import TimelineConfig, timeline
from gesta.prediction.writers import Format, as_table, write
from gesta.recipe import EvaluateConfig
from gesta.recipes.address import find_recipe
from gesta.records import Record
from gesta.training.loop import train
from gesta.video.depth import Depth
from gesta.video.find import find_videos
from gesta.video.flow import Flow
from gesta.video.images import image_files

VIEWS = EvaluateConfig(clips=2, crops=3, batch_size=5, workers=0)


@config
class LinearConfig(ModelConfig):
    """A linear classifier on 4 x 4 x 4 averages of the clip."""

    def build(self) -> VideoModel:
        return Linear(self)


class Linear(VideoModel):
    """The smallest model whose scores depend on every frame and every corner."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.AdaptiveAvgPool3d(4)])
        self.classifier = Classifier(3 * 4**3, config.classes)
        self.finish()

    def stem(self, video: Tensor) -> Tensor:
        return video

    def to_grid(self, state: Tensor) -> Tensor:
        return state

    def from_grid(self, grid: Tensor, state: Tensor) -> Tensor:
        return grid

    def grid_at(self, block: int) -> Grid:
        clip = self.config.clip
        return (3, 4, 4, 4) if block else (3, clip.frames, clip.size, clip.size)

    def pool(self, state: Tensor) -> Tensor:
        return state.flatten(1)


def linear_model(classes: int | dict[str, int] = 4, **clip: object) -> VideoModel:
    return LinearConfig(classes=classes, clip=ClipSpec(**{"frames": 4, "stride": 2, "size": 32, **clip})).build()  # type: ignore[arg-type]


NAMES = ["run", "jump", "sit", "wave"]


@pytest.fixture
def mixed(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    """A folder with good videos, a frame folder, and files that are broken, empty or one frame long."""
    make_video("in/a.mp4")
    make_video("in/deep/b c.mp4", size=(48, 64), shade=90)
    make_video("in/one.mp4", frames=1)
    (tmp_path / "in/broken.mp4").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "in/empty.mp4").touch()
    (tmp_path / "in/frames").mkdir()
    for i in range(6):
        Image.new("RGB", (50, 40), (40 * i,) * 3).save(tmp_path / f"in/frames/img_{i:04d}.jpg")
    (tmp_path / "in/notes.txt").write_text("not a video")
    return tmp_path / "in"


def test_every_video_gets_an_answer_or_a_sentence(mixed: Path) -> None:
    found = list(predict(linear_model(), [mixed], classes=NAMES, views=VIEWS, top=3))
    assert [Path(p.path).name for p in found] == ["a.mp4", "broken.mp4", "b c.mp4", "empty.mp4", "frames", "one.mp4"]
    for p in found:
        assert bool(p.error) == (Path(p.path).name in ("broken.mp4", "empty.mp4"))
        assert (p.start, p.end) == (None, None)
        if p.error:
            assert p.labels == () and p.path in str(p) and "\n" not in str(p)
        else:
            assert len(p.labels) == 3 and p.labels[0][1] >= p.labels[1][1] >= p.labels[2][1]


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("coverage", ["even", "contiguous"])
def test_the_numbers_are_those_of_the_evaluation(mixed: Path, average: str, coverage: str) -> None:
    clips = 3 if coverage == "even" else 5
    views = EvaluateConfig(clips=clips, crops=3, average=average, coverage=coverage, batch_size=4, workers=0)  # type: ignore[arg-type]
    paths = find_videos(mixed)
    model = linear_model()
    result = evaluate(model, [Record(path=p, name=p, label=0) for p in paths], classes=NAMES, views=views)
    for p, scores in zip(
        predict(model, paths, classes=NAMES, views=views, top=4), result.scores.values["label"], strict=True
    ):
        if scores is None:
            assert p.error
        else:
            t = torch.tensor(scores)
            wanted = t if average == "probabilities" else t.softmax(-1)
            assert dict(p.labels) == pytest.approx(dict(zip(NAMES, wanted.tolist())), abs=1e-5)


def test_workers_and_batches_change_neither_order_nor_numbers(mixed: Path) -> None:
    model = linear_model()
    alone = list(predict(model, [mixed], classes=NAMES, views=VIEWS))
    many = EvaluateConfig(clips=2, crops=3, batch_size=64, workers=2)
    for a, b in zip(alone, predict(model, [mixed], classes=NAMES, views=many), strict=True):
        assert (a.path, a.error) == (b.path, b.error)
        assert dict(a.labels) == pytest.approx(dict(b.labels), abs=1e-6)


def test_sources_are_files_folders_frame_folders_and_patterns(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mixed)
    assert find_sources(["*.mp4", "deep", "frames", "a.mp4", "gone.mp4", "no*thing"]) == [
        "a.mp4", "broken.mp4", "empty.mp4", "one.mp4", "deep/b c.mp4", "frames", "gone.mp4", "no*thing"]  # fmt: skip
    (mixed / "void").mkdir()
    found = list(predict(linear_model(), ["gone.mp4", "void", "notes.txt"], classes=NAMES, views=VIEWS))
    assert [bool(p.error) for p in found] == [True] * 3
    assert all(p.path in p.error for p in found)
    assert "void: holds no numbered images and no file with the suffix of a video (.mp4, " in found[1].error
    (mixed / "void/clips").mkdir()
    (mixed / "void/clip.MOV").touch()
    with pytest.raises(
        VideoError, match=r"holds no numbered images, so it is no video itself; give one in it \(clip.MOV\)"
    ):
        image_files("void")


def test_files_that_are_left_out_of_a_folder_are_said(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings: dict[str, Any] = {"classes": NAMES, "views": VIEWS}
    write_predictions(linear_model(), [str(mixed / "a.mp4"), str(mixed / "frames")], **settings)
    assert capsys.readouterr().err == ""
    write_predictions(linear_model(), [str(mixed)], **settings)
    assert f"{mixed / 'notes.txt'}: 1 file has no suffix of a video and is left out" in capsys.readouterr().err
    (mixed / "deep/clip.mp5").touch()
    (mixed / "deep/clip.mp6").touch()
    write_predictions(linear_model(), [str(mixed / "deep"), str(mixed)], **settings)
    assert f"{mixed / 'deep' / 'clip.mp5'}: 3 files have no suffix of a video and are" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["json", "csv", "table", "text"])
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--device meta", "the device 'meta' cannot be used here"),
        ("--device cpu --precision 16-mixed", "the precision 16-mixed cannot be computed on cpu"),
        ("--threshold 2", "--threshold is 2.0, not from 0 to 1"),
        ("--timeline --threshold 2", "--threshold is 2.0, not from 0 to 1"),
        ("--timeline --hop 5", "--hop is 5.0, not above 0 and at most 1"),
        ("--timeline --smoothing 2", "--smoothing is 2, which is even"),
        ("--timeline --window nan", "--window is NaN, not a finite number"),
        ("--timeline --window inf", "--window is Infinity, not a finite number"),
        ("--timeline --min-duration -1", "--min-duration is -1.0, not 0 or more"),
        ("--timeline --join -1", "--join is -1.0, not 0 or more"),
        ("--timeline --release 0.6", "--release is 0.6, above the threshold 0.5"),
    ],
)
def test_flags_are_refused_before_the_model_is_loaded_and_anything_is_written(
    flags: str, sentence: str, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["predict", "no-such-run", "a.mp4", "--format", format, *flags.split()])
    said = capsys.readouterr()
    assert (end.value.code, said.out) == (1, "")
    assert said.err.startswith(f"gesta: {sentence}") and said.err.count("\n") == 1


@pytest.mark.parametrize("timeline", [False, True])
@pytest.mark.parametrize("wrong", [{"device": "meta"}, {"precision": "16-mixed", "device": "cpu"}, {"top": 0}])
def test_what_is_refused_writes_nothing(
    wrong: dict[str, Any], timeline: bool, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = str(mixed / "a.mp4")
    for format in ("json", "csv", "table"):
        with pytest.raises(GestaError):
            write_predictions(linear_model(), [good], classes=NAMES, timeline=timeline, format=format, **wrong)  # type: ignore[arg-type]
        assert capsys.readouterr().out == ""


def test_without_a_protocol_there_are_four_clips_as_on_the_command_line(mixed: Path, tmp_path: Path) -> None:
    model = linear_model()
    save_model(tmp_path / "model.safetensors", model, NAMES)
    with pytest.raises(SystemExit):
        command = ["predict", tmp_path / "model.safetensors", mixed, "--format", "json", "--out", tmp_path / "p.json"]
        main([str(word) for word in [*command, "--runtime", "torch", "--trust-code"]])
    written = {p["path"]: p["labels"] for p in json.loads((tmp_path / "p.json").read_text())}
    for prediction in predict(model, [mixed], classes=NAMES):
        for label, (name, probability) in zip(written[prediction.path], prediction.labels, strict=True):
            assert label["class"] == name and label["probability"] == pytest.approx(probability, abs=1e-4)


def test_pictures_are_shown_at_the_scale_at_which_the_run_is_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which model files hold; older ones have the recipe beside them. What else a protocol says is of evaluations."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 40, 50, 3), dtype=np.uint8)
    (tmp_path / "video").mkdir()
    for i, image in enumerate(noise):
        Image.fromarray(image).save(tmp_path / f"video/img_{i:04d}.png")
    video, model = str(tmp_path / "video"), linear_model()
    protocol = EvaluateConfig(clips=2, short_side=448, average="logits", short_videos="clamp", workers=0)
    save_model(tmp_path / "new.safetensors", model, NAMES, protocol=protocol)
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run" / "old.safetensors", model, NAMES)
    (tmp_path / "run" / "recipe.json").write_text(json.dumps({"evaluate": to_json(protocol)}))
    views = EvaluateConfig(clips=4, short_side=448, average="logits", short_videos="clamp")
    whole, windows = list(predict(model, video, classes=NAMES, views=views)), TimelineConfig(threshold=0.0)
    timed = list(timeline(model, video, classes=NAMES, views=views, config=windows))
    assert whole != list(predict(model, video, classes=NAMES))
    assert timed != list(timeline(model, video, classes=NAMES, config=windows))
    for file in (tmp_path / "new.safetensors", tmp_path / "run" / "old.safetensors"):
        trained = load(file, trust_code=True)
        assert prediction_protocol(trained) == views
        assert list(predict(trained, video)) == whole and list(timeline(trained, video, config=windows)) == timed
        result = evaluate(trained, [Record(path=video, name="video", label=0)])
        assert (result.protocol.clips, result.protocol.short_side, result.protocol.average) == (2, 64, "logits")
        with pytest.raises(SystemExit):
            main(["predict", str(file), video, "--json", "--runtime", "torch", "--trust-code"])
        (printed,) = json.loads(capsys.readouterr().out)
        assert [(label["class"], label["probability"]) for label in printed["labels"]] == [
            (name, pytest.approx(probability, abs=1e-6)) for name, probability in whole[0].labels
        ]
    save_model(tmp_path / "tokens.safetensors", model, NAMES, protocol=replace(protocol, average="tokens"))
    assert prediction_protocol(load(tmp_path / "tokens.safetensors", trust_code=True)).average == "probabilities"


def test_a_file_that_was_given_chooses_no_decoder_and_no_processes(tmp_path: Path) -> None:
    """They are in its protocol, as of the machine that trained it."""
    for split in ("train", "test"):
        for name in NAMES:
            (tmp_path / f"set/{split}/{name}/video").mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (50, 40), (60 * i,) * 3).save(tmp_path / f"set/{split}/{name}/video/img_{i:04d}.png")
    file = tmp_path / "model.safetensors"
    protocol = EvaluateConfig(clips=2, short_side=448, workers=3, decoder="torchcodec")
    save_model(file, linear_model(), sorted(NAMES), protocol=protocol)
    command = ["evaluate", file, "--data", "folder", "--data.root", tmp_path / "set", "--out", tmp_path / "result.json"]
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in [*command, "--trust-code", "--evaluate.workers", "0"]])
    result = Result.read(tmp_path / "result.json")
    assert end.value.code == 0 and not result.failures
    assert (result.protocol.clips, result.protocol.short_side, result.environment.decoder.split()[0]) == (2, 64, "pyav")
    own = protocol_of(load(file, trust_code=True))
    assert (own.clips, own.short_side, own.workers, own.decoder) == (2, 448, -1, "pyav")


def test_several_label_spaces_give_joint_answers(make_video: Callable[..., Path]) -> None:
    spaces = {"verb": ["open", "close"], "noun": ["door", "jar", "book"]}
    model = linear_model({"verb": 2, "noun": 3})
    (p,) = predict(model, [make_video("a.mp4")], classes=spaces, views=VIEWS, top=6)
    assert {name for name, _ in p.labels} == {f"{v} {n}" for v in spaces["verb"] for n in spaces["noun"]}
    assert sum(v for _, v in p.labels) == pytest.approx(1.0)
    scores = {"verb": torch.tensor([2.0, 0.0]).double(), "noun": torch.tensor([0.0, 3.0, 1.0]).double()}
    expected = {"open jar": float(scores["verb"].softmax(-1)[0] * scores["noun"].softmax(-1)[1])}
    joint = joint_probabilities(scores, spaces, "logits", multi_label=False)
    assert dict(rank(joint, joint_names(spaces), 1)) == pytest.approx(expected)
    probabilities = {space: logits.softmax(-1) for space, logits in scores.items()}
    assert torch.equal(joint_probabilities(probabilities, spaces, "probabilities", False), joint)


def test_a_trained_model_names_its_classes_and_a_network_numbers_them(
    make_video: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_video("a.mp4")
    trained = load(save_model(tmp_path / "m.safetensors", linear_model(), NAMES), trust_code=True)
    (named,) = predict(trained, path, views=VIEWS, clips=1, crops=1)
    (numbered,) = predict(trained.model, path, views=replace(VIEWS, clips=1, crops=1))
    assert {name for name, _ in named.labels} == set(NAMES)
    assert [(NAMES[int(number)], p) for number, p in numbered.labels] == list(named.labels)


def test_a_model_of_several_streams_says_what_it_does_without(make_video: Callable[..., Path], tmp_path: Path) -> None:
    path, views = make_video("a.mp4"), EvaluateConfig(clips=1, workers=0)
    pair = create_model("mfst_rgbd_tiny", num_classes=4)
    with pytest.warns(UserWarning, match="takes rgb and depth, and these videos show rgb alone: it is scored without"):
        (answer,) = predict(pair, path, views=views, device="cpu")
    assert answer.labels and not answer.error
    with pytest.raises(GestaError, match="takes rgb and depth, and these videos show flow: give another model"):
        predict(pair, path, views=views, shows=Flow())
    with pytest.raises(GestaError, match="a timeline shows a model one stream, and this one takes several"):
        timeline(pair, path)
    with pytest.raises(GestaError, match="windows show a model one stream, and this one takes several"):
        compute_features(pair, [str(path)], tmp_path / "features", windows=Windows(32, 32))
    record = Record(path=str(path), name="a", label=0)
    pair.config.clip.streams = ("depth", "flow")
    (failure,) = evaluate(pair, [record], views=views, device="cpu").failures
    assert failure["reason"] == "a: has rgb, and none of what the model takes: depth and flow"


@pytest.mark.parametrize("ask", [predict, timeline])
def test_a_model_of_crops_around_the_person_says_that_it_is_shown_whole_videos(
    ask: Callable[..., Any], make_video: Callable[..., Path], tmp_path: Path
) -> None:
    file = save_model(tmp_path / "m.safetensors", linear_model(), NAMES, person_crop=True)
    with pytest.warns(UserWarning, match="trained on crops around the person; these videos are shown to it whole"):
        ask(load(file, trust_code=True), make_video("a.mp4"), views=VIEWS)


def test_a_model_file_has_the_suffix_by_which_it_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(GestaError, match=r"m\.pt: is not called \.safetensors"):
        save_model(tmp_path / "m.pt", linear_model(), NAMES)
    assert not any(tmp_path.iterdir())


def test_names_that_do_not_fit_the_model_are_refused() -> None:
    with pytest.raises(GestaError, match="3 classes, but the model has 4"):
        next(predict(linear_model(), ["a.mp4"], classes=NAMES[:3]))
    with pytest.raises(GestaError, match="features"):
        named_classes(linear_model(0), [])
    with pytest.raises(GestaError, match="verb"):
        named_classes(linear_model({"verb": 2}), NAMES)
    with pytest.warns(UserWarning, match="there is only one class, so a model gives it to every video, whatever"):
        named_classes(linear_model(1), ["wave"])


# --- formats ---------------------------------------------------------------------------------------------------------

TIMED = [
    Prediction(path="a, b.mp4", start=0.0, end=3661.5, labels=(("wave", 0.75), ("run", 0.2))),
    Prediction(path="a, b.mp4", start=3661.5, end=3662.0, labels=(("run", 0.6),)),
    Prediction(path="a, b.mp4", error="a, b.mp4: broke off; copy it again"),
]


def written(predictions: list[Prediction], format: Format) -> str:
    out = io.StringIO()
    assert write(iter(predictions), format, out) == predictions
    return out.getvalue()


def test_csv_has_a_row_per_label() -> None:
    rows = list(csv.DictReader(io.StringIO(written(TIMED, "csv"))))
    assert [(r["path"], r["start"], r["end"], r["rank"], r["class"]) for r in rows] == [
        ("a, b.mp4", "0.000", "3661.500", "1", "wave"),
        ("a, b.mp4", "0.000", "3661.500", "2", "run"),
        ("a, b.mp4", "3661.500", "3662.000", "1", "run"),
        ("a, b.mp4", "", "", "", ""),
    ]
    assert float(rows[0]["probability"]) == 0.75 and rows[3]["error"] == TIMED[2].error


def test_json_is_an_array_even_if_the_run_was_stopped() -> None:
    assert json.loads(written(TIMED, "json")) == [p.to_json() for p in TIMED]
    assert json.loads(written([], "json")) == []
    out = io.StringIO()

    def stopped():  # type: ignore[no-untyped-def]
        yield TIMED[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(stopped(), "json", out)
    assert json.loads(out.getvalue()) == [TIMED[0].to_json()]


def test_srt_is_numbered_cues_of_one_timed_video() -> None:
    assert written(TIMED, "srt") == (
        "1\n00:00:00,000 --> 01:01:01,500\nwave (75%)\n\n2\n01:01:01,500 --> 01:01:02,000\nrun (60%)\n\n"
    )
    with pytest.raises(GestaError, match="timeline=True"):
        written([Prediction(path="a", labels=(("run", 1.0),))], "srt")
    with pytest.raises(GestaError, match="one video"):
        written([TIMED[0], Prediction(path="b", start=0, end=1, labels=(("run", 1.0),))], "srt")


def test_text_and_table_show_times_classes_and_errors() -> None:
    text = written(TIMED, "text").splitlines()
    assert text[0] == "a, b.mp4  00:00:00.000 - 01:01:01.500  wave 0.750, run 0.200"
    assert text[2] == TIMED[2].error
    assert as_table(TIMED).row_count == 3
    shown = written([TIMED[0], Prediction(path="[red]x", labels=(("[b]c", 0.5),))], "table")
    assert "wave" in shown and "[red]x" in shown and "[b]c" in shown


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.9996, 3599.5, 360000.001)] == [
        "00:00:00.000", "00:01:00.000", "00:59:59.500", "100:00:00.001"]  # fmt: skip


# --- the verb --------------------------------------------------------------------------------------------------------


def test_the_verb_writes_files_draws_and_tells_failure(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, good, out = linear_model(), str(mixed / "a.mp4"), tmp_path / "out.csv"
    assert write_predictions(model, [good], classes=NAMES, views=VIEWS, out=str(out), format="csv") == 0
    assert out.read_text().count("\n") == 5 and capsys.readouterr().out == ""
    assert write_predictions(model, [good, str(mixed / "broken.mp4")], classes=NAMES, views=VIEWS, format="text") == 1
    assert len(capsys.readouterr().out.splitlines()) == 2
    drawn = tmp_path / "drawn.mp4"
    settings = {"classes": NAMES, "timeline": True, "config": TimelineConfig(threshold=0.0), "views": VIEWS}
    assert write_predictions(model, [good], format="srt", draw=str(drawn), **settings) == 0  # type: ignore[arg-type]
    assert drawn.exists() and "-->" in capsys.readouterr().out
    with pytest.raises(GestaError, match="draw"):
        write_predictions(model, [good], classes=NAMES, draw=str(drawn))
    with pytest.raises(GestaError, match="nowhere"):
        write_predictions(model, [good], classes=NAMES, out=str(tmp_path / "nowhere" / "x.csv"))


def test_what_could_not_be_written_is_refused_before_anything_is_predicted(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, list_file = mixed / "a.mp4", tmp_path / "list.txt"
    before = good.read_bytes()
    list_file.write_text(f"{good}\n")
    model = linear_model()
    monkeypatch.setattr(type(model), "clips_of", lambda *_: pytest.fail("it has begun to predict"))

    def refusal(*sources: object, **how: Any) -> str:
        with pytest.raises(GestaError) as caught:
            write_predictions(model, [str(source) for source in sources], classes=NAMES, views=VIEWS, **how)
        return str(caught.value)

    assert "is the timeline of one video" in refusal(good, format="srt")
    assert "is the timeline of one video" in refusal(mixed, format="srt", timeline=True)
    assert "must end in .mp4" in refusal(good, timeline=True, draw=str(tmp_path / "a.gif"))
    assert "there is no folder" in refusal(good, timeline=True, draw=str(tmp_path / "nowhere" / "a.mp4"))
    assert "is itself read" in refusal(mixed, format="csv", out=str(good))
    assert "which has no end; give it alone" in refusal("rtsp://host/1", "rtsp://host/2")
    assert "http://host/1: is a camera or a stream, which has no end" in refusal("http://host/1", "a.mp4", live=True)
    assert "a.mp4: is on this machine and has an end; leave --live out" in refusal(good, live=True)
    with pytest.raises(SystemExit):
        main(["predict", "run", "--from", str(list_file), "--out", str(list_file)])
    assert good.read_bytes() == before and list_file.read_text() == f"{good}\n"
    for call in (lambda top: next(predict(model, good, top=top)), lambda top: next(timeline(model, good, top=top))):
        for top in (0, -1):
            with pytest.raises(GestaError, match="give a number from 1 on"):
                call(top)


@pytest.mark.parametrize("format", ["table", "text", "csv", "json", "parquet", "label-studio"])
@pytest.mark.parametrize("review", [False, True])
def test_what_is_there_when_ctrl_c_comes_is_written(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: Format, review: bool
) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    good, out = str(mixed / "a.mp4"), tmp_path / "out"
    out.write_text("of an earlier run")

    def stopped(*_: object, **__: object) -> Iterator[Prediction]:
        yield Prediction(path=good, start=0.0, end=1.0, labels=(("wave", 0.75), ("run", 0.2)))
        raise KeyboardInterrupt

    monkeypatch.setattr("gesta.prediction.timeline.timeline", stopped)
    how: dict[str, Any] = {"classes": NAMES, "views": VIEWS, "timeline": True, "review": review}
    with pytest.raises(KeyboardInterrupt):
        write_predictions(linear_model(), [good], format=format, out=str(out), **how)
    assert b"wave" in out.read_bytes()


def test_dropped_for_their_length_is_said(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TimelineConfig(threshold=0.0, min_duration=1000.0)
    write_predictions(linear_model(), [str(mixed / "a.mp4")], classes=NAMES, views=VIEWS, timeline=True, config=config)
    assert "no action reaches a probability of 0.0 for 1000 s (--threshold, --min-duration)" in capsys.readouterr().err


@pytest.mark.parametrize("timeline", [False, pytest.param(True, marks=pytest.mark.full)])
def test_all_genuine_videos_are_answered(shared: Path, timeline: bool, capsys: pytest.CaptureFixture[str]) -> None:
    model = linear_model(frames=8, stride=4)
    views = EvaluateConfig(clips=1, short_side=32 * 7, batch_size=8, workers=0)
    settings = TimelineConfig(threshold=0.0)
    sources = [str(shared / "videos")]
    write_predictions(model, sources, classes=NAMES, views=views, timeline=timeline, config=settings, format="json")
    found = json.loads(capsys.readouterr().out)
    assert {p["path"] for p in found} == set(find_videos(shared / "videos"))
    failed = {p["path"] for p in found if p["error"]}
    assert not failed, failed


# --- depth -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def depth_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on Marionette's depth."""
    folder = tmp_path_factory.mktemp("depth")
    make_set(folder / "set", clips=12, seed=3, workers=1, size=32, depth=True)
    recipe = find_recipe("demo", model="r3d_tiny")
    recipe.data = Marionette(
        root=str(folder / "set"),
        held_out="cameras",
        modality="depth",
        depth_encoding="repeat3",
        depth_range=(3000, 7000),
    )
    recipe.model.clip = replace(recipe.model.clip, frames=4, size=32)
    recipe.train.epochs, recipe.train.workers, recipe.train.validate_every = 1, 0, 0
    recipe.train.batch_size, recipe.train.warmup_epochs = 4, 0
    recipe.evaluate = EvaluateConfig(split="test", clips=4, crops=1, workers=0)
    return train(recipe, folder / "run")


def _command(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert not end.value.code
    return json.loads(capsys.readouterr().out)


def test_a_model_of_depth_reads_depth_as_its_training_did(depth_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load(depth_run)
    assert loaded.shows == Depth("repeat3", 3000, 7000) and not loaded.person_crop
    result = json.loads((depth_run / "result.json").read_text())
    assert sum(1 for line in (depth_run / "log.jsonl").read_text().splitlines() if '"loss"' in line) >= 2
    record = Marionette(root=str(depth_run.parent / "set"), held_out="cameras", modality="depth").records("test")[0]
    (answer,) = _command(capsys, "predict", str(depth_run), record.path, "--json", "--top", "12")
    found = {label["class"]: label["probability"] for label in answer["labels"]}
    position = result["scores"]["names"].index(record.name)
    assert found == pytest.approx(dict(zip(loaded.classes, result["scores"]["values"]["label"][position])), abs=1e-5)
    other = next(predict(loaded, record.path, top=12, shows=Depth("jet", 3000, 7000)))
    assert dict(other.labels) != pytest.approx(found, abs=1e-5)  # how it is shown is seen in the scores


def test_timelines_of_depth(depth_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Marionette(root=str(depth_run.parent / "set"), modality="depth").records("train")[0]
    answers = _command(capsys, "predict", str(depth_run), record.path, "--json", "--timeline", "--threshold", "0")
    assert answers and all(answer["labels"] and not answer["error"] for answer in answers)


def test_a_model_of_colour_refuses_depth_maps(depth_run: Path) -> None:
    record = Marionette(root=str(depth_run.parent / "set"), modality="depth").records("train")[0]
    (answer,) = predict(linear_model(), [record.path], classes=NAMES, views=VIEWS)
    assert not answer.labels and "is a 16-bit image (a depth map?)" in answer.error and "\n" not in answer.error


def test_masked_depth_is_cropped_if_the_training_cropped_it(tmp_path: Path) -> None:
    folder = tmp_path / "S001C001P001R001A001"
    folder.mkdir()
    for i in range(6):
        maps = np.zeros((424, 512), dtype=np.uint16)
        maps[50:200, 40:90] = 1000 + 500 * i
        Image.fromarray(maps).save(folder / f"MDepth-{i + 1:08d}.png")
    model, depth = linear_model(), Depth()
    cropped, whole = (
        next(predict(model, [folder], classes=NAMES, views=VIEWS, shows=depth, person_crop=crop))
        for crop in (True, False)
    )
    record = Record(path=str(folder), name="a", label=0, shows=depth, masks=str(folder))
    result = evaluate(model, [record], classes=NAMES, views=VIEWS)
    assert result.scores.values["label"][0] is not None
    assert dict(cropped.labels) == pytest.approx(dict(zip(NAMES, result.scores.values["label"][0])), abs=1e-5)
    assert dict(cropped.labels) != pytest.approx(dict(whole.labels), abs=1e-5)


def test_files_that_do_not_say_are_of_colour(tmp_path: Path) -> None:
    path = save_model(tmp_path / "new.safetensors", create_model("r3d_tiny", classes=4), NAMES)
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["gesta"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert metadata.pop("depth") is None and metadata.pop("person_crop") is False
    del metadata["checksum"]
    save_file(weights, tmp_path / "old.safetensors", {"gesta": json.dumps(metadata)})
    assert load(tmp_path / "old.safetensors").shows is None
