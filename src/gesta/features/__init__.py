"""Features of videos: computed, kept in a folder, and compared.

- ``extract.py``: the features of the views of each video, loaded as in evaluation
- ``compute.py``: what a folder lacks is computed; names of the files
- ``windows.py``: the same of windows over whole videos, with their times
- ``folder.py``: a folder of features that knows what each of them is of, so that none is computed twice
- ``neighbours.py``: the most similar videos, and near duplicates
"""
