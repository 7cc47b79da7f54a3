"""gesta recognises human actions in video.

The public names below are imported on first use, so that ``import gesta`` and ``gesta --help`` stay quick.
The verbs are functions of their rooms: ``gesta.train.train``, ``gesta.evaluate.evaluate``, ``gesta.predict.predict`` …
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "ATA": "gesta.plugins.ata",
    "AroundConfig": "gesta.model",
    "Augment": "gesta.data.transforms",
    "ClipSpec": "gesta.model",
    "DataConfig": "gesta.data.dataset",
    "Diving48": "gesta.data.diving48",
    "EPICKitchens": "gesta.data.epic",
    "EvaluateConfig": "gesta.evaluate",
    "Folder": "gesta.data.lists",
    "GestaError": "gesta.errors",
    "HMDB51": "gesta.data.hmdb51",
    "Insert": "gesta.model",
    "IsoGD": "gesta.data.isogd",
    "Kinetics400": "gesta.data.kinetics400",
    "LayerConfig": "gesta.model",
    "Lists": "gesta.data.lists",
    "Marionette": "gesta.data.marionette",
    "ModelConfig": "gesta.model",
    "NTU": "gesta.data.ntu",
    "Prediction": "gesta.predict",
    "Receipt": "gesta.evaluate",
    "Recipe": "gesta.recipes",
    "Record": "gesta.data.dataset",
    "SDA": "gesta.plugins.st_manet",
    "SMEM": "gesta.plugins.smem",
    "STAN": "gesta.plugins.stan",
    "STDM": "gesta.plugins.stdm",
    "SomethingV1": "gesta.data.something",
    "SomethingV2": "gesta.data.something",
    "TDA": "gesta.plugins.st_manet",
    "TemporalAttention": "gesta.layers.temporal",
    "TrainConfig": "gesta.train",
    "UCF101": "gesta.data.ucf101",
    "VideoModel": "gesta.model",
    "count": "gesta.cost",
    "create_model": "gesta.model",
    "import_weights": "gesta.checkpoint",
    "list_models": "gesta.model",
    "load_model": "gesta.checkpoint",
    "model_config": "gesta.model",
    "save_model": "gesta.checkpoint",
}

__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'gesta' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
