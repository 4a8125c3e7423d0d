"""Groups of the picture book as registered data sets, in the pickles of GRD.

`picturebook_<split>_group` lie in a tree of their own inside the book's, so that pages and groups
are drawn independently of each other.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from iopath.common.file_io import file_lock
from tqdm.auto import tqdm

from hipie.data.datasets.coco import register
from hipie.data.datasets.grd import load_grd
from hipie.data.datasets.picturebook import MOST_WORKERS, default_root
from hipie.data.picturebook import VERSION, finished, write_split

logger = logging.getLogger(__name__)

GROUPS: Mapping[str, int] = {"train": 400, "val": 60, "unseen": 40}
FOLDER = "group_book"
# The writer's least, read by nobody.
PAGES = 1
# From so many groups on, drawing is worth processes of its own.
MANY = 32


def register_picturebook_groups(
    seed: int = 0,
    counts: Mapping[str, int] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> None:
    """Register the groups; nothing is drawn until a data set is first read.

    Args:
        seed: which book.
        counts: groups of each split; splits that are not named keep 400, 60, 40.
        root: the folder of the book; by default `default_root(seed)`.

    Raises:
        ValueError: for an unknown split, or one without groups.
    """
    groups = {**GROUPS, **(counts or {})}
    place = (Path(root) if root else default_root(seed)) / FOLDER
    for split, count in groups.items():
        if split not in GROUPS:
            raise ValueError(f'the picture book has no split "{split}"; it has {", ".join(GROUPS)}')
        if count < 1:
            raise ValueError(f'the split "{split}" of the picture book needs at least one group')
        register(
            f"picturebook_{split}_group",
            partial(load_groups, place, seed, split, count),
            task="referring",
            evaluator_type="group",
            result_name="group_unseen" if split == "unseen" else "group",
        )


def load_groups(root: Path, seed: int, split: str, count: int) -> list[dict[str, Any]]:
    """The first `count` groups of a split, drawn if they are not there yet.

    Records of `load_grd`, sentences about what is missing included.
    """
    ensure_groups_drawn(root, seed, split, count)
    records = load_grd(root / "groups" / split, root / "images", absence=True)
    return [record for record in records if record["group_id"] <= count]


def ensure_groups_drawn(root: Path, seed: int, split: str, count: int) -> None:
    """Draw groups to disk unless as many are there; safe when several processes ask at once.

    Raises:
        PictureBookError: if the folder holds another book.
    """
    root.mkdir(parents=True, exist_ok=True)
    with file_lock(str(root / f".groups_{split}")):
        there = finished(root, split)
        same = there and (there["seed"], there["version"]) == (seed, VERSION)
        if same and there["groups"] >= count:
            return
        logger.info('Drawing %d groups of the picture book ("%s") to %s', count, split, root)
        with tqdm(total=PAGES + count, desc=f"Drawing {split} groups", unit="group") as bar:
            write_split(
                root,
                seed,
                split,
                PAGES,
                groups=count,
                workers=min(MOST_WORKERS, os.cpu_count() or 1) if count >= MANY else 1,
                progress=lambda done, _: bar.update(done - bar.n),
            )
