"""Registration of the picture book, the procedural data set that ships with the package.

Five data sets per split (train, val, unseen) in the formats of public data sets,
`picturebook_<split>_`: `panoptic` (COCO panoptic, instances and semantic PNGs), `parts` (label
maps), `refer` (RefCOCO), `grefer` (gRefCOCO) and `group` (GRD's pickles). Pages and groups are
drawn to disk when a data set is first used. Groups are in the subfolder `group_book`, so that both
are drawn independently of each other.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from iopath.common.file_io import file_lock
from tqdm import tqdm

from hipie.data.datasets.catalog import register_dataset
from hipie.data.datasets.coco_panoptic import load_coco_panoptic
from hipie.data.datasets.grd import load_grd
from hipie.data.datasets.refcoco import load_refcoco
from hipie.data.datasets.semantic_folder import load_part_maps
from hipie.data.io.json_file import read_json
from hipie.data.io.paths import datasets_root
from hipie.data.picturebook import VERSION, PictureBookError, finished, write_split
from hipie.data.picturebook import classes as book
from hipie.errors import InputError
from hipie.logs import get_logger
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

logger = get_logger(__name__)

PAGES: Mapping[str, int] = {"train": 6000, "val": 500, "unseen": 200}
GROUPS: Mapping[str, int] = {"train": 400, "val": 60, "unseen": 40}
LABEL_DIVISOR = 1000
IGNORE_LABEL = 255
MAX_WORKERS = 8
# From these numbers on, pages and groups are drawn by several processes.
MIN_PAGES_FOR_WORKERS = 256
MIN_GROUPS_FOR_WORKERS = 32
GROUP_FOLDER = "group_book"
# `write_split` needs at least one page; the pages beside the groups are not used.
PAGES_BESIDE_GROUPS = 1
EXPRESSION_FILES = {"refer": "refs(picturebook).p", "grefer": "grefs(picturebook).json"}


def default_root(seed: int) -> Path:
    """Return the default folder of the book with this seed, below `datasets_root()`."""
    return datasets_root() / "picturebook" / f"v{VERSION}-seed{seed}"


def picturebook_vocabulary() -> Vocabulary:
    """Return the vocabulary of things, then stuff; a category id is the position + 1."""
    things = (VocabularyClass(c.name, "thing", (c.name, *c.synonyms)) for c in book.THINGS)
    stuff = (VocabularyClass(c.name, "stuff", (c.name, *c.synonyms)) for c in book.STUFF)
    return Vocabulary((*things, *stuff))


def picturebook_parts_vocabulary() -> Vocabulary:
    """Return the vocabulary of the part maps; classes without parts are stuff."""
    return Vocabulary(
        tuple(
            VocabularyClass(row.name, "part" if row.kind == "part" else "stuff", whole=row.whole)
            for row in book.PARTS
        )
    )


def register_picturebook(
    seed: int = 0,
    counts: Mapping[str, int] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> None:
    """Register the pages of the picture book; earlier entries are replaced.

    Nothing is drawn before a data set is used.

    Args:
        seed: seed of the book.
        counts: pages of each split; by default 6000, 500 and 200.
        root: folder of the book; by default `default_root(seed)`.

    Raises:
        ValueError: for an unknown split or a split without pages.
    """
    folder = Path(root) if root else default_root(seed)
    for split, count in _checked_counts(PAGES, counts, "page").items():
        _register_pages(_PageSplit(folder, seed, split, count))


def register_picturebook_groups(
    seed: int = 0,
    counts: Mapping[str, int] | None = None,
    root: str | os.PathLike[str] | None = None,
) -> None:
    """Register the groups of the picture book; earlier entries are replaced.

    Nothing is drawn before a data set is used.

    Args:
        seed: seed of the book.
        counts: groups of each split; by default 400, 60 and 40.
        root: folder of the book; by default `default_root(seed)`.

    Raises:
        ValueError: for an unknown split or a split without groups.
    """
    folder = (Path(root) if root else default_root(seed)) / GROUP_FOLDER
    for split, count in _checked_counts(GROUPS, counts, "group").items():
        register_dataset(
            f"picturebook_{split}_group",
            partial(load_groups, folder, seed, split, count),
            task="referring",
            evaluator_type="group",
            result_name=_result_name("group", split),
        )


def load_groups(root: Path, seed: int, split: str, count: int) -> list[dict[str, Any]]:
    """Load the first groups of a split; they are drawn if they do not exist.

    Args:
        root: folder of the groups.
        seed: seed of the book.
        split: "train", "val" or "unseen".
        count: number of groups.

    Returns:
        Records of `load_grd`, with expressions of absence.
    """
    ensure_groups_drawn(root, seed, split, count)
    records = load_grd(root / "groups" / split, root / "images", absence_expressions=True)
    return [record for record in records if record["group_id"] <= count]


def ensure_pages_drawn(root: str | os.PathLike[str], seed: int, split: str, count: int) -> None:
    """Draw the pages of a split unless they exist; safe with concurrent processes.

    A training split with more pages than `count` is accepted.

    Raises:
        PictureBookError: if the folder has another book, or a test split with more pages.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with file_lock(str(root / f".{split}")):
        stored = finished(root, split)
        if stored and (stored["seed"], stored["version"]) == (
            seed,
            VERSION,
        ):
            if stored["count"] == count or (split == "train" and stored["count"] > count):
                return
            if stored["count"] > count:
                raise PictureBookError(
                    f'{root}: the split "{split}" has {stored["count"]} pages, not the '
                    f"configured {count}; set PICTUREBOOK.ROOT to another folder"
                )
        logger.info('Drawing %d pages of the picture book ("%s") to %s', count, split, root)
        groups = stored["groups"] if stored else 0
        workers = _num_workers(count, MIN_PAGES_FOR_WORKERS)
        _draw(root, seed, split, count, groups, workers, f"Drawing {split}", "page")


