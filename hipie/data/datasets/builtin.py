"""Registration of the public data sets under the names that HIPIE's configurations use."""

from __future__ import annotations

import os
from pathlib import Path

from hipie.data.datasets.builtin_coco import register_coco_datasets
from hipie.data.datasets.builtin_people import register_people
from hipie.data.datasets.builtin_referring import register_referring_datasets
from hipie.data.datasets.builtin_semantic import (
    register_ade20k,
    register_camvid,
    register_cityscapes_parts,
    register_pascal,
)
from hipie.data.datasets.odinw_seginw import register_odinw_seginw
from hipie.data.io.paths import datasets_root


def register_public_datasets(root: str | os.PathLike[str] | None = None) -> None:
    """Register every public data set, except names that other code registered.

    No file is read before a data set is used. `datasets/README.md` shows the folder structure.

    Args:
        root: root folder of all data sets; None = `datasets_root()`.
    """
    folder = datasets_root() if root is None else Path(root)
    register_coco_datasets(folder)
    register_ade20k(folder)
    register_pascal(folder)
    register_camvid(folder)
    register_cityscapes_parts(folder)
    register_people(folder)
    register_odinw_seginw(folder)
    register_referring_datasets(folder)
