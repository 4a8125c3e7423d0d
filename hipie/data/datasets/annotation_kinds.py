"""Kinds of JSON annotation files, to say what a file is that was given in place of another kind."""

from __future__ import annotations

import os
from typing import Any

from hipie.data.io.validation import DatasetError

INSTANCES = "instances in COCO's format"
PANOPTIC = "a panoptic JSON"
EXPRESSIONS = "a list of referring expressions"
GROUPS = "groups of images"
_KEYS = {
    INSTANCES: "DATASETS.COCO_FORMAT",
    PANOPTIC: "DATASETS.COCO_PANOPTIC",
    EXPRESSIONS: "DATASETS.REFERRING",
    GROUPS: "DATASETS.GROUPS",
}


def kind_of(content: Any) -> str:
    """Return the kind of a parsed JSON file by its first entries; "" if it is unknown."""
    if isinstance(content, list):
        first = _first(content)
        return EXPRESSIONS if "sentences" in first else ""
    if not isinstance(content, dict):
        return ""
    annotation = _first(content.get("annotations"))
    if "segments_info" in annotation:
        return PANOPTIC
    if "caption" in annotation:
        return "image captions"
    if "category_id" in annotation or ("annotations" in content and "images" in content):
        return INSTANCES
    splits = [value for value in content.values() if isinstance(value, dict)]
    if splits and len(splits) == len(content):
        entries = [_first(entry) for group in splits for entry in group.values()]
        return GROUPS if any("mask" in entry for entry in entries) else ""
    return ""


def require_kind(path: str | os.PathLike[str], content: Any, expected: str) -> None:
    """Check that a parsed JSON file is not of another kind than is expected.

    Raises:
        DatasetError: naming the file, what it is and the key that takes it.
    """
    kind = kind_of(content)
    if kind and kind != expected:
        key = f", which {_KEYS[kind]} takes" if kind in _KEYS else ""
        raise DatasetError(f"{path}: this is not {expected}, but {kind}{key}")


def _first(entries: Any) -> dict[str, Any]:
    """Return the first entry of a list if it is a dictionary, else an empty one."""
    if isinstance(entries, list) and entries and isinstance(entries[0], dict):
        return entries[0]
    return {}
