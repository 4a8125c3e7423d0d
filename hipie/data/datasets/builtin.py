"""The public data sets, under the names that HIPIE's configurations use."""

from __future__ import annotations

import os
from pathlib import Path

from hipie.data.datasets.ade20k import register_ade20k
from hipie.data.datasets.builtin_coco import register_coco_family
from hipie.data.datasets.builtin_referring import register_referring_sets
from hipie.data.datasets.odinw_seginw import register_in_the_wild
from hipie.data.datasets.pascal import register_cityscapes_parts, register_pascal
from hipie.data.io.paths import datasets_root


def register_benchmarks(root: str | os.PathLike[str] | None = None) -> None:
    """Register every public data set, in place of what had its name.

    `datasets/README.md` shows the tree. Nothing is read before a data set is used.

    Args:
        root: the folder of all data sets; None = `datasets_root()`.
    """
    place = datasets_root() if root is None else Path(root)
    register_coco_family(place)
    register_ade20k(place)
    register_pascal(place)
    register_cityscapes_parts(place)
    register_in_the_wild(place)
    register_referring_sets(place)
