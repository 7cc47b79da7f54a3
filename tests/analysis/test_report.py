"""A report is one file that shows what the result and the log say, for runs with and without a training."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from gesta.analysis.report.charts import MAX_CLASSES, confusion_chart, training_curves
from gesta.analysis.report.page import _read_log, write_report
from gesta.analysis.report.strips import strips
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.evaluation.evaluate import evaluate
from gesta.evaluation.result import Result
from gesta.models import create_model
from gesta.progress import visible
from gesta.recipe import EvaluateConfig
from results import result

VOID = {"meta", "img", "br", "rect", "path", "use"}
CHROMIUM = shutil.which("chromium")


class Page(HTMLParser):
    """Checks that elements are closed in order, and gathers text and addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = self.title = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.title += data if self.open[-1:] == ["title"] and "svg" not in self.open else ""
        self.text += data if not self.open or self.open[-1] != "style" else ""


def log_lines(epochs: int = 3, steps: int = 30) -> str:
    lines = []
    for epoch in range(1, epochs + 1):
        for i in range(steps):
            step = (epoch - 1) * steps + i + 1
            losses = {"cross_entropy": 2 / step, "alignment": 0.1}
            line = {"kind": "step", "epoch": epoch, "step": step, "loss": 2 / step + 0.1, "losses": losses, "lr": 0.01}
            lines.append(line)
        val = {"top1": 30.0 * epoch, "top5": 100.0, "mean_class": 30.0, "top1_scored": 40.0}
        failures = {"gone.mp4": "there is no such file"} if epoch == 1 else {}
        lines.append(
            {"kind": "epoch", "epoch": epoch, "step": epoch * steps, "val": val, "seconds": 60.0, "data_fraction": 0.25}
            | {"clips_per_s": 12.0, "failures": failures}
        )
    return "".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "ste'  # killed while it wrote


