"""Making label maps from label maps: in parallel, each whole or not at all, none a second time."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from hipie.data.datasets.panoptic_parts import decode_uids
from hipie.data.image_io import read_label_map
from hipie.data.io.matlab import read_matlab
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.cli import is_newer
from hipie.data.preparation.sources import whole_file

UNKNOWN = -1
IGNORED_OF_8_BITS, IGNORED_OF_16_BITS = 255, 65535
FEW, AT_ONCE = 32, 8
NAMED_VALUES = 5
IMAGE_ENDINGS = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF"}


@dataclass(frozen=True)
class Job:
    """One file to be written.

    Attributes:
        sources: the files that it is made from.
        target: the file.
        notes: what else the conversion has to know.
    """

    sources: tuple[Path, ...]
    target: Path
    notes: Any = None


def convert_all(
    convert: Callable[[Job], None], jobs: Iterable[Job], workers: int, title: str
) -> int:
    """Do every job whose target is not there, or is older than its sources.

    Args:
        convert: a function of a module, or a `functools.partial` of one.
        jobs: what to do.
        workers: processes; 1 = this one.
        title: of the progress bar.

    Returns:
        how many were done.

    Raises:
        FileNotFoundError: naming the first source that is missing.
    """
    todo = []
    for job in jobs:
        for source in job.sources:
            if not source.is_file():
                raise FileNotFoundError(f"{source}: there is no such file")
        if not is_newer(job.target, job.sources):
            todo.append(job)
    for _ in map_all(convert, todo, workers, title):
        pass
    return len(todo)


def map_all(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int, title: str
) -> Iterable[Any]:
    """The function's results in order, with a progress bar, from several processes."""
    bar = partial(tqdm, total=len(items), desc=title, unit="file", leave=False)
    if workers <= 1 or len(items) < FEW:
        yield from bar(map(function, items))
        return
    with ProcessPoolExecutor(workers) as pool:
        try:
            yield from bar(pool.map(function, items, chunksize=AT_ONCE))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def table_of(pairs: Iterable[tuple[int, int]], length: int, others: int = UNKNOWN) -> np.ndarray:
    """A look-up table, int32 [length], from pairs of (number in the file, number to be written).

    Args:
        pairs: the numbers that have a meaning.
        length: one more than the largest number that a file may have.
        others: what other numbers become; `UNKNOWN` = an error.
    """
    table = np.full(length, others, dtype=np.int32)
    for found, written in pairs:
        table[found] = written
    return table


def relabel(table: np.ndarray, job: Job) -> None:
    """Write a label map with other numbers."""
    (source,) = job.sources
    write_labels(job.target, looked_up(read_label_map(str(source)), table, source))


def relabel_matlab(table: np.ndarray, job: Job) -> None:
    """Write the `LabelMap` of a MATLAB file (version 5) with other numbers."""
    (source,) = job.sources
    try:
        labels = read_matlab(source)["LabelMap"]
    except (ValueError, KeyError, OSError) as error:
        raise DatasetError(f"{source}: this MATLAB file has no LabelMap ({error})") from error
    if not isinstance(labels, np.ndarray):
        raise DatasetError(f"{source}: the LabelMap of this MATLAB file is no table of numbers")
    write_labels(job.target, looked_up(labels, table, source))


def relabel_parts(table: np.ndarray, job: Job) -> None:
    """Write the classes and parts of a panoptic parts map, numbered class * 100 + part."""
    (source,) = job.sources
    try:
        found = decode_uids(read_label_map(str(source)))
    except ValueError as error:
        raise DatasetError(f"{source}: {error}") from error
    numbers = np.where(found.parts > 0, found.classes * 100 + found.parts, found.classes)
    write_labels(job.target, looked_up(numbers, table, source))


def relabel_panoptic(job: Job) -> None:
    """Write the classes of a COCO panoptic map; `notes` are pairs (segment id, class)."""
    (source,) = job.sources
    colours = read_label_map(str(source)).astype(np.int64)
    ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
    labels = np.full(ids.shape, IGNORED_OF_8_BITS, dtype=np.int32)
    for segment, written in job.notes:
        labels[ids == segment] = written
    write_labels(job.target, labels.astype(np.uint8))


def place_image(job: Job) -> None:
    """Put a file into a second folder, as a link where that can be, else as a copy."""
    (source,) = job.sources
    job.target.parent.mkdir(parents=True, exist_ok=True)
    draft = job.target.with_name(f".{job.target.name}.{os.getpid()}")
    try:
        os.link(source, draft)
        os.replace(draft, job.target)
    except OSError:
        with source.open("rb") as stream, whole_file(job.target) as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
    finally:
        draft.unlink(missing_ok=True)


def looked_up(labels: np.ndarray, table: np.ndarray, source: Path) -> np.ndarray:
    """A label map through a table, uint8 if that is enough, else uint16.

    Raises:
        DatasetError: naming the file and the numbers that have no meaning.
    """
    if labels.ndim != 2:
        raise DatasetError(f"{source}: a label map has one number a pixel, not {labels.shape}")
    values = np.unique(labels)
    bad = [int(v) for v in values if not 0 <= v < len(table) or table[v] == UNKNOWN]
    if bad:
        named = ", ".join(map(str, bad[:NAMED_VALUES]))
        raise DatasetError(f"{source}: the label map has numbers without a meaning: {named}")
    small = table.max() <= IGNORED_OF_8_BITS
    return table[labels].astype(np.uint8 if small else np.uint16)


def write_labels(path: Path, labels: np.ndarray) -> None:
    """Write an image (JPEG, PNG or TIFF by its ending), whole or not at all."""
    content = io.BytesIO()
    image = Image.fromarray(labels)
    kept = {"compression": "tiff_deflate"} if path.suffix == ".tif" else {}
    image.save(content, IMAGE_ENDINGS[path.suffix], **kept)
    with whole_file(path) as stream:
        stream.write(content.getvalue())
