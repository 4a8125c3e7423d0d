"""Writer of a picture book split in the formats of COCO, RefCOCO, gRefCOCO and GRD.

Under `root`, which holds one seed and version:

    images/<split>/000000.jpg       JPEG, quality 95
    panoptic_<split>.json, panoptic_<split>/000000.png
                                    COCO panoptic; id = R + 256 G + 65536 B, 0 is unlabelled
    instances_<split>.json          COCO instances, things only, RLE
    semantic_<split>/000000.png     uint8, index into things + stuff, 255 ignored
    parts_<split>.json, parts_<split>/000000.png
                                    uint8, 1-based index into the parts vocabulary, 0 ignored
    refer/, grefer/, groups/        see `referring` and `grouping`
    .done_<split>.json              written last: the settings of a finished split
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hipie.errors import InputError

from . import records
from .book import VERSION, PictureBook
from .files import locked, read_json, write_jpeg, write_json, write_png
from .grouping import collect_groups, write_group
from .numbering import image_id, stem
from .referring import merge_expressions

Progress = Callable[[int, int], None]
_CHUNK = 32
_FOLDERS = ("images/{}", "panoptic_{}", "semantic_{}", "parts_{}")


class PictureBookError(InputError):
    """Folder that holds another picture book, or a split with other settings."""


def settings(seed: int, split: str, count: int, groups: int) -> dict[str, Any]:
    """Return the settings of a split, with a digest of them."""
    values = {"version": VERSION, "seed": seed, "split": split, "count": count, "groups": groups}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return {**values, "digest": digest}


def finished(root: str | Path, split: str) -> dict[str, Any] | None:
    """Return the settings of a finished split, or None."""
    marker = Path(root) / f".done_{split}.json"
    return read_json(marker) if marker.exists() else None


def write_split(
    root: str | Path,
    seed: int,
    split: str,
    count: int,
    groups: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Draw the pages and groups of a split to disk.

    A finished split with the same settings is kept, and an interrupted one is completed. Several
    splits may be written at the same time.

    Args:
        root: folder of the book.
        seed: seed of the book.
        split: "train", "val" or "unseen".
        count: number of pages.
        groups: number of groups.
        workers: number of processes.
        progress: called with the numbers of finished and of all pages; groups count as pages.

    Returns:
        `root`.

    Raises:
        PictureBookError: if `root` has another seed or version, or `count` is not positive.
    """
    root = Path(root)
    expected = settings(seed, split, count, groups)
    PictureBook(seed, split)
    if count < 1 or groups < 0:
        raise PictureBookError(
            f"count must be at least 1 and groups at least 0, not {count} and {groups}"
        )
    _check_root_owner(root, seed)
    with locked(root / f".lock_{split}"):
        if finished(root, split) != expected:
            _write_missing(root, expected, workers, progress)
    return root


def _write_missing(
    root: Path, expected: dict[str, Any], workers: int, progress: Progress | None
) -> None:
    """Draw the missing pages of a split and merge its files; the caller holds the split's lock."""
    seed, split, count, groups = (expected[key] for key in ("seed", "split", "count", "groups"))
    (root / f".done_{split}.json").unlink(missing_ok=True)
    work_folder = root / ".work" / f"{split}_{expected['digest'][:12]}"
    work_folder.mkdir(parents=True, exist_ok=True)
    done = 0
    for size in _run_tasks(_tasks(work_folder, count, groups), root, seed, split, workers):
        done += size
        if progress is not None:
            progress(done, count + groups)
    _merge_results(root, work_folder, seed, split, count, groups)
    write_json(root / f".done_{split}.json", expected)
    shutil.rmtree(work_folder)


def _check_root_owner(root: Path, seed: int) -> None:
    """Record seed and version of a new folder, or check those of an existing one."""
    root.mkdir(parents=True, exist_ok=True)
    label, expected = root / "book.json", {"seed": seed, "version": VERSION}
    with locked(root / ".lock"):
        if label.exists():
            existing = read_json(label)
            if existing != expected:
                raise PictureBookError(
                    f"{root} holds the picture book of seed {existing.get('seed')}, version "
                    f"{existing.get('version')}; choose another folder for seed {seed}, version "
                    f"{VERSION}"
                )
        else:
            write_json(label, expected)


