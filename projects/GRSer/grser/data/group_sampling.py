"""Training groups of registered data sets: positive and negative images of each expression.

A sample is a dict: `expression`; `positives`, pairs (index of an image, indices of the target's
annotations in its record); `negatives`, indices of images without the target, or the key of a list
of them in `GroupDataset.negative_pools`; `width` and `height` of its first positive image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hipie.data.io.json_file import read_json
from hipie.errors import InputError

Records = Sequence[dict[str, Any]]
Positives = list[tuple[int, list[int]]]


@dataclass
class GroupDataset:
    """Expressions of a data set with their positive and negative images.

    Attributes:
        images: records with `file_name`, `height`, `width` and `annotations`, or
            `saliency_file_name`.
        samples: see above.
        negative_pools: indices of images by the key that samples refer to.
    """

    images: Records
    samples: list[dict[str, Any]] = field(default_factory=list)
    negative_pools: dict[Hashable, np.ndarray] = field(default_factory=dict)

    def add(self, expression: str, positives: Positives, negatives: list[int] | Hashable) -> None:
        """Add a sample with at least one positive image."""
        first = self.images[positives[0][0]]
        self.samples.append(
            {
                "expression": expression,
                "positives": positives,
                "negatives": negatives,
                "width": first["width"],
                "height": first["height"],
            }
        )


def groups_from_grd(records: Records) -> GroupDataset:
    """Build samples from GRD's groups: every expression with at least one positive image.

    Args:
        records: those of `load_grd`.
    """
    dataset = GroupDataset(records)
    members: dict[tuple[Any, Any], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for index, record in enumerate(records):
        for entry in record["expressions"]:
            members[record["group_id"], entry["sent_id"]].append((index, entry))
    for images in members.values():
        positives = [(index, list(entry["targets"])) for index, entry in images if entry["targets"]]
        negatives = [index for index, entry in images if not entry["targets"]]
        if positives:
            dataset.add(images[0][1]["expression"], positives, negatives)
    return dataset


def groups_from_expressions(records: Records, instances_json: str | None) -> GroupDataset:
    """Build samples from RefCOCO's expressions and images without the target's category.

    Few objects of an image have an expression, and an expression may also describe an object of
    another image. Only images without any annotation of the target's category are negatives.

    Args:
        records: those of `load_refcoco`.
        instances_json: file with all objects of the images, in COCO's format; None = the records'
            annotations are all objects, and have a `category_id`.
    """
    dataset = GroupDataset(records)
    index_of = {record["image_id"]: index for index, record in enumerate(records)}
    images_of: dict[int, set[int]] = defaultdict(set)
    if instances_json is None:
        for index, record in enumerate(records):
            for annotation in record["annotations"]:
                images_of[annotation["category_id"]].add(index)
    else:
        for annotation in read_json(instances_json, ("annotations",))["annotations"]:
            if annotation["image_id"] in index_of:
                images_of[annotation["category_id"]].add(index_of[annotation["image_id"]])
    for category, images in images_of.items():
        dataset.negative_pools[category] = _complement(len(records), images)
    for index, record in enumerate(records):
        for entry in record["expressions"]:
            targets = list(entry["targets"])
            if targets:
                category = record["annotations"][targets[0]]["category_id"]
                dataset.add(entry["expression"], [(index, targets)], category)
    return dataset


def groups_from_categories(records: Records, names: Sequence[str]) -> GroupDataset:
    """Build samples from instance annotations: a class name, its images, and all others.

    Args:
        records: Detectron2's, with `annotations`.
        names: class names by `category_id`.
    """
    dataset = GroupDataset(records)
    positives: dict[int, Positives] = defaultdict(list)
    for index, record in enumerate(records):
        by_category: dict[int, list[int]] = defaultdict(list)
        for position, annotation in enumerate(record["annotations"]):
            by_category[annotation["category_id"]].append(position)
        for category, targets in by_category.items():
            positives[category].append((index, targets))
    for category, images in sorted(positives.items()):
        dataset.negative_pools[category] = _complement(len(records), {i for i, _ in images})
        dataset.add(names[category], images, category)
    return dataset


def groups_from_folders(records: Records) -> GroupDataset:
    """Build samples from co-saliency folders: a folder's name, its images, and all others."""
    dataset = GroupDataset(records)
    folders: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        folders[record["group_name"]].append(index)
    for name, images in folders.items():
        dataset.negative_pools[name] = _complement(len(records), set(images))
        expression = records[images[0]]["expressions"][0]["expression"]
        dataset.add(expression, [(index, []) for index in images], name)
    return dataset


def _complement(count: int, images: set[int]) -> np.ndarray:
    outside = np.ones(count, dtype=bool)
    outside[list(images)] = False
    return np.flatnonzero(outside)


def build_group_dataset(name: str, records: Records, metadata: Any) -> GroupDataset:
    """Build the training samples of a registered data set, by its `evaluator_type`.

    Raises:
        ValueError: if no groups can be built from such a data set, or if no expression has a
            positive image.
    """
    kind = metadata.get("evaluator_type")
    builders: dict[str, Callable[[], GroupDataset]] = {
        "group": lambda: groups_from_grd(records),
        "cosaliency": lambda: groups_from_folders(records),
        "coco": lambda: groups_from_categories(records, metadata.thing_classes),
    }
    instances_json = metadata.get("instances_json")
    if instances_json or metadata.get("annotations_have_classes"):
        for referring in ("refer", "grefer", "refzom"):
            builders[referring] = lambda: groups_from_expressions(records, instances_json)
    if kind not in builders:
        raise InputError(
            f'no groups can be built from the data set {name} ("{kind}"): it needs groups, '
            "co-saliency folders, expressions with all objects of the images, or objects in COCO's "
            "format"
        )
    dataset = builders[kind]()
    if not dataset.samples:
        raise InputError(f"no expression of the data set {name} has an image with its target")
    return dataset
