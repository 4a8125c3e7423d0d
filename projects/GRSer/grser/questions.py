"""Training groups from registered data sets: which pictures show what a sentence says.

A question is a dict: `expression`; `shown`, pairs (picture, positions of what is meant among the
picture's annotations); `lacking`, pictures that do not show it, or the key of a list of them;
`width` and `height` of its first picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hipie.data.datasets.json_file import read_json

Records = Sequence[dict[str, Any]]


@dataclass
class Questions:
    """Everything that a data set can ask of groups.

    Attributes:
        pictures: records with `file_name`, `height`, `width` and `annotations`, or
            `saliency_file_name`.
        asked: the questions.
        absent: pictures that lack something, by the key that questions name it by.
    """

    pictures: list[dict[str, Any]]
    asked: list[dict[str, Any]] = field(default_factory=list)
    absent: dict[Hashable, np.ndarray] = field(default_factory=dict)

    def ask(self, expression: str, shown: list[tuple[int, list[int]]], lacking: Any) -> None:
        """Add a question, about at least one picture."""
        first = self.pictures[shown[0][0]]
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
    """Groups as GRD has them: every sentence of a group that at least one of its pictures shows."""
    found = Questions(list(records))
    members: dict[tuple[Any, Any], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for number, record in enumerate(records):
        for sentence in record["sentences"]:
            members[record["group_id"], sentence["sent_id"]].append((number, sentence))
    for pictures in members.values():
        shown = [(number, list(one["targets"])) for number, one in pictures if one["targets"]]
        lacking = [number for number, one in pictures if not one["targets"]]
        if shown:
            found.ask(pictures[0][1]["sentence"], shown, lacking)
    return found


def of_sentences(records: Records, instances_json: str) -> Questions:
    """RefCOCO's sentences: the picture each belongs to, against pictures without its category.

    Few objects of a picture have a sentence, and a sentence may fit a picture it does not belong
    to; only pictures in which nothing of the target's category is annotated count as negative.

    Args:
        records: as `load_refcoco` gives them.
        instances_json: all objects of the pictures, in COCO's format.
    """
    found = Questions(list(records))
    here = {record["image_id"]: number for number, record in enumerate(records)}
    present: dict[int, set[int]] = defaultdict(set)
    for one in read_json(instances_json, ("annotations",))["annotations"]:
        if one["image_id"] in here:
            present[one["category_id"]].add(here[one["image_id"]])
    for category, pictures in present.items():
        found.absent[category] = _others(len(records), pictures)
    for number, record in enumerate(records):
        for sentence in record["sentences"]:
            targets = list(sentence["targets"])
            if targets:
                category = record["annotations"][targets[0]]["category_id"]
                found.ask(sentence["sentence"], [(number, targets)], category)
    return found


def of_categories(records: Records, names: Sequence[str]) -> Questions:
    """Objects of a vocabulary: a class's name, the pictures that show it, and all others.

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
    for category, pictures in sorted(shown.items()):
        found.absent[category] = _others(len(records), {number for number, _ in pictures})
        found.ask(names[category], pictures, category)
    return found


def of_folders(records: Records) -> Questions:
    """Co-saliency sets: a folder's name, its pictures, and those of all other folders."""
    found = Questions(list(records))
    folders: dict[str, list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        folders[record["group_name"]].append(number)
    for name, pictures in folders.items():
        found.absent[name] = _others(len(records), set(pictures))
        words = records[pictures[0]]["sentences"][0]["sentence"]
        found.ask(words, [(number, []) for number in pictures], name)
    return found


def _others(count: int, pictures: set[int]) -> np.ndarray:
    kept = np.ones(count, dtype=bool)
    kept[list(pictures)] = False
    return np.flatnonzero(kept)


def questions_of(name: str, records: Records, metadata: Any) -> Questions:
    """The questions of a registered data set, by what its records have.

    Raises:
        ValueError: if it has neither sentences nor named objects, or asks nothing.
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
            ways[one] = lambda: of_sentences(records, instances)
    if kind not in ways:
        raise ValueError(
            f'no groups can be made of the data set {name} ("{kind}"): it needs groups, '
            "co-saliency folders, sentences with all objects of the pictures, or objects in COCO's "
            "format"
        )
    found = ways[kind]()
    if not found.asked:
        raise ValueError(f"no group of the data set {name} shows what a sentence of it says")
    return found
