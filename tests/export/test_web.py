"""The page of ``gesta export --to web`` in a real browser shows what gesta predicts, and sends nothing anywhere."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import http.server
import io
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import CHROMIUM, Browser

import gesta
from gesta.checkpoint import TrainedModel
from gesta.cli import main
from gesta.config import replace, to_json
from gesta.data import clips
from gesta.errors import GestaError
from gesta.evaluation.metrics import Average
from gesta.evaluation.scoring import as_probabilities, joint_probabilities
from gesta.export.web import PAGE, export_web, onnxruntime_web
from gesta.export.write import ExportReport
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.prediction.prediction import Prediction
from gesta.prediction.segments import ClassSegmenters, Segmenter, Window, smooth
from gesta.prediction.windows import WindowCutter
from gesta.prediction.writers import Format, write
from gesta.recipe import EvaluateConfig, ShortVideos
from gesta.video.depth import Depth

HOSTILE = "=red <img src=x onerror=document.title='run'>"
CLASSES = [HOSTILE, "green", "blue"]
FORMATS: tuple[Format, ...] = ("srt", "csv", "json")


def test_the_page_refers_to_nothing_elsewhere_and_makes_no_html_of_text() -> None:
    files = {path.name: path.read_text() for path in PAGE.iterdir()}
    scripts = "".join(text for name, text in files.items() if name.endswith(".js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", scripts)
    addresses = re.findall(r"\w+://[^\s\"'`]+", "".join(files.values()))
    assert set(addresses) == {"http://www.w3.org/2000/svg"}  # the name of a language, which is not fetched
    assert " style=" not in files["index.html"] and not re.search(
        r"<script(?! type=\"module\" src=)", files["index.html"]
    )
    assert "default-src 'none'" in files["index.html"] and "connect-src 'self';" in files["index.html"]
    kept = re.search(r"PAGE_FILES = (\[.*?\])", files["page.js"], re.DOTALL)
    assert kept is not None
    named = set(json.loads(kept[1])) - {"./", "model.json", "model.onnx"}
    assert named | {"index.html", "offline.js"} == files.keys()  # all are kept for use without a network


PAIRS = [("ink", "ground"), ("ink", "panel"), ("ink", "bar"), ("faint", "ground"), ("faint", "panel")]
PAIRS += [("strong", "panel"), ("on-strong", "strong"), ("bad", "bad-ground")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_background(theme: str) -> None:
    """Contrast of at least 4.5, as WCAG 2.2 asks of text (1.4.3, level AA)."""
    blocks = re.findall(r":root \{(.*?)\}", (PAGE / "style.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): #(\w+)", blocks[theme == "dark"]))
    for text, ground in PAIRS:
        darker, lighter = sorted(_luminance(colours[name]) for name in (text, ground))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, f"{text} on {ground}"


def _luminance(colour: str) -> float:
    """Relative luminance of a colour in hexadecimal digits, as WCAG defines it."""
    if len(colour) == 3:
        colour = "".join(2 * digit for digit in colour)
    levels = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_what_cannot_be_a_page_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(words: str) -> str:
        with pytest.raises(SystemExit):
            main(words.split())
        return capsys.readouterr().err

    assert "say which: gesta export RUN --to web DIR" in refusal("export run --to web")
    assert "--uint8 is for files" in refusal("export run --to web page --uint8")
    assert "DIR is for --to web" in refusal("export run --to onnx page")
    colours = TrainedModel(model=model_config("r3d_tiny").build(), classes=[], metadata={})
    with pytest.raises(GestaError, match="RGB alone"):
        export_web(dataclasses.replace(colours, shows=Depth()), tmp_path / "page")
    package = tmp_path / "onnxruntime-web-1.30.0.tgz"
    package.write_bytes(b"another")
    with pytest.raises(GestaError, match="is not onnxruntime-web@"):
        export_web(colours, tmp_path / "page", package=package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(GestaError, match=r"npm.* is not installed; .* npm pack onnxruntime-web@.*--onnxruntime-web"):
        onnxruntime_web()
    features = TrainedModel(model=model_config("r3d_tiny", num_classes=0).build(), classes=[], metadata={})
    with pytest.raises(GestaError, match="gives features"):  # before npm is asked
        export_web(features, tmp_path / "page")
    with pytest.raises(GestaError, match="is there already"):
        export_web(colours, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [package.name]


def test_reports_and_errors_name_the_folder_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one beside it, in which the page is made."""
    refusal = ""

    def written(model: TrainedModel, path: Path, **_: object) -> ExportReport:
        path.write_bytes(b"onnx")
        if refusal:
            raise GestaError(f"{path}: {refusal}")
        facts: dict[str, Any] = {"kind": "onnx", "takes": "", "size": 4, "difference": 0.0, "largest_score": 1.0}
        return ExportReport(path=str(path), model="R3D", clips="3 made clips", **facts)

    monkeypatch.setattr("gesta.export.web.export", written)
    monkeypatch.setattr("gesta.export.web.onnxruntime_web", lambda package: package)
    monkeypatch.setattr("gesta.export.web._unpack", lambda *_: None)
    config = model_config("r3d_tiny", num_classes=3)
    small = replace(config, clip=replace(config.clip, frames=4, size=32)).build()
    trained = TrainedModel(model=small, classes=CLASSES, metadata={})
    report = export_web(trained, tmp_path / "page")
    assert Path(report.to_json()["model"]["path"]).read_bytes() == b"onnx"
    assert json.loads((tmp_path / "page" / "model.json").read_text())["short_side"] == 37  # 256 × 32 / 224
    own = EvaluateConfig(short_side=448, short_videos="clamp", average="logits")
    with_protocol = dataclasses.replace(trained, metadata={"protocol": to_json(own)})  # type: ignore[arg-type]
    export_web(with_protocol, tmp_path / "large")
    export_web(with_protocol, tmp_path / "given", protocol=EvaluateConfig(average="tokens"))
    made = [json.loads((tmp_path / name / "model.json").read_text()) for name in ("large", "given")]
    taken = [[page[name] for name in ("short_side", "short_videos", "average")] for page in made]
    assert taken == [[64, "clamp", "logits"], [37, "loop", "probabilities"]]  # as gesta predict
    refusal = "its scores differ"
    with pytest.raises(GestaError, match=f"^{tmp_path}/other/model.onnx: its scores differ"):
        export_web(trained, tmp_path / "other")


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_a_session_that_computes_otherwise_is_released(tmp_path: Path) -> None:
    """With a stand-in for onnxruntime-web, whose first backend gives other scores."""
    (tmp_path / "ort").mkdir()
    for name, score in (("webgpu", 2), ("wasm", 1)):
        (tmp_path / f"ort/ort.{name}.min.mjs").write_text(
            f"""export const env = {{ wasm: {{}} }};
            export class Tensor {{}}
            const run = async () => ({{ y: {{ data: [{score}] }} }});
            const release = async () => self.released.push("{name}");
            export const InferenceSession = {{
              create: async () => ({{ inputNames: ["x"], outputNames: ["y"], run, release }}) }};"""
        )
    shutil.copy(PAGE / "recogniser.js", tmp_path / "recogniser.mjs")
    (tmp_path / "test.mjs").write_text(
        """globalThis.self = Object.assign(globalThis, { released: [] });
        const navigator = { gpu: { requestAdapter: async () => ({}) } };
        Object.defineProperty(globalThis, "navigator", { value: navigator });
        const show = (result) => console.log(JSON.stringify(result));
        self.postMessage = ({ answer, error }) => show([answer?.backend ?? error, self.released]);
        await import("./recogniser.mjs");
        const given = { clip: { frames: 1, size: 1 }, check: [1] };
        self.onmessage({ data: { id: 0, base: new URL(".", import.meta.url).href, given } });"""
    )
    done = subprocess.run(["node", tmp_path / "test.mjs"], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == ["wasm", ["webgpu"]], done.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_a_clip_waits_for_that_of_a_run_that_was_stopped(tmp_path: Path) -> None:
    """onnxruntime-web on WebGPU refuses a second clip meanwhile ("Session already started")."""
    (tmp_path / "ort").mkdir()
    (tmp_path / "ort/ort.wasm.min.mjs").write_text(
        """export const env = { wasm: {} };
        export class Tensor {}
        let busy = false;
        const run = async () => {
          if (busy) throw new Error("Session already started");
          busy = true;
          await new Promise((done) => setTimeout(done, 20));
          busy = false;
          return { y: { data: [1] } };
        };
        export const InferenceSession = { create: async () => ({ inputNames: ["x"], outputNames: ["y"], run }) };"""
    )
    shutil.copy(PAGE / "recogniser.js", tmp_path / "recogniser.mjs")
    (tmp_path / "test.mjs").write_text(
        """globalThis.self = globalThis;
        Object.defineProperty(globalThis, "navigator", { value: {} });
        self.postMessage = ({ id, error }) => console.log(JSON.stringify([id, error ?? ""]));
        await import("./recogniser.mjs");
        const given = { clip: { frames: 1, size: 1 }, check: [1] };
        self.onmessage({ data: { id: 0, base: new URL(".", import.meta.url).href, given } });
        for (const id of [1, 2]) self.onmessage({ data: { id, clip: new Uint8Array(3) } });"""
    )
    done = subprocess.run(["node", tmp_path / "test.mjs"], capture_output=True, text=True, timeout=60)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[0, ""], [1, ""], [2, ""]], done.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_thresholds_that_move_strips_of_several_classes_and_scores_that_are_no_numbers(tmp_path: Path) -> None:
    shutil.copy(PAGE / "segments.js", tmp_path / "segments.mjs")
    (tmp_path / "test.mjs").write_text(
        """import { Segments, extent, jointProbabilities } from "./segments.mjs";
        const found = [];
        for (const multiLabel of [false, true]) {
          const segments = new Segments(["a", "b"], 0.9, multiLabel);
          const push = (i) => segments.push({ start: i, end: i + 1, probabilities: [0.6, 0.4] });
          const before = [0, 1, 2].flatMap(push);
          segments.changeThreshold(0.5);
          const after = [3, 4, 5].flatMap(push).concat(segments.finish());
          found.push(before.length, after.map(({ start, end, labels }) => [start, end, labels[0][0]]));
        }
        for (const scores of [[1, NaN], [1, Infinity]]) {
          try {
            jointProbabilities([[1, 2], scores], false);
          } catch (error) {
            found.push(error.message.split(";")[0]);
          }
        }
        found.push(extent([{ start: 2, end: 4 }, { start: 1, end: 6 }, { start: 3, end: 5 }]));
        console.log(JSON.stringify(found));"""
    )
    done = subprocess.run(["node", tmp_path / "test.mjs"], capture_output=True, text=True, timeout=60)
    segment = [[2, 6, "a"]]  # the third window waited for the fourth
    refused = "the model's scores are not finite numbers"
    assert json.loads(done.stdout) == [0, segment, 0, segment, refused, refused, [1, 6]], done.stderr


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_windows_and_clips_of_short_videos_are_those_of_gesta(tmp_path: Path) -> None:
    shutil.copy(PAGE / "windows.js", tmp_path / "windows.mjs")
    dense = [{"sampling": "dense", "frames": t, "stride": s, "shrink": k} for t, s, k in [(4, 4, 0), (5, 3, 1)]]
    kinds: list[dict[str, Any]] = [*dense, *({"sampling": "uniform", "frames": t} for t in (4, 5))]
    (tmp_path / "test.mjs").write_text(
        f"""import {{ WindowCutter, shortClip }} from "./windows.mjs";
        const found = [];
        for (const clip of {json.dumps(kinds)}) {{
          for (const how of ["loop", "clamp"]) found.push([4, 10, 17].map((n) => shortClip(n, clip, how)));
          for (let n = 1; n < 160; n++) {{
            const cutter = new WindowCutter(clip, 0.5);
            const numbers = Array.from({{ length: n }}, (_, i) => i);
            found.push(numbers.flatMap((i) => cutter.push(i, i / 12.5, i)).concat(cutter.finish()));
          }}
        }}
        console.log(JSON.stringify(found));"""
    )
    done = subprocess.run(["node", tmp_path / "test.mjs"], capture_output=True, text=True, timeout=60)
    found = iter(json.loads(done.stdout))
    hows: tuple[ShortVideos, ...] = ("loop", "clamp")
    for kind in kinds:
        spec = ClipSpec(**kind | {"shrink": bool(kind.get("shrink"))})
        for how in hows:
            short = [clips.test_indices(n, spec, 1, "even", how)[0].tolist() for n in (4, 10, 17)]
            assert next(found) == short, (kind, how)
        for n in range(1, 160):
            cutter = WindowCutter(spec)
            cut = [w for i in range(n) for w in cutter.push(i, i / 12.5, torch.tensor(i))] + list(cutter.finish())
            theirs, ours = next(found), cut if cutter.complete else []
            assert [w["images"] for w in theirs] == [w.frames.tolist() for w in ours], (kind, n)
            times = [value for w in ours for value in (w.start, w.end)]
            assert [w[name] for w in theirs for name in ("start", "end")] == pytest.approx(times), (kind, n)


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_a_whole_file_has_the_mean_that_the_protocol_says(tmp_path: Path) -> None:
    shutil.copy(PAGE / "segments.js", tmp_path / "segments.mjs")
    scores = [[[3.0, -1.0], [0.5, 2.0, -4.0]], [[-2.0, 0.0], [1.0, 1.5, 5.0]]]  # of two windows, by label space
    hows: list[tuple[Average, bool]] = [("logits", False), ("probabilities", False), ("logits", True)]
    (tmp_path / "test.mjs").write_text(
        f"""import {{ Whole }} from "./segments.mjs";
        console.log(JSON.stringify({json.dumps(hows)}.map(([average, multiLabel]) => {{
          const whole = new Whole(average, multiLabel);
          for (const spaces of {json.dumps(scores)}) whole.push(multiLabel ? spaces.slice(0, 1) : spaces);
          return whole.probabilities();
        }})));"""
    )
    done = subprocess.run(["node", tmp_path / "test.mjs"], capture_output=True, text=True, timeout=60)
    for theirs, (average, multi_label) in zip(json.loads(done.stdout), hows, strict=True):
        spaces = {str(k): torch.tensor(both).double() for k, both in enumerate(zip(*scores)) if not (multi_label and k)}
        if average != "logits":
            spaces = {space: as_probabilities(values, multi_label) for space, values in spaces.items()}
        means = {space: values.mean(0) for space, values in spaces.items()}
        assert theirs == pytest.approx(joint_probabilities(means, means, average, multi_label).tolist())


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_files_say_what_is_missing_as_those_of_gesta_predict_do(tmp_path: Path) -> None:
    shutil.copy(PAGE / "segments.js", tmp_path / "segments.mjs")
    error = "a, b.mp4: breaks off; copy it again"
    (tmp_path / "test.mjs").write_text(
        f"""import {{ FORMATS }} from "./segments.mjs";
        const segments = [{{ start: 0, end: 1.5, labels: [["wave", 0.75], ["run", 0.25]] }}];
        const files = ["csv", "json"].map((format) => FORMATS[format](segments, "a, b.mp4", {json.dumps(error)})[1]);
        console.log(JSON.stringify(files));"""
    )
    done = subprocess.run(["node", tmp_path / "test.mjs"], capture_output=True, text=True, timeout=60)
    table, values = json.loads(done.stdout)
    segment = Prediction(path="a, b.mp4", start=0.0, end=1.5, labels=(("wave", 0.75), ("run", 0.25)))
    ours = [segment, Prediction(path="a, b.mp4", error=error)]
    write(ours, "csv", out := io.StringIO())
    assert table == out.getvalue()
    assert json.loads(values) == [part.to_json() for part in ours]


