"""Speed of this machine, and what its installation lacks.

``loading``, ``model`` and ``alignment`` measure (``gesta bench``), ``timing`` is what they share, ``doctor`` checks the
installation (``gesta doctor``). The scripts under ``benchmarks/`` compare gesta with the alternatives.
"""
