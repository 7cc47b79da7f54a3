"""``gesta hub push``: a run becomes a repository, from which another folder predicts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN, Hub, hub_fixture, server_fixture  # noqa: F401

import gesta
from gesta.checkpoint import save_model
from gesta.checkpoint.formats import file_hash
from gesta.cli import main
from gesta.evaluation.publish import push
from gesta.evaluation.result import Counts, Environment, ModelSource, Protocol, Result, Scores
from gesta.model import ClipSpec, VideoModel
from gesta.models.timesformer import TimeSformerConfig

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=")  # huggingface_hub 2.4, of its own upload
HOSTILE = "[run](http://evil) <script>|\n---\nlicense: mit"


def make_run(run: Path, classes: list[str]) -> VideoModel:
    """A finished run without its training."""
    run.mkdir()
    torch.manual_seed(0)
    clip = ClipSpec(frames=2, stride=1, size=8)
    model = TimeSformerConfig(width=8, depth=2, heads=2, patch=4, classes=len(classes), clip=clip).build().eval()
    weights = save_model(run / "best.safetensors", model, classes, licence="cc-by-4.0", notes={"recipe": "finetune"})
    scores = Scores(
        classes={"label": classes},
        names=["secret/a.mp4", "secret/b.mp4"],
        labels={"label": [0, 1]},
        values={"label": [[0.9, *[0.05] * (len(classes) - 1)], [0.7, *[0.15] * (len(classes) - 1)]]},
    )
    Result(
        metrics=scores.measure("probabilities"),
        model=ModelSource(
            summary="TimeSformer",
            config={"class": "TimeSformerConfig"},
            config_sha256="",
            checkpoint=str(weights),
            checkpoint_sha256=file_hash(weights),
        ),
        data={"class": "Folder", "root": "/home/me/secret/videos"},
        list_hash="",
        protocol=Protocol(
            split="test", clips=4, crops=3, coverage="even", sampling="dense 2×1", short_videos="loop", short_side=9,
            size=8, average="probabilities",
        ),
        environment=Environment(decoder="pyav 17", precision="32-true", device="cpu", torch="2", gesta="0.1.0"),
        counts=Counts(listed=2, labelled=2, decoded=2, scored=2, failed=0, views=24),
        failures=[], partial=[], seconds=1.0, scores=scores, input_differs="the model was trained on depth",
    ).write(run / "result.json")  # fmt: skip
    return model


def run_verb(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    return int(end.value.code or 0)


def test_a_run_is_pushed_and_predicts_from_another_folder(
    hub: Hub,
    tmp_path: Path,
    make_video: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = make_run(tmp_path / "run", ["sit", HOSTILE, "wave"])
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert run_verb("hub", "push", str(tmp_path / "run"), "me/gestures", "--private", "--message", "first") == 0
    assert capsys.readouterr().out == f"{hub.address}/me/gestures\n"
    repository = hub.repositories["me/gestures"]
    assert repository.token == TOKEN
    assert sorted(repository.files) == ["README.md", "config.json", "model.safetensors", "result.json"]
    assert not any(b"secret" in content for content in repository.files.values())
    config = json.loads(repository.files["config.json"])
    assert config["id2label"] == {"0": "sit", "1": HOSTILE, "2": "wave"}
    result = json.loads(repository.files["result.json"])
    assert result["metrics"]["top1"] == 50.0 and result["data"]["root"] == "videos"

    video, other = make_video("a.mp4", frames=4), tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    assert run_verb("predict", "hf:me/gestures", str(video), "--json", "--clips", "1") == 0
    (prediction,) = json.loads(capsys.readouterr().out)
    (direct,) = gesta.predict(gesta.load(tmp_path / "run"), video, clips=1)
    assert [(label["class"], label["probability"]) for label in prediction["labels"]] == [
        (name, pytest.approx(value, abs=1e-5)) for name, value in direct.labels
    ]
    assert torch.equal(gesta.load("hf:me/gestures").model.state_dict()["cls_token"], model.state_dict()["cls_token"])


def test_the_page_has_result_protocol_and_use_and_nothing_that_its_names_could_begin(hub: Hub, tmp_path: Path) -> None:
    make_run(tmp_path / "run", ["sit", HOSTILE, "wave"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        push(tmp_path / "run", "me/gestures")
    page = hub.repositories["me/gestures"].files["README.md"].decode()
    _, head, body = page.split("---\n", 2)
    assert "license: cc-by-4.0\n" in head and "pipeline_tag: video-classification\n" in head
    assert "library_name: gesta\n" in head and "value: 50.0\n" in head and "license: mit" not in head
    assert "gesta predict hf:me/gestures video.mp4" in body and "4 clips × 3 crops" in body and "| 50.00 |" in body
    assert "The model was trained on depth." in body
    assert not re.search(r"(?<!\\)[<\[|]\w*(script|run)", body) and "\n---" not in body


def test_what_is_not_pushed(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run", ["sit", "wave"])
    for arguments, sentence in {
        (tmp_path, "me/x"): "is no folder with a best.safetensors; give the folder of a run that finished an epoch",
        (tmp_path / "run", "x"): "write hf:OWNER/NAME",
        (tmp_path / "run", "me/x/file"): "write OWNER/NAME",
        (tmp_path / "run", "me/x"): r"hf:me/x: may not be written; .*with the right to write",
    }.items():
        with pytest.raises(gesta.GestaError, match=sentence):
            push(*arguments)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    save_model(tmp_path / "run" / "best.safetensors", gesta.load(tmp_path / "run").model, ["sit", "run"])
    with pytest.raises(gesta.GestaError, match=r"result\.json: is of other weights"):
        push(tmp_path / "run", "me/x")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(gesta.GestaError, match=r"no result\.json, so its training has not finished"):
        push(tmp_path / "run", "me/x")
    with pytest.raises(gesta.GestaError, match=r"best\.safetensors has a head and class names of its own: leave "):
        gesta.load(tmp_path / "run", classes=["a", "b"])
    assert "me/x" not in hub.repositories
    push(tmp_path / "run", "me/x", unfinished=True)
    assert "It has not been evaluated" in hub.repositories["me/x"].files["README.md"].decode()
