"""A run on one page: curves, confusions, hits and misses in a single HTML file that needs no other file.

Names, reasons and numbers come from files that others may have made. The template escapes all of them, and a policy in
the page lets a browser run no script and apply no style but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gesta.analysis.confusion import confused_pairs
from gesta.analysis.report.charts import LogLine, confusion_chart, training_curves
from gesta.analysis.report.strips import strips
from gesta.config import from_json, parse_json, read_json, read_text
from gesta.cost import Part, count
from gesta.errors import GestaError
from gesta.evaluation.metrics import METRICS, headline_name
from gesta.evaluation.result import FIGURES, Result
from gesta.files import write_text
from gesta.model import ModelConfig, check_size
from gesta.progress import visible

PAIRS = 15
"""Confused pairs that are listed at most."""

MAX_LOG_BYTES = 2**31
"""Size that a ``log.jsonl`` may have: some millions of steps."""


MAX_STEPS = 20_000
"""Steps of a log that are read at most: of more, every second, third … one, which no curve shows."""


def write_report(run: str | Path, data_root: str | Path | None = None) -> Path:
    """Write ``report.html`` into a run's folder.

    Args:
        run: a folder with ``result.json`` (or ``result-SPLIT.json``); the curves come from ``log.jsonl`` and the title
            from ``recipe.json`` where these exist.
        data_root: folder of the videos, if they have moved since they were evaluated.

    Returns:
        The file's path.

    Raises:
        GestaError: no result in the folder, or a broken result, log or recipe.
    """
    run = Path(run)
    results = sorted(run.glob("result*.json"))
    if not results:
        raise GestaError(f"{run}: has no result.json; gesta train and gesta evaluate write one")
    result = Result.read(run / "result.json" if run / "result.json" in results else results[0])
    recipe = read_json(run / "recipe.json", dict[str, Any]) if (run / "recipe.json").exists() else {}
    title, paper = (from_json(recipe.get(key), str | None, source=f"{run}: recipe.{key}") for key in ("name", "paper"))
    log = _read_log(run / "log.jsonl")
    fields = result.to_json()
    del fields["scores"]  # in the tables
    page = _render(
        title=title or run.resolve().name,
        paper=paper,
        cards=list(_cards(result)),
        protocol=_protocol(result),
        environment=list(_environment(result)),
        curves=training_curves(log),
        training=_training(log),
        spaces=[_space(result, space) for space in result.scores.classes],
        strips=strips(result, data_root),
        failed=_failures(result, log),
        cost=_cost(result),
        fields=json.dumps(fields, indent=2, ensure_ascii=False),
        videos=list(_videos(result)),
        recipe=recipe and json.dumps(recipe, indent=2, ensure_ascii=False),
    )
    write_text(run / "report.html", page)
    return run / "report.html"


def _render(**parts: Any) -> str:
    """The page; every text in it is escaped, control characters included."""
    folder = Path(__file__).parent
    pages = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # not Markup
    )
    style = (folder / "page.css").read_text(encoding="utf-8")
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return pages.get_template("page.html").render(style=Markup(style), style_hash=style_hash, **parts)


def _cards(result: Result) -> Iterator[tuple[str, str, str]]:
    """The headline figures: name, value, remark."""
    spaces, counts = result.scores.classes, result.counts
    for prefix in [""] if len(spaces) == 1 else [f"{space}/" for space in spaces]:
        for key, name in METRICS.items():
            value = result.metrics.get(prefix + key)
            if value is not None:
                remark = _interval(value, counts.labelled) if key == "top1" and counts.labelled else ""
                yield prefix + name, f"{value:.1f} %", remark
    yield "videos scored", f"{counts.scored}", f"of {counts.listed} listed, {counts.failed} failed"


def _environment(result: Result) -> Iterator[str]:
    yield f"decoded by {result.environment.decoder}"
    yield f"torch {result.environment.torch} on {result.environment.device}, {result.environment.precision}"
    yield f"gesta {result.environment.gesta}"
    yield f"{result.seconds:.0f} s"
    yield f"list {result.list_hash[:12]}"
    if result.model.checkpoint_sha256:
        yield f"weights {result.model.checkpoint_sha256[:12]}"


def _protocol(result: Result) -> str:
    """How the numbers were measured, in sentences."""
    how = result.protocol
    weights = f", weights {Path(result.model.checkpoint).name}" if result.model.checkpoint else ""
    text = f"{result.model.summary}{weights}, on the {how.split} split: {result.counts.listed} videos. "
    if result.counts.failed:
        text += f"{result.counts.failed} could not be scored and count as wrong"
        name = headline_name(result.metrics)
        without = result.metrics.get("mAP_scored" if result.scores.multi_label else "top1_scored")
        text += "; " + f"without them {name} is {without:.1f} %. " if without is not None else ". "
    if result.ended_early:
        text += f"Its {result.ended_early}. "
    text += (
        f"Each was scored as {how.views} of {how.sampling} frames ({how.coverage} coverage, short videos: "
        f"{how.short_videos}), {how.size} × {how.size} px of {how.frame}; the "
        f"{how.averaged} were averaged." + "".join(f" {doubt[:1].upper()}{doubt[1:]}." for doubt in result.doubts)
    )
    return text


def _interval(percent: float, videos: int) -> str:
    """95 % confidence interval (Wilson) of an accuracy, as text."""
    from scipy.stats import binomtest  # imported here for start-up time

    interval = binomtest(round(percent * videos / 100), videos).proportion_ci(method="wilson")
    return f"95 %: {100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _training(log: list[LogLine]) -> str:
    epochs = [line for line in log if line.get("kind") == "epoch"]
    seconds = [value for line in epochs if (value := line.get("seconds")) is not None]
    waits = [value for line in epochs if (value := line.get("data_fraction")) is not None]
    wait = f", {100 * np.mean(waits):.0f} % of it waiting for data" if waits else ""
    return f"{len(epochs)} epochs, {np.sum(seconds) / 60:.1f} minutes of training{wait}." if seconds else ""


def _space(result: Result, space: str) -> dict[str, Any]:
    """What is shown of a label space: confusions, and the classes, the weakest first."""
    scores = result.scores
    names, matrix = scores.classes[space], scores.confusion.get(space, [])  # none of multi-label data
    videos, failed = [0] * len(names), [0] * len(names)
    for label, row in zip(scores.labels[space], scores.values[space]):
        for k in label if isinstance(label, list) else [] if label is None else [label]:
            videos[k] += 1
            failed[k] += row is None
    columns = {"average precision": scores.per_class[space]} if scores.multi_label else {}
    columns |= {name.replace("f1", "F1"): scores.figures[space][name] for name in FIGURES}
    classes = []
    for value, k in sorted((v, k) for k, v in enumerate(scores.per_class[space]) if v is not None):
        others = sorted((-n, j) for j, n in enumerate(matrix[k]) if j != k and n)[:2] if matrix else []
        confused = ", ".join(f"{names[j]} ({-n})" for n, j in others)
        figures = [column[k] for column in columns.values()]
        texts = ["never predicted" if figure is None else f"{figure:.1f}" for figure in figures]
        right = round((scores.figures[space]["recall"][k] or 0) * videos[k] / 100)
        classes.append((value, names[k], right, videos[k], texts, confused))
    absent, unpredicted = scores.without_figures(space) if classes else ([], [])
    return {
        "title": "" if len(scores.classes) == 1 else f": {space}",
        "matrix": confusion_chart(matrix, names, failed) if matrix and result.counts.labelled else None,
        "pairs": confused_pairs(matrix, names, PAIRS),
        "columns": list(columns),
        "multi_label": scores.multi_label,
        "classes": classes,
        "without": absent,
        "unpredicted": unpredicted,
    }


def _failures(result: Result, log: list[LogLine]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Videos that could not be read and why, in the evaluation (each of their segments) and in training."""
    training: dict[str, str] = {}
    for line in log:
        if line.get("kind") == "epoch" and isinstance(failures := line.get("failures"), dict):
            training |= failures
    in_evaluation = [(failure["name"], failure["reason"]) for failure in result.failures]
    skipped = list(training.items())
    return [(f"evaluation, {result.protocol.split} split", in_evaluation), ("training, skipped", skipped)]