def _tasks(work_folder: Path, count: int, groups: int) -> list[tuple[str, int, int, Path]]:
    tasks = []
    for kind, total in (("pages", count), ("groups", groups)):
        step = _CHUNK if kind == "pages" else max(1, _CHUNK // 8)
        for first in range(0, total, step):
            tasks.append(
                (kind, first, min(first + step, total), work_folder / f"{kind}_{first:07d}.json")
            )
    return tasks


def _run_tasks(tasks: list[Any], root: Path, seed: int, split: str, workers: int) -> Iterator[int]:
    """Run the tasks without a result file; yield the number of pages of each finished task."""
    remaining = []
    for task in tasks:
        if task[3].exists():
            yield task[2] - task[1]
        else:
            remaining.append(task)
    if workers <= 1:
        for task in remaining:
            yield _draw(root, seed, split, *task)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        futures = [pool.submit(_draw, root, seed, split, *task) for task in remaining]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _draw(root: Path, seed: int, split: str, kind: str, first: int, last: int, result: Path) -> int:
    book = PictureBook(seed, split)
    if kind == "groups":
        content = [write_group(root, book, index) for index in range(first, last)]
    else:
        content = [_write_page(root, book, index) for index in range(first, last)]
    write_json(result, content)
    return last - first


def _write_page(root: Path, book: PictureBook, index: int) -> dict[str, Any]:
    page, split = book.page(index), book.split
    name, image = stem(index), image_id(book.split, index)
    encoded = np.zeros((*page.panoptic.shape, 3), np.uint8)
    for channel in range(3):
        encoded[..., channel] = (page.panoptic >> (8 * channel)) & 255
    write_jpeg(root / f"images/{split}/{name}.jpg", page.image)
    write_png(root / f"panoptic_{split}/{name}.png", encoded)
    write_png(root / f"semantic_{split}/{name}.png", records.semantic_map(page))
    write_png(root / f"parts_{split}/{name}.png", records.part_label_map(page))
    references, kinds = records.expression_records(page, image)
    return {
        "image": records.image_record(page, image, f"{name}.jpg"),
        "instances": records.instance_records(page, image),
        "panoptic": records.panoptic_record(page, image, f"{name}.png"),
        "parts": records.part_records(page, image),
        "references": references,
        "kinds": kinds,
    }


def _merge_results(
    root: Path, work_folder: Path, seed: int, split: str, count: int, groups: int
) -> None:
    """Merge the results of all tasks into the files of the split and those of all splits."""
    pages = [page for path in sorted(work_folder.glob("pages_*.json")) for page in read_json(path)]
    head = {"info": records.info(seed, VERSION, split), "licenses": records.LICENCES}
    head["images"] = [page["image"] for page in pages]
    write_json(
        root / f"instances_{split}.json",
        {
            **head,
            "annotations": _concatenate(pages, "instances"),
            "categories": records.thing_categories(),
        },
    )
    write_json(
        root / f"panoptic_{split}.json",
        {
            **head,
            "annotations": [page["panoptic"] for page in pages],
            "categories": records.panoptic_categories(),
        },
    )
    write_json(
        root / f"parts_{split}.json",
        {
            **head,
            "annotations": _concatenate(pages, "parts"),
            "categories": records.part_categories(),
        },
    )
    for folder in _FOLDERS:
        _remove_stale_files(root / folder.format(split), count)
    with locked(root / ".lock"):
        merge_expressions(
            root, seed, split, _concatenate(pages, "references"), _concatenate(pages, "kinds")
        )
    if groups:
        drawn = [
            group for path in sorted(work_folder.glob("groups_*.json")) for group in read_json(path)
        ]
        collect_groups(root, split, drawn)


def _remove_stale_files(folder: Path, count: int) -> None:
    """Remove pages with an index from `count` on, and temporary files of killed processes."""
    for path in folder.iterdir():
        is_surplus = path.stem.isdigit() and int(path.stem) >= count
        if is_surplus or path.name.startswith("."):
            path.unlink()


def _concatenate(pages: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return [record for page in pages for record in page[key]]
