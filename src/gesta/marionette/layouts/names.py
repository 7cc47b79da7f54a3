"""The class names that layouts write: genuine ones of each data set, given to the motions of the family it shows.

A motion is named after the nearest class there is; where there is none, after one whose name or place in the order is
easy to get wrong (HandstandPushups, HammerThrow after Hammering, an apostrophe, parentheses).
"""

from __future__ import annotations

from gesta.marionette.motions.fine import FINE
from gesta.marionette.motions.kitchen import KITCHEN

# UCF-101, HMDB-51, Kinetics-400, NTU RGB+D (A001 to A060), IsoGD (1 to 249, its gestures have no names)
_COARSE = {
    "wave": ("Hammering", "wave", "massaging person's head", 23, 26),
    "jumping_jacks": ("JumpingJack", "jump", "jumpstyle dancing", 27, 19),
    "squat": ("BodyWeightSquats", "situp", "squat", 43, 109),
    "march": ("MilitaryParade", "walk", "marching", 59, 241),
    "punch": ("Punch", "punch", "punching person (boxing)", 50, 1),
    "kick": ("SoccerPenalty", "kick_ball", "side kick", 24, 249),
    "sit_down": ("HandstandPushups", "sit", "yoga", 8, 76),
    "stand_up": ("JumpRope", "stand", "stretching leg", 9, 77),
    "pick_up": ("CleanAndJerk", "pick", "deadlifting", 6, 150),
    "put_down": ("Lunges", "pour", "unloading truck", 5, 151),
    "throw": ("HammerThrow", "throw", "passing American football (in game)", 7, 200),
    "catch": ("FrisbeeCatch", "catch", "catching or throwing baseball", 10, 201),
}

UCF101 = {action: row[0] for action, row in _COARSE.items()}
HMDB51 = {action: row[1] for action, row in _COARSE.items()}
KINETICS400 = {action: row[2] for action, row in _COARSE.items()}
NTU = {action: row[3] for action, row in _COARSE.items()}
ISOGD = {action: row[4] for action, row in _COARSE.items()}

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
