"""The kitchen family: a verb done to one of three objects (of five kinds) on a counter.

A clip shows one action, a long video several. Any verb goes with any noun, so neither predicts the other. Objects have
a state that outlasts an action: where they stand, whether their lid is open, whether they are stowed below the counter;
an action needs a state that allows it. *put* is *take* and *close* is *open* played backwards.
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
from gesta.marionette.motions.table_objects import TableObject, counter, move_hand, rest_hands
from gesta.marionette.puppet import SIDES, Body
from gesta.marionette.renderer import Array, Box, Cone

VERBS = ("take", "put", "wash", "open", "close", "cut", "move")
_KINDS = {
    "plate": (0.135, 0.04, (232, 232, 226)),
    "pan": (0.11, 0.1, (62, 64, 72)),
    "cup": (0.07, 0.165, (206, 70, 62)),
    "bottle": (0.066, 0.3, (60, 140, 86)),
    "box": (0.105, 0.16, (190, 142, 84)),
}
"""Half width, height and colour of the objects."""
NOUNS = tuple(_KINDS)
"""Verbs and nouns are in the order that EPIC-KITCHENS has them in."""

ACTIONS_PER_VIDEO = 8
"""Actions in a long video."""

ACTION_FRAMES, PAUSE_FRAMES = (22, 32), (6, 22)
"""Minimum and maximum frames of an action in a long video and of a pause; the first pause excludes the maximum."""

_TOOLS = {"wash": ((0.055, 0.022, 0.045), (240, 206, 60), 0.03), "cut": ((0.008, 0.05, 0.11), (206, 212, 222), 0.07)}
"""A sponge and a knife: half sides, colour, and how far below the wrist they are held."""


class TimedAction(NamedTuple):
    """Frames ``start`` to ``end`` (excluded) of a video show a verb done to a noun."""

    start: int
    end: int
    verb: str
    noun: str


@dataclass(frozen=True, slots=True)
class ObjectState:
    """The state of one object."""

    noun: str
    stowed: bool  # below the counter
    open: bool  # its lid
    offset: int  # -1 or 1, in which half of its third of the counter it stands

    def possible_verbs(self) -> list[str]:
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
    chosen = map(str, rng.permutation([noun, *others[:2]] if noun else others[:3]))
    return [ObjectState(n, rng.random() < 0.35, rng.random() < 0.4, int(rng.choice([-1, 1]))) for n in chosen]


def plan_video(rng: Random) -> tuple[list[ObjectState], list[TimedAction], int]:
    """What a long video shows: its objects at first, :data:`ACTIONS_PER_VIDEO` actions, and its length in frames."""
    before = _states(rng)
    states, actions, counts = list(before), [], dict.fromkeys((*VERBS, *NOUNS), 0.0)
    frame = int(rng.integers(*PAUSE_FRAMES))
    for _ in range(ACTIONS_PER_VIDEO):
        choices = [(verb, state.noun) for state in states for verb in state.possible_verbs()]
        # what was done least often comes first, so that verbs and nouns are about equally frequent
        verb, noun = min(choices, key=lambda pair: counts[pair[0]] + 0.5 * counts[pair[1]] + rng.random())
        counts[verb], counts[noun] = counts[verb] + 1, counts[noun] + 1
        end = frame + int(rng.integers(ACTION_FRAMES[0], ACTION_FRAMES[1] + 1))
        actions.append(TimedAction(frame, end, verb, noun))
        states = [state.after(verb) if state.noun == noun else state for state in states]
        frame = end + int(rng.integers(PAUSE_FRAMES[0], PAUSE_FRAMES[1] + 1))
    return before, actions, frame


def perform_actions(
    body: Body, t: Array, rng: Random, before: list[ObjectState], actions: list[TimedAction]
) -> Performance:
    """Actions one after another by one puppet at one counter; between them nothing labelled happens."""
    kitchen = _Kitchen(body, t, rng, before)
    for action in actions:
        kitchen.add_action(action, rng)
    for end, start in zip([0, *(a.end for a in actions)], [*(a.start for a in actions), len(t)]):
        kitchen.pause(end, start, rng)
    return kitchen.performance()


class _Kitchen:
    """A puppet at a counter with three objects on it, to which actions are added in their order."""

    def __init__(self, body: Body, t: Array, rng: Random, before: list[ObjectState]) -> None:
        self.t, self.scale, self.pose = t, body.height / 1.7, standing_pose(body, t, rng)
        self.height, distance, self.boxes = counter(body, len(t), 0.5 * random_colour(rng) + 70)
        self.distance = distance + 0.04 * self.scale
        rest_hands(self.pose, body, self.height, distance)
        below_counter = np.tile([0.0, 0.4 * self.height, distance], (len(t), 1))
        self.tools = dict.fromkeys(_TOOLS, below_counter)
        self.states = {state.noun: state for state in before}
        self.zones = {state.noun: 0.43 * self.scale * (i - 1) for i, state in enumerate(before)}
        self.objects, self.paths, self.lid_open = {}, {}, {}
        for state in before:
            *size, paint = _KINDS[state.noun]
            half_width, height = self.scale * rng.uniform(0.94, 1.06) * np.array(size)
            colour = np.clip(np.array(paint) + rng.uniform(-14, 14, 3), 0, 255)
            self.objects[state.noun] = TableObject(state.noun, float(half_width), float(height), colour)
            position = self._stowed_position(state) if state.stowed else self._position(state)
            self.paths[state.noun] = np.tile(position, (len(t), 1))
            self.lid_open[state.noun] = np.full(len(t), float(state.open))

    def _position(self, state: ObjectState) -> Array:
        return np.array([self.zones[state.noun] + 0.08 * self.scale * state.offset, self.height, self.distance])

    def _stowed_position(self, state: ObjectState) -> Array:
        below = self.height - self.objects[state.noun].height - 2 * self.objects[state.noun].lid_half_width - 0.06
        return np.array([0.85 * self.zones[state.noun], below, self.distance - 0.14 * self.scale])

    def add_action(self, action: TimedAction, rng: Random) -> None:
        """Add one action."""
        verb, noun, item, state = action.verb, action.noun, self.objects[action.noun], self.states[action.noun]
        frames = np.arange(len(self.t))
        from_start = frames >= action.start
        time = np.clip((frames - action.start) / (action.end - 1 - action.start), 0, 1)
        first, last = rng.uniform(0.2, 0.27), rng.uniform(0.73, 0.8)
        if verb in ("put", "close"):  # take and open, backwards
            time = 1 - time
        fraction = ease(time, 0.0, first) - ease(time, last, 1.0)
        hold_time = np.clip((time - first) / (last - first), 0, 1)
        hand = int(self.zones[noun] > 0) if self.zones[noun] else int(rng.integers(2))
        position = self._position(state)
        top = np.array([0, item.height + 0.04, -0.02])
        if verb in ("take", "put"):
            stowed = self._stowed_position(state)
            path = position + ease(hold_time, 0.2, 0.7)[:, None] * (stowed - position) * np.array([1, 0, 1])
            path[:, 1] += rng.uniform(0.14, 0.2) * self.scale * (ease(hold_time, 0, 0.3) - ease(hold_time, 0.55, 0.8))
            path[:, 1] += ease(hold_time, 0.7, 1.0) * (stowed[1] - position[1])
            self.paths[noun] = np.where(from_start[:, None], path, self.paths[noun])
            wrist_target = path + top
            wrist_target[:, 1] = np.maximum(wrist_target[:, 1], self.height + 0.04)
        elif verb in ("open", "close"):
            turned = ease(hold_time, 0, 1)
            self.lid_open[noun] = np.where(from_start, turned, self.lid_open[noun])
            angle, reach = np.radians(100) * turned, 1.4 * item.lid_half_width
            up, forward = item.height + 0.03 + reach * np.sin(angle), reach * np.cos(angle) - item.lid_half_width
            wrist_target = position + np.stack([0 * angle, up, forward], -1)
        elif verb == "move":
            path = position + ease(hold_time, 0, 1)[:, None] * (self._position(state.after(verb)) - position)
            self.paths[noun] = np.where(from_start[:, None], path, self.paths[noun])
            near = SIDES[hand] if not self.zones[noun] else -SIDES[hand]
            wrist_target = path + np.array([near * (item.half_width + 0.04), 0.5 * item.height, -0.02])
        else:
            wrist_target = self._with_tool(verb, position + top, fraction, rng)
        move_hand(self.pose, hand, wrist_target, fraction, self.scale, arc=0.08, lean=0.14, nod=0.7 * 0.14)
        self.states[noun] = state.after(verb)

    def _with_tool(self, verb: str, over: Array, fraction: Array, rng: Random) -> Array:
        """The path of a hand that washes or cuts, with a sponge or a knife in it."""
        phase = 2 * np.pi * (rng.uniform(1.1, 1.7) * self.t + rng.random())
        reach = rng.uniform(0.07, 0.1) * self.scale
        if verb == "wash":
            wrist_target = over + reach * np.stack([np.cos(phase), 0 * phase, 0.7 * np.sin(phase)], -1)
        else:
            wrist_target = over + np.stack([0 * phase, 0.04 + 1.1 * reach * (1 + np.sin(phase)), 0.02 + 0 * phase], -1)
        tool_position = wrist_target + np.array([0, -_TOOLS[verb][2], 0.03])
        self.tools[verb] = np.where(fraction[:, None] > 0.3, tool_position, self.tools[verb])
        return wrist_target

    def pause(self, start: int, end: int, rng: Random) -> None:
        """Between actions, a hand may touch the face."""
        hand, touches_face = int(rng.integers(2)), rng.random() < 0.5
        if end - start < 12 or not touches_face:
            return
        time = np.clip((np.arange(len(self.t)) - start) / (end - 1 - start), 0, 1)
        face = self.pose.pelvis + self.scale * np.array([0.12 * SIDES[hand], 0.62, 0.2])
        fraction = ease(time, 0.05, 0.45) - ease(time, 0.55, 0.95)
        move_hand(self.pose, hand, face, fraction, self.scale, arc=0.08, lean=0.0, nod=0.0)

    def performance(self) -> Performance:
        """Everything that was added."""
        cones: list[Cone] = []
        boxes = list(self.boxes)
        for verb, path in self.tools.items():
            half, colour, _ = _TOOLS[verb]
            boxes.append(Box(path, self.scale * np.array(half), 0.0, np.array(colour, dtype=float)))
        for noun, item in self.objects.items():
            solids = item.solids(self.paths[noun])
            cones += solids[0] + item.lid_solids(self.paths[noun], np.radians(100) * self.lid_open[noun])
            boxes += solids[1]
        return Performance(self.pose, cones, boxes)


def _single_action(verb: str, noun: str) -> Motion:
    """One action that fills a clip but for up to three frames at either end."""

    def motion(body: Body, t: Array, rng: Random) -> Performance:
        before = [
            state if state.noun != noun else replace(state, stowed=False, open=state.open and verb != "open")
            for state in _states(rng, noun)
        ]
        action = TimedAction(int(rng.integers(0, 4)), len(t) - int(rng.integers(0, 4)), verb, noun)
        return perform_actions(body, t, rng, before, [action])

    return motion


def _kitchen_motion(verb: str, noun: str) -> Motion:
    reverse = {"put": "take", "close": "open"}.get(verb)
    return reversed_motion(_single_action(reverse, noun)) if reverse else _single_action(verb, noun)


# every verb with every noun, in an order in which both change at every step, so that the first few have several of both
_PAIRS = [(VERBS[i % len(VERBS)], NOUNS[i % len(NOUNS)]) for i in range(len(VERBS) * len(NOUNS))]
KITCHEN: dict[str, Motion] = {f"{verb}_{noun}": _kitchen_motion(verb, noun) for verb, noun in _PAIRS}
"""Single actions of the kitchen family by name."""

REVERSED_PAIRS = tuple(
    (f"{one}_{noun}", f"{two}_{noun}") for one, two in (("take", "put"), ("open", "close")) for noun in NOUNS
)
"""Classes that are the same motion in opposite order."""
