"""The synthetic data set: an articulated puppet, rendered in colour and depth, performs actions.

``dataset`` reads and makes a set. ``motions`` holds the actions of each family, ``puppet``, ``renderer``, ``lighting``,
``displacement`` and ``filming`` make a clip of one, and ``layouts`` writes sets in the file layouts of the public data
sets.
"""
