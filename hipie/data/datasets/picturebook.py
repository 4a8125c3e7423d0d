"""The picture book as registered data sets: its pages are drawn to disk when they are first used.

Four data sets a split (train, val, unseen), all reading public formats: `picturebook_<split>_`
`panoptic` (COCO panoptic, instances and semantic PNGs), `parts` (label maps), `refer` (RefCOCO)
and `grefer` (gRefCOCO).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from iopath.common.file_io import file_lock

from hipie.data import picturebook
from hipie.data.datasets.coco import register
from hipie.data.datasets.coco_panoptic import load_coco_panoptic
from hipie.data.datasets.part_maps import load_part_maps
from hipie.data.datasets.refcoco import load_refcoco
from hipie.data.picturebook import classes as book
from hipie.language import Vocabulary, VocabularyClass

logger = logging.getLogger(__name__)

PAGES: Mapping[str, int] = {"train": 6000, "val": 500, "unseen": 200}
LABEL_DIVISOR = 1000
IGNORE_LABEL = 255


def default_root(seed: int) -> Path:
    """Where pages of a seed are drawn if nothing else is said: under Detectron2's data sets."""
    datasets = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    return datasets / "picturebook" / f"v{picturebook.VERSION}-seed{seed}"


def picturebook_vocabulary() -> Vocabulary:
    """Things, then stuff: the book's full vocabulary; a category's id is its position + 1."""
    return Vocabulary(
        [VocabularyClass(c.name, "thing", c.synonyms) for c in book.THINGS]
        + [VocabularyClass(c.name, "stuff", c.synonyms) for c in book.STUFF]
    )


def picturebook_parts_vocabulary() -> Vocabulary:
    """The phrases of the part maps, in their order; what has no parts is one phrase, as stuff."""
    return Vocabulary(
        [
            VocabularyClass(row.name, "part" if row.kind == "part" else "stuff", whole=row.whole)
            for row in book.PARTS
        ]
    )


def register_picturebook(
    seed: int = 0,
    counts: Mapping[str, int] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> None:
    """Register the picture book; called again, it replaces what was registered before.

    Nothing is drawn until a data set is first read.

    Args:
        seed: which book.
        counts: pages of each split; splits that are not named keep 6000, 500, 200.
        root: the folder of the tree; by default `default_root(seed)`.

    Raises:
        ValueError: for an unknown split, or one without pages.
    """
    pages = {**PAGES, **(counts or {})}
    for split, count in pages.items():
        if split not in PAGES:
            raise ValueError(f'the picture book has no split "{split}"; it has {", ".join(PAGES)}')
        if count < 1:
            raise ValueError(f'the split "{split}" of the picture book needs at least one page')
    place = Path(root) if root else default_root(seed)
    for split, count in pages.items():
        _register_split(place, split, partial(ensure_drawn, place, seed, split, count))


def ensure_drawn(root: str | os.PathLike[str], seed: int, split: str, count: int) -> None:
    """Draw a split to disk unless it is there; safe when several processes ask at once.

    Raises:
        ValueError: if the folder holds another number of pages of this split.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    mark = root / f".{split}.drawn"
    with file_lock(str(root / split)):
        if mark.exists():
            found = int(mark.read_text())
            if found != count:
                raise ValueError(
                    f'{root}: the split "{split}" is drawn there with {found} pages, not {count}; '
                    "set PICTUREBOOK.ROOT to another folder, or remove this one"
                )
            return
        logger.info('Drawing %d pages of the picture book ("%s") to %s ...', count, split, root)
        picturebook.write_split(root, seed, split, count)
        mark.write_text(str(count))


def _register_split(root: Path, split: str, draw: Any) -> None:
    images = str(root / "images" / split)
    instances = root / f"instances_{split}.json"
    vocabulary, phrases = picturebook_vocabulary(), picturebook_parts_vocabulary()
    ids = {number: number - 1 for number in book.CATEGORY_IDS.values()}
    things = {number: i for number, i in ids.items() if i < len(book.THINGS)}
    shared = {"image_root": images, "unseen_classes": sorted(book.UNSEEN_THINGS)}
    register(
        f"picturebook_{split}_panoptic",
        partial(_load_panoptic, root, split, draw, ids),
        vocabulary=vocabulary,
        thing_classes=[one.name for one in book.THINGS],
        stuff_classes=list(vocabulary.names),
        thing_dataset_id_to_contiguous_id=things,
        stuff_dataset_id_to_contiguous_id=ids,
        panoptic_json=str(root / f"panoptic_{split}.json"),
        panoptic_root=str(root / f"panoptic_{split}"),
        json_file=str(instances),
        sem_seg_root=str(root / f"semantic_{split}"),
        ignore_label=IGNORE_LABEL,
        label_divisor=LABEL_DIVISOR,
        evaluator_type="unseen" if split == "unseen" else "coco_panoptic_seg",
        **shared,
    )
    whole = {one.name: one.whole for one in phrases.classes if one.whole}
    absent = [
        one.name for one in phrases.classes if (one.whole or one.name) in book.UNSEEN_THINGS
    ]
    register(
        f"picturebook_{split}_parts",
        partial(_load_parts, root, split, draw),
        vocabulary=phrases,
        stuff_classes=list(phrases.names),
        part_wholes=whole,
        unseen_classes=absent,
        image_root=images,
        sem_seg_root=str(root / f"parts_{split}"),
        ignore_label=0,
        evaluator_type="parts",
        result_name=_result_name("parts", split),
    )
    for name, refs in (("refer", "refs(picturebook).p"), ("grefer", "grefs(picturebook).json")):
        register(
            f"picturebook_{split}_{name}",
            partial(_load_sentences, root, split, draw, name, refs),
            evaluator_type=name,
            result_name=_result_name(name, split),
            **shared,
        )


def _result_name(task: str, split: str) -> str:
    return f"{task}_unseen" if split == "unseen" else task


def _load_panoptic(root: Path, split: str, draw: Any, ids: dict[int, int]) -> list[dict[str, Any]]:
    draw()
    return load_coco_panoptic(
        root / f"panoptic_{split}.json",
        root / f"panoptic_{split}",
        root / "images" / split,
        ids,
        root / f"semantic_{split}",
    )


def _load_parts(root: Path, split: str, draw: Any) -> list[dict[str, Any]]:
    draw()
    return load_part_maps(
        root / f"panoptic_{split}.json", root / f"parts_{split}", root / "images" / split
    )


def _load_sentences(
    root: Path, split: str, draw: Any, folder: str, refs: str
) -> list[dict[str, Any]]:
    draw()
    return load_refcoco(
        root / folder / refs, root / folder / "instances.json", root / "images" / split, split
    )
