"""Formats of results, one a module, by name in `FORMAT_REGISTRY`."""

from hipie.batch_inference.formats import (
    coco,
    coco_panoptic,
    cvat,
    json_files,
    jsonl,
    label_map,
    label_studio,
    labelme,
    overlay,
    parquet,
    yolo,
)
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
    "coco",
    "coco_panoptic",
    "cvat",
    "json_files",
    "jsonl",
    "label_map",
    "label_studio",
    "labelme",
    "overlay",
    "parquet",
    "register_format",
    "yolo",
]
