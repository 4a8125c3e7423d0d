"""The images of a training set whose annotations are used: `DATASETS.LABELED_FRACTION`."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode

from hipie.data.supervision import NONE, supervision_kinds
from hipie.errors import InputError

KEY = "DATASETS.LABELED_FRACTION"


def labelled_indices(cfg: CfgNode, dataset_name: str, count: int) -> list[int]:
    """Sample the images whose annotations are used.

    A larger fraction has all images of a smaller one with the same seed.

    Args:
        cfg: reads DATASETS.{LABELED_FRACTION, LABELED_FRACTION_SEED}.
        dataset_name: the data set, which is part of the seed.
        count: its images.

    Returns:
        Rising indices.

    Raises:
        InputError: if the fraction is not in 0 to 1, or no image is left.
    """
    fraction = cfg.DATASETS.LABELED_FRACTION
    if not 0 < fraction <= 1:
        raise InputError(f"{KEY} must be above 0 and at most 1, not {fraction}")
    kept = round(fraction * count)
    if kept == 0:
        raise InputError(f"{KEY} {fraction} leaves none of the {count} images of {dataset_name}")
    seed = [cfg.DATASETS.LABELED_FRACTION_SEED, zlib.crc32(dataset_name.encode())]
    order = np.random.default_rng(seed).permutation(count)
    return sorted(order[:kept].tolist())


def unlabelled_configuration(cfg: CfgNode, dataset_name: str) -> CfgNode:
    """Return the configuration with which a set is read as images without annotation."""
    kinds: dict[str, str] = {**supervision_kinds(cfg), dataset_name: NONE}
    changed = cfg.clone()
    changed.defrost()
    changed.DATASETS.SUPERVISION = [[name, kind] for name, kind in kinds.items()]
    changed.freeze()
    return changed


def other_indices(indices: Sequence[int], count: int) -> list[int]:
    """Return the rising indices below `count` that are not in a list."""
    return sorted(set(range(count)).difference(indices))
