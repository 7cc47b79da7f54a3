"""A run on one page: curves, confusions, hits and misses in a single HTML file that needs no other file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from gesta.analysis.confusion import confused_pairs
from gesta.analysis.report.charts import confusion_svg, training_curves
from gesta.analysis.report.strips import strips
from gesta.config import from_json
from gesta.cost import count
from gesta.errors import GestaError
from gesta.evaluation.result import Result
from gesta.files import write_text
from gesta.model import ModelConfig

PAIRS = 15
"""Confused pairs that are listed at most."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --page: #ffffff; --card: #f5f6f8; --line: #dfe3e8;
  --hit: #2563eb; --miss: #ea580c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --page: #14171c; --card: #1e232b;
  --line: #323a46; --hit: #60a5fa; --miss: #fb923c; } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 1080px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 } h2 { font-size: 1.15rem; margin: 2.6rem 0 .7rem } h3 { font-size: 1rem }
p { margin: .4rem 0 } .soft { color: var(--soft) } .scroll { overflow-x: auto }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.3rem 0 }
.card { background: var(--card); border-radius: 10px; padding: .7rem 1.1rem; min-width: 9.5rem }
.card b { display: block; font-size: 1.65rem; line-height: 1.25; font-variant-numeric: tabular-nums }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem }
th { text-align: left; font-weight: 600; color: var(--soft) } th, td { padding: .22rem .9rem .22rem 0 }
tr + tr > td { border-top: 1px solid var(--line) } td.n, th.n { text-align: right }
.bar { display: inline-block; height: .55rem; border-radius: 3px; background: var(--hit); vertical-align: middle }
.miss .bar.top, .bar.miss { background: var(--miss) } .bar.other { background: var(--soft); opacity: .55 }
.strip { margin: .9rem 0 1.3rem } .strip img { display: block; max-width: 100%; border-radius: 6px }
.strip .answers { display: grid; grid-template-columns: repeat(3, 1fr); gap: 0 1.4rem; font-size: .88rem }
.strip .answers span { display: flex; justify-content: space-between }
.matrix text { fill: currentColor } .matrix text.on { fill: var(--page) }
.matrix .row { fill: none; stroke: var(--line); stroke-width: .5 }
.matrix .hit { fill: var(--hit) } .matrix .miss { fill: var(--miss) } .matrix .failed { fill: var(--soft) }
svg { max-width: 100%; height: auto } svg.matrix { max-width: none }
details { margin: .5rem 0 } summary { cursor: pointer; font-weight: 600 }
pre { background: var(--card); border-radius: 8px; padding: 1rem; overflow-x: auto; font-size: .8rem }
"""


def write_report(run: str | Path, data_root: str | Path | None = None) -> Path:
    """Write ``report.html`` into a run's folder.

    Args:
        run: a folder with ``result.json`` (or ``result-SPLIT.json``); the curves come from ``log.jsonl`` and the title
            from ``recipe.json`` where these exist.
        data_root: folder of the videos, if they have moved since they were evaluated.

    Returns:
        The file's path.

    Raises:
        GestaError: no result in the folder, or a broken one.
    """
    run = Path(run)
    results = sorted(run.glob("result*.json"))
    if not results:
        raise GestaError(f"{run}: has no result.json; gesta train and gesta evaluate write one")
    result = Result.read(run / "result.json" if run / "result.json" in results else results[0])
    recipe = _read_json(run / "recipe.json")
    log = _read_log(run / "log.jsonl")
    title = recipe.get("name") or run.resolve().name
    parts = [
        *_header(result, str(title), str(recipe.get("paper") or "")),
        *_section("Training", _training(log)),
    ]
    for space in result.scores.classes:
        name = "" if len(result.scores.classes) == 1 else f": {space}"
        parts += _section(f"Confusion matrix{name}", _confusion(result, space))
        parts += _section(f"Classes{name}", _classes(result, space))
    parts += _section("Videos, right and wrong", strips(result, data_root))
    parts += _section("Videos that failed", _failures(result, log))
    parts += _section("Cost", _cost(result))
    parts += _section("Result", _details(result, recipe))
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(str(title))}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    write_text(run / "report.html", page)
    return run / "report.html"


def _section(title: str, body: Iterator[str]) -> list[str]:
    """A headline and what follows it; nothing if nothing follows."""
    lines = list(body)
    return [f"<h2>{escape(title)}</h2>", *lines] if lines else []


def _header(result: Result, title: str, paper: str) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>"
    if paper:
        yield f'<p class="soft">{escape(paper)}</p>'
    cards: list[tuple[str, str, str]] = []
    for prefix in [""] if len(result.scores.classes) == 1 else [f"{space}/" for space in result.scores.classes]:
        for key, name in (("top1", "top-1"), ("top5", "top-5"), ("mean_class", "mean class")):
            value = result.metrics.get(prefix + key)
            if value is not None:
                cards.append(
                    (prefix + name, f"{value:.1f} %", _interval(value, result.counts.labelled) if key == "top1" else "")
                )
    cards.append(
        ("videos scored", f"{result.counts.scored}", f"of {result.counts.listed} listed, {result.counts.failed} failed")
    )
    yield (
        '<div class="cards">'
        + "".join(
            f'<div class="card">{escape(name)}<b>{value}</b><span class="soft">{escape(small)}</span></div>'
            for name, value, small in cards
        )
        + "</div>"
    )
    failed = f" {result.counts.failed} could not be scored and count as wrong;" if result.counts.failed else ""
    without = result.metrics.get("top1_scored")
    if result.counts.failed and without is not None:
        failed += f" without them top-1 is {without:.1f} %."
    yield f"<p>{escape(_protocol(result))}</p>"
    environment = [
        f"decoded by {result.environment.decoder}",
        f"torch {result.environment.torch} on {result.environment.device}, {result.environment.precision}",
        f"gesta {result.environment.gesta}",
        f"{result.seconds:.0f} s",
        f"list {result.list_hash[:12]}",
        *([f"weights {result.model.checkpoint_sha256[:12]}"] if result.model.checkpoint_sha256 else []),
    ]
    yield f'<p class="soft">{escape("; ".join(environment))}</p>'


def _protocol(result: Result) -> str:
    """How the numbers were measured, in sentences."""
    how = result.protocol
    weights = f", weights {Path(result.model.checkpoint).name}" if result.model.checkpoint else ""
    text = f"{result.model.summary}{weights}, on the {how.split} split: {result.counts.listed} videos. "
    if result.counts.failed:
        text += f"{result.counts.failed} could not be scored and count as wrong"
        without = result.metrics.get("top1_scored")
        text += "; " + f"without them top-1 is {without:.1f} %. " if without is not None else ". "
    text += (
        f"Each was scored as {how.views} of {how.sampling} frames ({how.coverage} coverage, short videos: "
        f"{how.short_videos}), {how.size} × {how.size} px of a short side of {how.short_side} px; the {how.average} of "
        "the views were averaged."
    )
    return text


def _interval(percent: float, videos: int) -> str:
    """95 % confidence interval (Wilson) of an accuracy, as text."""
    from scipy.stats import binomtest  # imported here for start-up time

    interval = binomtest(round(percent * videos / 100), videos).proportion_ci(method="wilson")
    return f"95 %: {100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _training(log: list[dict[str, Any]]) -> Iterator[str]:
    svg = training_curves(log)
    if not svg:
        return
    yield svg
    epochs = [line for line in log if line.get("kind") == "epoch"]
    seconds = [line["seconds"] for line in epochs if isinstance(line.get("seconds"), int | float)]
    waits = [line["data_fraction"] for line in epochs if isinstance(line.get("data_fraction"), int | float)]
    if seconds:
        wait = f", {100 * np.mean(waits):.0f} % of it waiting for data" if waits else ""
        yield f'<p class="soft">{len(epochs)} epochs, {np.sum(seconds) / 60:.1f} minutes of training{wait}.</p>'


def _confusion(result: Result, space: str) -> Iterator[str]:
    matrix, names = result.scores.confusion[space], result.scores.classes[space]
    if not result.counts.labelled:
        return
    failed = [0] * len(names)
    for label, scores in zip(result.scores.labels[space], result.scores.values[space]):
        if label is not None and scores is None:
            failed[label] += 1
    svg, remark = confusion_svg(matrix, names, failed)
    yield (
        '<p class="soft">Rows: true class; columns: predicted class. The stronger the colour, the greater the fraction '
        f"of the row; numbers appear under the pointer. {escape(remark)}</p>"
    )
    yield f'<div class="scroll">{svg}</div>'
    pairs = confused_pairs(matrix, names, PAIRS)
    if pairs:
        yield "<h3>Most confused</h3><table><tr><th>true</th><th>predicted</th><th class='n'>videos</th><th></th></tr>"
        for true, predicted, count, total in pairs:
            yield (
                f"<tr><td>{escape(true)}</td><td>{escape(predicted)}</td><td class='n'>{count} of {total}</td>"
                f"<td><i class='bar miss' style='width:{8 * count / total:.2f}rem'></i></td></tr>"
            )
        yield "</table>"


def _classes(result: Result, space: str) -> Iterator[str]:
    names, matrix = result.scores.classes[space], result.scores.confusion[space]
    rows = [(value, k) for k, value in enumerate(result.scores.per_class[space]) if value is not None]
    if not rows:
        return
    yield (
        "<table><tr><th>class, weakest first</th><th class='n'>right</th><th class='n'>%</th><th></th>"
        "<th>confused most with</th></tr>"
    )
    videos = [0] * len(names)
    for label in result.scores.labels[space]:
        if label is not None:
            videos[label] += 1
    for value, k in sorted(rows):
        others = sorted(((-n, j) for j, n in enumerate(matrix[k]) if j != k and n))[:2]
        other = ", ".join(f"{escape(names[j])} ({-n})" for n, j in others)
        yield (
            f"<tr><td>{escape(names[k])}</td><td class='n'>{matrix[k][k]} of {videos[k]}</td><td class='n'>{value:.1f}"
            f"</td><td><i class='bar' style='width:{value * 0.08:.2f}rem'></i></td><td class='soft'>{other}</td></tr>"
        )
    yield "</table>"
    empty = [name for name, value in zip(names, result.scores.per_class[space]) if value is None]
    if empty:
        yield f'<p class="soft">Without videos in this split: {escape(", ".join(empty))}.</p>'


def _failures(result: Result, log: list[dict[str, Any]]) -> Iterator[str]:
    training: dict[str, str] = {}
    for line in log:
        if line.get("kind") == "epoch" and isinstance(line.get("failures"), dict):
            training |= line["failures"]
    for title, failures in (
        (f"evaluation, {result.protocol.split} split", {f["name"]: f["reason"] for f in result.failures}),
        ("training, skipped", training),
    ):
        if failures:
            rows = "".join(
                f"<tr><td>{escape(n)}</td><td class='soft'>{escape(r)}</td></tr>" for n, r in failures.items()
            )
            yield f"<table><tr><th>{escape(title)}</th><th>why</th></tr>{rows}</table>"


def _cost(result: Result) -> Iterator[str]:
    if "fused" in result.model.config:
        models = ", ".join(str(source["model"]["summary"]) for source in result.model.config["of"])
        yield f'<p class="soft">The sum of the costs of the fused models ({escape(models)}).</p>'
        return
    try:
        config = from_json(result.model.config, ModelConfig, source="the result")
    except GestaError as error:
        yield f'<p class="soft">The cost cannot be counted: {escape(str(error))}</p>'
        return
    torch_cost, papers = count(config), count(config, style="fvcore")
    views = result.counts.views / max(result.counts.scored, 1)
    yield (
        f"<p>{papers.params / 1e6:.3f} M parameters; {papers.macs / 1e9:.3f} GMACs per view (the papers' GFLOPs), "
        f"{views * papers.macs / 1e9:.3f} for the {views:.4g} views of a video.</p>"
        "<table><tr><th>part</th><th class='n'>parameters</th><th class='n'>GMACs, papers' counting</th>"
        "<th class='n'>GMACs, torch's</th><th></th></tr>"
    )
    for part, torch_part in zip(papers.parts, torch_cost.parts):
        bar = f"<i class='bar' style='width:{8 * part.macs / max(papers.macs, 1):.2f}rem'></i>"
        yield (
            f"<tr><td>{escape(part.name)}</td><td class='n'>{part.params:,}</td>"
            f"<td class='n'>{part.macs / 1e9:.4f}</td><td class='n'>{torch_part.macs / 1e9:.4f}</td><td>{bar}</td></tr>"
        )
    yield "</table>"


def _details(result: Result, recipe: dict[str, Any]) -> Iterator[str]:
    space = next(iter(result.scores.classes))
    names = result.scores.classes[space]
    fields = result.to_json()
    del fields["scores"]  # in the tables
    text = json.dumps(fields, indent=2, ensure_ascii=False)
    yield f"<details><summary>Protocol, numbers and hashes</summary><pre>{escape(text)}</pre></details>"
    yield "<details><summary>Every video</summary><table><tr><th>video</th><th>true</th><th>scores</th></tr>"
    for name, label, scores in zip(result.scores.names, result.scores.labels[space], result.scores.values[space]):
        answers = "failed"
        if scores is not None:
            top = np.argsort(-np.asarray(scores), kind="stable")[:3].tolist()
            answers = ", ".join(f"{names[k]} {scores[k]:.3g}" for k in top)
        true = "" if label is None else names[label]
        yield f"<tr><td>{escape(name)}</td><td>{escape(true)}</td><td>{escape(answers)}</td></tr>"
    yield "</table></details>"
    if recipe:
        text = json.dumps(recipe, indent=2, ensure_ascii=False)
        yield f"<details><summary>Recipe</summary><pre>{escape(text)}</pre></details>"


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty if the file is missing or broken: the report is written without it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; an incomplete one is left out."""
    lines = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                lines.append(line)
    return lines
