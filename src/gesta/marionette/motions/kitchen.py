"""The kitchen family: a verb done to one of three objects on a counter, in a clip of its own or in a long video.

Any verb goes with any noun, so neither predicts the other. Objects have a state that outlasts an action: where they
stand, whether their lid is open, whether they are stowed below the counter; an action needs a state that allows it.
*put* is *take* and *close* is *open* played backwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gesta.marionette.motions.blocks import (
    Motion,
    Performance,
    Random,
    ease,
    random_colour,
    reversed_motion,
    standing_pose,
)
from gesta.marionette.motions.table_objects import TableObject, counter
from gesta.marionette.puppet import SIDES, Body
from gesta.marionette.renderer import Array, Box, Cone

VERBS = ("take", "put", "wash", "open", "close", "cut", "move")
NOUNS = ("plate", "pan", "cup", "bottle", "box")
"""Both in the order that EPIC-KITCHENS has them in."""

SEGMENTS = 8
"""Actions in a long video."""

TASK_FRAMES, PAUSE_FRAMES = (22, 32), (6, 22)
"""Least and greatest length of an action in a long video and of a pause, frames."""

_SIZES = {
    "plate": (0.135, 0.04),
    "pan": (0.11, 0.1),
    "cup": (0.07, 0.165),
    "bottle": (0.066, 0.3),
    "box": (0.105, 0.16),
}
_COLOURS = {"plate": (232, 232, 226), "pan": (62, 64, 72), "cup": (206, 70, 62), "bottle": (60, 140, 86)}
_COLOURS |= {"box": (190, 142, 84)}

_TOOLS = {"wash": ((0.055, 0.022, 0.045), (240, 206, 60), 0.03), "cut": ((0.008, 0.05, 0.11), (206, 212, 222), 0.07)}
"""A sponge and a knife: half sides, colour, and how far below the wrist they are held."""


class Task(NamedTuple):
    """Frames ``start`` to ``end`` (excluded) of a video show a verb done to a noun."""

    start: int
    end: int
    verb: str
    noun: str


@dataclass(frozen=True, slots=True)
class ObjectState:
    """The state of one object.

    Attributes:
        noun: its name.
        stowed: whether it is below the counter.
        open: whether its lid is open.
        offset: -1 or 1, in which half of its third of the counter it stands.
    """

    noun: str
    stowed: bool
    open: bool
    offset: int

    def allows(self) -> list[str]:
        """Verbs that can be done to it."""
        return ["put"] if self.stowed else ["take", "wash", "close" if self.open else "open", "cut", "move"]

    def after(self, verb: str) -> ObjectState:
        """Its state after a verb was done to it."""
        return {
            "take": replace(self, stowed=True),
            "put": replace(self, stowed=False),
            "open": replace(self, open=True),
            "close": replace(self, open=False),
            "move": replace(self, offset=-self.offset),
        }.get(verb, self)


def _states(rng: Random, noun: str = "") -> list[ObjectState]:
    """Three objects in a random order and state, among them ``noun`` if given."""
    others = rng.permutation([other for other in NOUNS if other != noun])
    chosen = rng.permutation([noun, *others[:2]] if noun else others[:3])
    return [
        ObjectState(str(name), bool(rng.random() < 0.35), bool(rng.random() < 0.4), int(rng.choice([-1, 1])))
        for name in chosen
    ]


def plan_video(rng: Random) -> tuple[list[ObjectState], list[Task], int]:
    """What a long video shows: the objects at its beginning, :data:`SEGMENTS` tasks, and its length in frames."""
    before = _states(rng)
    states, tasks, counts = list(before), [], dict.fromkeys((*VERBS, *NOUNS), 0.0)
    frame = int(rng.integers(*PAUSE_FRAMES))
    for _ in range(SEGMENTS):
        choices = [(verb, state.noun) for state in states for verb in state.allows()]
        # what was done least often comes first, so that verbs and nouns are about equally frequent
        verb, noun = min(choices, key=lambda pair: counts[pair[0]] + 0.5 * counts[pair[1]] + rng.random())
        counts[verb], counts[noun] = counts[verb] + 1, counts[noun] + 1
        end = frame + int(rng.integers(TASK_FRAMES[0], TASK_FRAMES[1] + 1))
        tasks.append(Task(frame, end, verb, noun))
        states = [state.after(verb) if state.noun == noun else state for state in states]
        frame = end + int(rng.integers(PAUSE_FRAMES[0], PAUSE_FRAMES[1] + 1))
    return before, tasks, frame


def perform_tasks(body: Body, t: Array, rng: Random, before: list[ObjectState], tasks: list[Task]) -> Performance:
    """Tasks one after another by one puppet at one counter; between them it does nothing that has a label."""
    kitchen = _Kitchen(body, t, rng, before)
    for task in tasks:
        kitchen.add_task(task, rng)
    ends = [0, *(task.end for task in tasks)]
    starts = [*(task.start for task in tasks), len(t)]
    for end, start in zip(ends, starts):
        kitchen.pause(end, start, rng)
    return kitchen.performance()


class _Kitchen:
    """A puppet at a counter with three objects on it, to which tasks are added in their order."""

    def __init__(self, body: Body, t: Array, rng: Random, before: list[ObjectState]) -> None:
        self.t, self.scale, self.pose = t, body.height / 1.7, standing_pose(body, t, rng)
        self.high, ahead, self.boxes = counter(body, len(t), 0.5 * random_colour(rng) + 70)
        self.ahead = ahead + 0.04 * self.scale
        edge = ahead - 0.1 * body.height
        ready = np.stack([SIDES * 0.21 * self.scale, np.full(2, self.high + 0.03), np.full(2, edge)], -1)
        self.pose.wrists = np.tile(ready, (len(t), 1, 1))
        self.pose.elbows = np.array([[-1.0, -0.5, -0.7], [1.0, -0.5, -0.7]])
        self.tools = dict.fromkeys(_TOOLS, np.tile([0.0, 0.4 * self.high, ahead], (len(t), 1)))  # below the counter
        self.states = {state.noun: state for state in before}
        self.zones = {state.noun: 0.43 * self.scale * (i - 1) for i, state in enumerate(before)}
        self.objects, self.paths, self.lid = {}, {}, {}
        for state in before:
            wide, high = self.scale * rng.uniform(0.94, 1.06) * np.array(_SIZES[state.noun])
            colour = np.clip(np.array(_COLOURS[state.noun]) + rng.uniform(-14, 14, 3), 0, 255)
            self.objects[state.noun] = TableObject(state.noun, float(wide), float(high), colour)
            self.paths[state.noun] = np.tile(
                self._stowed_position(state) if state.stowed else self._position(state), (len(t), 1)
            )
            self.lid[state.noun] = np.full(len(t), float(state.open))

    def _position(self, state: ObjectState) -> Array:
        return np.array([self.zones[state.noun] + 0.08 * self.scale * state.offset, self.high, self.ahead])

    def _stowed_position(self, state: ObjectState) -> Array:
        below = self.high - self.objects[state.noun].high - 2 * self.objects[state.noun].lid - 0.06
        return np.array([0.85 * self.zones[state.noun], below, self.ahead - 0.14 * self.scale])

    def add_task(self, task: Task, rng: Random) -> None:
        """Add one task."""
        verb, noun, item = task.verb, task.noun, self.objects[task.noun]
        state = self.states[noun]
        time = np.clip((np.arange(len(self.t)) - task.start) / (task.end - 1 - task.start), 0, 1)
        first, last = rng.uniform(0.2, 0.27), rng.uniform(0.73, 0.8)
        if verb in ("put", "close"):  # take and open, backwards
            time = 1 - time
        fraction, held = ease(time, 0.0, first) - ease(time, last, 1.0), np.clip((time - first) / (last - first), 0, 1)
        from_start = np.arange(len(self.t)) >= task.start
        side = int(self.zones[noun] > 0) if self.zones[noun] else int(rng.integers(2))
        position = self._position(state)
        top = np.array([0, item.high + 0.04, -0.02])
        if verb in ("take", "put"):
            stowed = self._stowed_position(state)
            path = position + ease(held, 0.2, 0.7)[:, None] * (stowed - position) * np.array([1, 0, 1])
            path[:, 1] += rng.uniform(0.14, 0.2) * self.scale * (ease(held, 0, 0.3) - ease(held, 0.55, 0.8))
            path[:, 1] += ease(held, 0.7, 1.0) * (stowed[1] - position[1])
            self.paths[noun] = np.where(from_start[:, None], path, self.paths[noun])
            grip = path + top
            grip[:, 1] = np.maximum(grip[:, 1], self.high + 0.04)
        elif verb in ("open", "close"):
            turned = ease(held, 0, 1)
            self.lid[noun] = np.where(from_start, turned, self.lid[noun])
            wide, angle = item.lid, np.radians(100) * turned
            grip = position + np.stack(
                [0 * angle, item.high + 0.03 + 1.4 * wide * np.sin(angle), 1.4 * wide * np.cos(angle) - wide], -1
            )
        elif verb == "move":
            path = position + ease(held, 0, 1)[:, None] * (self._position(state.after(verb)) - position)
            self.paths[noun] = np.where(from_start[:, None], path, self.paths[noun])
            near = SIDES[side] if not self.zones[noun] else -SIDES[side]
            grip = path + np.array([near * (item.wide + 0.04), 0.5 * item.high, -0.02])
        else:
            grip = self._with_tool(verb, position + top, item, fraction, rng)
        self._move_hand(side, grip, fraction)
        self.states[noun] = state.after(verb)

    def _with_tool(self, verb: str, over: Array, item: TableObject, fraction: Array, rng: Random) -> Array:
        """The path of a hand that washes or cuts, with a sponge or a knife in it."""
        phase = 2 * np.pi * (rng.uniform(1.1, 1.7) * self.t + rng.random())
        reach = rng.uniform(0.07, 0.1) * self.scale
        if verb == "wash":
            grip = over + reach * np.stack([np.cos(phase), 0 * phase, 0.7 * np.sin(phase)], -1)
        else:
            grip = over + np.stack([0 * phase, 0.04 + 1.1 * reach * (1 + np.sin(phase)), 0.02 + 0 * phase], -1)
        held = grip + np.array([0, -_TOOLS[verb][2], 0.03])
        self.tools[verb] = np.where(fraction[:, None] > 0.3, held, self.tools[verb])
        return grip

    def pause(self, start: int, end: int, rng: Random) -> None:
        """Between tasks, a hand may touch the face."""
        side, touches_face = int(rng.integers(2)), rng.random() < 0.5
        if end - start < 12 or not touches_face:
            return
        time = np.clip((np.arange(len(self.t)) - start) / (end - 1 - start), 0, 1)
        face = self.pose.pelvis + self.scale * np.array([0.12 * SIDES[side], 0.62, 0.2])
        self._move_hand(side, face, ease(time, 0.05, 0.45) - ease(time, 0.55, 0.95), leaning=0.0)

    def _move_hand(self, side: int, grip: Array, fraction: Array, leaning: float = 0.14) -> None:
        ready = self.pose.wrists[:, side]
        bow = 0.08 * self.scale * np.sin(np.pi * fraction)
        self.pose.wrists[:, side] = ready + fraction[:, None] * (grip - ready) + bow[:, None] * np.array([0, 1.0, 0])
        self.pose.lean = self.pose.lean + leaning * fraction
        across = (grip[:, 0] - ready[:, 0]) / self.scale
        self.pose.twist = self.pose.twist + 0.5 * fraction * np.clip(across, -0.5, 0.5)
        self.pose.nod = self.pose.nod + 0.7 * leaning * fraction

    def performance(self) -> Performance:
        """Everything that was added."""
        cones: list[Cone] = []
        boxes = self.boxes + [
            Box(at, self.scale * np.array(_TOOLS[verb][0]), 0.0, np.array(_TOOLS[verb][1], dtype=float))
            for verb, at in self.tools.items()
        ]
        for noun, item in self.objects.items():
            solids = item.solids(self.paths[noun])
            cones += solids[0] + item.lid_solids(self.paths[noun], np.radians(100) * self.lid[noun])
            boxes += solids[1]
        return Performance(self.pose, cones, boxes)


def _single_task(verb: str, noun: str) -> Motion:
    """One action that fills a clip."""

    def motion(body: Body, t: Array, rng: Random) -> Performance:
        before = [
            state if state.noun != noun else replace(state, stowed=False, open=state.open and verb != "open")
            for state in _states(rng, noun)
        ]
        return perform_tasks(
            body, t, rng, before, [Task(int(rng.integers(0, 4)), len(t) - int(rng.integers(0, 4)), verb, noun)]
        )

    return motion


def _action(verb: str, noun: str) -> Motion:
    reverse = {"put": "take", "close": "open"}.get(verb)
    return reversed_motion(_single_task(reverse, noun)) if reverse else _single_task(verb, noun)


# every verb with every noun, in an order in which both change at every step, so that the first few have several of both
KITCHEN: dict[str, Motion] = {
    f"{verb}_{noun}": _action(verb, noun)
    for verb, noun in ((VERBS[i % len(VERBS)], NOUNS[i % len(NOUNS)]) for i in range(len(VERBS) * len(NOUNS)))
}
"""Single actions of the kitchen family by name."""

REVERSED_PAIRS = tuple(
    (f"{one}_{noun}", f"{two}_{noun}") for one, two in (("take", "put"), ("open", "close")) for noun in NOUNS
)
"""Classes that are the same motion in opposite order."""
