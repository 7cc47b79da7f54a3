"""Weights of other libraries and other models, taken into a model: read, unwrapped, renamed, matched, reported."""

from __future__ import annotations

import dataclasses
import hashlib
import typing
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from gesta.checkpoint import METADATA_KEY, Metadata, read_metadata
from gesta.checkpoint.description import Pixels, class_names, read_config, read_pixels
from gesta.checkpoint.formats import (
    STATE_MAGIC,
    check_finite,
    existing,
    is_plain,
    read_safetensors,
    read_shards,
    read_torch,
    safetensors_errors,
    script_classes,
)
from gesta.checkpoint.hub import INDEX, LocalWeights, resolve, weights_in
from gesta.checkpoint.lora import merge_adapters
from gesta.config import CLASS_KEY, from_json, read_text, replace, to_json
from gesta.errors import CheckpointError, GestaError
from gesta.model import VideoModel, check_names
from gesta.progress import join_lines
from gesta.records import LABEL, ClassNames, by_space

WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model", "module", "encoder")
"""Keys under which public checkpoints keep their weights, in order of preference."""

AVERAGES = ("state_dict_ema", "model_ema", "ema", "target_encoder", "ema_encoder")
"""Keys of a moving average of them, in order of preference; the last two are those of V-JEPA 2 and 2.1. MMEngine's
``ema_state_dict`` is none: what it holds are the raw weights."""

PROBES_KEY = "classifiers"
"""Key under which V-JEPA 2's files of attentive probes have a list of them."""

CLASSIFIER = "classifier."

HEAD_PREFIXES = (CLASSIFIER, "attentive.")
"""Beginnings of the names of a head's parameters, which weights of a backbone lack."""


