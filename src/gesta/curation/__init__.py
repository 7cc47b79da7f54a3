"""What ``gesta data`` does to videos before a training: check, describe, show, re-encode.

``check`` finds what would spoil a training, ``prepare`` makes a copy that is quick to read, ``workers`` runs the same
work on many files so that a file that kills its process stops no other.
"""
