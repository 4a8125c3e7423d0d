"""Reader of LVIS v1 (Gupta et al., CVPR 2019), a federated data set in COCO's format.

For every image it lists the classes that are verified to be absent and those whose instances are
not all annotated; other classes without an instance may be present or absent.
"""

from __future__ import annotations

import os
from typing import Any

from hipie.data.datasets.coco_instances import read_instances
from hipie.data.io.fields import TEXT, EntryFaults, is_absent, read_field, require_entry
from hipie.data.io.json_file import read_json
from hipie.data.io.validation import DatasetError


def load_lvis(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    contiguous_ids: dict[int, int],
) -> list[dict[str, Any]]:
    """Read LVIS as Detectron2's records.

    Args:
        json_file: `lvis_v1_train.json` or `lvis_v1_val.json`. The last two parts of an
            image's `coco_url` are its path, since LVIS's splits mix COCO's folders.
        image_root: folder of `train2017` and `val2017`.
        contiguous_ids: category id -> class index.

    Returns:
        Records as of `load_coco_instances`, with `neg_category_ids` (verified to be absent) and
        `not_exhaustive_category_ids` as class indices, sorted by image id.

    Raises:
        FileNotFoundError, DatasetError: naming the file and its wrong entries.
    """
    content = read_json(json_file, ("images", "annotations"))
    return lvis_records(json_file, content, image_root, contiguous_ids)


def lvis_records(
    json_file: str | os.PathLike[str],
    content: dict[str, Any],
    image_root: str | os.PathLike[str],
    contiguous_ids: dict[int, int],
) -> list[dict[str, Any]]:
    """Return the records of a parsed file; see `load_lvis`.

    Args:
        json_file: the file, for messages.
        content: its content, whose `images` may be changed.
        image_root: folder of `train2017` and `val2017`.
        contiguous_ids: category id -> class index.
    """
    faults = EntryFaults(json_file)
    images = []
    for position, image in enumerate(content["images"]):
        try:
            images.append(_with_file_name(f"{json_file}: image {position} of the list", image))
        except DatasetError as error:
            faults.refuse_image(error, image)
    content["images"] = images
    return read_instances(json_file, content, image_root, contiguous_ids, contiguous_ids, faults)


def _with_file_name(where: str, image: Any) -> dict[str, Any]:
    """Return an entry of `images` whose `file_name` may come from its `coco_url`."""
    entry = require_entry(where, image)
    if not is_absent(entry.get("file_name")):
        return entry
    url = read_field(where, entry, "coco_url", TEXT)
    return {**entry, "file_name": "/".join(url.split("/")[-2:])}
