"""Checking a set of expressions on disk: all images there, as many refs as were published."""

from __future__ import annotations

import os
from typing import Any

from hipie.data.io.validation import DatasetError


def counted(records: list[dict[str, Any]], published: tuple[int, int] | None = None) -> str:
    """What a split holds, in words.

    Args:
        records: of expressions.
        published: how many refs and expressions the split has, where that is known.

    Raises:
        DatasetError: if an image is missing, or the numbers are others.
    """
    folders: dict[str, set[str]] = {}
    missing = []
    for record in records:
        folder, name = os.path.split(record["file_name"])
        if folder not in folders:
            folders[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in folders[folder]:
            missing.append(record["file_name"])
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise DatasetError(f"the image {missing[0]}{others} are missing")
    said = [expression for record in records for expression in record["expressions"]]
    refs = len({(r["image_id"], s.get("ref_id")) for r in records for s in r["expressions"]})
    if published is not None and published != (refs, len(said)):
        raise DatasetError(
            f"{refs} refs with {len(said)} expressions; published are {published[0]} with "
            f"{published[1]}"
        )
    empty = sum(not expression["targets"] for expression in said)
    return (
        f"{len(records)} images, {refs} refs, {len(said)} expressions, {empty} of them mean nothing"
    )
