"""Learning without labels.

- ``masks.py``: which tokens of a clip are hidden
- ``videomae.py``: a video ViT that rebuilds the hidden tubes of pixels
- ``simmim.py``: any model that rebuilds squares of pixels that are replaced by one colour
"""
