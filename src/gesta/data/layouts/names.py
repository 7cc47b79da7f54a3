"""The class names that layouts write: genuine ones of each data set, given to the motions of one family.

A motion is named after the nearest class there is; where there is none, after one whose name or place in the order is
easy to get wrong (HandstandPushups, HammerThrow after Hammering, an apostrophe, parentheses).
"""

from __future__ import annotations

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
    "wave": "Turning the camera left while filming [something]",
    "jumping_jacks": "Moving [something] up",
    "squat": "Moving [something] down",
    "march": "Pushing [something] from left to right",
    "punch": "Pushing [something] with [something]",
    "kick": "Pushing [something] from right to left",
    "sit_down": "Covering [something] with [something]",
    "stand_up": "Uncovering [something]",
    "pick_up": "Picking [something] up",
    "put_down": "Putting [something] on a surface",
    "throw": "Throwing [something]",
    "catch": "Throwing [something] in the air and catching it",
}
"""Templates as version 2 has them, in the order of version 1's file of labels or any other: readers sort."""

DIVING48 = {
    "wave": "Back 15som 05Twis FREE",
    "jumping_jacks": "Back 15som NoTwis PIKE",
    "squat": "Back 15som NoTwis TUCK",
    "march": "Back 25som 15Twis PIKE",
    "punch": "Back Dive NoTwis PIKE",
    "kick": "Forward 15som 1Twis FREE",
    "sit_down": "Forward 15som 2Twis FREE",
    "stand_up": "Forward 15som NoTwis PIKE",
    "pick_up": "Forward 25som NoTwis TUCK",
    "put_down": "Inward 15som NoTwis TUCK",
    "throw": "Reverse 15som 05Twis FREE",
    "catch": "Reverse 15som NoTwis PIKE",
}
"""In the vocabulary's order."""

EPIC = {
    "wave": "wash plate",
    "jumping_jacks": "open cupboard",
    "squat": "close cupboard",
    "march": "move box",
    "punch": "cut box",
    "kick": "move pan",
    "sit_down": "put plate",
    "stand_up": "take plate",
    "pick_up": "take box",
    "put_down": "put box",
    "throw": "throw bottle",
    "catch": "take bottle",
}
"""A verb and a noun each."""

EPIC_VERBS = {"take": "retrieve", "put": "leave", "wash": "clean", "open": "access", "close": "block"}
EPIC_VERBS |= {"cut": "split", "move": "transition", "throw": "leave"}
"""Verbs in the order of their numbers, with the category that the official file gives."""

EPIC_NOUNS = {"plate": "crockery", "cupboard": "storage", "pan": "cookware", "bottle": "containers"}
EPIC_NOUNS |= {"box": "containers"}
"""Nouns, in the same way."""

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
