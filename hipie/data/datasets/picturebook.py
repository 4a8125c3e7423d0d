"""The picture book as registered data sets: its pages are drawn to disk when they are first used.

Four data sets a split (train, val, unseen), all reading public formats: `picturebook_<split>_`
`panoptic` (COCO panoptic, instances and semantic PNGs), `parts` (label maps), `refer` (RefCOCO)
and `grefer` (gRefCOCO).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from iopath.common.file_io import file_lock
from tqdm import tqdm

from hipie.data.datasets.coco import register
from hipie.data.datasets.coco_panoptic import load_coco_panoptic
from hipie.data.datasets.part_label_maps import load_part_maps
from hipie.data.datasets.refcoco import load_refcoco
from hipie.data.io.json_file import read_json
from hipie.data.picturebook import VERSION, PictureBookError, finished, write_split
from hipie.data.picturebook import classes as book
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

logger = logging.getLogger(__name__)

PAGES: Mapping[str, int] = {"train": 6000, "val": 500, "unseen": 200}
LABEL_DIVISOR = 1000
IGNORE_LABEL = 255
MOST_WORKERS = 8
PAGES_FOR_WORKERS = 256
SENTENCE_FILES = {"refer": "refs(picturebook).p", "grefer": "grefs(picturebook).json"}


def default_root(seed: int) -> Path:
    """Where pages of a seed are drawn if nothing else is said: under Detectron2's data sets."""
    datasets = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    return datasets / "picturebook" / f"v{VERSION}-seed{seed}"


def picturebook_vocabulary() -> Vocabulary:
    """Things, then stuff: the book's full vocabulary; a category's id is its position + 1."""
    return Vocabulary(
        [VocabularyClass(c.name, "thing", (c.name, *c.synonyms)) for c in book.THINGS]
        + [VocabularyClass(c.name, "stuff", (c.name, *c.synonyms)) for c in book.STUFF]
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
        _register_split(_Split(place, seed, split, count))


def ensure_drawn(root: str | os.PathLike[str], seed: int, split: str, count: int) -> None:
    """Draw a split to disk unless it is there; safe when several processes ask at once.

    Of a training split with more pages than asked for, the first are used.

    Raises:
        PictureBookError: if the folder holds another book, or a test split with more pages.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with file_lock(str(root / f".{split}")):
        there = finished(root, split)
        if there and (there["seed"], there["version"]) == (seed, VERSION):
            if there["count"] == count or (split == "train" and there["count"] > count):
                return
            if there["count"] > count:
                raise PictureBookError(
                    f'{root}: the split "{split}" is drawn there with {there["count"]} pages, and '
                    f"{count} are asked for; set PICTUREBOOK.ROOT to a folder of its own"
                )
        logger.info('Drawing %d pages of the picture book ("%s") to %s', count, split, root)
        groups = there["groups"] if there else 0
        workers = min(MOST_WORKERS, os.cpu_count() or 1) if count >= PAGES_FOR_WORKERS else 1
        with tqdm(total=count + groups, desc=f"Drawing {split}", unit="page") as bar:
            write_split(
                root,
                seed,
                split,
                count,
                groups=groups,
                workers=workers,
                progress=lambda done, _: bar.update(done - bar.n),
            )


@dataclass(frozen=True)
class _Split:
    """One split on disk, read by the readers of the public formats."""

    root: Path
    seed: int
    name: str
    count: int

    def panoptic(self) -> list[dict[str, Any]]:
        self._draw()
        return self._asked_for(
            load_coco_panoptic(
                self.root / f"panoptic_{self.name}.json",
                self.root / f"panoptic_{self.name}",
                self.root / "images" / self.name,
                {number: number - 1 for number in book.CATEGORY_IDS.values()},
                self.root / f"semantic_{self.name}",
            )
        )

    def parts(self) -> list[dict[str, Any]]:
        self._draw()
        return self._asked_for(
            load_part_maps(
                self.root / f"panoptic_{self.name}.json",
                self.root / f"parts_{self.name}",
                self.root / "images" / self.name,
            )
        )

    def sentences(self, folder: str) -> list[dict[str, Any]]:
        self._draw()
        records = load_refcoco(
            self.root / folder / SENTENCE_FILES[folder],
            self.root / folder / "instances.json",
            self.root / "images",
            self.name,
        )
        notes = read_json(self.root / "refer" / "sentences.json")
        for record in records:
            for sentence in record["expressions"]:
                note = notes[str(sentence["sent_id"])]
                sentence.update(kind=note["kind"], held_out=note["novel"])
        return self._asked_for(records)

    def _draw(self) -> None:
        ensure_drawn(self.root, self.seed, self.name, self.count)

    def _asked_for(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one for one in records if int(Path(one["file_name"]).stem) < self.count]


def _register_split(pages: _Split) -> None:
    root, split = pages.root, pages.name
    images = str(root / "images" / split)
    instances = root / f"instances_{split}.json"
    vocabulary, phrases = picturebook_vocabulary(), picturebook_parts_vocabulary()
    ids = {number: number - 1 for number in book.CATEGORY_IDS.values()}
    things = {number: i for number, i in ids.items() if i < len(book.THINGS)}
    shared = {"image_root": images, "unseen_classes": sorted(book.UNSEEN_THINGS)}
    register(
        f"picturebook_{split}_panoptic",
        pages.panoptic,
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
    absent = [one.name for one in phrases.classes if (one.whole or one.name) in book.UNSEEN_THINGS]
    register(
        f"picturebook_{split}_parts",
        pages.parts,
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
    for name in SENTENCE_FILES:
        register(
            f"picturebook_{split}_{name}",
            partial(pages.sentences, name),
            task="referring",
            evaluator_type=name,
            result_name=_result_name(name, split),
            instances_json=str(root / name / "instances.json"),
            **shared,
        )


def _result_name(task: str, split: str) -> str:
    return f"{task}_unseen" if split == "unseen" else task
