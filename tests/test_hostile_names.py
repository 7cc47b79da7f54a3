"""Names of files and classes stay text, wherever they are written: every verb and format against hostile names."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.table import Table

from gesta.analysis.figures import new_figure, set_log_scale, write_figure
from gesta.checkpoint import save_model
from gesta.cli import main
from gesta.comparison.ledger import Ledger
from gesta.cost import Cost, Part
from gesta.errors import GestaError
from gesta.models import create_model
from gesta.prediction.prediction import Prediction
from gesta.prediction.writers import Format, write, write_to
from gesta.progress import csv_cell, json_text, one_line, plain_text, subtitle, track, visible
from gesta.recipes.published import Figure, Verdict
from gesta.records import class_lines
from results import result

NAMES = {
    "terminal": "\x1b]0;owned\x07\x1b[31mred\x1b[2J",
    "eight bits": "\x9b31m\x85",
    "line break": "a\n\n99\n00:00:00,000 --> 00:00:09,000\nfake\r",
    "separators": "a\u2028b\u2029c\x0bd\x0ce\x1cf",
    "direction": "\u202egpj.exe\u2066",
    "latin-1": os.fsdecode(b"caf\xe9"),
    "formula": "=HYPERLINK(A1)",
    "plus": "+1",
    "minus": "-1+cmd|' /C calc'!A0",
    "at": "@SUM(A1)",
    "tab": "\t=1+1",
    "markup": "[/red][link=x]a[/]\\",
    "tags": "<b>{\\an8}--></b>",
    "math": "$\\frac{$ $x$",
    "quotes": "a\"b'c,d;e",
}
ON_DISK = [NAMES[kind].replace("/", "_") for kind in ("terminal", "eight bits", "latin-1", "line break", "markup")]

FORMATS: tuple[Format, ...] = ("table", "text", "csv", "json", "srt")


def controls(text: str) -> set[str]:
    """What a terminal may take for a command, a line break included, in text that is none of them."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in "\u202e\u2066"}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("format", FORMATS)
def test_predictions_in_every_format(tmp_path: Path, kind: str, format: Format) -> None:
    name = NAMES[kind]
    segments = [Prediction(path=name, labels=((name, 0.75), (name, 0.25)), start=i, end=i + 1) for i in range(2)]
    given = [*segments, Prediction(path=name, error=f"{name}: cannot be read ({name})")]
    out = tmp_path / "out"
    write_to(str(out), iter(given), format)
    text = out.read_bytes().decode()  # UTF-8
    assert controls(text) <= {"\n"}
    if format == "text":
        assert text.splitlines() == [str(p) for p in given] and len(text.splitlines()) == 3
    elif format == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["class"] for row in rows] == [csv_cell(name)] * 4 + [""]
        assert not [cell for row in rows for cell in row.values() if cell.lstrip()[:1] in tuple("=+-@")]
    elif format == "json":
        assert json.loads(text) == [p.to_json() for p in given]
    elif format == "srt":
        cues = text.strip("\n").split("\n\n")
        assert [cue.split("\n")[0] for cue in cues] == ["1", "2"] and all(cue.count("\n") == 2 for cue in cues)
        assert text.count("-->") == 2 and not set("<{}") & set(text)
    else:
        assert re.sub(r"[\s│]", "", one_line(name)) in re.sub(r"[\s│]", "", text)


def run(*words: str) -> None:
    with pytest.raises(SystemExit):
        main(words)


@pytest.fixture
def verbs(make_video: Callable[..., Path], tmp_path: Path) -> dict[str, tuple[str, ...]]:
    """Commands that write names, on files, folders and results that have hostile ones."""
    data = make_video("made.mp4", frames=4).read_bytes()
    for name in ON_DISK:
        (tmp_path / "videos" / name).mkdir(parents=True)
        (tmp_path / "videos" / name / f"{name}.mp4").write_bytes(data)
        (tmp_path / "videos" / name / f"broken {name}.mp4").write_bytes(b"nothing")
    classes, labels = list(NAMES.values()), list(range(len(NAMES)))
    for file, answers in (("a.json", [*labels[:-1], None]), ("b.json", [*labels[1:], 0]), ("c.json", labels)):
        names = [f"{file[0] == 'c'}{name}" for name in classes]
        given = result(labels, answers, classes=classes, names=names, summary=NAMES["terminal"], list_hash=file)
        given.write(tmp_path / file)
    torch.manual_seed(0)
    model = str(save_model(tmp_path / "m.safetensors", create_model("r3d_tiny", classes=len(classes)), classes))
    a, b, videos = str(tmp_path / "a.json"), str(tmp_path / "b.json"), str(tmp_path / "videos")
    files = [str(tmp_path / "videos" / name / f"{name}.mp4") for name in ON_DISK]
    out = str(tmp_path / "out.png")
    return {
        "list": ("data", "list", videos, "--folders", "classes"),
        "check": ("data", "check", videos, "--folders", "classes"),
        "prepare": (
            "data",
            "prepare",
            videos,
            str(tmp_path / NAMES["markup"].replace("/", "_")),
            "--short-side",
            "32",
            "--workers",
            "0",
        ),
        "compare": ("compare", a, b),
        "mean": ("mean", a, str(tmp_path / "c.json")),
        "fuse": ("fuse", a, b),
        "confusion": ("analyse", "confusion", a, b, "--out", out),
        "absent": ("predict", model, str(tmp_path / NAMES["terminal"])),
        "unknown": ("analyse", "confusion", a, f"--{NAMES['terminal']}"),
        **{f"predict {f}": ("predict", model, *files, "--clips", "1", "--format", f) for f in FORMATS[:-1]},
        "timeline": ("predict", model, files[0], "--timeline", "--threshold", "0", "--format", "srt"),
    }


