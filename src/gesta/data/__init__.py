"""Records become batches: which videos a list names, which frames and boxes a model sees of them, in which order.

``lists`` and ``listfile`` give records of one's own videos (public data sets: :mod:`gesta.datasets`), ``clips`` and
``transforms`` say what is seen of them, ``samples`` and ``loader`` read it.
"""
