"""What differs between two evaluations: the protocol first, then the videos, then the numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gesta.config import as_now
from gesta.errors import GestaError
from gesta.evaluation.metrics import measure_multi_label
from gesta.evaluation.result import Environment, Protocol, Result
from gesta.progress import plain_text


@dataclass(frozen=True, slots=True)
class Difference:
    """A field with two values."""

    field: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"  {self.field}: {_short(self.a)} | {_short(self.b)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """How often both were right on the videos that both have, in one label space; failed videos are wrong.

    Of multi-label data a video is right if its predicted classes are all of its classes and no others.

    Attributes:
        videos: labelled alike in both results.
        both, only_a, only_b, neither: how many videos were right in which.
        p: of the exact McNemar test: how probable so uneven a split of ``only_a`` and ``only_b`` is if both are
            equally good. 1 if they never differ.
    """

    videos: int
    both: int
    only_a: int
    only_b: int
    neither: int
    p: float


@dataclass(frozen=True, slots=True)
class ClassChange:
    """Accuracy of a class on the videos that both have, of multi-label data its average precision, in percent, and the
    number of its videos."""

    name: str
    a: float
    b: float
    videos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two results side by side; differences are B - A.

    Attributes:
        a, b: the models in words, with their checkpoints.
        protocol: everything that differs in how and on what was measured; empty for the same protocol.
        model: fields of the two models' configurations that differ.
        same_list: whether names, segments, labels and their order are equal.
        only_in_a, only_in_b: names of videos that the other list lacks.
        common: number of videos in both lists; ``relabelled`` are those with another class in the other list.
        metrics: every metric that both have.
        paired: by label space.
        classes: by label space, from the greatest loss to the greatest gain; unchanged ones left out.
    """

    a: str
    b: str
    protocol: list[Difference]
    model: list[Difference]
    same_list: bool
    only_in_a: list[str]
    only_in_b: list[str]
    common: int
    relabelled: list[str]
    metrics: list[Difference]
    paired: dict[str, Paired]
    classes: dict[str, list[ClassChange]]

    to_json = asdict

    def __str__(self) -> str:
        lines = [f"A: {self.a}", f"B: {self.b}", "", *self._differences(), *self._videos(), ""]
        return plain_text(*lines, self._numbers(), *self._tests(), width=110).rstrip()

    def _differences(self) -> Iterator[str]:
        how = "these differ, so the numbers cannot be compared" if self.protocol else "none differs: same protocol"
        yield from (f"protocol: {how}", *map(str, self.protocol))
        if self.model:
            yield from ("model:", *map(str, self.model))

    def _videos(self) -> Iterator[str]:
        if self.same_list:
            yield f"videos: the same list of {self.common}"
            return
        yield f"videos: {self.common} in both lists" + (
            "" if self.only_in_a or self.only_in_b else ", in another order"
        )
        for which, names in (("only in A", self.only_in_a), ("only in B", self.only_in_b)):
            if names:
                yield f"  {len(names)} {which}: {_first_names(names)}"
        if self.relabelled:
            yield f"  {len(self.relabelled)} with another label: {_first_names(self.relabelled)}"

    def _numbers(self) -> Any:
        from rich.table import Table

        table = Table()
        for column in ("percent", "A", "B", "B - A, points"):
            table.add_column(column, justify="left" if column == "percent" else "right")
        values = {difference.field: (difference.a, difference.b) for difference in self.metrics}
        for name, (a, b) in values.items():
            if name.endswith("_scored") and values.get(name.removesuffix("_scored")) == (a, b):
                continue  # nothing failed: the same number again
            table.add_row(name, f"{a:.2f}", f"{b:.2f}", f"{b - a:+.2f}")
        return table

    def _tests(self) -> Iterator[str]:
        for space, paired in self.paired.items():
            name = "" if len(self.paired) == 1 else f"{space}: "
            if paired.only_a + paired.only_b == 0:
                yield f"{name}both are right on the same {paired.both} of {paired.videos} common videos"
                continue
            yield (
                f"{name}of {paired.videos} common videos only A is right on {paired.only_a}, only B on "
                f"{paired.only_b}: exact McNemar p = {paired.p:.3g}"
                + ("" if paired.p < 0.05 else " (chance may explain it)")
            )
            changes = self.classes[space]
            gained, lost = [c for c in reversed(changes) if c.b > c.a], [c for c in changes if c.b < c.a]
            for what, changed in (("gained", gained), ("lost", lost)):
                classes = (f"{c.name} {c.a:.0f} → {c.b:.0f} % of {c.videos}" for c in changed[:5])
                if changed:
                    yield f"  {name}{what} most: " + ", ".join(classes)