def test_verbs(
    verbs: dict[str, tuple[str, ...]], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gesta.curation.check.loader_workers", lambda workers: 0)  # no processes: faster
    for verb, words in verbs.items():
        run(*words)
        out, err = capfd.readouterr()
        assert "Traceback" not in err, verb
        assert controls(out + err) <= {"\n", "\t"}, f"{verb}: {controls(out + err)}"
        assert "owned" in out + err or verb == "timeline", (
            f"{verb}: the names were not written: {out[-500:]} {err[-500:]}"
        )


def test_a_class_with_a_line_break_is_refused_before_anything_is_written(
    make_video: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its name would be two lines of labels.txt and shift all later names."""
    for split in ("train", "val"):
        for name in ("a\nb", "c"):
            make_video(f"videos/{split}/{name}/x.mp4", frames=4)
    run_folder = tmp_path / "run"
    run("train", "finetune", "--model", "r3d_tiny", "--data.root", str(tmp_path / "videos"), "--run", str(run_folder))
    assert "line break; rename" in capfd.readouterr().err and not run_folder.exists()
    run("data", "prepare", str(tmp_path / "videos"), str(tmp_path / "copy"), "--shards", "2")
    assert "line break" in capfd.readouterr().err and not (tmp_path / "copy").exists()
    with pytest.raises(GestaError, match="line break"):
        class_lines(["a", "b\r"])
    assert class_lines(["a", "b\x85c\u2028"]) == "a\nb\x85c\u2028\n"


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_figures_show_names_as_they_are(tmp_path: Path, suffix: str) -> None:
    name = NAMES["math"]
    figure = new_figure(16, 9)
    axes, logarithmic = figure.subplots(1, 2)
    axes.plot([0, 1], [0, 1], label=name)
    axes.set_xticks([0, 1], labels=[name, "x" * 10**5])
    axes.set_title(name)
    axes.set_ylabel("y" * 10**5)
    axes.legend()
    logarithmic.plot([1, 1e6], [0, 1])
    set_log_scale(logarithmic)
    out = write_figure(figure, tmp_path / f"figure{suffix}")
    if suffix == ".svg":
        assert out.read_text().count(f"<!-- {name} -->") == 3 and "mathdefault" not in out.read_text()
        assert all(f"<!-- {letter * 79}… -->" in out.read_text() for letter in "xy")


def test_all_figures_of_analyses_are_made_that_way() -> None:
    folder = Path(__file__).parents[1] / "src" / "gesta" / "analysis"
    made = [file.name for file in folder.rglob("*.py") if re.search(r"\bFigure\(f|pyplot", file.read_text())]
    assert made == []
    assert "PlainFigure(figsize" in (folder / "figures.py").read_text()


def test_brackets_and_colons_stay_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``rich`` takes ``[layer 0, 2]`` for a style and ``:fire:`` for a picture, in titles, columns, cells and bars."""
    text = "[a 0, 2] :fire:"
    grid = Table(title=text)
    grid.add_column(text)
    grid.add_row(text)
    assert plain_text(text, grid).count(text) == 4
    figure = Figure(text, "", "", "M", lambda: 0.0, text)
    assert str(Ledger({text: [Verdict(figure, text, None)]}, {})).count(text) == 4
    assert str(Cost(text, "torch", (1, 1, 1), (Part(text, 1, 1),), {text: 1})).count(text) == 3
    out = io.StringIO()
    write([Prediction(path=text, labels=((text, 1.0),))], "table", out)
    assert out.getvalue().count(text) == 2
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(track([1], text)) == [1]
    assert text in capsys.readouterr().err


def test_every_console_is_a_plain_one() -> None:
    folder = Path(__file__).parents[1] / "src" / "gesta"
    makers = [str(f.relative_to(folder)) for f in folder.rglob("*.py") if re.search(r"\bConsole\(", f.read_text())]
    assert makers == ["progress.py"]
    bars = [str(f.relative_to(folder)) for f in folder.rglob("*.py") if re.search(r"\bTextColumn\(", f.read_text())]
    assert bars == ["progress.py"] and "rich_track" not in (folder / "progress.py").read_text()


@pytest.mark.parametrize("kind", NAMES)
def test_escapes(kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    name = NAMES[kind]
    assert not controls(one_line(name)) and not controls(subtitle(name)) and not controls(csv_cell(name))
    assert controls(visible(f"{name}\n")) <= {"\n", "\t"}
    assert controls(plain_text(name, "next")) == {"\n"} and plain_text(name, "next").count("\n") == 1
    assert json.loads(json_text({name: name})) == {name: name} and not controls(json_text(name))
    assert list(track([1], name, every_s=0)) == [1]
    assert controls(capsys.readouterr().err) == {"\n"}
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(track([1], name)) == [1]
    write([], "table", io.StringIO())
