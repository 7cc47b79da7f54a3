"""Weights become a result.

- ``evaluate.py``: scores a data set and writes down how
- ``scoring.py``: from views to the scores of videos, for prediction too
- ``metrics.py``: accuracies, precision, recall and F1 of classes, the confusion matrix, accuracies of parts of a list
- ``result.py``: what ``result.json`` holds
- ``localisation.py``, ``timeline_result.py``: metrics of segments and frames of long videos, and their result
- ``compare.py``, ``mean.py``, ``fuse.py``: two results beside each other, the mean over splits, several models together
"""
