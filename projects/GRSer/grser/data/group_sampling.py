"""Training groups from registered data sets: which images show what an expression says.

A question is a dict: `expression`; `shown`, pairs (image, positions of what is meant among the
image's annotations); `lacking`, images that do not show it, or the key of a list of them;
`width` and `height` of its first image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hipie.data.io.json_file import read_json

Records = Sequence[dict[str, Any]]


@dataclass
class Questions:
    """Everything that a data set can ask of groups.

    Attributes:
        images: records with `file_name`, `height`, `width` and `annotations`, or
            `saliency_file_name`.
        asked: the questions.
        absent: images that lack something, by the key that questions name it by.
    """

    images: list[dict[str, Any]]
    asked: list[dict[str, Any]] = field(default_factory=list)
    absent: dict[Hashable, np.ndarray] = field(default_factory=dict)

    def ask(self, expression: str, shown: list[tuple[int, list[int]]], lacking: Any) -> None:
        """Add a question, about at least one image."""
        first = self.images[shown[0][0]]
        self.asked.append(
            {
                "expression": expression,
                "shown": shown,
                "lacking": lacking,
                "width": first["width"],
                "height": first["height"],
            }
        )


def of_groups(records: Records) -> Questions:
    """Groups as GRD has them: every expression of a group that at least one of its images shows."""
    found = Questions(list(records))
    members: dict[tuple[Any, Any], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for number, record in enumerate(records):
        for sentence in record["expressions"]:
            members[record["group_id"], sentence["sent_id"]].append((number, sentence))
    for images in members.values():
        shown = [(number, list(one["targets"])) for number, one in images if one["targets"]]
        lacking = [number for number, one in images if not one["targets"]]
        if shown:
            found.ask(images[0][1]["expression"], shown, lacking)
    return found


def of_expressions(records: Records, instances_json: str) -> Questions:
    """RefCOCO's expressions: the image each belongs to, against images without its category.

    Few objects of an image have an expression, and an expression may fit an image it does not belong
    to; only images in which nothing of the target's category is annotated count as negative.

    Args:
        records: as `load_refcoco` gives them.
        instances_json: all objects of the images, in COCO's format.
    """
    found = Questions(list(records))
    here = {record["image_id"]: number for number, record in enumerate(records)}
    present: dict[int, set[int]] = defaultdict(set)
    for one in read_json(instances_json, ("annotations",))["annotations"]:
        if one["image_id"] in here:
            present[one["category_id"]].add(here[one["image_id"]])
    for category, images in present.items():
        found.absent[category] = _others(len(records), images)
    for number, record in enumerate(records):
        for sentence in record["expressions"]:
            targets = list(sentence["targets"])
            if targets:
                category = record["annotations"][targets[0]]["category_id"]
                found.ask(sentence["expression"], [(number, targets)], category)
    return found


def of_categories(records: Records, names: Sequence[str]) -> Questions:
    """Objects of a vocabulary: a class's name, the images that show it, and all others.

    Args:
        records: Detectron2's, with `annotations`.
        names: of the classes, by `category_id`.
    """
    found = Questions(list(records))
    shown: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for number, record in enumerate(records):
        places: dict[int, list[int]] = defaultdict(list)
        for position, one in enumerate(record["annotations"]):
            places[one["category_id"]].append(position)
        for category, positions in places.items():
            shown[category].append((number, positions))
    for category, images in sorted(shown.items()):
        found.absent[category] = _others(len(records), {number for number, _ in images})
        found.ask(names[category], images, category)
    return found


def of_folders(records: Records) -> Questions:
    """Co-saliency sets: a folder's name, its images, and those of all other folders."""
    found = Questions(list(records))
    folders: dict[str, list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        folders[record["group_name"]].append(number)
    for name, images in folders.items():
        found.absent[name] = _others(len(records), set(images))
        words = records[images[0]]["expressions"][0]["expression"]
        found.ask(words, [(number, []) for number in images], name)
    return found


def _others(count: int, images: set[int]) -> np.ndarray:
    kept = np.ones(count, dtype=bool)
    kept[list(images)] = False
    return np.flatnonzero(kept)


def questions_of(name: str, records: Records, metadata: Any) -> Questions:
    """The questions of a registered data set, by what its records have.

    Raises:
        ValueError: if it has neither expressions nor named objects, or asks nothing.
    """
    kind = metadata.get("evaluator_type")
    ways: dict[str, Callable[[], Questions]] = {
        "group": lambda: of_groups(records),
        "cosaliency": lambda: of_folders(records),
        "coco": lambda: of_categories(records, metadata.thing_classes),
    }
    instances = metadata.get("instances_json")
    for one in ("refer", "grefer", "refzom"):
        if instances:
            ways[one] = lambda: of_expressions(records, instances)
    if kind not in ways:
        raise ValueError(
            f'no groups can be made of the data set {name} ("{kind}"): it needs groups, '
            "co-saliency folders, expressions with all objects of the images, or objects in COCO's "
            "format"
        )
    found = ways[kind]()
    if not found.asked:
        raise ValueError(f"no group of the data set {name} shows what an expression of it says")
    return found
