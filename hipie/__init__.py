"""Say what you want to see, in words, and get masks: things, stuff, parts, expressions, groups.

    from hipie import Segmenter
    Segmenter.from_config("nano/hipie_nano_picturebook.yaml").segment("page.png", things=["car"])

Names are imported when they are first asked for, so that `hipie.ops` works without Detectron2.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__version__ = "0.1.0"
__all__ = ["Segmenter", "__version__", "add_hipie_config", "model_zoo"]

WITHOUT_DETECTRON2 = (
    "hipie needs Detectron2 for everything but hipie.ops, and it is not there. Install it with: "
    "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2 "
    "(or, in a clone of hipie: python install/get_detectron2.py)"
)
_PLACES = {"Segmenter": "hipie.predictor", "add_hipie_config": "hipie.config"}

if find_spec("detectron2") is None:
    warnings.warn(WITHOUT_DETECTRON2, stacklevel=2)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hipie' has no attribute {name!r}")
    try:
        if name == "model_zoo":
            return import_module("hipie.model_zoo")
        return getattr(import_module(_PLACES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "detectron2":
            raise ImportError(WITHOUT_DETECTRON2) from error
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