@pytest.fixture
def run(make_video: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder as an evaluation leaves it: five videos of two classes, one of them broken."""
    for name in ("push & <pull>/a.mp4", "push & <pull>/b.mp4", "wave/c.mp4", "wave/d.mp4"):
        make_video(f"videos/test/{name}", frames=12)
        make_video(f"videos/train/{name}", frames=12)
    (tmp_path / "videos" / "test" / "wave" / "e.mp4").write_bytes(b"nothing")
    data = Folder(root=str(tmp_path / "videos"))
    model = create_model("r3d_tiny", classes=2)
    protocol = EvaluateConfig(clips=1, workers=0)
    found = evaluate(model, data, views=protocol)
    assert found.counts.scored == 4
    found.write(tmp_path / "run" / "result.json")
    return tmp_path / "run"


def test_one_file_with_everything_in_it(run: Path) -> None:
    (run / "log.jsonl").write_text(log_lines())
    (run / "recipe.json").write_text(json.dumps({"name": "my run", "paper": "Nobody 2024"}))
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path.read_text())
    outside = [a for a in page.addresses if not a.startswith(("data:image/jpeg;base64,", "#"))]
    assert outside == [] and not {"script", "link", "iframe"} & set(page.tags)
    assert "push & <pull>" in page.text  # escaped, and read back as text
    for text in ("my run", "Nobody 2024", "1 clip × 1 crop of dense", "of 5 listed, 1 failed", "95 %:"):
        assert text in page.text, text
    for text in ("Training", "3 epochs, 3.0 minutes of training, 25 % of it waiting for data", "alignment", "top1"):
        assert text in page.text, text
    assert re.search(r"e\.mp4", page.text) and "gone.mp4" in page.text and "there is no such file" in page.text
    assert "GMACs per view" in page.text and "list_hash" in page.text
    images = [a.partition(",")[2] for a in page.addresses if a.startswith("data:")]
    assert len(images) == _shown(run)
    for image in images:
        width, height = Image.open(io.BytesIO(base64.b64decode(image))).size
        assert width / height == pytest.approx(8 * 64 / 48, rel=0.02)  # eight frames side by side


def _shown(run: Path) -> int:
    """One hit per class that has any, and every miss."""
    found = json.loads((run / "result.json").read_text())
    labels, values = (found["scores"][name]["label"] for name in ("labels", "values"))
    pairs = [(t, s.index(max(s))) for t, s in zip(labels, values) if s is not None]
    return len({t for t, a in pairs if t == a}) + sum(t != a for t, a in pairs)


def test_without_a_training_and_with_the_videos_elsewhere(run: Path) -> None:
    page = Page(write_report(run).read_text())
    assert "optimiser step" not in page.text and "Training" not in page.text
    assert "data:image" in "".join(page.addresses)
    videos = run.parent / "videos"
    videos.rename(run.parent / "moved")
    lost = Page(write_report(run).read_text())
    assert "No frames can be shown" in lost.text and lost.addresses == []
    found = Page(write_report(run, data_root=run.parent / "moved").read_text())
    assert "data:image" in "".join(found.addresses)
    (run.parent / "moved" / "test" / "wave" / "d.mp4").unlink()
    assert "other videos than the evaluated ones" in write_report(run, run.parent / "moved").read_text()


def test_a_video_that_broke_since_is_named(run: Path) -> None:
    for video in (run.parent / "videos" / "test").rglob("*.mp4"):
        video.write_bytes(b"")
    page = Page(write_report(run).read_text())
    assert page.addresses == []
    named = re.findall(r"videos/test/\S[^\n:]*\.mp4: \w+", page.text)  # the sentence begins with the path
    assert len(named) == _shown(run)


def test_a_folder_without_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GestaError, match=r"has no result\.json"):
        write_report(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(GestaError, match=r"result\.json: is not valid JSON"):
        write_report(tmp_path)


def test_the_result_of_a_split_and_a_foreign_model_will_do(tmp_path: Path) -> None:
    foreign = result([0, 1, None], [0, 0, 1], config={"class": "theirs:Config"}, data=None, input_differs="it was RGB")
    foreign.write(tmp_path / "result-val.json")
    page = Page(write_report(tmp_path).read_text())
    assert tmp_path.name in page.text and "The cost cannot be counted" in page.text
    assert "does not say which data set" in page.text and " It was RGB." in page.text


def test_logits_are_shown_as_probabilities(run: Path) -> None:
    found = Result.read(run / "result.json")
    found.protocol.average = "logits"
    found.scores.values["label"] = [None if row is None else [1000.0, 1000.0] for row in found.scores.values["label"]]
    shown = strips(found, None)
    assert shown is not None
    (first, *_), *_ = (group for _, _, group in shown.groups if group)
    assert [probability for _, probability in first.answers] == pytest.approx([0.5, 0.5])


def test_confusion_matrix_shows_its_numbers() -> None:
    chart = confusion_chart([[3, 1], [0, 2]], ["run", "walk"], [0, 4])
    assert chart.remark == "" and chart.columns == ["run", "walk", "failed"]
    assert [cell.text for cell in chart.cells] == [
        "run: 3 of 4 predicted as run",
        "run: 1 of 4 predicted as walk",
        "walk: 2 of 6 predicted as walk",
        "walk: 4 of 6 failed",
    ]
    many = [[5 if i == j else int(j == i + 1 and i >= 40) for j in range(150)] for i in range(150)]
    chart = confusion_chart(many, [f"c{i}" for i in range(150)], [0] * 150)
    assert str(MAX_CLASSES) in chart.remark and len(chart.rows) == MAX_CLASSES
    assert "c40" in chart.rows and "c0" not in chart.rows


def test_of_a_long_log_some_steps_and_all_epochs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(log_lines(epochs=3, steps=30))
    assert len(_read_log(path)) == 93
    monkeypatch.setattr("gesta.analysis.report.page.MAX_STEPS", 31)
    lines = _read_log(path)
    assert [line["kind"] for line in lines].count("epoch") == 3 and len(lines) == 3 + 93 // 4
    for broken in ("[1]", '{"step": "x"}', '{"kind": "epoch", "val": {"top1": "x"}}', "{", '{"losses": []}'):
        path.write_text(f'{{"kind": "step"}}\n{broken}\n')
        with pytest.raises(GestaError, match=r"log\.jsonl: line 2: .*; delete this line"):
            _read_log(path)


def test_curves_take_what_the_log_has() -> None:
    assert training_curves([]) == "" and training_curves([{"kind": "step"}, {"what": 1}]) == ""
    svg = training_curves([{"kind": "epoch", "step": s, "loss": 1 / s, "val": None} for s in (1, 2, 3)])
    assert "training loss" in svg and "validation" not in svg and "learning rate" not in svg
    assert "currentColor" in svg and "#123456" not in svg and not re.match(r"<svg[^>]* width=", svg)


# --- reports of what others have made --------------------------------------------------------------------------------

SCRIPT = "document.title='changed'"
ATTACKS = [
    f"<img src=x onerror={SCRIPT}>",
    f"</title><script>{SCRIPT}</script>",
    f"'\"><svg onload={SCRIPT}>",
    f"</style></pre></summary></text></svg><script>{SCRIPT}</script>",
    f"{{{{ cycler.__init__.__globals__ }}}}{{% raw %}}<script>{SCRIPT}</script>",
    f"]]>--><iframe srcdoc='<script>parent.{SCRIPT}</script>'></iframe><base href=//x><meta http-equiv=refresh>",
    "$\\frac{$ $x$ \x1b[31m \x9b \udce9 \u202e \x00",
]


def write_hostile(run: Path, attack: str) -> None:
    """A run in which everything that is text says ``attack``."""
    run.mkdir()
    classes = [f"{attack} 0", f"{attack} 1"]
    names = [f"{attack} {i}" for i in range(4)]
    given = result([0, 1, 1, 0], [0, 0, 1, None], classes=classes, names=names, config={"class": attack[:200]})
    fields = given.to_json() | {"data": {"class": attack[:200]}, "list_hash": attack}
    fields["partial"] = [{"index": 0, "name": attack, "reason": attack}]
    fields["failures"][0]["reason"] = attack
    for part in ("model", "protocol", "environment"):
        fields[part] |= {k: attack for k, v in fields[part].items() if isinstance(v, str) and k != "average"}
    write_json(run / "result.json", fields)
    write_json(run / "recipe.json", {"name": attack, "paper": attack, attack: [attack]})
    step = {"kind": "step", "step": 1, "loss": 1.0, "losses": {attack: 1.0, f"{attack}2": 2.0}, "lr": 0.1}
    epoch = {"kind": "epoch", "step": 1, "val": {f"{attack}top1": 1.0}, "failures": {attack: attack}}
    write_json(run / "log.jsonl", step, epoch)


def write_json(path: Path, *values: object) -> None:
    path.write_text("".join(json.dumps(value).replace("\\u0000", "") + "\n" for value in values))


def test_text_of_others_is_text(tmp_path: Path) -> None:
    attack = " ".join(ATTACKS)
    write_hostile(tmp_path / "run", attack)
    html = write_report(tmp_path / "run").read_text()
    page = Page(html)
    assert page.tags.count("script") == page.tags.count("iframe") == page.tags.count("base") == 0
    assert page.tags.count("title") == 1 + html.count("<g><title>")
    assert all(address[0] == "#" for address in page.addresses)  # of the charts' own parts
    assert page.text.count(visible(attack.replace("\x00", ""))) > 20
    assert " style=" not in html.replace(escape(attack), "") and not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", html
    )


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)")
def test_no_script_runs_in_a_browser_and_the_page_works(tmp_path: Path, run: Path) -> None:
    write_hostile(tmp_path / "hostile", " ".join(ATTACKS))
    hostile = write_report(tmp_path / "hostile")
    (run / "log.jsonl").write_text(log_lines())
    # what the page's policy must stop by itself, should the template ever let it through
    marks = f"<script>{SCRIPT}</script><img src=x onerror=\"{SCRIPT}\"><b style='color: red'>red</b>"
    leaky = tmp_path / "leaky.html"
    leaky.write_text(write_report(run).read_text().replace("</body>", f"{marks}</body>"))
    for page, refused in ((hostile, 0), (leaky, 4)):
        dom, console = browse(page)
        assert Page(dom).title == Page(page.read_text()).title
        assert console.count("violates the following Content Security Policy directive") == refused, console


def browse(page: Path) -> tuple[str, str]:
    """The page after its scripts have run, and what the browser said on its console."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    browser = subprocess.run([CHROMIUM, *options, page.as_uri()], capture_output=True, text=True, timeout=120)
    return browser.stdout, browser.stderr
