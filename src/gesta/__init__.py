"""gesta recognises human actions in video.

Public names are listed, with their types, in ``__init__.pyi`` beside this file. They are imported on first use, so that
``import gesta`` and ``gesta --help`` need not wait for torch.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
