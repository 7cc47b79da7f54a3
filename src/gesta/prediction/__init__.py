"""Files and cameras become predictions.

- ``predict.py``: the actions of whole videos
- ``timeline.py``: the timed actions of long videos and cameras: frames to windows (``windows.py``), windows to segments
  (``segments.py``)
- ``localise.py``: timelines scored against the segments of a list
- ``prediction.py``: what both yield
- ``writers.py``, ``pre_annotations.py``, ``annotate.py``: as tables, text, CSV, JSON and subtitles; for Label Studio;
  drawn onto a copy of the video
- ``background.py``: reading ahead of the model
"""