def ensure_groups_drawn(root: Path, seed: int, split: str, count: int) -> None:
    """Draw the groups of a split unless as many exist; safe with concurrent processes.

    Raises:
        PictureBookError: if the folder has another book.
    """
    root.mkdir(parents=True, exist_ok=True)
    with file_lock(str(root / f".groups_{split}")):
        stored = finished(root, split)
        same_book = stored and (
            stored["seed"],
            stored["version"],
        ) == (seed, VERSION)
        if stored and same_book and stored["groups"] >= count:
            return
        logger.info('Drawing %d groups of the picture book ("%s") to %s', count, split, root)
        workers = _num_workers(count, MIN_GROUPS_FOR_WORKERS)
        title = f"Drawing {split} groups"
        _draw(root, seed, split, PAGES_BESIDE_GROUPS, count, workers, title, "group")


def _checked_counts(
    defaults: Mapping[str, int], counts: Mapping[str, int] | None, unit: str
) -> dict[str, int]:
    """Return the counts of all splits, `counts` before `defaults`."""
    merged = {**defaults, **(counts or {})}
    for split, count in merged.items():
        if split not in defaults:
            raise InputError(
                f'the picture book has no split "{split}"; it has {", ".join(defaults)}'
            )
        if count < 1:
            raise InputError(f'the split "{split}" of the picture book needs at least one {unit}')
    return merged


def _num_workers(count: int, min_count: int) -> int:
    return min(MAX_WORKERS, os.cpu_count() or 1) if count >= min_count else 1


def _draw(
    root: Path,
    seed: int,
    split: str,
    pages: int,
    groups: int,
    workers: int,
    title: str,
    unit: str,
) -> None:
    """Call `write_split` with a progress bar."""
    with tqdm(total=pages + groups, desc=title, unit=unit) as bar:
        write_split(
            root,
            seed,
            split,
            pages,
            groups=groups,
            workers=workers,
            progress=lambda done, _: bar.update(done - bar.n),
        )