def compare(a: Result, b: Result) -> Comparison:
    """Put two results side by side.

    Videos are matched by name (see :func:`positions`), classes by name. A video that failed counts as wrong in the
    paired test as it does in the metrics.

    Raises:
        GestaError: see :func:`positions`.
    """
    in_a, in_b = positions([a, b])
    common = [key for key in in_a if key in in_b]
    paired: dict[str, Paired] = {}
    classes: dict[str, list[ClassChange]] = {}
    relabelled: dict[str, None] = {}
    for space in [space for space in a.scores.classes if space in b.scores.classes]:
        names_a, names_b = _class_names(a, space), _class_names(b, space)
        right_a, right_b = (r.scores.right(space, r.protocol.average) for r in (a, b))
        alike: list[tuple[int, int]] = []
        for key in common:
            i, j = in_a[key], in_b[key]
            if names_a[i] != names_b[j]:
                relabelled[key[0]] = None
            elif names_a[i] is not None:
                alike.append((i, j))
        paired[space] = _mcnemar([(bool(right_a[i]), bool(right_b[j])) for i, j in alike])
        if a.scores.multi_label and b.scores.multi_label:
            classes[space] = _precision_changes(a, b, space, alike)
        else:
            classes[space] = _changes([(str(names_a[i]), bool(right_a[i]), bool(right_b[j])) for i, j in alike])
    return Comparison(
        a=title(a),
        b=title(b),
        protocol=_protocol(a, b),
        model=_config_differences("", as_now(a.model.config), as_now(b.model.config)),
        same_list=a.list_hash == b.list_hash,
        only_in_a=[key[0] for key in in_a if key not in in_b],
        only_in_b=[key[0] for key in in_b if key not in in_a],
        common=len(common),
        relabelled=list(relabelled),
        metrics=[Difference(name, a.metrics[name], b.metrics[name]) for name in a.metrics if name in b.metrics],
        paired=paired,
        classes=classes,
    )


def _protocol(a: Result, b: Result) -> list[Difference]:
    differing = _differing(a.protocol, b.protocol)
    if a.scores.classes != b.scores.classes:
        differing.append(Difference("classes", a.scores.classes, b.scores.classes))
    if a.scores.multi_label != b.scores.multi_label:
        differing.append(Difference("multi_label", a.scores.multi_label, b.scores.multi_label))
    differing += _differing(a.environment, b.environment)
    if a.list_hash != b.list_hash:
        list_a, list_b = f"{a.counts.listed} videos, {a.list_hash[:8]}", f"{b.counts.listed}, {b.list_hash[:8]}"
        differing.append(Difference("list", list_a, list_b))
    data = _config_differences("data", as_now(a.data), as_now(b.data))
    return differing + [difference for difference in data if difference.field != "data.cache"]  # the same pixels


def _differing(a: Protocol | Environment, b: Protocol | Environment) -> list[Difference]:
    values = [Difference(name, value, getattr(b, name)) for name, value in vars(a).items()]
    return [difference for difference in values if difference.a != difference.b]


def _config_differences(name: str, a: Any, b: Any) -> list[Difference]:
    """Fields of two configurations, given as JSON, that differ; only the innermost ones."""
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        a, b = ({str(i): value for i, value in enumerate(values)} for values in (a, b))
    if isinstance(a, dict) and isinstance(b, dict) and a.get("class") == b.get("class"):
        differing = []
        for key in a | b:
            differing += _config_differences(f"{name}.{key}".lstrip("."), a.get(key), b.get(key))
        return differing
    return [Difference(name or "class", _class_of(a), _class_of(b))] if a != b else []


def _class_of(value: Any) -> Any:
    """A nested configuration of another class is shown by the name of its class."""
    return str(value["class"]).rpartition(":")[2] if isinstance(value, dict) and "class" in value else value


