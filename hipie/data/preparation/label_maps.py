"""Conversion of label maps: parallel, atomic, and only of targets that are out of date."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from hipie.atomic_file import open_replaced
from hipie.data.datasets.panoptic_parts import decode_uids
from hipie.data.image_io import read_label_map
from hipie.data.io.matlab import read_matlab
from hipie.data.io.validation import DatasetError
from hipie.errors import MissingFileError, cause_of

UNKNOWN = -1
IGNORE_LABEL_8_BIT = 255
MIN_ITEMS_FOR_WORKERS, CHUNK_SIZE = 32, 8
MAX_LABELS_IN_ERROR = 5
# RGB values; less than half of the distance of any two classes' colours.
MAX_COLOUR_DISTANCE = 60
MAX_OTHER_COLOURS = 0.1
IMAGE_FORMATS = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF"}


@dataclass(frozen=True)
class Job:
    """Conversion job of one output file.

    Attributes:
        sources: files that it is computed from.
        target: path of the file.
        parameters: further input of the conversion.
    """

    sources: tuple[Path, ...]
    target: Path
    parameters: Any = None


def convert_all(
    convert: Callable[[Job], None], jobs: Iterable[Job], workers: int, title: str
) -> int:
    """Run every job whose target does not exist or is older than its sources.

    Args:
        convert: a module-level function, or a `functools.partial` of one.
        jobs: the jobs.
        workers: number of processes; 1 = this process.
        title: title of the progress bar.

    Returns:
        The number of jobs that were run.

    Raises:
        FileNotFoundError: naming the first source that is missing.
    """
    todo = []
    for job in jobs:
        for source in job.sources:
            if not source.is_file():
                raise MissingFileError(f"{source}: there is no such file")
        if not is_up_to_date(job.target, job.sources):
            todo.append(job)
    for _ in parallel_map(convert, todo, workers, title):
        pass
    return len(todo)


def parallel_map(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int, title: str
) -> Iterator[Any]:
    """Yield the results of a function in order, from several processes, with a progress bar."""
    bar = partial(tqdm, total=len(items), desc=title, unit="file", leave=False)
    if workers <= 1 or len(items) < MIN_ITEMS_FOR_WORKERS:
        yield from bar(map(function, items))
        return
    with ProcessPoolExecutor(workers) as pool:
        try:
            yield from bar(pool.map(function, items, chunksize=CHUNK_SIZE))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def lookup_table(
    pairs: Iterable[tuple[int, int]], length: int, default: int = UNKNOWN
) -> NDArray[Any]:
    """Return a lookup table from labels of a source to labels of a target.

    Args:
        pairs: (label of the source, label of the target).
        length: one more than the largest label of a source.
        default: label of the target for other labels; `UNKNOWN` = an error.

    Returns:
        int32 [length].
    """
    table = np.full(length, default, dtype=np.int32)
    for source, target in pairs:
        table[source] = target
    return table


def relabel(table: NDArray[Any], job: Job) -> None:
    """Convert the labels of a label map by a lookup table."""
    (source,) = job.sources
    write_labels(job.target, apply_lookup(read_label_map(str(source)), table, source))


def relabel_matlab(
    table: NDArray[Any], job: Job, variable: str = "LabelMap", field: str | None = None
) -> None:
    """Convert the labels in a MATLAB file (version 5) by a lookup table.

    Args:
        table: see `lookup_table`.
        job: one source and the target.
        variable: the label map, or the struct that has it.
        field: its field of that struct; None = the variable is the label map.

    Raises:
        DatasetError: naming the file without such a label map, or with other labels.
    """
    (source,) = job.sources
    title = variable if field is None else f"{variable}.{field}"
    try:
        labels = read_matlab(source)[variable]
        if field is not None:
            (struct,) = labels
            labels = struct[field]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DatasetError(
            f"{source}: this MATLAB file has no {title} ({cause_of(error)})"
        ) from error
    if not isinstance(labels, np.ndarray):
        raise DatasetError(f"{source}: the {title} of this MATLAB file is not a numeric array")
    integers = labels.astype(np.int64)
    if (integers != labels).any():
        raise DatasetError(f"{source}: the {title} of this MATLAB file has fractions as labels")
    write_labels(job.target, apply_lookup(integers, table, source))


def relabel_colours(colours: Sequence[tuple[int, int, int]], job: Job) -> None:
    """Convert an image whose colours stand for classes: the position of a pixel's colour.

    Colours within `MAX_COLOUR_DISTANCE` of a class's are that class; other pixels, such as the
    blended ones on borders, are ignored (255).

    Args:
        colours: RGB of every class, at least `2 * MAX_COLOUR_DISTANCE` from each other.
        job: one source and the target.

    Raises:
        DatasetError: naming the file, if it has no colours, or more than `MAX_OTHER_COLOURS` of its
            pixels are ignored.
    """
    (source,) = job.sources
    pixels = read_label_map(str(source)).astype(np.int32)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DatasetError(f"{source}: a label image must be RGB, not of the shape {pixels.shape}")
    labels = np.full(pixels.shape[:2], IGNORE_LABEL_8_BIT, dtype=np.uint8)
    for index, colour in enumerate(colours):
        distances = np.square(pixels - np.array(colour, dtype=np.int32)).sum(axis=2)
        labels[distances < MAX_COLOUR_DISTANCE**2] = index
    others = float((labels == IGNORE_LABEL_8_BIT).mean())
    if others > MAX_OTHER_COLOURS:
        raise DatasetError(
            f"{source}: {others:.0%} of the pixels have a colour that stands for no class; this is "
            "not a label image of the data set"
        )
    write_labels(job.target, labels)


def relabel_parts(table: NDArray[Any], job: Job) -> None:
    """Convert a panoptic parts map by a lookup table of class * 100 + part."""
    (source,) = job.sources
    try:
        decoded = decode_uids(read_label_map(str(source)))
    except ValueError as error:
        raise DatasetError(f"{source}: {error}") from error
    numbers = np.where(decoded.parts > 0, decoded.classes * 100 + decoded.parts, decoded.classes)
    write_labels(job.target, apply_lookup(numbers, table, source))


def relabel_panoptic(job: Job) -> None:
    """Convert a COCO panoptic map to classes; `parameters` are pairs (segment id, class)."""
    (source,) = job.sources
    colours = read_label_map(str(source)).astype(np.int64)
    ids = colours[..., 0] + 256 * colours[..., 1] + 65536 * colours[..., 2]
    labels = np.full(ids.shape, IGNORE_LABEL_8_BIT, dtype=np.int32)
    for segment_id, label in job.parameters:
        labels[ids == segment_id] = label
    write_labels(job.target, labels.astype(np.uint8))


def link_image(job: Job) -> None:
    """Hard-link a file into another folder; copy it where links are not possible."""
    (source,) = job.sources
    job.target.parent.mkdir(parents=True, exist_ok=True)
    temporary = job.target.with_name(f".{job.target.name}.{os.getpid()}")
    try:
        os.link(source, temporary)
        os.replace(temporary, job.target)
    except OSError:
        with source.open("rb") as stream, open_replaced(job.target) as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
    finally:
        temporary.unlink(missing_ok=True)


def apply_lookup(labels: NDArray[Any], table: NDArray[Any], source: Path) -> NDArray[Any]:
    """Apply a lookup table to a label map.

    Returns:
        uint8 if the table's values fit, else uint16, of the shape of `labels`.

    Raises:
        DatasetError: naming the file and the labels that the table does not have.
    """
    if labels.ndim != 2:
        raise DatasetError(
            f"{source}: a label map must have one channel, not the shape {labels.shape}"
        )
    values = np.unique(labels)
    unknown = [int(v) for v in values if not 0 <= v < len(table) or table[v] == UNKNOWN]
    if unknown:
        listed = ", ".join(map(str, unknown[:MAX_LABELS_IN_ERROR]))
        raise DatasetError(f"{source}: the label map has unknown labels: {listed}")
    fits_8_bit = table.max() <= IGNORE_LABEL_8_BIT
    return table[labels].astype(np.uint8 if fits_8_bit else np.uint16)


def write_labels(path: Path, labels: NDArray[Any]) -> None:
    """Write an image atomically, as JPEG, PNG or TIFF by its suffix."""
    content = io.BytesIO()
    image = Image.fromarray(labels)
    options = {"compression": "tiff_deflate"} if path.suffix == ".tif" else {}
    image.save(content, IMAGE_FORMATS[path.suffix], **options)
    with open_replaced(path) as stream:
        stream.write(content.getvalue())


def is_up_to_date(target: Path, sources: Iterable[Path]) -> bool:
    """Return whether a file exists and was written after all of its sources."""
    if not target.is_file():
        return False
    written = target.stat().st_mtime_ns
    return all(source.stat().st_mtime_ns <= written for source in sources)