def weights_hash(model: nn.Module, except_for: tuple[str, ...] = ("classifier.",)) -> str:
    """SHA-256 of names, types, shapes and values of all weights but those whose names begin as in ``except_for``."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(except_for):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of foreign weights; ``print`` it.

    Attributes:
        source: where they came from.
        matched: names loaded, of a classifier also those of which some classes were loaded.
        missing: names of the model that the source lacks; they keep their fresh values.
        unexpected: names of the source that the model lacks.
        mismatched: name → (shape in the source, shape in the model); not loaded.
        matched_fraction: of the model's parameters that were to be loaded, those loaded, 0 to 1; classifier and
            attentive head are not counted unless they alone were.
        remarks: sentences on which weights of the file were taken, on its classes, and on its variant of the model.
        fresh_classes: label space → classes whose part of the classifier was not loaded though others of it were.
        classes: names of the source's classes in the order of its classifier; None where it does not name them.
    """

    source: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    matched_fraction: float
    remarks: tuple[str, ...] = ()
    fresh_classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    classes: ClassNames | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON-able values."""
        return {
            "source": self.source,
            "matched": list(self.matched),
            "missing": list(self.missing),
            "unexpected": list(self.unexpected),
            "mismatched": {name: [list(source), list(model)] for name, (source, model) in self.mismatched.items()},
            "matched_fraction": self.matched_fraction,
            "remarks": list(self.remarks),
            "fresh_classes": {space: list(names) for space, names in self.fresh_classes.items()},
            "classes": self.classes,
        }

    def __str__(self) -> str:
        shapes = [
            f"{name} {list(source)} in the source, {list(model)} in the model"
            for name, (source, model) in self.mismatched.items()
        ]
        parts = [
            ("keep fresh values, absent in the source", list(self.missing)),
            ("keep fresh values, shapes differ", shapes),
            ("not used", list(self.unexpected)),
        ]
        lines = [
            f"{self.source}: {100 * self.matched_fraction:.1f} % of the parameters match ({len(self.matched)} tensors)"
        ]
        lines += [f"  {len(names)} {what}: {_few(names)}" for what, names in parts if names]
        return join_lines([*lines, *(f"  {remark}" for remark in self.remarks)])


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f", … ({len(names) - 4} more)" if len(names) > 4 else "")


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass
class Source:
    """Named tensors, and what is known of them.

    Attributes:
        name: the file, for messages.
        given: the path or name as the user wrote it.
        weights: by the file's names, without wrappers such as ``state_dict``.
        description: what the file says of itself, see :meth:`VideoModel.check_source`.
        metadata: of a model file of gesta.
        classes: class names in the order of its classifier; None where they are not known.
        remarks: sentences for the user.
        pixels: how pixels become floats, where a description beside the file says so.
        path: the file.
        head: the file of the head, where it has one of its own.
        is_state: whether it is the training state of a run.
    """

    name: str
    weights: dict[str, Tensor]
    given: str = ""
    description: str = ""
    metadata: Metadata | None = None
    classes: ClassNames | None = None
    remarks: list[str] = field(default_factory=list)
    pixels: Pixels | None = None
    path: Path | None = None
    head: Path | None = None
    is_state: bool = False


def read_source(path: str | Path | LocalWeights, average: bool = True, head: str | Path | None = None) -> Source:
    """The named tensors of any checkpoint: a run folder (its ``best.safetensors``), a ``.safetensors`` file, what
    ``torch.save`` wrote (.pth, .pt, .pyth, .tar, .ckpt), a TorchScript archive, or a folder or repository of a hub
    (``hf:owner/name``) with one of these or with several and their index.

    Wrappings such as ``state_dict`` and ``model_state`` are taken off, and the ``module.`` and ``_orig_mod.`` of data
    parallel, averaged and compiled models. Of V-JEPA 2's files that is the ``target_encoder`` (the moving average of
    the ``encoder``), and the first of the ``classifiers``.

    Args:
        path: of the file or folder.
        average: of a file that holds both weights and their moving average, take the average.
        head: a second file with the head that was trained on these weights, where it has one of its own; the names of
            both are joined.

    Raises:
        CheckpointError: absent, broken, holding Python objects (which are never unpickled), or without weights; or a
            name is in both files.
    """
    source = _read(path, average)
    if head is None:
        return source
    second = _read(head, average)
    if both := sorted(source.weights.keys() & second.weights.keys()):
        raise CheckpointError(
            f"{second.name}: {len(both)} of its weights are in {source.name}, too ({_few(both)}); a second file "
            "(--init.head) holds the head alone"
        )
    return dataclasses.replace(
        source,
        name=f"{source.name} and {second.name}",
        weights=source.weights | second.weights,
        description=f"{source.description}\n{second.description}",
        classes=second.classes or source.classes,
        remarks=source.remarks + second.remarks,
        head=second.path,
    )


def _read(given: str | Path | LocalWeights, average: bool) -> Source:
    local = weights_in(resolve(given))
    path = existing(local.path)
    is_safe = path.suffix == ".safetensors"
    content: Any = (
        read_shards(path) if path.name.endswith(INDEX) else read_safetensors(path) if is_safe else read_torch(path)
    )
    source = Source(local.name, {}, local.given, _description(path), path=path)
    if is_ours(path):
        source.metadata = read_metadata(path)
        source.classes = source.metadata["classes"]
    else:
        _read_beside(path, source)
    if isinstance(content, dict) and content.get("magic") == STATE_MAGIC:
        content, source.is_state = content.get("state"), True
        if isinstance(content, dict):
            source.classes = from_json(content.get("classes"), ClassNames | None, source=str(path))
            content = _state_weights(content)
    for _ in range(len(WRAPPERS + AVERAGES)):  # not for ever: a wrapping may hold itself
        if isinstance(content, dict):
            content = _unwrapped(content, average, source)
    if isinstance(content, dict):
        source.weights = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not source.weights:
        raise CheckpointError(f"{path}: no named weights in it; save model.state_dict() and give that file")
    for name, value in source.weights.items():
        if not is_plain(value):
            raise CheckpointError(
                f"{path}: {name[:100]} is sparse, quantised or claims more numbers than the file holds; save "
                "model.state_dict() of a plain model and give that file"
            )
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):
        names = source.weights.keys() - {"n_averaged"}  # torch's AveragedModel counts beside its module
        if names and all(name.startswith(prefix) for name in names):
            source.weights = {name.removeprefix(prefix): value for name, value in source.weights.items()}
    return source


def _state_weights(state: dict[str, Any]) -> dict[str, Any]:
    """A training state of gesta in the words of others: its weights, and their average if it differs."""
    raw, final, scale = state.get("model"), state.get("weights"), state.get("lora_scale")
    if not (isinstance(raw, dict) and isinstance(final, dict)):
        return state
    if isinstance(scale, float):
        raw, final = merge_adapters(raw, scale), merge_adapters(final, scale)
    same = all(isinstance(v, Tensor) and isinstance(raw.get(k), Tensor) and v.equal(raw[k]) for k, v in final.items())
    return {"model": raw} if same else {"model": raw, "ema": final}


def _unwrapped(content: dict[Any, Any], average: bool, source: Source) -> dict[Any, Any]:
    """The content of a wrapper such as ``state_dict``: of weights and their moving average the one that is wanted, of
    several heads the first. Remarks say what was taken, and what is not used."""
    raw = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
    averaged = [key for key in AVERAGES if isinstance(content.get(key), dict)]
    keys = averaged + raw if average else raw + averaged
    if raw and averaged:
        taken = f"the moving average ({averaged[0]}) is taken; init.average=False takes the weights ({raw[0]})"
        other = f"the weights ({raw[0]}) are taken, not their moving average ({averaged[0]})"
        source.remarks.append(taken if average else other)
    heads = content.get(PROBES_KEY)
    heads = heads if isinstance(heads, list) and heads and isinstance(heads[0], dict) else []
    if len(heads) > 1 and not keys:
        source.remarks.append(f"the first of {len(heads)} heads ({PROBES_KEY}) is taken")
    named = {*keys[:1], *raw[:1], *averaged[:1]}
    others = [str(key) for key, value in content.items() if key not in named and _holds_tensors(value)]
    if keys and (others or heads):
        source.remarks.append(f"not used of the file: {_few(others + [PROBES_KEY] * bool(heads))}")
    return content[keys[0]] if keys else heads[0] if heads else content


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(part, Tensor) for part in value.values())


def _read_beside(path: Path, source: Source) -> None:
    """Read the files beside public weights: the names of their classes, and how pixels become floats."""
    try:
        source.classes = class_names(read_config(path) or {})
    except GestaError as error:  # it may be another program's
        source.remarks.append(f"the names of the classes are not known: {error}")
    source.pixels = read_pixels(path)


def is_ours(path: Path) -> bool:
    """Whether a file is a model file of gesta."""
    if path.suffix != ".safetensors":
        return False
    with safetensors_errors(path), safe_open(path, framework="pt") as file:
        return METADATA_KEY in (file.metadata() or {})


def _description(path: Path) -> str:
    """How a file of weights describes itself: its path, its metadata, the config.json that model hubs put beside it."""
    description = [str(path)]
    if path.suffix == ".safetensors":
        with safetensors_errors(path), safe_open(path, framework="pt") as file:
            description.append(str(file.metadata() or ""))
    else:
        description += script_classes(path)
    hub_config = path.with_name("config.json")
    if hub_config.is_file():
        description.append(read_text(hub_config))
    return "\n".join(description)


# --- into a model ----------------------------------------------------------------------------------------------------


def import_weights(
    model: VideoModel,
    source: str | Path | Source | dict[str, Tensor],
    min_matched: float = 0.5,
    *,
    average: bool = True,
    head: str | Path | None = None,
    only: tuple[str, ...] = (),
    classes: ClassNames | None = None,
    source_classes: ClassNames | None = None,
) -> ImportReport:
    """Load whatever fits of other weights into ``model``, renamed by ``model.convert_foreign``.

    Prefixes that most names share (``model.``, ``backbone.``, ``module.``) are taken off where the rest then fits
    better. The classifier is matched by the names of its classes where both are known; a classifier with another number
    of classes that are not known stays fresh. The report says what matched; nothing is skipped silently.

    Args:
        model: changed in place, and in evaluation mode afterwards.
        source: a file, run folder or repository of a hub, see :func:`read_source`; what that gave; or named tensors.
        min_matched: fraction of the parameters (the head not counted, unless ``only`` names it alone) that must match,
            0 to 1.
        average: of a file that holds both weights and their moving average, take the average.
        head: a second file, with the head of these weights, see :func:`read_source`.
        only: beginnings of the names of the model's parameters that are taken; empty for all.
        classes: names of the model's classes in label order, by label space if there are several.
        source_classes: the same of the source, where the file does not name them.

    Raises:
        CheckpointError: unreadable file, less than ``min_matched`` matched, or weights that are not finite or not
            floating-point numbers (quantised ones); the model is then unchanged.
        GestaError: weights whose file says that they are of another kind (:meth:`VideoModel.check_source`).
    """
    if isinstance(source, dict):
        source = Source("weights", source)
    origin = source if isinstance(source, Source) else read_source(source, average, head)
    if origin.description:
        model.check_source(origin.description)
    ours = model.state_dict()
    weights, theirs = _best_names(model, origin.weights)
    if only:
        check_names(model, only, "init.only")
        theirs = {name: value for name, value in theirs.items() if name.startswith(only)}
    _check_types(theirs, ours, origin.name)
    pixels = [origin.pixels.remark(model.config.clip)] if origin.pixels else []
    heads = _ClassifierMatch(by_space(source_classes or origin.classes or {}), by_space(classes or {}))
    fitting = {k: v for k, v in heads.matched(theirs, ours).items() if k in ours and v.shape == ours[k].shape}
    wanted = {k: p.numel() for k, p in model.named_parameters() if k.startswith(only or "")}
    counted = {
        k: n for k, n in wanted.items() if not k.startswith(HEAD_PREFIXES)
    } or wanted  # of a head alone, the head
    report = ImportReport(
        source=origin.name,
        matched=tuple(fitting),
        missing=tuple(k for k in ours if k not in theirs and k.startswith(only or "")),
        unexpected=tuple(k for k in theirs if k not in ours),
        mismatched={
            k: (tuple(v.shape), tuple(ours[k].shape))
            for k, v in theirs.items()
            if k in ours and k not in fitting and v.shape != ours[k].shape
        },
        matched_fraction=sum(n for k, n in counted.items() if k in fitting) / max(sum(counted.values()), 1),
        remarks=(*origin.remarks, *pixels, *heads.remarks, *_other_variant(model, weights, theirs, origin.metadata)),
        fresh_classes=heads.fresh,
        classes=origin.classes,
    )
    if report.matched_fraction < min_matched:
        unlike, lacking = (", ".join(sorted(names)[:3]) for names in (theirs.keys() - fitting, ours.keys() - fitting))
        raise CheckpointError(
            f"{origin.name}: only {100 * report.matched_fraction:.1f} % of the parameters of {type(model).__name__} "
            f"are in it, {100 * min_matched:.0f} % are required (it has {unlike} …, the model {lacking} …); give a "
            "checkpoint of this model, or lower --init.min-matched"
        )
    check_finite(fitting, origin.name)
    model.load_state_dict(fitting, strict=False)
    model.eval()
    if zeroed := _zero_new_parts(model, report):
        what = f"{zeroed} of the fresh tensors start at zero, so that the parts before them change nothing at first"
        report = dataclasses.replace(report, remarks=(*report.remarks, what))
    return report


def _check_types(weights: Mapping[str, Tensor], model: Mapping[str, Tensor], source: str) -> None:
    """Refuse numbers that would be loaded and mean something else: quantised ones, of 8 bits or whole, are only right
    with the scales beside them, and of complex ones half would be lost.

    Raises:
        CheckpointError: the model has real numbers there; the first three are named.
    """
    bad = [
        name
        for name, value in weights.items()
        if name in model and value.shape[1:] == model[name].shape[1:]  # a classifier may have other rows
        if model[name].is_floating_point() and not (value.is_floating_point() and value.itemsize > 1)
    ]
    if bad:
        kind = str(weights[bad[0]].dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{source}: {len(bad)} of its weights are of the type {kind} ({', '.join(bad[:3])}), as in quantised "
            "files, where the model has floating-point numbers; give its weights in 16 or 32 bits"
        )


def _zero_new_parts(model: VideoModel, report: ImportReport) -> int:
    """Set fresh parameters to zero that are zero in a fresh model of a published size; returns how many.

    ``small_init`` has no layer start at zero, since such a model is trained from random weights. Where weights are
    loaded, new parts of a block that they have must change nothing at first, in a small model as in a large one.
    """
    if not getattr(model.config, "small_init", False):
        return 0
    with torch.random.fork_rng(devices=[]):
        published = replace(model.config, small_init=False).build().state_dict()
    depths_given, count = {model.depth_of(name) for name in report.matched if not name.startswith(CLASSIFIER)}, 0
    for name, value in model.named_parameters():
        is_new = name in report.missing and model.depth_of(name) in depths_given and not name.startswith(CLASSIFIER)
        if is_new and not name.endswith("cls_token") and value.any() and not published[name].any():
            nn.init.zeros_(value)
            count += 1
    return count


def _best_names(model: VideoModel, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights without those prefixes of which the model recognises most, before and after its conversion."""
    ours = {name: value.shape for name, value in model.state_dict().items()}
    best: tuple[int, dict[str, Tensor], dict[str, Tensor], list[warnings.WarningMessage]] | None = None
    refusal: GestaError | None = None
    for stripped in without_prefixes(weights):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                converted = model.convert_foreign(stripped)
            except GestaError as error:
                refusal = refusal or error
                continue
        fits = sum(value.numel() for name, value in converted.items() if ours.get(name) == value.shape)
        if best is None or fits > best[0]:
            best = fits, stripped, converted, caught
        if converted.keys() <= ours.keys():
            break
    if best is None:
        raise refusal or AssertionError
    for warning in best[3]:
        warnings.warn(warning.message, warning.category, stacklevel=3)
    return best[1], best[2]


