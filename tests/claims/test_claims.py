"""Claims: what is trained for them and what is not, what counts, by which rule a verdict is reached, and the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import gesta.claims.run
from conftest import write_video
from gesta.claims import find_claims, list_claims
from gesta.claims.claim import TOP1, Arm, Claim, Comparison, FusedArm, Metric, Value
from gesta.claims.outcomes import (
    OUTCOME,
    Outcome,
    describe,
    digest,
    read_collected,
    read_runs,
    write_collected,
)
from gesta.claims.report import picture, to_markdown, write_report
from gesta.claims.run import Trainings, run_claims
from gesta.claims.statistics import Interval, interval, learning, verdict
from gesta.claims.status import status_of
from gesta.cli import main
from gesta.config import check, read_text
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.files import lock_folder
from gesta.model import ClipSpec, ModelConfig
from gesta.models.r3d import R3DConfig
from gesta.recipe import EvaluateConfig, Recipe, TrainConfig

pytestmark = pytest.mark.usefixtures("one_thread")

DOCS = Path(__file__).parents[2] / "docs"


# --- statistics ------------------------------------------------------------------------------------------------------


def test_intervals_are_those_of_the_paired_t_test() -> None:
    a, b = np.random.default_rng(0).normal(50, 5, (2, 5))
    found = interval(list(a - b))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found is not None and found.seeds == 5
    assert (found.mean, found.low, found.high) == pytest.approx(((a - b).mean(), expected.low, expected.high))
    assert interval([3.0]) is None and interval([2.0, 2.0]) == Interval(2.0, 0.0, 2)


def test_verdicts_follow_the_rule() -> None:
    above, across, below = (Interval(mean, 0.5, 5) for mean in (3, 1, -1.5))  # half of an interval is 1.39
    base, control = "baseline", "control"
    cases: list[tuple[list[tuple[Any, Interval | None]], str]] = [
        ([(base, above), (control, above)], "shown"),
        ([(base, above), (control, across)], "not shown"),
        ([(base, above), (control, below)], "not shown"),  # a better control contradicts nothing
        ([(base, below), (control, above)], "contradicted"),
        ([(base, across)], "not shown"),
        ([(base, below), (base, above)], "not shown"),  # one of two lies below zero more easily: half is 1.75
        ([(base, above), (control, None)], "not run"),
        ([], "not run"),
    ]
    assert [verdict(comparisons) for comparisons, _ in cases] == [expected for _, expected in cases]


def test_learning_says_how_far_a_training_came() -> None:
    rising, flat = learning([10, 20, 40, 49, 51, 60, 62, 64, 66, 68]), learning([10, 50, 80, 95, 95.2, 95.4])
    assert rising is not None and (rising.final, rising.rising, rising.half) == (68, True, 5)
    assert flat is not None and (flat.final, flat.rising, flat.half) == (95.4, False, 3)
    assert learning([]) is None and learning([40.0]) is not None


# --- trainings -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of two short videos to train and one to test."""
    root = tmp_path_factory.mktemp("videos")
    for label, name in enumerate(("dark", "light")):
        for split, count in (("train", 2), ("test", 1)):
            for i in range(count):
                write_video(root / split / name / f"{i}.mp4", frames=2, size=(24, 16), shade=90 * label + i)
    return root


def recipe(root: Path, width: int = 2, start: bool = False) -> Recipe:
    made = Recipe(
        name="toy",
        model=R3DConfig(depths=(1, 1, 1, 1), width=width, clip=ClipSpec(frames=2, stride=1, size=16)),
        data=Folder(root=str(root)),
        train=TrainConfig(epochs=1, batch_size=4, lr=1e-2, workers=0),
        evaluate=EvaluateConfig(clips=1, workers=0),
    )
    made.init.min_matched = 0.9 if start else made.init.min_matched
    made.init.expected = "another training" if start else ""
    return made


def claim(name: str, arms: list[Arm | FusedArm], *metrics: Metric) -> Claim:
    return Claim(
        name=name,
        statement=f"{arms[0].name} is better",
        source="a paper, §1",
        experiment="A toy.",
        arms=tuple(arms),
        comparisons=tuple(Comparison(better=arms[0].name, worse=arm.name) for arm in arms[1:]),
        metrics=(TOP1, *metrics),
        learn_more="larger toys.",
        minutes=0.1,
        seeds=2,
    )


