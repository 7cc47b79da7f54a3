"""Experiments as typed functions that return a :class:`~gesta.recipe.Recipe`.

One file per paper (``stan.py``, ``ata.py`` …) holds its runs, its tables and its published costs; ``own_videos.py`` and
``synthetic.py`` hold the recipes of no paper. ``address.py`` finds a recipe by what users write on the command line,
``published.py`` says what a table is; :mod:`gesta.comparison` puts our numbers beside the papers'.

The public names stand, with their types, in ``__init__.pyi`` beside this file. They are imported on first use, so that
listing the recipes need not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
