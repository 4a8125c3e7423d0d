"""Reader of COCO instance files that checks every entry.

Detectron2's reader trusts its files. This one is for custom files as well: errors name the file,
the entry, the key and the value; faults that can be repaired are repaired, with a warning.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from hipie.data.datasets.object_reader import (
    MAX_ANNOTATIONS_FOR_INTERSECTION_TEST,
    CheckedRecords,
    ObjectReader,
)
from hipie.data.io.fields import (
    IDENTIFIER,
    WHOLE_NUMBER,
    WHOLE_NUMBERS,
    EntryFaults,
    images_by_id,
    read_field,
    read_optional,
    require_entry,
    require_image,
    whole_number,
)
from hipie.data.io.json_file import read_json
from hipie.data.io.paths import require_image_files
from hipie.data.io.validation import DatasetError, shorten

FEDERATED_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")


def load_coco_instances(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    contiguous_ids: Mapping[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Read a COCO instance file as Detectron2's records.

    What is repaired and what is left out, each with a warning, is listed at `ObjectReader`.
    Self-intersecting polygons are named in files of up to 50,000 annotations.

    Args:
        json_file: COCO instances JSON.
        image_root: folder of the images.
        contiguous_ids: category id -> class index; by default in the order of the ids, without the
            root category of Roboflow.

    Returns:
        Records with `file_name`, `height`, `width`, `image_id`, `annotations` (`id`, `bbox` xywh,
        `bbox_mode`, contiguous `category_id`, `iscrowd`, `area` in pixels, `segmentation`) and
        those of `federated_categories`, sorted by image id. Ids are integers, or texts that are
        none. `left_out` has the number of objects that are left out, by reason, if there are any.

    Raises:
        FileNotFoundError, DatasetError: naming the file and its wrong entries (the first ten), if
            the JSON cannot be read, an image is missing, ids repeat, a field is wrong, or a
            category or image is unknown.
    """
    content = read_json(json_file, ("images", "annotations", "categories"))
    faults = EntryFaults(json_file)
    category_ids = set(category_ids_of(json_file, content["categories"], faults))
    if contiguous_ids is None:
        contiguous_ids = contiguous_categories(content)
    known = {number: index for number, index in contiguous_ids.items() if number in category_ids}
    return read_instances(json_file, content, image_root, known, contiguous_ids, faults)


def read_instances(
    json_file: str | os.PathLike[str],
    content: dict[str, Any],
    image_root: str | os.PathLike[str],
    categories: Mapping[int, int],
    contiguous_ids: Mapping[int, int],
    faults: EntryFaults,
) -> list[dict[str, Any]]:
    """Read the images and annotations of a parsed file in COCO's format.

    Args:
        json_file: the file, for messages.
        content: its content, with lists of `images`, `annotations` and, for tags, `categories`.
        image_root: folder of the images.
        categories: category id -> class index of the categories that annotations may have.
        contiguous_ids: category id -> class index of all categories.
        faults: the errors so far; all errors are raised at the end.

    Returns:
        Records as of `load_coco_instances`.

    Raises:
        DatasetError: naming the file and its wrong entries.
    """
    images = images_by_id(json_file, content, faults)
    require_image_files(json_file, images, image_root, faults)
    entries = content["annotations"]
    objects = ObjectReader(
        json_file, test_intersection=len(entries) <= MAX_ANNOTATIONS_FOR_INTERSECTION_TEST
    )
    annotations: dict[int | str, list[dict[str, Any]]] = defaultdict(list)
    left_out: dict[int | str, Counter[str]] = defaultdict(Counter)
    annotation_ids: set[int | str] = set()
    for position, entry in enumerate(entries):
        try:
            require_entry(f"{json_file}: annotation {position} of the list", entry)
            where = f"{json_file}: annotation {shorten(entry.get('id', entry))}"
            annotation_id = read_field(where, entry, "id", IDENTIFIER)
            if annotation_id in annotation_ids:
                raise DatasetError(f"{where} occurs twice")
            annotation_ids.add(annotation_id)
            image_id = read_field(where, entry, "image_id", IDENTIFIER)
            category_id = read_field(where, entry, "category_id", WHOLE_NUMBER)
            image = require_image(where, images, image_id, faults)
            if category_id not in categories and not faults.unreadable_categories:
                raise DatasetError(f"{where} has the unknown category {category_id}")
            if image is None or category_id not in categories:
                continue
            checked = objects.read(where, annotation_id, entry, image["height"], image["width"])
        except DatasetError as error:
            faults.add(error)
            continue
        if checked is None:
            left_out[image_id][objects.reason] += 1
        else:
            annotations[image_id].append(
                {"id": annotation_id, **checked, "category_id": categories[category_id]}
            )
    records = CheckedRecords()
    for image_id, image in images.items():
        try:
            where = f"{json_file}: image {image_id}"
            federated = federated_categories(where, image, contiguous_ids)
            tags = image_tags(where, image, content.get("categories", ()), contiguous_ids)
        except DatasetError as error:
            faults.add(error)
            continue
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image_id,
                "annotations": annotations[image_id],
                **federated,
                **tags,
                **({"left_out": dict(left_out[image_id])} if image_id in left_out else {}),
            }
        )
    faults.raise_if_any()
    objects.warn()
    return records