def test_what_is_done_counts_for_all_claims_and_is_not_done_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    whole = gesta.claims.run.train

    def note(recipe: Recipe, run: Path, **options: Any) -> Path:
        trained.append(run.name.rsplit("-", 2)[0])
        return whole(recipe, run, **options)

    monkeypatch.setattr(gesta.claims.run, "train", note)
    narrow = Arm(name="Narrow", why="the baseline.", make=partial(recipe, videos))
    same = Arm(name="the same", why="of another claim.", make=partial(recipe, videos))
    after = Arm(name="after", why="starts from it.", make=partial(recipe, videos, start=True), start=narrow)
    broken = Arm(name="broken", why="cannot be trained.", make=partial(recipe, videos / "none", 3))
    both = FusedArm(name="both", why="two of them.", parts=((narrow, 0), (after, 0)), is_control=True)
    first, second = claim("toy.a", [after, narrow, both]), claim("toy.b", [same, broken])
    for width in (3, 4):  # another recipe: its outcomes must not be taken for this one's
        assert digest(describe(Arm(name="x", why="", make=partial(recipe, videos, width)))) != digest(describe(narrow))

    def go(claims: list[Claim], **how: Any) -> Trainings:
        trained.clear()
        return run_claims(claims, tmp_path, device="cpu", **how)

    found = go([first, second], seeds=1)
    assert trained == ["narrow", "after", "broken"] and len(found.failed) == 1
    assert "none" in next(iter(found.failed.values())) and found.kept == 0  # narrow is done as what after starts from
    assert len(found.done) == 3
    again = go([first], seeds=1)
    assert trained == [] and again.kept == 3 and not again.done

    locked = next(tmp_path.glob("after-*-0"))
    (locked / OUTCOME).unlink()
    with lock_folder(locked / ".claim"):
        found = go([first], seeds=1)
    assert found.in_use == [locked.name] and found.kept == 2 and trained == []
    measure_later(tmp_path, narrow, trained, go)
    replaced(tmp_path, narrow, trained, go)
    report(tmp_path, first, go)


def measure_later(out: Path, narrow: Arm, trained: list[str], go: Callable[..., Trainings]) -> None:
    """A metric that a claim has got since is measured of old runs, whose values of other metrics stay."""
    metric = Metric(name="curve", title="a curve", measure=lambda *_: {"1": 1.23456, "2": 2.0}, axis="point")
    claimed = claim("toy.c", [narrow], metric)
    go([claimed], seeds=1)
    ((outcome, folder),) = [found for key, found in read_runs(out).items() if key == (digest(describe(narrow)), 0)]
    assert trained == [] and outcome.value("curve/1") == 1.2346 and outcome.value("curve/3") is None
    assert outcome.value("top1") == json.loads((folder / "result.json").read_text())["metrics"]["top1"]
    assert len(outcome.training_accuracy) == 1 and outcome.value("curve") is None
    assert not list(folder.glob("*.ckpt"))  # they would only take space


def replaced(out: Path, narrow: Arm, trained: list[str], go: Callable[..., Trainings]) -> None:
    """A training that is done again for one claim is measured for the others, too, which would lose what they had."""
    first, second = (
        claim(f"toy.{name}", [narrow], Metric(name=name, title=name, measure=lambda *_: 1.5)) for name in ("p", "q")
    )
    known = {key: replace(outcome, metrics={"top1": 0.0, "p": 2.0}) for key, (outcome, _) in read_runs(out).items()}
    elsewhere = out / "elsewhere"
    found = run_claims([second], elsewhere, seeds=1, device="cpu", known=known, others=[first, second])
    ((outcome, _),) = read_runs(elsewhere).values()
    assert trained == ["narrow"] and len(found.done) == 1 and {"top1", "p", "q"} <= set(outcome.metrics)


def report(out: Path, claimed: Claim, go: Callable[..., Trainings]) -> None:
    """The page is made again, letter by letter, from what was collected."""
    go([claimed])  # the second seed
    page, collected = out / "page.md", out / "page.json"
    outcomes = {key: outcome for key, (outcome, _) in read_runs(out).items()}
    write_collected(collected, outcomes.values())
    assert read_collected(collected) == outcomes
    (status,) = write_report(page, [claimed], outcomes)
    assert (status.done, status.needed, status.minutes) == (4, 4, 0) and status.verdict != "not run"
    text = page.read_text()
    assert text == to_markdown([status_of(claimed, read_collected(collected))])
    assert f"]({picture(claimed).as_posix()})" in text and (out / picture(claimed)).stat().st_size > 1000
    assert "training accuracies below 90 %" in text or all(t.final >= 90 for t in status.learning("after"))
    low = status.untrained()
    assert (f"training accuracy of {len(low)} of {len(status.outcomes)} arms below 90 %" in text) == bool(low)
    assert go([claimed], known=outcomes).kept == 6
    (out / "page.json").write_text(collected.read_text().replace('"R3DConfig"', '"GoneConfig"'))
    assert set(read_collected(collected)) == {("", 0), ("", 1)}  # of a version that had another network


