"""A run as a repository of a model hub: its weights, a page that describes it, the names of its classes, its result."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gesta.checkpoint import Metadata, read_metadata
from gesta.checkpoint.hub import upload
from gesta.config import CLASS_KEY, from_json
from gesta.errors import GestaError
from gesta.evaluation.evaluate import is_of
from gesta.evaluation.metrics import ACTION, METRICS, metrics_in
from gesta.evaluation.result import Result
from gesta.model import ModelConfig
from gesta.progress import json_text, markdown, one_line
from gesta.records import LABEL, by_space

_METRIC_TYPES = {
    "macro_precision": "precision",
    "macro_recall": "recall",
    "macro_f1": "f1",
    "mAP": "mean_average_precision",
}  # as the hub calls them; else accuracy
_CLASSES_SHOWN = 50  # on the page; config.json has all


def push(
    run: str | os.PathLike[str],
    repository: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "",
    licence: str = "",
    unfinished: bool = False,
    trust_code: bool = False,
) -> str:
    """Upload a run; ``hf:owner/name`` then stands for it wherever a model is named.

    Uploaded are ``model.safetensors`` (the run's ``best.safetensors``, unchanged), ``README.md``, ``config.json`` with
    the names of the classes as other libraries read them, and ``result.json`` without names of videos and paths.

    Args:
        run: the folder of a run.
        repository: ``owner/name``; it is made if it is not there.
        private: whether a new one can be read by its owner alone; None leaves that to the owner's settings.
        revision: the branch, by default ``main``; it is made if it is not there.
        message: the message of the commit.
        licence: of the weights, in the hub's words (``cc-by-nc-4.0``); by default the one in the model file.
        unfinished: also upload a run without a result.
        trust_code: see :func:`gesta.load`.

    Returns:
        The address of the repository.

    Raises:
        GestaError: no run, one without a result (unless ``unfinished``), or one whose result is of other weights.
        CheckpointError: the hub refuses, or is not reached.
    """
    weights, path = Path(run) / "best.safetensors", Path(run) / "result.json"
    if not weights.is_file():
        raise GestaError(
            f"{run}: is no folder with a best.safetensors; give the folder of a run that finished an epoch"
        )
    metadata = read_metadata(weights)
    result = Result.read(path) if path.is_file() else None
    if result is None and not unfinished:
        raise GestaError(f"{run}: no result.json, so its training has not finished; resume it, or say --unfinished")
    if result and not is_of(result.model, weights):
        raise GestaError(f"{path}: is of other weights than {weights.name}; evaluate again, or move it away")
    config: ModelConfig = from_json(metadata["model"], ModelConfig, trust_code=trust_code, source=str(weights))
    files: dict[str, Path | bytes] = {
        "model.safetensors": weights,
        "config.json": json.dumps(_hub_config(metadata), indent=2, ensure_ascii=False).encode(),
        "README.md": _page(repository, config, metadata, result, licence or metadata.get("licence", "")).encode(),
    }
    if result:
        files["result.json"] = (json_text(_without_names(result)) + "\n").encode()
    return upload(repository, files, private=private, revision=revision, message=message or "Upload a model of gesta")


def _hub_config(metadata: Metadata) -> dict[str, Any]:
    """The ``config.json`` that other libraries read: the type of the model, and the names of its classes."""
    spaces = by_space(metadata["classes"])
    config: dict[str, Any] = {"model_type": "gesta", "architectures": [str(metadata["model"].get(CLASS_KEY))]}
    if metadata["model"].get("multi_label"):
        config["problem_type"] = "multi_label_classification"  # transformers' word
    if spaces.keys() == {LABEL}:
        config["id2label"] = {str(i): name for i, name in enumerate(spaces[LABEL])}
        config["label2id"] = {name: i for i, name in enumerate(spaces[LABEL])}
    else:
        config["classes"] = spaces
    return config


def _without_names(result: Result) -> dict[str, Any]:
    """A result as JSON, without names of videos and paths of this machine."""
    content = result.to_json() | {"data": _without_paths(result.data)}
    content["model"] |= {"checkpoint": "model.safetensors"}
    content["scores"] = {
        name: content["scores"][name] for name in ("classes", "per_class", "figures", "confusion", "multi_label")
    }
    return {name: value for name, value in content.items() if name not in ("failures", "partial")}


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_paths(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_paths(part) for part in value]
    return Path(value).name if isinstance(value, str) and os.sep in value else value


# --- the page --------------------------------------------------------------------------------------------------------


def _page(repository: str, config: ModelConfig, metadata: Metadata, result: Result | None, licence: str) -> str:
    """The README: metadata for the hub's search, what the model is, its result and protocol, and how to use it."""
    spaces, notes = by_space(metadata["classes"]), metadata.get("notes", {})
    recipe = str(notes.get("recipe") or config.summary)
    shown = "depth" if metadata.get("depth") else "optical flow" if metadata.get("flow") else "RGB"
    streams = " and ".join(config.clip.streams) or shown
    sampling = f"×{config.clip.stride}" if config.clip.sampling == "dense" else " uniform"
    lines = [
        f"# {markdown(recipe)}",
        f"Action recognition in video: {markdown(config.summary)}, trained with gesta {markdown(metadata['gesta'])}"
        + (f" after {markdown(str(notes['paper']))}" if notes.get("paper") else "")
        + f". It expects clips of {config.clip.frames}{sampling} frames, {config.clip.size} px, {streams}.",
        "## Use",
        f"With gesta installed:\n\n```bash\ngesta predict hf:{repository} video.mp4\n```",
        f'```python\nimport gesta\n\nmodel = gesta.load("hf:{repository}")\n'
        'for prediction in gesta.predict(model, ["video.mp4"]):\n    print(prediction)\n```',
        f"To train it further: `gesta train finetune --model NAME --data.root videos --init.weights hf:{repository}`, "
        "where NAME is a model of this kind.",
        *(_result_lines(result) if result else ["It has not been evaluated."]),
        "## Classes",
    ]
    for space, names in spaces.items():
        shown = ", ".join(map(markdown, names[:_CLASSES_SHOWN]))
        more = f", … ({len(names) - _CLASSES_SHOWN} more, all in `config.json`)" if len(names) > _CLASSES_SHOWN else ""
        lines.append(("" if space == LABEL else f"{markdown(space)}: ") + shown + more)
    return f"---\n{_metadata(recipe, result, licence)}\n---\n\n" + "\n\n".join(lines) + "\n"


def _result_lines(result: Result) -> list[str]:
    how, counts = result.protocol, result.counts
    metrics = metrics_in(result.metrics)
    rows = ["| | " + " | ".join(f"{name} %" for name in metrics.values()) + " |", "|---|" + "---|" * len(metrics)]
    for space in _spaces(result):
        values = (result.metrics.get(f"{space}/{key}" if space else key) for key in metrics)
        cells = " | ".join("" if value is None else f"{value:.2f}" for value in values)
        rows.append(f"| {markdown(space) or 'all labelled videos'} | {cells} |")
    return [
        "## Result",
        *(["\n".join(rows)] if result.metrics else ["Its videos have no labels, so nothing was measured."]),
        f"{_data_name(result)}, split {markdown(how.split)}: {counts.labelled} labelled videos, {counts.failed} failed "
        f"(counted as wrong). {how.views}, {markdown(how.sampling)}, {how.size} px of {markdown(how.frame)}, mean of "
        f"the {how.averaged}; decoder {markdown(result.environment.decoder)}, precision "
        f"{result.environment.precision}.",
        *(f"{doubt[:1].upper()}{doubt[1:]}." for doubt in result.doubts),
    ]


def _spaces(result: Result) -> list[str]:
    """Label spaces of the metrics; an empty string for a single one."""
    several = [*result.scores.classes, ACTION] if len(result.scores.classes) > 1 else [""]
    prefixes = [f"{space}/" if space else "" for space in several]
    return [s for s, prefix in zip(several, prefixes) if any(f"{prefix}{key}" in result.metrics for key in METRICS)]


def _data_name(result: Result) -> str:
    return markdown(str((result.data or {}).get(CLASS_KEY) or "a list of videos"))


def _metadata(recipe: str, result: Result | None, licence: str) -> str:
    """The YAML at the head of the page."""
    from huggingface_hub import EvalResult, ModelCardData  # start-up time

    results = [
        EvalResult(
            task_type="video-classification",
            dataset_type="video",
            dataset_name=one_line(str((result.data or {}).get(CLASS_KEY) or "a list of videos")),
            dataset_split=result.protocol.split,
            metric_type=_METRIC_TYPES.get(key, "accuracy"),
            metric_name=one_line(f"{space} {name}".strip()),
            metric_value=round(value, 2),
            metric_args={"views": result.protocol.views, "sampling": result.protocol.sampling},
        )
        for space in (_spaces(result) if result else [])
        for key, name in METRICS.items()
        if result and (value := result.metrics.get(f"{space}/{key}" if space else key)) is not None
    ]
    card = ModelCardData(
        license=one_line(licence) or None,
        library_name="gesta",
        pipeline_tag="video-classification",
        tags=["gesta", "action-recognition", "video-classification"],
        model_name=one_line(recipe) if results else None,
        eval_results=results or None,
    )
    return card.to_yaml()