def contiguous_categories(content: Mapping[str, Any]) -> dict[int, int]:
    """Return category id -> 0-based class index, in the order of the ids.

    Roboflow writes a root category, of which the others are: id 0, supercategory "none", no
    annotation. It is no class.

    Args:
        content: a file in COCO's format.
    """
    entries = {
        number: entry
        for entry in content["categories"]
        if isinstance(entry, dict) and (number := whole_number(entry.get("id"))) is not None
    }
    ids = sorted(entries)
    if len(ids) > 1 and _is_root(entries[ids[0]], [entries[number] for number in ids[1:]]):
        annotations = content.get("annotations") or ()
        used = {
            whole_number(entry.get("category_id")) for entry in annotations if type(entry) is dict
        }
        ids = ids[1:] if ids[0] not in used else ids
    return {number: index for index, number in enumerate(ids)}


def federated_categories(
    where: str, image: dict[str, Any], contiguous_ids: Mapping[int, int]
) -> dict[str, list[int]]:
    """Return the categories that federated data sets (LVIS, PACO) verified for an image.

    In a federated data set not every class is annotated in every image: a class without an object
    is known to be absent only if it is in `neg_category_ids`.

    Args:
        where: the file and the image, for error messages.
        image: an entry of COCO's `images`.
        contiguous_ids: category id -> class index.

    Returns:
        `neg_category_ids` (verified to be absent) and `not_exhaustive_category_ids` (objects may
        be missing) as class indices, where the entry has them.

    Raises:
        DatasetError: if a list has values that are not known categories.
    """
    categories = {}
    for key in FEDERATED_KEYS:
        numbers = image.get(key)
        if numbers != []:
            numbers = read_optional(where, image, key, WHOLE_NUMBERS)
        if numbers is not None:
            unknown = [number for number in numbers if number not in contiguous_ids]
            if unknown:
                raise DatasetError(f'{where} has the unknown category {unknown[0]} in "{key}"')
            categories[key] = [contiguous_ids[number] for number in numbers]
    return categories


def image_tags(
    where: str,
    image: dict[str, Any],
    categories: Sequence[Any],
    contiguous_ids: Mapping[int, int],
) -> dict[str, list[int]]:
    """Return the classes of an image that its entry names.

    Args:
        where: the file and the image, for error messages.
        image: an entry of COCO's `images`; `tags` is a list of names of categories.
        categories: entries of COCO's `categories`.
        contiguous_ids: category id -> class index.

    Returns:
        `tags` as class indices, where the entry has them.

    Raises:
        DatasetError: if a tag is the name of no category.
    """
    if "tags" not in image:
        return {}
    tags = image["tags"]
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise DatasetError(f'{where}: "tags" must be a list of names, not {shorten(tags)}')
    indices = {
        entry["name"]: contiguous_ids[number]
        for entry in categories
        if isinstance(entry, dict)
        and (number := whole_number(entry.get("id"))) is not None
        and number in contiguous_ids
        and isinstance(entry.get("name"), str)
    }
    for tag in tags:
        if tag not in indices:
            raise DatasetError(f'{where} has the tag "{tag}", which is the name of no category')
    return {"tags": sorted({indices[tag] for tag in tags})}


def _is_root(category: dict[str, Any], others: list[dict[str, Any]]) -> bool:
    """Return whether a category is the one that Roboflow adds to the classes."""
    name = category.get("name")
    if str(category.get("supercategory")).lower() != "none" or not isinstance(name, str):
        return False
    return all(other.get("supercategory") == name for other in others) or any(
        isinstance(other.get("name"), str) and other["name"].strip().lower() == name.strip().lower()
        for other in others
    )


def category_ids_of(
    path: str | os.PathLike[str], categories: list[Any], faults: EntryFaults
) -> list[int]:
    """Return the ids of the categories."""
    ids: list[int] = []
    for position, category in enumerate(categories):
        where = f"{path}: category {position} of the list"
        try:
            number = read_field(where, require_entry(where, category), "id", WHOLE_NUMBER)
        except DatasetError as error:
            faults.add(error)
            faults.unreadable_categories = True
            continue
        if number in ids:
            faults.add(DatasetError(f"{path}: two categories have the same id {number}"))
        ids.append(number)
    return ids
