"""Records become batches.

- ``lists.py``, ``shards.py``: data sets of one's own: a folder per class, list files, tar files
- ``listfile.py``: reading list files, by ``list_text.py`` (without a header), ``list_table.py`` (named columns, JSON)
  and ``list_entry.py`` (a single line); ``locate.py``: finding the videos that they name, splitting them
- ``clips.py``: which frames make a clip, which box makes a crop of a test
- ``transforms.py``: frames become training clips (crop, flip, colours …) and test views; MixUp and CutMix of batches
- ``person.py``: crops around people, by masked depth maps
- ``samples.py``: a record is read into a sample: augmented training clips, or all views of a test
- ``frame_cache.py``: decoded frames of small data sets, kept in files
- ``batch.py``: what samples and batches hold, and the shapes of their tensors
- ``shares.py``: shares of a list of videos for many jobs, and whether their parts make a whole
- ``loader.py``: which records make a batch, and the worker processes that read them
"""
