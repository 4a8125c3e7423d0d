"""Formats of results, one a module, by name in `FORMAT_REGISTRY`."""

from hipie.batch_inference.formats import json_files, jsonl, overlay
from hipie.batch_inference.formats.base import (
    DEFAULT_FORMATS,
    FORMAT_REGISTRY,
    ResultFormat,
    build_formats,
    register_format,
)

__all__ = [
    "DEFAULT_FORMATS",
    "FORMAT_REGISTRY",
    "ResultFormat",
    "build_formats",
    "json_files",
    "jsonl",
    "overlay",
    "register_format",
]
