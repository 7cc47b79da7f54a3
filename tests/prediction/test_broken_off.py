"""Videos whose end is missing, passwords in addresses, weights that are not numbers: what the output says."""

from __future__ import annotations

import base64
import json
import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from gesta.cli.predict import write_predictions
from gesta.config import replace
from gesta.errors import BrokenOffError, GestaError, without_passwords
from gesta.evaluation.evaluate import evaluate
from gesta.model import ClipSpec, VideoModel
from gesta.models.r3d import R3DConfig
from gesta.prediction.predict import predict
from gesta.prediction.prediction import Prediction
from gesta.prediction.timeline import TimelineConfig, timeline
from gesta.progress import json_text, one_line, visible
from gesta.recipe import EvaluateConfig
from gesta.records import Record
from gesta.video.archive import ByteRange
from gesta.video.read import stream
from gesta.video.whole import missing_bytes

VIEWS = EvaluateConfig(clips=1, workers=0, batch_size=4)


def write(path: Path, codec: str = "libx264", options: dict[str, str] | None = None, frames: int = 40) -> Path:
    """Noise, so that bytes are spread evenly over the time."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        generator = np.random.default_rng(0)
        for _ in range(frames):
            image = generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def halve(path: Path) -> Path:
    half = path.with_name(f"half_{path.name}")
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return half


@pytest.fixture(scope="module")
def model() -> VideoModel:
    clip = ClipSpec(frames=2, stride=2, size=32)
    return R3DConfig(depths=(1, 1, 1, 1), width=4, classes=2, clip=clip).build().eval()


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "libx264", {}),
        ("a.mp4", "libx264", {"movflags": "faststart"}),
        ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.avi", "mpeg4", {}),
        ("a.wmv", "wmv2", {}),
        ("a.webm", "libvpx", {}),
    ],
)
def test_half_a_file_is_known_by_its_length(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    path = write(tmp_path / name, codec, options, frames=20)
    for file in (path, halve(path)):
        size = file.stat().st_size
        missing = missing_bytes(ByteRange(str(file), 0, size))
        if file == path:
            assert missing == ""
        else:
            assert abs(int(missing.split()[0]) - (path.stat().st_size - size)) <= 400  # the index that follows
    tar = tmp_path / "as_a_member"
    tar.write_bytes(b"x" * 512 + path.read_bytes() + b"y" * 512)
    assert missing_bytes(ByteRange(str(tar), 512, path.stat().st_size)) == ""


def test_genuine_files_are_whole(shared: Path) -> None:
    for path in [*shared.rglob("*.mp4"), *shared.rglob("*.avi"), *shared.rglob("*.mkv")]:
        assert missing_bytes(ByteRange(str(path), 0, path.stat().st_size)) == "", path


def test_half_a_file_is_named_in_every_output(
    tmp_path: Path, model: VideoModel, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write(tmp_path / "a.mkv")
    half = halve(whole)
    (first, second) = predict(model, [whole, half], views=VIEWS, device="cpu")
    assert first.labels and not first.error
    assert second.labels and "breaks off before its end (" in second.error and "copy or download" in second.error
    assert "breaks off" in str(second) and second.labels[0][0] in str(second)
    *segments, last = timeline(model, half, config=TimelineConfig(threshold=0.0), views=VIEWS, device="cpu")
    assert segments[-1].end == pytest.approx(2.0, abs=0.3) and "breaks off after 1." in last.error
    for format in ("table", "text", "csv", "json", "srt"):
        status = write_predictions(model, [str(half)], views=VIEWS, device="cpu", timeline=True, format=format)
        shown = capsys.readouterr()
        assert status == 1
        assert "breaks off" in " ".join((shown.err if format == "srt" else shown.out).split()), format
    result = evaluate(model, [Record(path=str(half), name="half", label=0)], views=replace(VIEWS, split="val"))
    assert result.counts.scored == 1 and "breaks off" in result.partial[0]["reason"]
    early = Record(path=str(half), name="half", label=0, start=0, end=8)
    assert evaluate(model, [early], views=replace(VIEWS, split="val")).partial == [], "the segment lacks nothing"


# --- addresses -------------------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Serves the files of ``folder``; of ``/half/`` and ``/reset/`` the first half, before the connection ends."""

    folder: Path
    names: set[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        _, how, name = self.path.split("/")
        if self.headers.get("Authorization"):
            self.names.add(base64.b64decode(self.headers["Authorization"].split()[1]).decode())
        data = (self.folder / name).read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : len(data) if how == "whole" else len(data) // 2])
        if how == "silent":
            self.wfile.flush()
            time.sleep(2)
        if how == "reset":
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    write(tmp_path / "a.mkv", frames=80)
    handler = type("Handler", (Server,), {"folder": tmp_path, "names": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://anna:s3cret@127.0.0.1:{server.server_port}"
    assert handler.names <= {"anna:s3cret"}  # the server is still given it
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("how", ["whole", "half", "reset"])
def test_addresses_are_read_and_a_broken_connection_is_named(
    address: str, tmp_path: Path, model: VideoModel, how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    source = f"{address}/{how}/a.mkv"
    out = tmp_path / "out.json"
    for timed in (False, True):
        config = TimelineConfig(threshold=0.0)
        status = write_predictions(
            model, [source], views=VIEWS, device="cpu", timeline=timed, config=config, format="json", out=str(out)
        )
        predictions = json.loads(out.read_text())
        assert status == (how != "whole") and predictions[0]["path"] == source.replace("s3cret", "***")
        errors = [p["error"] for p in predictions if p["error"]]
        if how == "whole":
            assert not errors and predictions[0]["labels"]
        else:
            assert len(errors) == 1 and ("breaks off" in errors[0] or "cannot be" in errors[0])
    (here,) = predict(model, tmp_path / "a.mkv", views=VIEWS, device="cpu")
    if how == "whole":
        (there,) = predict(model, source, views=VIEWS, device="cpu")
        assert there.labels == here.labels
    assert "s3cret" not in out.read_text() and "s3cret" not in "".join(capfd.readouterr())


def test_a_server_that_falls_silent_is_named_with_its_remedy(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a camera that was unplugged: there is nothing to copy or download again."""
    monkeypatch.setattr("gesta.video.container.NETWORK_TIMEOUT", 0.5)
    with pytest.raises(BrokenOffError, match=r"breaks off .* \(it did not answer in time\); check the"):
        list(stream(f"{address}/silent/a.mkv"))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("rtsp://anna:s3cret@cam/1: no answer", "rtsp://anna:***@cam/1: no answer"),
        ("http://anna:a@b:c@cam:80/x@y and http://:pw@h", "http://anna:***@cam:80/x@y and http://:***@h"),
        ("http://cam:80/x@y, http://anna@cam", "http://cam:80/x@y, http://anna@cam"),
    ],
)
def test_passwords_are_not_shown(given: str, shown: str) -> None:
    for shows in (without_passwords, GestaError, one_line, visible):
        assert str(shows(given)) == shown
    assert json_text([given]) == f'["{shown}"]'
    assert Prediction(path=given.split(": ")[0]).path == shown.split(": ")[0]


# --- weights ---------------------------------------------------------------------------------------------------------


def test_weights_that_are_not_numbers_give_an_error_that_names_them(tmp_path: Path, model: VideoModel) -> None:
    bad = R3DConfig.build(model.config).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        bad.get_parameter("classifier.linear.weight")[0, 0] = math.nan
    path = write(tmp_path / "a.mkv", frames=8)
    out = tmp_path / "out.json"
    named = "not finite numbers: the model: 1 of its "
    for timed in (False, True):
        assert write_predictions(
            bad, [str(path)], views=VIEWS, device="cpu", timeline=timed, format="json", out=str(out)
        )
        (prediction,) = json.loads(out.read_text(), parse_constant=pytest.fail)
        assert named in prediction["error"] and "classifier.linear.weight" in prediction["error"]
        assert not prediction["labels"]
    result = evaluate(bad, [Record(path=str(path), name="a", label=0)], views=VIEWS)
    assert named in result.failures[0]["reason"] and result.counts.scored == 0


def test_scores_that_are_not_numbers_are_an_error_of_the_video(
    tmp_path: Path, model: VideoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.mkv", frames=8)
    monkeypatch.setattr(type(model), "forward", lambda self, clips: torch.full((len(clips), 2), math.nan))
    (whole,) = predict(model, path, views=VIEWS, device="cpu")
    (timed,) = timeline(model, path, views=VIEWS, device="cpu")
    for prediction in (whole, timed):
        assert not prediction.labels and "scores are not finite" in prediction.error
        json.dumps(prediction.to_json(), allow_nan=False)
