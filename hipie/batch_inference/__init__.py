"""Segmentation of many images: inputs, a run's folder that can be resumed, and result formats.

`find_inputs` lists images and videos, `RunFolder` keeps what each image left, and `run` computes
what is missing, in this process or in those of a `WorkerPool`, and writes it in the formats of
`FORMAT_REGISTRY`. Names are imported on first access, since a command on one image needs none of
the formats.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hipie.batch_inference.formats import FORMAT_REGISTRY, ResultFormat, register_format
    from hipie.batch_inference.inputs import InputImage, InputVideo, find_inputs
    from hipie.batch_inference.recorder import Summary
    from hipie.batch_inference.run_folder import RunFolder
    from hipie.batch_inference.runner import run
    from hipie.batch_inference.workers import WorkerPool

__all__ = [
    "FORMAT_REGISTRY",
    "InputImage",
    "InputVideo",
    "ResultFormat",
    "RunFolder",
    "Summary",
    "WorkerPool",
    "find_inputs",
    "register_format",
    "run",
]
_MODULE_OF = {
    "FORMAT_REGISTRY": "formats",
    "InputImage": "inputs",
    "InputVideo": "inputs",
    "ResultFormat": "formats",
    "RunFolder": "run_folder",
    "Summary": "recorder",
    "WorkerPool": "workers",
    "find_inputs": "inputs",
    "register_format": "formats",
    "run": "runner",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