Key = tuple[str, str, int]
"""By which videos of several results are matched: the name, where it is no more than a part the segment, a number."""


def positions(results: Sequence[Result]) -> list[dict[Key, int]]:
    """For each result the position of each video in its list, under keys that are the same in all.

    Videos that have their name alone in all lists are known by it. Segments of one name are known by their frames or
    seconds, or by their order where the lists are the same; what is in a list twice has the numbers 0, 1 ….

    Raises:
        GestaError: the lists differ, and an older result does not say which segments of a name it has.
    """
    counts = [Counter(result.scores.names) for result in results]
    several = {name for of_list in counts for name, count in of_list.items() if count > 1}
    if len({result.list_hash for result in results}) == 1:
        segments = [[""] * len(result.scores.names) for result in results]  # the order says it
    else:
        segments = [result.scores.segments or [""] * len(result.scores.names) for result in results]
        common = sorted(name for name in several if sum(name in of_list for of_list in counts) > 1)
        unknown = [result for result in results if result.scores.segments is None]
        if common and unknown:
            raise GestaError(
                f"{common[0]!r} is in a list more than once, the lists differ, and the result of {title(unknown[0])} "
                "is of an older version, which did not note the segments; evaluate again"
            )
    found: list[dict[Key, int]] = []
    for result, of_list in zip(results, segments):
        seen: Counter[tuple[str, str]] = Counter()
        found.append({})
        for index, (name, segment) in enumerate(zip(result.scores.names, of_list)):
            video = name, segment if name in several else ""
            found[-1][*video, seen[video]] = index
            seen[video] += 1
    return found


def _class_names(result: Result, space: str) -> list[str | frozenset[str] | None]:
    names = result.scores.classes[space]
    return [
        frozenset(names[k] for k in label) if isinstance(label, list) else None if label is None else names[label]
        for label in result.scores.labels[space]
    ]


def _mcnemar(pairs: list[tuple[bool, bool]]) -> Paired:
    from scipy.stats import binomtest

    counts = Counter(pairs)
    only_a, only_b = counts[True, False], counts[False, True]
    return Paired(
        videos=len(pairs),
        both=counts[True, True],
        only_a=only_a,
        only_b=only_b,
        neither=counts[False, False],
        p=float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
    )


def _changes(pairs: list[tuple[str, bool, bool]]) -> list[ClassChange]:
    videos = Counter(name for name, _, _ in pairs)
    right_a = Counter(name for name, x, _ in pairs if x)
    right_b = Counter(name for name, _, y in pairs if y)
    changes = [ClassChange(name, 100 * right_a[name] / n, 100 * right_b[name] / n, n) for name, n in videos.items()]
    return sorted((c for c in changes if c.a != c.b), key=lambda c: c.b - c.a)


def _precision_changes(a: Result, b: Result, space: str, alike: list[tuple[int, int]]) -> list[ClassChange]:
    """Average precision of the classes that both have, on the videos at these pairs of positions."""
    changes = []
    columns = [(result.scores, [pair[which] for pair in alike]) for which, result in enumerate((a, b))]
    measured = [
        measure_multi_label(
            [scores.values[space][i] for i in of_list],
            [scores.labels[space][i] for i in of_list],
            len(scores.classes[space]),
            result.protocol.average,
        )[1]
        for (scores, of_list), result in zip(columns, (a, b))
    ]
    in_b = dict(zip(b.scores.classes[space], measured[1]))
    labels = [set(label) for i, _ in alike if isinstance(label := a.scores.labels[space][i], list)]
    for k, (name, of_a) in enumerate(zip(a.scores.classes[space], measured[0])):
        of_b = in_b.get(name)
        if of_a is not None and of_b is not None and of_a != of_b:
            changes.append(ClassChange(name, of_a, of_b, sum(k in label for label in labels)))
    return sorted(changes, key=lambda c: c.b - c.a)


def title(result: Result) -> str:
    """A model in words, with its checkpoint."""
    model = result.model
    if model.checkpoint is None:
        return model.summary
    return f"{model.summary}, {model.checkpoint} ({(model.checkpoint_sha256 or '')[:8]})"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" … ({len(names) - 5} more)" if len(names) > 5 else "")
