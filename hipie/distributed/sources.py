"""Images that a cluster reads: files on any file system of pyarrow, and rows of Parquet files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePath
from typing import Any

from hipie.batch_inference.inputs import VIDEO_SUFFIXES, InputVideo, find_inputs, read_list
from hipie.batch_inference.tasks import file_version
from hipie.data.image_io import IMAGE_SUFFIXES
from hipie.distributed.storage import Storage, is_address, reason_of
from hipie.errors import InputError, UsageError, printable

# Columns of a Parquet file that may have images and their names, the first ones first.
IMAGE_COLUMNS, NAME_COLUMNS = ("image", "bytes", "jpg", "jpeg", "png"), ("file_name", "path")


@dataclass(frozen=True)
class ImageSource:
    """An image that is read.

    Attributes:
        source: its absolute path or address, by which it is known to later runs; of a row of a
            Parquet file with "#" and the row.
        file: the image, as results name it.
        version: size in bytes and time of change in nanoseconds; zeros for a missing file.
        root: a location of its file system, see `Storage`; "" for a local file.
        path: inside the file system.
        row: of the Parquet file, from 0; None for an image file.
        image_id: the id in the COCO file that lists the image.
    """

    source: str
    file: str
    version: tuple[int, int]
    root: str
    path: str
    row: int | None = None
    image_id: int | None = None


def find_sources(
    arguments: Sequence[str], *, recursive: bool = False, image_root: str = "", exclude: str = ""
) -> list[ImageSource]:
    """List the images of a command line, each once.

    Args:
        arguments: what `hipie.batch_inference.find_inputs` takes, without videos; addresses of
            images or folders, see `Storage`; Parquet files, local or by address, with images in a
            column of `IMAGE_COLUMNS`, as bytes or as the struct of `bytes` and `path` of the
            package `datasets`; and `@FILE` with one of these a line.
        recursive: read folders in folders, too.
        image_root: folder of the file names of COCO files; by default that of the COCO file.
        exclude: a folder that is not read: that of the results.

    Raises:
        UsageError: if there is nothing to read, or a video.
        InputError: for a list, COCO file or Parquet file that cannot be read.
        MachineError: if a file system does not answer.
    """
    sources: dict[str, ImageSource] = {}
    expanded = [name for argument in arguments for name in _expand(argument)]
    for kind, group in groupby(expanded, _kind):
        names = list(group)
        if kind == "local":
            one_by_one: Iterator[ImageSource] = _local(names, recursive, image_root, exclude)
        elif kind == "parquet":
            one_by_one = (source for name in names for source in _rows(name))
        else:
            one_by_one = (source for name in names for source in _remote(name, recursive, exclude))
        for source in one_by_one:
            sources.setdefault(source.source, source)
    if not sources:
        shown = ", ".join(printable(argument) for argument in arguments[:3])
        hint = "" if recursive else "; folders in folders are read with --recursive"
        raise UsageError(f"there is no image in {shown}{hint}")
    return list(sources.values())


def read_image_column(storage: Storage, path: str, rows: Sequence[int]) -> list[bytes | None]:
    """Read the images of some rows of a Parquet file; None where a row has none.

    Only the row groups with these rows are read.

    Args:
        storage: has the file.
        path: inside the file system.
        rows: sorted, from 0.

    Raises:
        InputError: if it is no Parquet file with images, or has fewer rows.
    """
    where = storage.address(path)
    images: list[bytes | None] = []
    with _opened(storage, path) as file:
        column, first = _image_column(file, where), 0
        for number in range(file.num_row_groups):
            count = file.metadata.row_group(number).num_rows
            here = [row - first for row in rows if first <= row < first + count]
            if here:
                taken = file.read_row_group(number, [column]).column(0).take(here).to_pylist()
                images += [one.get("bytes") if isinstance(one, dict) else one for one in taken]
            first += count
    if len(images) != len(rows):
        raise InputError(f"{where}: the file has {first:,} rows, and row {rows[-1]:,} is read")
    return images


def _expand(argument: str) -> Iterator[str]:
    """Yield the lines of a list, the files of a pattern for Parquet files, or the argument."""
    if argument.startswith("@") and not os.path.lexists(argument):
        name = argument[1:]
        if is_address(name):
            storage = Storage(name)
            yield from filter(None, storage.read(storage.path, "list").decode().splitlines())
        else:
            yield from read_list(name)
    elif "*" in argument and argument.lower().endswith(".parquet") and not is_address(argument):
        yield from sorted(glob.glob(argument, recursive=True))
    else:
        yield argument


def _kind(name: str) -> str:
    if name.partition("?")[0].lower().endswith(".parquet"):
        return "parquet"
    return "remote" if is_address(name) else "local"


def _local(
    names: Sequence[str], recursive: bool, image_root: str, exclude: str
) -> Iterator[ImageSource]:
    inputs = find_inputs(names, recursive=recursive, image_root=image_root, exclude=exclude)
    for one in inputs:
        if isinstance(one, InputVideo):
            raise _video_error(one.file)
        try:
            version = file_version(one.file)
        except (OSError, ValueError):
            version = (0, 0)
        yield ImageSource(one.source, one.file, version, "", one.source, None, one.image_id)


def _video_error(name: str) -> UsageError:
    return UsageError(
        f"{name}: a video is read frame by frame, by one process; segment it without --engine ray"
    )


def _remote(name: str, recursive: bool, exclude: str) -> Iterator[ImageSource]:
    storage = Storage(name)
    info = storage.info(storage.path)
    entries = [info]
    if info.type.name == "Directory":
        if storage.address(storage.path) == exclude:
            raise UsageError(
                f"the results would be written into the folder that is read, {exclude}; name "
                "another --output"
            )
        entries = storage.files(storage.path, recursive=recursive)
        start = len(storage.path) + 1
        entries = [
            one
            for one in entries
            if not any(part.startswith(".") for part in one.path[start:].split("/"))
            and PurePath(one.path).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
            and not (exclude and storage.address(one.path).startswith(f"{exclude}/"))
        ]
    for one in entries:
        address = storage.address(one.path)
        if PurePath(one.path).suffix.lower() in VIDEO_SUFFIXES:
            raise _video_error(address)
        yield ImageSource(address, address, _version(one), name, one.path)


def _version(info: Any) -> tuple[int, int]:
    return (info.size or 0, info.mtime_ns or 0) if info.is_file else (0, 0)


def _rows(name: str) -> Iterator[ImageSource]:
    """Yield the rows of a Parquet file, of which only the names are read."""
    storage = Storage(name)
    address = storage.address(storage.path)
    info = storage.info(storage.path)
    if not info.is_file:
        raise InputError(f"{address}: there is no such file")
    with _opened(storage, storage.path) as file:
        _image_column(file, address)
        names = _row_names(file)
    for row in range(len(names)):
        source = f"{address}#{row}"
        root, version = "" if storage.is_local else name, _version(info)
        yield ImageSource(source, names[row] or source, version, root, storage.path, row)


def _row_names(file: Any) -> list[str | None]:
    columns = [name for name in NAME_COLUMNS if name in file.schema_arrow.names]
    if columns:
        return [
            one if isinstance(one, str) else None
            for one in file.read([columns[0]]).column(0).to_pylist()
        ]
    return [None] * int(file.metadata.num_rows)


@contextmanager
def _opened(storage: Storage, path: str) -> Iterator[Any]:
    """Open a Parquet file; pyarrow's errors become one that names it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with storage.filesystem.open_input_file(path) as stream:
            yield pq.ParquetFile(stream)
    except InputError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{storage.address(path)}: this is not a Parquet file that can be read "
            f"({reason_of(error)})"
        ) from error


def _image_column(file: Any, where: str) -> str:
    import pyarrow as pa

    for name in IMAGE_COLUMNS:
        if name not in file.schema_arrow.names:
            continue
        kind = file.schema_arrow.field(name).type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return name
    raise InputError(
        f"{where}: no column has images; expected bytes in one of {', '.join(IMAGE_COLUMNS)}"
    )