def without_prefixes(weights: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Weights as they are, then without the first word that at least half of their names share, again and again."""
    for _ in range(8):
        yield weights
        words = Counter(name.partition(".")[0] + "." for name in weights if "." in name)
        prefix, count = words.most_common(1)[0] if words else ("", 0)
        stripped = {name.removeprefix(prefix): value for name, value in weights.items()}
        if count < len(weights) / 2 or len(stripped) < len(weights):
            return
        weights = stripped


# --- its classes -----------------------------------------------------------------------------------------------------


class _ClassifierMatch:
    """A classifier taken over class by class.

    Args:
        theirs: class names of the source by label space; empty where they are not known.
        ours: the same of the model.

    Attributes:
        remarks: what was taken.
        fresh: label space → classes that were not taken though others were.
    """

    def __init__(self, theirs: Mapping[str, list[str]], ours: Mapping[str, list[str]]) -> None:
        self.theirs, self.ours = theirs, ours
        self.remarks: list[str] = []
        self.fresh: dict[str, tuple[str, ...]] = {}

    def matched(self, weights: dict[str, Tensor], model: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights with each layer of the classifier in the model's order, its own values for classes that the
        source lacks; without it where no class is known by name."""
        result = dict(weights)
        for name, fresh in model.items():
            if not (name.startswith(f"{CLASSIFIER}linear.") and name in weights):
                continue
            space = name.split(".")[2] if name.count(".") == 3 else LABEL
            theirs, ours = self.theirs.get(space), self.ours.get(space)
            rows = len(weights[name]) if weights[name].dim() else 0
            if theirs is None or ours is None or (rows, len(fresh)) != (len(theirs), len(ours)):
                self._say_order(name, space, theirs, weights[name].shape == fresh.shape)
            elif weights[name].shape[1:] == fresh.shape[1:]:
                self._say_names(name, space, theirs, ours)
                rows_taken = [(i, theirs.index(label)) for i, label in enumerate(ours) if label in theirs]
                del result[name]
                if rows_taken:
                    to, from_ = zip(*rows_taken)
                    result[name] = fresh.clone()
                    result[name][list(to)] = weights[name][list(from_)].to(fresh)
        return result

    def _say_order(self, name: str, space: str, theirs: list[str] | None, fits: bool) -> None:
        if fits and name.endswith(".weight"):
            known = f"the file's: {_few(theirs)}" if theirs else "not known: the file does not name its classes"
            self.remarks.append(f"{_head(space)} is taken as it is; the order of its classes is {known}")

    def _say_names(self, name: str, space: str, theirs: list[str], ours: list[str]) -> None:
        if not name.endswith(".weight"):
            return
        common = [label for label in ours if label in theirs]
        rest = [label for label in ours if label not in theirs]
        if common and rest:
            self.fresh[space] = tuple(rest)
        start = f"{len(common)} of {len(ours)} classes" if rest else f"all {len(ours)} classes"
        order = "" if theirs == ours else " (in another order or number there)"
        self.remarks.append(
            f"{_head(space)} has {start} by name{order}"
            + (f": {_few(common)}" if common and rest else "")
            + (f"; fresh: {_few(rest)}" if rest else "")
        )


def _head(space: str) -> str:
    return "the classifier" if space == LABEL else f"the classifier of {space}"


# --- its variant -----------------------------------------------------------------------------------------------------


def _other_variant(
    model: VideoModel, weights: dict[str, Tensor], theirs: dict[str, Tensor], metadata: Metadata | None
) -> list[str]:
    """Sentences about a source of another variant of the model: from its description, else from what is left over."""
    if metadata is not None:
        described, own = metadata["model"], to_json(model.config)
        simple = (str, bool, int, float)
        differing = [
            f"{name} {described[name]!r} (here {value!r})"
            for name, value in own.items()
            if name in described and described[name] != value and name not in _NO_VARIANT
            if isinstance(value, simple) and isinstance(described[name], simple)
        ]
        same_type = described.get(CLASS_KEY) == own[CLASS_KEY]
        return [f"the file's model has {_few(differing)}"] if differing and same_type else []
    ours = {name: value.shape for name, value in model.state_dict().items()}
    unused = _unused(theirs, ours)
    missing = len(ours.keys() - theirs.keys())
    best = min(_variants(model, weights, missing) if unused else (), key=lambda variant: variant[0], default=None)
    if best is None or best[0] >= len(unused):
        return []
    count, (name, value) = len(unused) - best[0], best[1]
    flag = f"--model.{name.replace('_', '-')} {value}"
    return [
        f"of another variant of the model: with {name}={value!r} ({flag}) {count} of the {len(unused)} tensors not "
        "used here would be"
    ]


_NO_VARIANT = ("classes", "dropout", "drop_path", "activation_checkpointing")
"""Fields of a model on which its weights do not depend."""


def _unused(theirs: dict[str, Tensor], ours: Mapping[str, torch.Size]) -> list[str]:
    return [k for k, v in theirs.items() if not k.startswith(CLASSIFIER) and ours.get(k) != v.shape]


def _variants(model: VideoModel, weights: dict[str, Tensor], missing: int) -> Iterator[tuple[int, tuple[str, Any]]]:
    """Each model that differs in one switch and lacks no more than this one: tensors it leaves over, and the switch."""
    for name, value in _switches(model):
        try:
            with torch.device("meta"):
                other = replace(model.config, **{name: value}).build()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs = other.convert_foreign(weights)
        except (GestaError, RuntimeError, ValueError):  # a combination that cannot be
            continue
        shapes = {k: v.shape for k, v in other.state_dict().items()}
        if len(shapes.keys() - theirs.keys()) <= missing:
            yield len(_unused(theirs, shapes)), (name, value)


def _switches(model: VideoModel) -> Iterator[tuple[str, Any]]:
    """Fields in which public checkpoints of a model differ, and each value that it does not have."""
    hints = typing.get_type_hints(type(model.config))
    for name in model.variants:
        values = (True, False) if hints[name] is bool else typing.get_args(hints[name])
        yield from ((name, value) for value in values if value != getattr(model.config, name))
