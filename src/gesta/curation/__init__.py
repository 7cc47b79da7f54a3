"""What ``gesta data`` does before a training: check, describe, show, re-encode; read exports of labels (``labels/``).

``check`` finds what would spoil a training, ``prepare`` makes a copy that is quick to read, ``workers`` runs the same
work on many files so that a file that kills its process stops no other.
"""
