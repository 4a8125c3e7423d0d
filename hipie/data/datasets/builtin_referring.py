"""Registration of the public referring expression, group and co-saliency data sets.

Paths are relative to the root of all data sets; COCO's images are in `coco/train2014`, for Ref-ZOM
also in `coco/val2014`:

- `refcoco_unc_{train,val,testA,testB}`, `refcoco+_unc_*`, `refcocog_umd_{train,val,test}`,
  `refcocog_google_{train,val}`: `refcoco/refs(unc).p` and `instances.json`, ...
- `refcoco-unc-*`, `refcocoplus-unc-*`, `refcocog-umd-*`, `refcocog-google-val` (HIPIE's
  names, one record per object): `annotations/refcoco-unc/instances_val.json`, ...
- `refcoco-mixed`, `refcoco-mixed-filter`: `annotations/refcoco-mixed/instances_train*.json`
- `grefcoco_unc_{train,val,testA,testB}`: `grefcoco/grefs(unc).json`, `instances.json`
- `refzom_{train,test}`: `ref-zom/refs(final).p`, `instances.json`
- `grd_intra` (expressions of an image's own group), `grd_inter` (of all groups), both also as
  `..._full` with expressions of absence; `grd_intra_{even,odd}`, the groups with even or
  odd ids: `grd/pkl`, `grd/images`
- `coca`, `cosal2015`, `cosod3k`, and for training `duts_class`, `coco9213`:
  `cosod/CoCA/{image,gt}`, ...
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hipie.data.datasets.catalog import register_builtin
from hipie.data.datasets.cosaliency import load_cosaliency
from hipie.data.datasets.grd import load_grd
from hipie.data.datasets.refcoco import load_refcoco
from hipie.data.datasets.uninext_refer import load_uninext_refer

UNC_SPLITS = ("train", "val", "testA", "testB")
# Folder, name of the split (`refs(<name>).p`), splits.
REFCOCO_DATASETS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("refcoco", "unc", UNC_SPLITS),
    ("refcoco+", "unc", UNC_SPLITS),
    ("refcocog", "umd", ("train", "val", "test")),
    ("refcocog", "google", ("train", "val")),
)
UNINEXT_DATASETS: dict[str, tuple[str, ...]] = {
    "refcoco-unc": UNC_SPLITS,
    "refcocoplus-unc": UNC_SPLITS,
    "refcocog-umd": ("train", "val", "test"),
    "refcocog-google": ("val",),
}
UNINEXT_MIXED = {
    "refcoco-mixed": "instances_train.json",
    "refcoco-mixed-filter": "instances_train_filter.json",
}
GRD_DATASETS: dict[str, dict[str, Any]] = {
    "grd_intra": {},
    "grd_intra_full": {"absence_expressions": True},
    "grd_inter": {"inter_group": True},
    "grd_inter_full": {"inter_group": True, "absence_expressions": True},
    "grd_intra_even": {"parity": 0},
    "grd_intra_odd": {"parity": 1},
}
COSALIENCY_FOLDERS = {
    "coca": "CoCA",
    "cosal2015": "CoSal2015",
    "cosod3k": "CoSOD3k",
    "duts_class": "DUTS_class",
    "coco9213": "COCO9213",
}
PUBLISHED_SIZE = 480
"""Side of the square, pixels, at which LAVT, DMMI and ReLA evaluate masks."""


def register_referring_datasets(root: Path) -> list[str]:
    """Register the data sets; no file is read before one is used.

    Args:
        root: root folder of all data sets.

    Returns:
        The names of the data sets.
    """
    names: list[str] = []

    def add(name: str, evaluator_type: str, load: Callable[[Path], Any], **metadata: Any) -> None:
        register_builtin(
            name, partial(load, root), task="referring", evaluator_type=evaluator_type, **metadata
        )
        names.append(name)

    for folder, split_name, splits in REFCOCO_DATASETS:
        for split in splits:
            load = partial(_load_refcoco, folder, f"refs({split_name}).p", split)
            add(
                f"{folder}_{split_name}_{split}",
                "refer",
                load,
                resized_to=PUBLISHED_SIZE,
                instances_json=str(root / folder / "instances.json"),
            )
    for folder, splits in UNINEXT_DATASETS.items():
        for split in splits:
            load = partial(_load_uninext, folder, f"instances_{split}.json")
            add(f"{folder}-{split}", "refer", load, resized_to=PUBLISHED_SIZE)
    for name, file in UNINEXT_MIXED.items():
        add(name, "refer", partial(_load_uninext, "refcoco-mixed", file))
    for split in UNC_SPLITS:
        load = partial(_load_refcoco, "grefcoco", "grefs(unc).json", split)
        add(f"grefcoco_unc_{split}", "grefer", load)
    for split in ("train", "test"):
        load = partial(_load_refcoco, "ref-zom", "refs(final).p", split, image_folder="coco")
        add(f"refzom_{split}", "refzom", load, resized_to=PUBLISHED_SIZE)
    for name, options in GRD_DATASETS.items():
        add(name, "group", partial(_load_grd, **options))
    for name, folder in COSALIENCY_FOLDERS.items():
        add(name, "cosaliency", partial(_load_cosaliency, folder))
    return names


def _load_refcoco(
    folder: str, file: str, split: str, root: Path, image_folder: str = "coco/train2014"
) -> list[dict[str, Any]]:
    dataset = root / folder
    return load_refcoco(dataset / file, dataset / "instances.json", root / image_folder, split)


def _load_uninext(folder: str, file: str, root: Path) -> list[dict[str, Any]]:
    return load_uninext_refer(root / "annotations" / folder / file, root / "coco/train2014")


def _load_grd(root: Path, parity: int | None = None, **options: bool) -> list[dict[str, Any]]:
    """Load GRD; with `parity` only the groups whose ids are even (0) or odd (1)."""
    records = load_grd(root / "grd/pkl", root / "grd/images", **options)
    return [r for r in records if parity is None or r["group_id"] % 2 == parity]


def _load_cosaliency(folder: str, root: Path) -> list[dict[str, Any]]:
    return load_cosaliency(root / "cosod" / folder)
