"""Open-vocabulary segmentation of things, stuff, parts, referring expressions and image groups.

    from hipie import Segmenter
    Segmenter.from_config("nano/hipie_nano_picturebook.yaml").segment("image.png", things=["car"])

Names are imported on first access, so that `import hipie` is light and `hipie.ops` works without
Detectron2. Taking `add_hipie_config` or `model_zoo` registers every architecture, backbone, data
set and installed project (see `hipie.registration`).
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hipie import model_zoo
    from hipie.config import add_hipie_config
    from hipie.predictor import Segmenter
    from hipie.vocabularies import Vocabulary

__version__ = "0.1.0"
__all__ = ["Segmenter", "Vocabulary", "__version__", "add_hipie_config", "model_zoo"]

WITHOUT_DETECTRON2 = (
    "hipie needs Detectron2 for everything but hipie.ops, and it is not installed. Install it "
    "with: pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2 "
    "(or, in a clone of hipie: python install/get_detectron2.py)"
)
_MODULE_OF = {
    "Segmenter": "hipie.predictor",
    "Vocabulary": "hipie.vocabularies",
    "add_hipie_config": "hipie.config",
    "model_zoo": "hipie.model_zoo",
}
_REGISTERING = ("add_hipie_config", "model_zoo")

if find_spec("detectron2") is None:
    warnings.warn(WITHOUT_DETECTRON2, stacklevel=2)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hipie' has no attribute {name!r}")
    try:
        if name in _REGISTERING:
            import_module("hipie.registration").register_all()
        elif name == "Segmenter" and find_spec("detectron2") is None:
            raise ModuleNotFoundError(name="detectron2")
        module = import_module(_MODULE_OF[name])
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "detectron2":
            from hipie.errors import MissingPackageError

            raise MissingPackageError(WITHOUT_DETECTRON2) from error
        raise
    value = module if name == "model_zoo" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
