"""Readers of annotations that are one mask file an object: referring expressions and groups.

Referring expressions: a JSON list of `{image, mask, class, sentences}`; entries without a mask, or
with an empty one, have no target. Groups: a JSON object, group -> split -> list of `{image, mask}`;
a group may have `class` beside its splits, the name of what it shows. Paths are relative to a
folder, or to that of the JSON file. A mask is an image of two values, of which 0 is the background.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from hipie.data.annotation_maps import read_class_map
from hipie.data.datasets.class_names_file import read_class_names
from hipie.data.datasets.cosaliency import group_text
from hipie.data.image_io import ImageError, distinct_values, read_image_size, require_map_size
from hipie.data.io.fields import (
    TEXT,
    EntryFaults,
    images_by_id,
    read_field,
    read_optional,
    require_entry,
    require_inside,
    whole_number,
)
from hipie.data.io.json_file import read_json
from hipie.data.io.rle import as_text
from hipie.data.io.validation import DatasetError
from hipie.vocabularies.vocabulary import name_key

Record = dict[str, Any]
CLASS_KEY = "class"


def load_mask_refs(
    refs_file: str | os.PathLike[str], image_root: str | os.PathLike[str]
) -> list[Record]:
    """Read the expressions of a list of images, masks and sentences, grouped by image.

    Args:
        refs_file: JSON list of `{image, mask, class, sentences}`; `mask` and `class` are optional.
        image_root: folder that the paths are relative to.

    Returns:
        Records as of `load_refcoco`; `category_id` of an annotation is the number of its class,
        where the entry has one. Sorted by the images' paths.

    Raises:
        FileNotFoundError, DatasetError: naming the file and its wrong entries (the first ten).
    """
    entries = read_json(refs_file)
    if not isinstance(entries, list):
        raise DatasetError(f"{refs_file}: expected a list of refs")
    classes = sorted(
        {str(e[CLASS_KEY]) for e in entries if isinstance(e, dict) and e.get(CLASS_KEY)}
    )
    files = _Files(refs_file, image_root)
    faults = EntryFaults(refs_file)
    records: dict[str, Record] = {}
    expression_count = 0
    for position, entry in enumerate(entries):
        where = f"{refs_file}: entry {position}"
        try:
            image = read_field(where, require_entry(where, entry), "image", TEXT)
            mask = read_optional(where, entry, "mask", TEXT)
            class_name = read_optional(where, entry, CLASS_KEY, TEXT)
            texts = entry.get("sentences")
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise DatasetError(f'{where}: "sentences" must be a list of texts')
            record = records.get(image) or files.record(where, image)
            segmentation = files.mask(where, mask, record) if mask else None
        except (DatasetError, ImageError, FileNotFoundError) as error:
            faults.add(DatasetError(str(error)))
            continue
        records[image] = record
        targets: list[int] = []
        if segmentation is not None:
            targets.append(len(record["annotations"]))
            category = {} if class_name is None else {"category_id": classes.index(class_name)}
            record["annotations"].append(
                {"id": position + 1, "segmentation": segmentation, "iscrowd": 0, **category}
            )
        for text in texts:
            record["expressions"].append(
                {
                    "expression": text,
                    "targets": targets,
                    "ref_id": position,
                    "sent_id": expression_count,
                }
            )
            expression_count += 1
    faults.raise_if_any()
    if not expression_count:
        raise DatasetError(f"{refs_file}: there is no sentence in it")
    return [records[image] for image in sorted(records)]


@dataclass(frozen=True)
class ShownClasses:
    """What images show, from label maps or instances: which of them are negatives of a group.

    Attributes:
        instances: COCO instances JSON; "" = none.
        label_maps: folder of semantic label maps, named after the images; "" = none.
        class_names: their file of class names.
    """

    instances: str = ""
    label_maps: str = ""
    class_names: str = ""

    def read(self, images: Sequence[str]) -> dict[str, set[str]]:
        """Return the names of the classes that images show, by image; {} if nothing says it.

        Raises:
            FileNotFoundError, DatasetError: naming the file that cannot be read.
        """
        shown: dict[str, set[str]] = {}
        stems = {Path(image).stem: image for image in images}
        if self.label_maps:
            names = read_class_names(self.class_names)
            for path in sorted(Path(self.label_maps).iterdir()):
                if path.stem in stems:
                    values = distinct_values(read_class_map(path))
                    shown[stems[path.stem]] = {
                        name_key(names[value]) for value in values if value < len(names)
                    }
        if self.instances:
            content = read_json(self.instances, ("images", "annotations", "categories"))
            by_id = images_by_id(self.instances, content)
            categories = {
                whole_number(entry["id"]): name_key(str(entry["name"]))
                for entry in content["categories"]
            }
            by_image: dict[Any, set[str]] = defaultdict(set)
            for annotation in content["annotations"]:
                number = whole_number(annotation.get("category_id"))
                by_image[annotation.get("image_id")].add(categories.get(number, ""))
            for image_id, entry in by_id.items():
                stem = Path(entry["file_name"]).stem
                if stem in stems:
                    shown.setdefault(stems[stem], set()).update(by_image[image_id])
        return shown


@dataclass(frozen=True)
class _Group:
    """Group of a split.

    Attributes:
        name: of the group.
        text: of what it shows.
        masks: image -> mask.
    """

    name: str
    text: str
    masks: dict[str, str]


def load_groups(
    groups_json: str | os.PathLike[str],
    split: str,
    root: str | os.PathLike[str],
    *,
    negatives: int | None = None,
    shown: ShownClasses | None = None,
) -> list[Record]:
    """Read groups of images that show the same, and images of other groups as their negatives.

    An image of another group is a negative unless it is in this group as well, belongs to a group
    of the same class, or shows the class according to `shown`. Lists of groups are often only a
    part of all images of a class: then `shown` is needed.

    Args:
        groups_json: JSON object, group -> split -> list of `{image, mask}`.
        split: name of the split.
        root: folder that the paths are relative to.
        negatives: number of a group's negatives, evenly spaced among the images of other groups;
            None = as many as the group has images.
        shown: what the images show.

    Returns:
        Records as of `load_grd`: one for every group and image, with one expression, the class or
        the name of the group.

    Raises:
        FileNotFoundError, DatasetError: naming the file and its wrong entries (the first ten), or
            the split if no group has it.
    """
    faults = EntryFaults(groups_json)
    groups = _read_groups(groups_json, split, faults)
    faults.raise_if_any()
    if not groups:
        raise DatasetError(f'{groups_json}: no group has an image of the split "{split}"')
    images = sorted({image for group in groups for image in group.masks})
    classes: dict[str, set[str]] = defaultdict(set)
    for group in groups:
        for image in group.masks:
            classes[image].add(name_key(group.text))
    for image, names in (shown.read(images) if shown else {}).items():
        classes[image] |= names
    files = _Files(groups_json, root)
    numbers = {image: number for number, image in enumerate(images, 1)}
    records: list[Record] = []
    for group_id, group in enumerate(groups):
        key = name_key(group.text)
        others = [image for image in images if key not in classes[image]]
        count = len(group.masks) if negatives is None else negatives
        if count < len(others):
            positions = np.linspace(0, len(others) - 1, count).round().astype(int)
            others = [others[position] for position in positions]
        for image in (*group.masks, *others):
            where = f'{groups_json}: group "{group.name}"'
            try:
                record = files.record(where, image)
                mask = group.masks.get(image)
                segmentation = files.mask(where, mask, record) if mask else None
            except (DatasetError, ImageError, FileNotFoundError) as error:
                faults.add(DatasetError(str(error)))
                continue
            annotation = {"id": len(records) + 1, "segmentation": segmentation, "iscrowd": 0}
            has_target = segmentation is not None
            expression = {"expression": group.text, "sent_id": group_id}
            record.update(
                image_id=numbers[image],
                group_id=group_id,
                group_name=group.name,
                annotations=[{**annotation, "category_id": 1}] if has_target else [],
                expressions=[{**expression, "targets": [0] if has_target else []}],
            )
            records.append(record)
    faults.raise_if_any()
    return records


def _read_groups(
    groups_json: str | os.PathLike[str], split: str, faults: EntryFaults
) -> list[_Group]:
    content = read_json(groups_json)
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise DatasetError(
            f"{groups_json}: expected an object group -> split -> list of {{image, mask}}"
        )
    groups = []
    for name, splits in content.items():
        where = f'{groups_json}: group "{name}"'
        masks: dict[str, str] = {}
        try:
            text = read_optional(where, splits, CLASS_KEY, TEXT) or group_text(name)
            entries = splits.get(split, [])
            if not isinstance(entries, list):
                raise DatasetError(f'{where}: "{split}" must be a list of {{image, mask}}')
            for position, entry in enumerate(entries):
                place = f'{where}, "{split}" {position}'
                image = read_field(place, require_entry(place, entry), "image", TEXT)
                masks[image] = read_field(place, entry, "mask", TEXT)
        except DatasetError as error:
            faults.add(error)
            continue
        if masks:
            groups.append(_Group(name, text, masks))
    return groups


class _Files:
    """Images and masks whose paths are relative to a folder, or to that of an annotation file."""

    def __init__(self, json_file: str | os.PathLike[str], root: str | os.PathLike[str]) -> None:
        self._folders = (Path(root), Path(json_file).parent)
        self._sizes: dict[str, tuple[int, int]] = {}
        self._masks: dict[str, dict[str, Any] | None] = {}

    def record(self, where: str, image: str) -> Record:
        """Return the record of an image without annotations.

        Raises:
            DatasetError, ImageError: if it does not exist or cannot be read.
        """
        path = self._path(where, "image", image)
        if image not in self._sizes:
            self._sizes[image] = read_image_size(path)
        height, width = self._sizes[image]
        return {
            "file_name": str(path),
            "height": height,
            "width": width,
            "image_id": image,
            "annotations": [],
            "expressions": [],
        }

    def mask(self, where: str, mask: str, record: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return a mask as RLE; None if it is empty.

        Raises:
            DatasetError, ImageError: if it does not exist, cannot be read, has another size than
                the image, or more than two values.
        """
        if mask not in self._masks:
            path = self._path(where, "mask", mask)
            values = read_class_map(path)
            require_map_size(str(path), values.shape, (record["height"], record["width"]))
            present = sorted(distinct_values(values))
            if len([value for value in present if value]) > 1:
                raise DatasetError(
                    f"{path}: a mask has the value 0 and one other, and this one has "
                    f"{', '.join(map(str, present[:4]))}"
                )
            rle = mask_util.encode(np.asfortranarray(values != 0, dtype=np.uint8))
            self._masks[mask] = as_text(rle) if values.any() else None
        return self._masks[mask]

    def _path(self, where: str, what: str, name: str) -> Path:
        require_inside(where, what, name)
        paths = [folder / name for folder in self._folders]
        existing = next((path for path in paths if os.path.isfile(path)), None)
        if existing is None:
            raise DatasetError(f'{where}: the {what} "{name}" is not in {self._folders[0]}')
        return existing