def _cost(result: Result) -> tuple[str, list[tuple[Part, Part, float]]]:
    """A sentence about the cost, and the parts: as papers count, as torch counts, fraction of the whole."""
    if "fused" in result.model.config:
        models = ", ".join(source["model"]["summary"] for source in result.model.config["of"])
        return f"The sum of the costs of the fused models ({models}).", []
    try:
        config = from_json(result.model.config, ModelConfig, source="the result")
        check_size(config, "the result")
        torch_cost, papers = count(config), count(config, style="fvcore")
    except Exception as error:  # whatever an impossible clip raises in a model, too: the page is written without it
        return f"The cost cannot be counted: {error}", []
    views = result.counts.views / max(result.counts.scored, 1)
    text = (
        f"{papers.params / 1e6:.3f} M parameters; {papers.macs / 1e9:.3f} GMACs per view (the papers' GFLOPs), "
        f"{views * papers.macs / 1e9:.3f} for the {views:.4g} views of a video."
    )
    return text, [(p, t, p.macs / max(papers.macs, 1)) for p, t in zip(papers.parts, torch_cost.parts)]


def _videos(result: Result) -> Iterator[tuple[str, str, str]]:
    """Name, true class (multi-label: classes) and best answers of every video."""
    space = next(iter(result.scores.classes))
    names = result.scores.classes[space]
    for name, label, scores in zip(result.scores.names, result.scores.labels[space], result.scores.values[space]):
        answers = "failed"
        if scores is not None:
            top = np.argsort(-np.asarray(scores), kind="stable")[:3].tolist()
            answers = ", ".join(f"{names[k]} {scores[k]:.3g}" for k in top)
        classes = label if isinstance(label, list) else [] if label is None else [label]
        yield name, ", ".join(names[k] for k in classes), answers


def _read_log(path: Path) -> list[LogLine]:
    """The lines of a log; a last one that a killed training left incomplete does not count."""
    lines: list[LogLine] = []
    if path.exists():
        *complete, _ = read_text(path, limit=MAX_LOG_BYTES).split("\n")
        every = len(complete) // MAX_STEPS + 1
        for number, text in enumerate(complete, 1):
            if number % every and '"kind": "epoch"' not in text:
                continue
            source = f"{path}: line {number}"
            fields = parse_json(text, source, remedy="delete this line")
            if isinstance(fields, dict):
                fields = {key: fields[key] for key in LogLine.__annotations__ if key in fields}
            lines.append(from_json(fields, LogLine, source=source, remedy="delete this line"))
    return lines
