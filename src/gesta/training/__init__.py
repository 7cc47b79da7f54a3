"""A recipe becomes a run folder.

:mod:`~gesta.training.loop` is the training from top to bottom; :mod:`~gesta.training.setup` builds what it needs,
:mod:`~gesta.training.step` is one optimiser step, :mod:`~gesta.training.optim` the optimiser and its learning rates,
:mod:`~gesta.training.folder` the run folder, :mod:`~gesta.training.log` what is written and shown on the way, and
:mod:`~gesta.training.sweep` trains a recipe once for each value of a field.
"""