# --- in a browser ----------------------------------------------------------------------------------------------------

in_a_browser = [  # nothing else runs the page
    pytest.mark.full,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """A model of three colours: trained, so that no rounding changes its answers."""
    torch.manual_seed(0)
    config = model_config("r3d_tiny", num_classes=3)
    network = replace(config, clip=replace(config.clip, frames=4, stride=2, size=32)).build().train()
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    labels = torch.arange(12) % 3
    for _ in range(30):
        views = 30 + 50 * torch.rand(12, 4, 3, 32, 32)
        views[range(12), :, labels] += 120
        loss = F.cross_entropy(network(network.clips_of(views.to(torch.uint8))), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return TrainedModel(model=network.eval(), classes=CLASSES, metadata={"licence": "cc-by-4.0"})


def film(path: Path, colours: list[int], codec: str, pixels: str, rate: int = 25) -> Path:
    """A video in which a grey square moves before one colour after the other."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 160, 120, pixels
        for i, colour in enumerate(colours):
            image = np.full((120, 160, 3), 50, np.uint8)
            image[..., colour] = 190
            image[20:50, 4 * i % 130 : 4 * i % 130 + 30] = 90
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3.2 seconds: green, then blue for longer."""
    return film(tmp_path_factory.mktemp("clip") / "clip.mp4", [1] * 16 + [2] * 64, "libx264", "yuv420p")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def folder(model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported page."""
    try:
        package = onnxruntime_web()
    except GestaError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("web") / "page"
    assert export_web(model, folder, package=package).size > 2**25
    return folder


@contextlib.contextmanager
def served(folder: Path) -> Iterator[http.server.HTTPServer]:
    """The page on a port of localhost."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:  # else the thread keeps the process alive after a test that fails
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[http.server.HTTPServer]:
    with served(folder) as server:
        yield server


RECOGNISED = "document.querySelector('#state').textContent.endsWith('is recognised.')"
READY = "document.querySelector('#state')?.textContent.startsWith('Ready')"


@pytest.fixture(scope="module")
def page(server: http.server.HTTPServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The page with its model loaded, before a camera that sees green."""
    folder = tmp_path_factory.mktemp("browser")
    seen = film(folder / "camera.mjpeg", [1] * 50, "mjpeg", "yuvj420p")
    flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with Browser(folder, *flags, f"--use-file-for-fake-video-capture={seen}") as browser:
        browser.open(f"http://localhost:{server.server_port}/")
        browser.wait_for(READY, 120)
        yield browser


def text(page: Browser, selector: str) -> str:
    return page.evaluate(f"document.querySelector({json.dumps(selector)})?.textContent ?? ''")


class TestPage:
    pytestmark = in_a_browser

    def test_a_camera_shows_what_gesta_predicts(self, page: Browser, model: TrainedModel, tmp_path: Path) -> None:
        (expected,) = gesta.predict(model, [film(tmp_path / "green.mp4", [1] * 50, "libx264", "yuv420p")])
        for _ in range(9):  # with the keyboard alone
            page.press("Tab")
            if page.evaluate("document.activeElement.id") == "camera":
                break
        page.press("Enter")
        page.wait_for("!document.querySelector('#caption').hidden")
        assert text(page, "#ranking li .name") == expected.labels[0][0] == "green"
        speed = r"/[1-9]\d* frames\/s seen, \d+ ms per clip/.test(document.querySelector('#speed').textContent)"
        page.wait_for(speed)
        assert text(page, "#announced") == "green"  # read aloud
        page.evaluate("document.querySelector('#stop').click()")
        assert text(page, "#announced") == ""  # so that the next run announces it again
        assert text(page, "#segments .name") == "green"
        assert page.evaluate("document.querySelector('video').srcObject") is None  # the camera is off

    def test_a_file_gives_the_timeline_that_gesta_gives(
        self, page: Browser, model: TrainedModel, clip: Path, tmp_path: Path
    ) -> None:
        (whole,) = gesta.predict(model, [clip])
        expected = list(gesta.timeline(model, clip))
        page.choose("#file", clip)
        page.wait_for("!document.querySelector('#whole').hidden")
        page.wait_for("document.querySelector('#ranking .name').textContent === 'green'")  # of the beginning again
        assert page.evaluate("document.querySelector('#whole').dataset.label") == whole.labels[0][0] == "blue"
        page.downloads(tmp_path)
        for format in FORMATS:
            page.evaluate(f"document.querySelector('#{format}').click()")
        ours = {}
        for format in FORMATS:
            write([dataclasses.replace(p, path="clip.mp4") for p in expected], format, out := io.StringIO())
            ours[format] = (out.getvalue(), wait_for_file(tmp_path / f"clip.{format}"))
        assert near(*ours["srt"]) and near(*ours["csv"])
        assert ours["csv"][1].splitlines()[0] == ours["csv"][0].splitlines()[0]
        assert "'=red <img" in ours["csv"][1] and "<" not in ours["srt"][1].replace("-->", "")
        assert list(csv.reader(io.StringIO(ours["csv"][1])))[1][4] == "green"
        for theirs, one in zip(json.loads(ours["json"][1]), json.loads(ours["json"][0]), strict=True):
            assert theirs.keys() == one.keys() and theirs["start"] == pytest.approx(one["start"], abs=0.01)
            assert [label["class"] for label in theirs["labels"]] == [label["class"] for label in one["labels"]]

    def test_a_file_is_watched_once_it_is_recognised(self, page: Browser, clip: Path) -> None:
        """And seeks of others, as by a keyboard's keys for media, do not put wrong frames into windows."""
        table = "[...document.querySelectorAll('#segments tr')].map((row) => row.textContent)"
        page.choose("#file", clip)
        page.wait_for(RECOGNISED)
        expected = page.evaluate(table)
        assert len(expected) == 2 and "green" in expected[0]
        page.evaluate(
            """{
            const [video, state] = ["video", "#state"].map((name) => document.querySelector(name));
            window.seeks = 0;
            window.offered = [];
            video.onseeking = () => {
              if (!state.textContent.includes("%")) return;
              window.offered.push(video.controls || document.querySelectorAll("#segments button:enabled").length > 0);
              if (window.seeks < 12 && window.seeks++ % 2 === 0) video.currentTime = 3; // blue
            };
            }"""
        )
        page.choose("#file", clip)
        page.wait_for(f"window.seeks === 12 && {RECOGNISED}")
        page.evaluate("document.querySelector('video').onseeking = null")
        assert page.evaluate(table) == expected
        assert page.evaluate("window.offered.length > 12 && !window.offered.includes(true)")
        assert page.evaluate("document.querySelector('video').controls")
        move = "document.querySelector('#threshold').value = {}; document.querySelector('#threshold').oninput()"
        page.evaluate(move.format(100))
        assert page.evaluate(table) == [] and page.evaluate("document.querySelector('#csv').disabled")
        page.evaluate(move.format(50))
        assert page.evaluate(table) == expected
        page.evaluate("document.querySelectorAll('#segments button')[1].click()")
        assert page.evaluate("document.querySelector('video').currentTime") > 0.3

    def test_frames_that_come_late_do_not_change_the_frame_rate(
        self, page: Browser, model: TrainedModel, tmp_path: Path
    ) -> None:
        slow = film(tmp_path / "slow.mp4", [1] * 8 + [2] * 32, "libx264", "yuv420p", rate=10)
        expected = list(gesta.timeline(model, slow))
        page.evaluate(
            """{
            const own = (window.own = HTMLVideoElement.prototype.requestVideoFrameCallback);
            let asked = 0;
            HTMLVideoElement.prototype.requestVideoFrameCallback = function (callback) {
              setTimeout(() => own.call(this, callback), asked++ ? 0 : 1500);
            };
            window.hide = (hidden) => {
              Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
              document.dispatchEvent(new Event("visibilitychange"));
            };
            window.hide(true);
            }"""
        )
        page.choose("#file", slow)
        page.wait_for("document.querySelector('#state').textContent === 'slow.mp4 waits until this tab is shown.'")
        page.evaluate("window.hide(false)")
        page.wait_for("document.querySelector('#state').textContent === 'slow.mp4: waiting for its first pictures …'")
        page.wait_for(RECOGNISED)
        page.evaluate(
            "delete document.hidden; HTMLVideoElement.prototype.requestVideoFrameCallback = window.own; undefined"
        )
        page.downloads(tmp_path)
        page.evaluate("document.querySelector('#csv').click()")
        write([dataclasses.replace(p, path="slow.mp4") for p in expected], "csv", out := io.StringIO())
        assert near(out.getvalue(), wait_for_file(tmp_path / "slow.csv"))

    def test_names_of_classes_are_text_and_nothing_goes_elsewhere(
        self, page: Browser, server: http.server.HTTPServer
    ) -> None:
        assert HOSTILE in text(page, "#classes") and page.evaluate("document.images.length") == 0
        assert page.evaluate("document.title") == "R3D: action recognition"
        origin = f"http://localhost:{server.server_port}/"
        assert [request for request in page.requests if not re.match(f"(blob:)?{origin}|data:", request)] == []
        elsewhere = f"http://127.0.0.1:{server.server_port}/model.json"  # another origin, which answers
        ask = f"fetch({elsewhere!r}, {{mode: 'no-cors'}}).then(() => 'sent', () => 'kept')"
        assert page.evaluate(ask) == "kept"
        worker = (
            f"new Promise((done) => {{ const code = new Blob([{json.dumps(f'{ask}.then(postMessage)')}]);"
            "new Worker(URL.createObjectURL(code)).onmessage = (event) => done(event.data); })"
        )
        assert page.evaluate(worker) == "kept"

    def test_it_computes_as_python_does(self, page: Browser) -> None:
        random = np.random.default_rng(0)
        values = random.dirichlet([0.3] * 3, 40).round(6)
        for multi_label in (False, True):
            windows = [Window(i / 2, i / 2 + 1, torch.tensor(row, dtype=torch.float64)) for i, row in enumerate(values)]
            how = 0.5, 0.25, 0.0
            segmenter = ClassSegmenters(3, *how) if multi_label else Segmenter(*how)
            ours = [s for window in smooth(windows, 3) for s in segmenter.push(window)] + list(segmenter.finish())
            theirs = page.evaluate(
                f"""import("./segments.js").then(({{ Segments, Smoother }}) => {{
                const [smoother, segments] = [new Smoother(3), new Segments([0, 1, 2], 0.5, {json.dumps(multi_label)})];
                const windows = {json.dumps(values.tolist())}.map((probabilities, i) =>
                    ({{ start: i / 2, end: i / 2 + 1, probabilities }}));
                const smoothed = windows.flatMap((window) => smoother.push(window)).concat(smoother.finish());
                return smoothed.flatMap((window) => segments.push(window)).concat(segments.finish()); }})"""
            )
            assert [(s["start"], s["end"], s["labels"][0][0]) for s in theirs] == [
                (s.start, s.end, s.label) for s in ours
            ]
        for sampling, count in (("dense", 23), ("uniform", 131)):
            spec = ClipSpec(frames=4, stride=2) if sampling == "dense" else ClipSpec(frames=4, sampling="uniform")
            cutter = WindowCutter(spec)
            cut = [w for i in range(count) for w in cutter.push(i, i / 12.5, torch.tensor(i))] + list(cutter.finish())
            theirs = page.evaluate(
                f"""import("./windows.js").then(({{ WindowCutter }}) => {{
                const cutter = new WindowCutter({{ frames: 4, stride: 2, sampling: "{sampling}" }}, 0.5);
                const numbers = Array.from({{ length: {count} }}, (_, i) => i);
                return numbers.flatMap((i) => cutter.push(i, i / 12.5, i)).concat(cutter.finish()); }})"""
            )
            assert [w["images"] for w in theirs] == [w.frames.tolist() for w in cut] != []
            assert [w["end"] for w in theirs] == pytest.approx([w.end for w in cut])

    def test_it_works_without_a_network(self, page: Browser, server: http.server.HTTPServer) -> None:
        page.wait_for("caches.keys().then((names) => names.length)")
        page.wait_for("caches.match('ort/ort-wasm-simd-threaded.wasm').then(Boolean)")
        page.wait_for("!document.querySelector('#offline').hidden")
        server.shutdown()
        server.socket.close()
        page.open(f"http://localhost:{server.server_port}/")
        page.wait_for(READY, 120)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)")
def test_webgpu_gives_the_scores_of_the_model(folder: Path, tmp_path: Path) -> None:
    """Without a GPU SwiftShader, which Chromium has, computes what it would. The page compares the scores itself."""
    flags = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
    with served(folder) as server, Browser(tmp_path, *flags) as browser:
        browser.open(f"http://localhost:{server.server_port}/")
        if browser.wait_for("navigator.gpu.requestAdapter().then((adapter) => adapter ? 'one' : 'none')") == "none":
            pytest.skip("this chromium has no WebGPU in software")
        browser.wait_for(READY, 300)
        assert text(browser, "#speed") == "The model runs on WebGPU."
        description = json.loads((folder / "model.json").read_text())
        description["check"][0] += 1  # as of a GPU that computes otherwise
        wrong = shutil.copytree(folder, tmp_path / "wrong")
        (wrong / "model.json").write_text(json.dumps(description))
    with served(wrong) as server, Browser(tmp_path) as browser:
        browser.open(f"http://localhost:{server.server_port}/")
        browser.wait_for("document.querySelector('#problem')?.hidden === false", 300)
        assert "on wasm the scores differ from the model's by" in text(browser, "#problem")
        assert browser.evaluate("document.querySelector('#camera').disabled")


def wait_for_file(path: Path) -> str:
    end = time.monotonic() + 30
    while not path.is_file():
        assert time.monotonic() < end, f"{path} was never downloaded"
        time.sleep(0.1)
    return path.read_text()


NUMBER = re.compile(r"\d+(?:[.,]\d+)?")


def near(one: str, other: str) -> bool:
    """Whether texts are equal but for numbers that differ by 0.03 (or 3 %): browsers round colours otherwise."""
    numbers = [[float(number.replace(",", ".")) for number in NUMBER.findall(text)] for text in (one, other)]
    return NUMBER.sub("#", one) == NUMBER.sub("#", other) and np.allclose(*numbers, atol=0.03, rtol=0.03)
