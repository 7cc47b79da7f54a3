"""Exports of labelling tools become lists of segments: ``gesta data import``.

- ``export.py``: what the readers give, and what each says about what is no segment
- ``label_studio.py``, ``cvat.py``, ``via.py``, ``fiftyone.py``, ``activitynet.py``, ``ava.py``: a reader of each format
- ``convert.py``: which format a file has, which videos its names mean, and the list that is written
"""
