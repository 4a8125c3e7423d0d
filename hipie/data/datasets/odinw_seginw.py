"""Collections of small data sets from everywhere: ODinW (boxes) and SegInW (masks).

`odinw_<set>_<split>` for 35 sets: train, val, test, some also minival, and few-shot splits
`<split>_<shots>_<seed>`. `seginw_<set>_{train,val}` for 25 sets. All are COCO files, all classes
things. The metadata's `collection` is "odinw" or "seginw".

ODinW: Li et al., "ELEVATER", NeurIPS 2022. SegInW: Zou et al., "X-Decoder", CVPR 2023.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path

from hipie.data.datasets.builtin_coco import register_instances
from hipie.vocabularies.tables import collection_datasets, load_classes

# The 13 sets of GLIP's shorter list.
ODINW_13 = (
    "AerialMaritimeDrone_large",
    "Aquarium_Aquarium_Combined.v2-raw-1024.coco",
    "CottontailRabbits",
    "EgoHands_generic",
    "NorthAmericaMushrooms_North_American_Mushrooms.v1-416x416.coco",
    "Packages_Raw",
    "PascalVOC",
    "Raccoon_Raccoon.v2-raw.coco",
    "ShellfishOpenImages_raw",
    "VehiclesOpenImages_416x416",
    "pistols_export",
    "pothole",
    "thermalDogsAndPeople",
)
ODINW_FILE = "annotations_without_background.json"
SEGINW_FILE = "_annotations_min1cat.coco.json"
SPLIT_FOLDERS = {"train": "train", "val": "valid", "minival": "mini_val", "test": "test"}
SHOTS, SEEDS = (1, 3, 5, 10), (3, 30, 300)


def register_in_the_wild(root: Path) -> None:
    """Register all of them; nothing is read from `root` before a data set is used.

    Args:
        root: the folder of all data sets.
    """
    for family in ("odinw", "seginw"):
        for name in collection_datasets(family):
            classes = load_classes(f"{family}_{name}")
            for split, images, file in in_the_wild_splits(family, name):
                register_instances(
                    f"{family}_{name}_{split}",
                    root / images,
                    root / file,
                    classes,
                    collection=family,
                )


def in_the_wild_splits(family: str, name: str) -> Iterator[tuple[str, str, str]]:
    """The splits of a data set of "odinw" or "seginw": name, folder of the images, file."""
    if family == "odinw":
        yield from odinw_splits(name)
        return
    for split in ("train", "val"):
        folder = f"seginw/{name}/{SPLIT_FOLDERS[split]}"
        yield split, folder, f"{folder}/{SEGINW_FILE}"


def odinw_splits(name: str) -> Iterator[tuple[str, str, str]]:
    """The splits of one of ODinW's sets: name, folder of the images, file.

    Where a set keeps all its images in one folder, its files begin with the split's name.
    """
    place, one_folder, has_minival, without_test = _odinw_places()[name]
    for split, folder in SPLIT_FOLDERS.items():
        if split == "minival" and not has_minival:
            continue
        if split == "test" and without_test:
            folder = SPLIT_FOLDERS["val"]
        images = f"odinw/{place}" if one_folder else f"odinw/{place}/{folder}"
        start = f"{images}/{split}_" if one_folder else f"{images}/"
        yield split, images, start + ODINW_FILE
        if split != "test":
            for shots in SHOTS:
                for seed in SEEDS:
                    file = f"{images}/fewshot_{split}_shot{shots}_seed{seed}.json"
                    yield f"{split}_{shots}_{seed}", images, file


@cache
def _odinw_places() -> dict[str, tuple[str, bool, bool, bool]]:
    """Folder of every set; whether it is one folder, has a minival, and lacks a test split."""
    text = files(__package__).joinpath("odinw_places.tsv").read_text(encoding="utf-8")
    return {
        row["set"]: (
            row["folder"],
            "one_folder" in row["notes"],
            "minival" in row["notes"],
            "test_is_val" in row["notes"],
        )
        for row in csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    }