@dataclass(frozen=True)
class _PageSplit:
    """A split of pages on disk, and its readers.

    Attributes:
        root: folder of the book.
        seed: seed of the book.
        name: "train", "val" or "unseen".
        count: number of pages.
    """

    root: Path
    seed: int
    name: str
    count: int

    def panoptic(self) -> list[dict[str, Any]]:
        """Return the records of the panoptic data set."""
        self._ensure_drawn()
        return self._first_pages(
            load_coco_panoptic(
                self.root / f"panoptic_{self.name}.json",
                self.root / f"panoptic_{self.name}",
                self.root / "images" / self.name,
                {number: number - 1 for number in book.CATEGORY_IDS.values()},
                self.root / f"semantic_{self.name}",
            )
        )

    def parts(self) -> list[dict[str, Any]]:
        """Return the records of the parts data set."""
        self._ensure_drawn()
        return self._first_pages(
            load_part_maps(
                self.root / f"panoptic_{self.name}.json",
                self.root / f"parts_{self.name}",
                self.root / "images" / self.name,
            )
        )

    def expressions(self, folder: str) -> list[dict[str, Any]]:
        """Return the records of "refer" or "grefer", expressions with `kind` and `held_out`."""
        self._ensure_drawn()
        records = load_refcoco(
            self.root / folder / EXPRESSION_FILES[folder],
            self.root / folder / "instances.json",
            self.root / "images",
            self.name,
        )
        notes = read_json(self.root / "refer" / "sentences.json")
        for record in records:
            for entry in record["expressions"]:
                note = notes[str(entry["sent_id"])]
                entry.update(kind=note["kind"], held_out=note["novel"])
        return self._first_pages(records)

    def _ensure_drawn(self) -> None:
        ensure_pages_drawn(self.root, self.seed, self.name, self.count)

    def _first_pages(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [record for record in records if int(Path(record["file_name"]).stem) < self.count]


def _register_pages(pages: _PageSplit) -> None:
    root, split = pages.root, pages.name
    images = str(root / "images" / split)
    vocabulary, parts_vocabulary = picturebook_vocabulary(), picturebook_parts_vocabulary()
    ids = {number: number - 1 for number in book.CATEGORY_IDS.values()}
    things = {number: i for number, i in ids.items() if i < len(book.THINGS)}
    shared = {"image_root": images, "unseen_classes": sorted(book.UNSEEN_THINGS)}
    register_dataset(
        f"picturebook_{split}_panoptic",
        pages.panoptic,
        vocabulary=vocabulary,
        thing_classes=[thing.name for thing in book.THINGS],
        stuff_classes=list(vocabulary.names),
        thing_dataset_id_to_contiguous_id=things,
        stuff_dataset_id_to_contiguous_id=ids,
        panoptic_json=str(root / f"panoptic_{split}.json"),
        panoptic_root=str(root / f"panoptic_{split}"),
        json_file=str(root / f"instances_{split}.json"),
        sem_seg_root=str(root / f"semantic_{split}"),
        ignore_label=IGNORE_LABEL,
        label_divisor=LABEL_DIVISOR,
        evaluator_type="unseen" if split == "unseen" else "coco_panoptic_seg",
        **shared,
    )
    classes = parts_vocabulary.classes
    register_dataset(
        f"picturebook_{split}_parts",
        pages.parts,
        vocabulary=parts_vocabulary,
        stuff_classes=list(parts_vocabulary.names),
        part_wholes={entry.name: entry.whole for entry in classes if entry.whole},
        unseen_classes=[
            entry.name for entry in classes if (entry.whole or entry.name) in book.UNSEEN_THINGS
        ],
        image_root=images,
        sem_seg_root=str(root / f"parts_{split}"),
        ignore_label=0,
        evaluator_type="parts",
        result_name=_result_name("parts", split),
    )
    for name in EXPRESSION_FILES:
        register_dataset(
            f"picturebook_{split}_{name}",
            partial(pages.expressions, name),
            task="referring",
            evaluator_type=name,
            result_name=_result_name(name, split),
            instances_json=str(root / name / "instances.json"),
            **shared,
        )


def _result_name(task: str, split: str) -> str:
    return f"{task}_unseen" if split == "unseen" else task
