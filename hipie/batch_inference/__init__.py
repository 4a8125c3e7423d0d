"""Segmentation of many images: inputs, a run's folder that can be resumed, and result formats.

`find_inputs` lists images and videos, `RunFolder` keeps what each image left, and `run` computes
what is missing and writes it in the formats of `FORMAT_REGISTRY`.
"""

from hipie.batch_inference.formats import FORMAT_REGISTRY, ResultFormat, register_format
from hipie.batch_inference.inputs import InputImage, InputVideo, find_inputs
from hipie.batch_inference.run_folder import RunFolder
from hipie.batch_inference.runner import Summary, run

__all__ = [
    "FORMAT_REGISTRY",
    "InputImage",
    "InputVideo",
    "ResultFormat",
    "RunFolder",
    "Summary",
    "find_inputs",
    "register_format",
    "run",
]
