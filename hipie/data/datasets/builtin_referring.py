"""The public sets of expressions as registered data sets; read when they are first used.

Under the root of the data sets, with COCO's images in `coco/train2014` (for Ref-ZOM also
`coco/val2014`):

- `refcoco_unc_{train,val,testA,testB}`, `refcoco+_unc_*`, `refcocog_umd_{train,val,test}`,
  `refcocog_google_{train,val}`: `refcoco/refs(unc).p` and `instances.json`, ...
- `refcoco-unc-*`, `refcocoplus-unc-*`, `refcocog-umd-*`, `refcocog-google-val` (HIPIE's names, an
  object an item): `annotations/refcoco-unc/instances_val.json`, ...
- `refcoco-mixed`, `refcoco-mixed-filter`: `annotations/refcoco-mixed/instances_train*.json`
- `grefcoco_unc_{train,val,testA,testB}`: `grefcoco/grefs(unc).json`, `instances.json`
- `refzom_{train,test}`: `ref-zom/refs(final).p`, `instances.json`
- `grd_intra` (expressions of an image's own group), `grd_inter` (of all groups), both also as
  `..._full` with expressions about what is missing; `grd_intra_{even,odd}`, halves of the groups by
  their ids: `grd/pkl`, `grd/images`
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

UNC = ("train", "val", "testA", "testB")
# The folder, the name after `refs`, the splits.
REFERENCES = (
    ("refcoco", "unc", UNC),
    ("refcoco+", "unc", UNC),
    ("refcocog", "umd", ("train", "val", "test")),
    ("refcocog", "google", ("train", "val")),
)
HIPIE_SETS = {
    "refcoco-unc": UNC,
    "refcocoplus-unc": UNC,
    "refcocog-umd": ("train", "val", "test"),
    "refcocog-google": ("val",),
}
HIPIE_MIXED = {
    "refcoco-mixed": "instances_train.json",
    "refcoco-mixed-filter": "instances_train_filter.json",
}
GRD: dict[str, dict[str, Any]] = {
    "grd_intra": {},
    "grd_intra_full": {"absence": True},
    "grd_inter": {"across": True},
    "grd_inter_full": {"across": True, "absence": True},
    "grd_intra_even": {"half": 0},
    "grd_intra_odd": {"half": 1},
}
COSALIENCY = {
    "coca": "CoCA",
    "cosal2015": "CoSal2015",
    "cosod3k": "CoSOD3k",
    "duts_class": "DUTS_class",
    "coco9213": "COCO9213",
}
PUBLISHED_SIZE = 480
"""The side at which LAVT, DMMI and ReLA compare masks."""


def register_referring_datasets(root: Path) -> list[str]:
    """Register all of them; called again, it replaces what was registered before.

    Args:
        root: the folder of all data sets.

    Returns:
        the names.
    """
    names: list[str] = []

    def add(name: str, kind: str, load: Callable[[Path], Any], **metadata: Any) -> None:
        register_builtin(
            name, partial(load, root), task="referring", evaluator_type=kind, **metadata
        )
        names.append(name)

    for folder, by, splits in REFERENCES:
        for split in splits:
            load = partial(_references, folder, f"refs({by}).p", split)
            objects = str(root / folder / "instances.json")
            extra = {"resized_to": PUBLISHED_SIZE, "instances_json": objects}
            add(f"{folder}_{by}_{split}", "refer", load, **extra)
    for folder, splits in HIPIE_SETS.items():
        for split in splits:
            load = partial(_expressions, folder, f"instances_{split}.json")
            add(f"{folder}-{split}", "refer", load, resized_to=PUBLISHED_SIZE)
    for name, file in HIPIE_MIXED.items():
        add(name, "refer", partial(_expressions, "refcoco-mixed", file))
    for split in UNC:
        load = partial(_references, "grefcoco", "grefs(unc).json", split)
        add(f"grefcoco_unc_{split}", "grefer", load)
    for split in ("train", "test"):
        load = partial(_references, "ref-zom", "refs(final).p", split, image_folder="coco")
        add(f"refzom_{split}", "refzom", load, resized_to=PUBLISHED_SIZE)
    for name, given in GRD.items():
        add(name, "group", partial(_grd, **given))
    for name, folder in COSALIENCY.items():
        add(name, "cosaliency", partial(_cosaliency, folder))
    return names


def _references(
    folder: str, file: str, split: str, root: Path, image_folder: str = "coco/train2014"
) -> list[dict[str, Any]]:
    here = root / folder
    return load_refcoco(here / file, here / "instances.json", root / image_folder, split)


def _expressions(folder: str, file: str, root: Path) -> list[dict[str, Any]]:
    return load_uninext_refer(root / "annotations" / folder / file, root / "coco/train2014")


def _grd(root: Path, half: int | None = None, **given: bool) -> list[dict[str, Any]]:
    """GRD, or the half of it whose groups have even (0) or odd (1) ids."""
    records = load_grd(root / "grd/pkl", root / "grd/images", **given)
    return [one for one in records if half is None or one["group_id"] % 2 == half]


def _cosaliency(folder: str, root: Path) -> list[dict[str, Any]]:
    return load_cosaliency(root / "cosod" / folder)
