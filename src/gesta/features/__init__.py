"""Videos become features, which are kept in a folder and used from there.

- ``extract.py``: the features of the views of each video, by the loader of the evaluation
- ``windows.py``: the same of windows over whole videos, with their times
- ``folder.py``: a folder of features that knows what each of them is of, so that none is computed twice
- ``neighbours.py``: the most similar videos, and near duplicates
"""
