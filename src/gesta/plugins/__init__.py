"""Layers that are inserted before a block of any model, one file per paper; see :class:`gesta.model.Insert`."""
