"""Checks of prepared data sets: counts of images, objects and expressions, values of label maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hipie.data.image_io import open_image, read_label_map
from hipie.data.io.paths import missing_files
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.label_maps import parallel_map
from hipie.data.preparation.sources import DownloadSource
from hipie.error_report import known_message
from hipie.errors import printable_message

Check = tuple[str, Callable[[], str]]
"""A title, and a function that returns a summary or raises."""


class NoImagesError(DatasetError):
    """All images of a data set are missing, which are a download of their own."""


def run_checks(checks: Iterable[Check], images_may_be_missing: bool = False) -> int:
    """Print one line per check.

    Args:
        checks: of a data set.
        images_may_be_missing: a data set without any of its images fails no check, as when its
            annotations are prepared before the images are downloaded.

    Returns:
        1 if a check failed, else 0.

    Raises:
        Exception: what a check raises that is not about the files, which is a bug.
    """
    status = 0
    for title, check in checks:
        try:
            print(f"ok       {title}: {check()}")
        except Exception as error:
            message = known_message(error)
            if message is None:
                raise
            if images_may_be_missing and isinstance(error, NoImagesError):
                print(printable_message(f"missing  {title}: {message}"))
                continue
            status = 1
            print(printable_message(f"PROBLEM  {title}: {message}"))
    return status


def print_missing(sources: Iterable[DownloadSource], root: Path) -> int:
    """Print one line for every file or folder that is not there, with its source.

    Args:
        sources: of a data set.
        root: of all data sets.

    Returns:
        The number of lines.
    """
    count = 0
    for source in sources:
        for name in source.missing(root):
            print(f"missing  {name}: from {source}")
            count += 1
    return count


def count_objects(records: list[dict[str, Any]], published: int | None = None) -> str:
    """Summarise the numbers of objects and images.

    Args:
        records: records with `annotations`.
        published: the expected number of images; None = any.

    Raises:
        DatasetError: if the number of images differs.
    """
    if published is not None and len(records) != published:
        raise DatasetError(f"there are {len(records)} images instead of {published}")
    objects = sum(len(record["annotations"]) for record in records)
    return f"{objects} objects in {len(records)} images"


def count_expressions(
    records: list[dict[str, Any]], published: tuple[int, int] | None = None
) -> str:
    """Check that all images exist, and summarise the numbers of refs and expressions.

    Args:
        records: records with `expressions`.
        published: the expected numbers of refs and expressions; None = any.

    Raises:
        NoImagesError: if all images are missing.
        DatasetError: if an image is missing or a number differs.
    """
    missing = missing_files(record["file_name"] for record in records)
    if missing and len(missing) == len(records):
        raise NoImagesError(f"none of the {len(records)} images is there, as {missing[0]}")
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise DatasetError(f"the image {missing[0]}{others} are missing")
    entries = [(record["image_id"], entry) for record in records for entry in record["expressions"]]
    refs = len({(image_id, entry.get("ref_id")) for image_id, entry in entries})
    if published is not None and published != (refs, len(entries)):
        raise DatasetError(
            f"{refs} refs with {len(entries)} expressions; published are {published[0]} with "
            f"{published[1]}"
        )
    empty = sum(not entry["targets"] for _, entry in entries)
    return (
        f"{len(records)} images, {refs} refs, {len(entries)} expressions, {empty} without a target"
    )


def check_label_maps(
    load: Callable[[], list[dict[str, Any]]],
    labels: Iterable[int],
    published: int | None,
    workers: int,
) -> str:
    """Read every label map of a data set and check its values and size.

    Args:
        load: returns records with `sem_seg_file_name` or `part_seg_file_name`.
        labels: the allowed values.
        published: the expected number of images; None = any.
        workers: number of processes.

    Returns:
        A summary.

    Raises:
        DatasetError: naming the map that is damaged, has other values or another size than its
            image; or if the number of maps differs.
    """
    records = load()
    allowed = frozenset(labels)
    present: set[int] = set()
    for values in parallel_map(partial(_checked_labels, allowed), records, workers, "Reading"):
        present |= values
    if published is not None and len(records) != published:
        raise DatasetError(f"there are {len(records)} label maps instead of {published}")
    return f"{len(records)} label maps with {len(present)} of {len(allowed)} labels"


def _checked_labels(allowed: frozenset[int], record: dict[str, Any]) -> set[int]:
    path = record.get("sem_seg_file_name") or record["part_seg_file_name"]
    label_map = read_label_map(path)
    with open_image(record["file_name"]) as image:
        if image.size != label_map.shape[::-1]:
            raise DatasetError(
                f"{path}: the label map has {label_map.shape[::-1]} pixels, the image {image.size}"
            )
    values = set(np.unique(label_map).tolist())
    if not values <= allowed:
        raise DatasetError(f"{path}: the label {min(values - allowed)} is not a class")
    return values
