"""Result files of `hipie segment`: JSON files, lines of JSON, and Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hipie.data.conversion.annotations import (
    KINDS,
    AnnotatedImage,
    Annotations,
    ReadOptions,
    SegmentTree,
    find_image,
    json_files,
    read_json_lines,
    register_reader,
    require_size,
)
from hipie.data.io.json_file import read_json
from hipie.data.io.rle import check_segmentation
from hipie.data.io.validation import DatasetError
from hipie.errors import MissingPackageError, cause_of


@register_reader("json")
def read_result_files(path: Path, options: ReadOptions) -> Annotations:
    """Read one result file, or those below a folder; other JSON files there are left out."""

    def images() -> Iterator[AnnotatedImage]:
        for file in json_files(path) if path.is_dir() else [path]:
            content = read_json(file)
            is_result = isinstance(content, dict) and {"image", "segments"} <= content.keys()
            if is_result:
                yield _image(str(file), content, path if path.is_dir() else file.parent, options)
            elif not path.is_dir():
                raise DatasetError(f"{file}: this is not a result of hipie segment")

    return Annotations({}, images())


@register_reader("jsonl")
def read_result_lines(path: Path, options: ReadOptions) -> Annotations:
    """Read the lines that `--format jsonl` prints."""

    def images() -> Iterator[AnnotatedImage]:
        for number, content in read_json_lines(path):
            if not isinstance(content, dict) or not {"image", "segments"} <= content.keys():
                raise DatasetError(f"{path}: line {number} is not a result of hipie segment")
            yield _image(f"{path}: line {number}", content, path.parent, options)

    return Annotations({}, images())


def _image(
    where: str, content: dict[str, Any], folder: Path, options: ReadOptions
) -> AnnotatedImage:
    image = content["image"]
    if not isinstance(image, dict) or not isinstance(image.get("file"), str):
        raise DatasetError(f"{where}: the result names no image")
    size = require_size(where, image.get("height"), image.get("width"))
    _require_no_frame(where, image["file"], image.get("frame"))
    tree = SegmentTree()
    for entry in content["segments"]:
        _add(tree, where, entry, size, None)
    return AnnotatedImage(find_image(image["file"], folder, options), size, tree.segments())


def _add(tree: SegmentTree, where: str, entry: Any, size: tuple[int, int], whole: Any) -> None:
    if not isinstance(entry, dict) or not isinstance(entry.get("category"), str):
        raise DatasetError(f"{where}: a segment has no category")
    segment = f"{where}: segment {entry.get('id')}"
    check_segmentation(segment, entry.get("segmentation"), *size)
    kind = entry["kind"] if entry.get("kind") in KINDS else "thing"
    score, number = float(entry.get("score", 1.0)), entry.get("id")
    tree.add(entry["category"], kind, entry["segmentation"], score, number, whole)
    for part in entry.get("parts", ()):
        _add(tree, where, part, size, number)


def _require_no_frame(where: str, file: str, frame: Any) -> None:
    if frame is not None:
        raise DatasetError(
            f"{where}: the image is a frame of the video {file}; a training set needs files of "
            "images"
        )


@register_reader("parquet")
def read_parquet(path: Path, options: ReadOptions) -> Annotations:
    """Read the rows that `--format parquet` writes, some at a time."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingPackageError(
            f'{path}: reading Parquet needs pyarrow: pip install "hipie[parquet]"'
        ) from error
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: this is not a Parquet file ({cause_of(error)})") from error
    missing = {"image_id", "file_name", "height", "width", "segments"} - {*file.schema_arrow.names}
    if missing:
        raise DatasetError(f"{path}: there is no column {', '.join(sorted(missing))}")
    metadata = file.schema_arrow.metadata or {}
    categories = json.loads(metadata.get(b"hipie.categories", b"[]"))
    classes = {entry["name"]: "thing" if entry["isthing"] else "stuff" for entry in categories}

    def images() -> Iterator[AnnotatedImage]:
        for batch in file.iter_batches(64):
            for row in batch.to_pylist():
                yield _row(path, row, options)

    return Annotations(classes, images())


def _row(path: Path, row: Mapping[str, Any], options: ReadOptions) -> AnnotatedImage:
    where = f"{path}: image {row['image_id']}"
    size = require_size(where, row["height"], row["width"])
    _require_no_frame(where, row["file_name"], row.get("frame"))
    tree = SegmentTree()
    for entry in row["segments"]:
        check_segmentation(f"{where}: segment {entry['id']}", entry["segmentation"], *size)
        kind = entry["kind"] if entry["kind"] in KINDS else "thing"
        mask, number, whole = entry["segmentation"], entry["id"], entry["part_of"]
        tree.add(entry["category"], kind, mask, entry["score"], number, whole)
    file = find_image(row["file_name"], path.parent, options)
    return AnnotatedImage(file, size, tree.segments(), row["image_id"])
