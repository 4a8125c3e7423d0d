"""Annotations in the formats of other tools, read as a training set of COCO's formats.

`read_annotations` reads one of `READERS`, `write_instances` and `write_panoptic` write what
`DATASETS.COCO_FORMAT` and `DATASETS.COCO_PANOPTIC` take.
"""

from hipie.data.conversion import coco, cvat, label_maps, label_studio, labelme, results, yolo
from hipie.data.conversion.annotations import (
    READERS,
    AnnotatedImage,
    Annotations,
    ReadOptions,
    read_annotations,
)
from hipie.data.conversion.writing import Counts, write_instances, write_panoptic

__all__ = [
    "READERS",
    "AnnotatedImage",
    "Annotations",
    "Counts",
    "ReadOptions",
    "coco",
    "cvat",
    "label_maps",
    "label_studio",
    "labelme",
    "read_annotations",
    "results",
    "write_instances",
    "write_panoptic",
    "yolo",
]
