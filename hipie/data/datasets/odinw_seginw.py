"""Registration of the collections ODinW (35 data sets with boxes) and SegInW (25 with masks).

`odinw_<set>_<split>` with the splits train, val, test, for some sets minival, and the few-shot
splits `<split>_<shots>_<seed>`; `seginw_<set>_{train,val}`. All are COCO files of things. The
metadata's `collection` is "odinw" or "seginw".

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

# Subset of 13 data sets that GLIP reports.
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


def register_odinw_seginw(root: Path) -> None:
    """Register both collections; no file is read before a data set is used.

    Args:
        root: root folder of all data sets.
    """
    for family in ("odinw", "seginw"):
        for name in collection_datasets(family):
            classes = load_classes(f"{family}_{name}")
            for split, images, file in collection_splits(family, name):
                register_instances(
                    f"{family}_{name}_{split}",
                    root / images,
                    root / file,
                    classes,
                    collection=family,
                )


def collection_splits(family: str, name: str) -> Iterator[tuple[str, str, str]]:
    """Yield the splits of a data set of "odinw" or "seginw": name, image folder, COCO JSON."""
    if family == "odinw":
        yield from odinw_splits(name)
        return
    for split in ("train", "val"):
        folder = f"seginw/{name}/{SPLIT_FOLDERS[split]}"
        yield split, folder, f"{folder}/{SEGINW_FILE}"


def odinw_splits(name: str) -> Iterator[tuple[str, str, str]]:
    """Yield the splits of a data set of ODinW: name, image folder, COCO JSON.

    A data set whose images are in a single folder has the split's name as a prefix of its files.
    """
    path, single_folder, has_minival, test_is_val = _odinw_folders()[name]
    for split, folder in SPLIT_FOLDERS.items():
        if split == "minival" and not has_minival:
            continue
        if split == "test" and test_is_val:
            folder = SPLIT_FOLDERS["val"]
        images = f"odinw/{path}" if single_folder else f"odinw/{path}/{folder}"
        prefix = f"{images}/{split}_" if single_folder else f"{images}/"
        yield split, images, prefix + ODINW_FILE
        if split != "test":
            for shots in SHOTS:
                for seed in SEEDS:
                    file = f"{images}/fewshot_{split}_shot{shots}_seed{seed}.json"
                    yield f"{split}_{shots}_{seed}", images, file


@cache
def _odinw_folders() -> dict[str, tuple[str, bool, bool, bool]]:
    """Return each set's folder and whether it is single, has a minival, and lacks a test split."""
    text = files(__package__).joinpath("odinw_folders.tsv").read_text(encoding="utf-8")
    return {
        row["set"]: (
            row["folder"],
            "one_folder" in row["notes"],
            "minival" in row["notes"],
            "test_is_val" in row["notes"],
        )
        for row in csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    }