def test_losses_are_compared_and_margins_are_of_the_verdict(tmp_path: Path) -> None:
    """Both networks lose by a change; which is better is another question."""
    good, robust = (
        Arm(name=name, why="", make=partial(recipe, tmp_path, width)) for name, width in (("g", 3), ("r", 4))
    )
    compared = Comparison(better="r", worse="g", metric="strides/3", relative_to="strides/4")
    margin = Comparison(better="r", worse="g", metric="strides/4", margin=25.0)
    strides = Metric(name="strides", title="top-1", axis="frames apart")
    claimed = replace(claim("toy.d", [good, robust], strides), comparisons=(compared, margin))
    outcomes = {}
    for arm, three, four in ((good, 60.0, 90.0), (robust, 65.0, 70.0)):
        for seed in (0, 1):
            values: dict[str, Value] = {"strides": {"3": three + seed, "4": four}}
            made = Outcome(
                arm=arm.name, experiment=describe(arm), seed=seed, training_accuracy=[99.0], seconds=1.0, device="CPU",
                metrics=values,
            )  # fmt: skip
            outcomes[made.key] = made
    status = status_of(claimed, outcomes)
    assert [i and i.mean for i in status.intervals] == [25.0, -20.0]  # points: -5 and -30 are lost, 70 and 90 without
    assert status.verdict == "shown" and str(margin) == "r > g − 25 (strides/4)"
    assert str(compared) == "r > g (strides/3 − strides/4)"
    narrow = status_of(replace(claimed, comparisons=(compared, replace(margin, margin=15.0))), outcomes)
    assert narrow.verdict == "contradicted" and "1 of 2 comparisons holds" in narrow.sentence()
    rows = [line for line in to_markdown([narrow]).splitlines() if line.startswith("| r > g")]
    assert rows == [
        "| r > g (strides/3 − strides/4) | baseline | +25.0 (+25.0 to +25.0) | yes |",
        "| r > g − 15 (strides/4) | baseline | -20.0 (-20.0 to -20.0) | no |",
    ]


def test_parts_share_the_trainings_between_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, videos: Path) -> None:
    done: list[tuple[str, int]] = []
    monkeypatch.setattr("gesta.claims.run._Worker.finish", lambda _, unit: done.append((unit.arm.name, unit.seed)))
    arms: list[Arm | FusedArm] = [
        Arm(name=f"arm {width}", why="", make=partial(recipe, videos, width)) for width in (2, 3, 4)
    ]
    for number in (1, 2):
        run_claims([claim("toy.a", arms)], tmp_path, device="cpu", part=(number, 2))
    assert sorted(done) == [(f"arm {width}", seed) for width in (2, 3, 4) for seed in (0, 1)]
    with pytest.raises(GestaError, match="--part 3/2: there is no such part"):
        run_claims([], tmp_path, part=(3, 2))
    with pytest.raises(GestaError, match="seeds 101: claims count the outcomes of 100 seeds; give no more"):
        run_claims([], tmp_path, seeds=101)


# --- those of the papers ---------------------------------------------------------------------------------------------


def recipes() -> list[Recipe]:
    """Of all arms of all claims."""
    arms = [arm for claimed in list_claims().values() for arm in claimed.arms]
    parts = [part for arm in arms if isinstance(arm, FusedArm) for part, _ in arm.parts]
    return [arm.make() for arm in [*parts, *arms] if isinstance(arm, Arm)]


def test_claims_are_whole() -> None:
    for claimed in list_claims().values():
        assert all(arm.why.endswith(".") for arm in claimed.arms) and claimed.learn_more.endswith(".")
    for made in recipes():
        check(made)
        assert made.train.validate_every == 0  # nothing is chosen by accuracy


@pytest.mark.full  # the models of each system are built by tests/contract
def test_models_of_claims_can_be_built() -> None:
    built: list[ModelConfig] = []
    for made in recipes():
        if made.model not in built:
            built.append(made.model)
            with torch.device("meta"):
                made.model.build()


def test_the_page_is_that_of_the_collected_outcomes() -> None:
    outcomes = read_collected(DOCS / "claims.json")
    statuses = [status_of(of_one, outcomes) for of_one in find_claims(["all"])]
    assert to_markdown(statuses) == read_text(DOCS / "claims.md"), "gesta claims --report docs/claims.md"
    assert all((DOCS / picture(s.claim)).is_file() for s in statuses if any(s.outcomes.values()))


def test_misspelt_claims_are_refused_with_a_suggestion() -> None:
    with pytest.raises(GestaError, match="no claim 'stn'; did you mean"):
        find_claims(["stn"])
    assert {of_one.name.split(".")[0] for of_one in find_claims(["stan"])} == {"stan"}


def test_flags_of_trainings_need_a_claim(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--part", "1/2"], ["--seeds", "2"], ["--device", "cpu"]):
        with pytest.raises(SystemExit):
            main(["claims", *flags])
        assert f"{flags[0]} is for trainings, and no claim is named" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["claims", "stan", "--part", "3/2"])
    assert "'3/2' is no part of a number of parts" in capsys.readouterr().err
