"""The class names that layouts write: genuine ones of each data set, given to the motions of the family it shows.

A motion is named after the nearest class there is; where there is none, after one whose name or place in the order is
easy to get wrong (HandstandPushups, HammerThrow after Hammering, an apostrophe, parentheses).
"""

from __future__ import annotations

from gesta.marionette.motions.fine import FINE
from gesta.marionette.motions.kitchen import KITCHEN

UCF101 = {
    "wave": "Hammering",
    "jumping_jacks": "JumpingJack",
    "squat": "BodyWeightSquats",
    "march": "MilitaryParade",
    "punch": "Punch",
    "kick": "SoccerPenalty",
    "sit_down": "HandstandPushups",
    "stand_up": "JumpRope",
    "pick_up": "CleanAndJerk",
    "put_down": "Lunges",
    "throw": "HammerThrow",
    "catch": "FrisbeeCatch",
}

HMDB51 = {
    "wave": "wave",
    "jumping_jacks": "jump",
    "squat": "situp",
    "march": "walk",
    "punch": "punch",
    "kick": "kick_ball",
    "sit_down": "sit",
    "stand_up": "stand",
    "pick_up": "pick",
    "put_down": "pour",
    "throw": "throw",
    "catch": "catch",
}

KINETICS400 = {
    "wave": "massaging person's head",
    "jumping_jacks": "jumpstyle dancing",
    "squat": "squat",
    "march": "marching",
    "punch": "punching person (boxing)",
    "kick": "side kick",
    "sit_down": "yoga",
    "stand_up": "stretching leg",
    "pick_up": "deadlifting",
    "put_down": "unloading truck",
    "throw": "passing American football (in game)",
    "catch": "catching or throwing baseball",
}

SOMETHING = {
    "push_left_to_right": "Pushing [something] from left to right",
    "push_right_to_left": "Pushing [something] from right to left",
    "pull_left_to_right": "Pulling [something] from left to right",
    "pull_right_to_left": "Pulling [something] from right to left",
    "cover": "Covering [something] with [something]",
    "uncover": "Uncovering [something]",
    "pick_up": "Picking [something] up",
    "put_down": "Putting [something] on a surface",
    "put_into": "Putting [something] into [something]",
    "take_out": "Taking [something] out of [something]",
    "move_up": "Moving [something] up",
    "move_down": "Moving [something] down",
    "bring_together": "Moving [something] and [something] closer to each other",
    "move_apart": "Moving [something] and [something] away from each other",
}
"""Templates as version 2 has them, in the order of version 1's file of labels or any other: readers sort."""


def _dive(name: str) -> str:
    takeoff, somersault, twist, position = name.split("_")
    twist = twist.replace("twis", "Twis").replace("no", "No")
    return f"{takeoff.capitalize()} {somersault} {twist} {position.upper()}"


DIVING48 = {name: _dive(name) for name in FINE}
"""In the vocabulary's order."""

EPIC = {name: name.replace("_", " ") for name in KITCHEN}
"""A verb and a noun each."""

EPIC_VERBS = {"take": "retrieve", "put": "leave", "wash": "clean", "open": "access", "close": "block"}
EPIC_VERBS |= {"cut": "split", "move": "transition"}
"""Verbs in the order of their numbers, with the category that the official file gives."""

EPIC_NOUNS = {"plate": "crockery", "pan": "cookware", "cup": "crockery", "bottle": "containers", "box": "containers"}
"""Nouns in the order of their numbers, with their category."""

NTU = {
    "wave": 23,
    "jumping_jacks": 27,
    "squat": 43,
    "march": 59,
    "punch": 50,
    "kick": 24,
    "sit_down": 8,
    "stand_up": 9,
    "pick_up": 6,
    "put_down": 5,
    "throw": 7,
    "catch": 10,
}
"""Numbers of actions, A001 to A060."""

ISOGD = {
    "wave": 26,
    "jumping_jacks": 19,
    "squat": 109,
    "march": 241,
    "punch": 1,
    "kick": 249,
    "sit_down": 76,
    "stand_up": 77,
    "pick_up": 150,
    "put_down": 151,
    "throw": 200,
    "catch": 201,
}
"""Numbers of gestures, 1 to 249; the data set gives them no names."""
