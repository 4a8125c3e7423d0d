"""Shards: Parquet files with the results of some images, and the same in COCO's format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from hipie.batch_inference.formats.parquet import (
    CATEGORIES,
    SETTINGS,
    image_row,
    parquet_schema,
)
from hipie.batch_inference.records import ImageRecord
from hipie.distributed.storage import Storage, reason_of, to_parquet_bytes
from hipie.errors import InputError
from hipie.result_files import SOFTWARE

# Segments have the ids from n * IDS_PER_IMAGE + 1 on, where n is the number of their image.
IDS_PER_IMAGE = 100_000
SUFFIXES = {"parquet": ".parquet", "coco": ".json"}
_STATE = "hipie.images"
_NAME = re.compile(r"part-(\d{6,})\.(?:parquet|json)\Z")

Version = tuple[int, int]


@dataclass
class ShardState:
    """What a shard says about its images, by number, without their results.

    Attributes:
        versions: of those that have a result.
        errors: entries of errors.jsonl of those that have none.
    """

    versions: dict[int, Version] = field(default_factory=dict)
    errors: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Shard(ShardState):
    """A shard with its rows, see `ParquetFormat`, by the number of the image."""

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(
        self, number: int, image_id: int, record: ImageRecord, class_ids: dict[str, int]
    ) -> None:
        """Add the result of an image."""
        ids = count(number * IDS_PER_IMAGE + 1)
        self.rows[number] = image_row(image_id, record, class_ids, ids)
        self.versions[number] = record.version
        self.errors.pop(number, None)

    def remove(self, number: int) -> None:
        """Remove what there is of an image."""
        self.rows.pop(number, None)
        self.versions.pop(number, None)
        self.errors.pop(number, None)

    def to_parquet(self, classes: Mapping[str, str], settings: Mapping[str, Any]) -> bytes:
        """Return the Parquet file, with rows in the order of the images' numbers.

        Args:
            classes: kinds by name, in the order of their ids.
            settings: how results were made.
        """
        state = {
            "versions": [[number, *self.versions[number]] for number in sorted(self.versions)],
            "errors": [[number, self.errors[number]] for number in sorted(self.errors)],
        }
        metadata = {
            CATEGORIES: json.dumps(categories(classes)),
            SETTINGS: json.dumps(settings),
            _STATE: json.dumps(state),
            "creator": SOFTWARE,
        }
        rows = [self.rows[number] for number in sorted(self.rows)]
        return to_parquet_bytes(rows, parquet_schema().with_metadata(metadata))

    def to_coco(self, classes: Mapping[str, str], settings: Mapping[str, Any]) -> bytes:
        """Return the same as a file of COCO's instances; ids are unique among all shards."""
        rows = [self.rows[number] for number in sorted(self.rows)]
        images = [
            {"id": row["image_id"]} | {key: row[key] for key in ("file_name", "height", "width")}
            for row in rows
        ]
        content = {
            "settings": dict(settings),
            "info": {"description": SOFTWARE},
            "categories": categories(classes),
            "images": images,
            "annotations": [one for row in rows for one in _annotations(row)],
        }
        return json.dumps(content).encode()


def categories(classes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return COCO's `categories`, with ids from 1 and `isthing`."""
    return [
        {"id": number, "name": name, "isthing": int(kind != "stuff")}
        for number, (name, kind) in enumerate(classes.items(), 1)
    ]


def shard_file(name: str, number: int) -> str:
    """Return the file of a shard in a format, below the folder of results.

    >>> shard_file("parquet", 7)
    'parquet/part-000007.parquet'
    """
    return f"{name}/part-{number:06d}{SUFFIXES[name]}"


def shard_number(file_name: str) -> int | None:
    """Return the number of a shard from the name of its file; None for another file."""
    match = _NAME.match(file_name)
    return int(match[1]) if match is not None else None


def read_shard_state(storage: Storage, number: int) -> ShardState:
    """Read the end of a shard's Parquet file, which says what is done.

    Raises:
        InputError: if it is damaged.
    """
    return _read(storage, number, rows=False)


def read_shard(storage: Storage, number: int) -> Shard:
    """Read a shard; an empty one if there is none.

    Raises:
        InputError: if it is damaged.
    """
    if not storage.info(storage.join(shard_file("parquet", number))).is_file:
        return Shard()
    return _read(storage, number, rows=True)


def _read(storage: Storage, number: int, *, rows: bool) -> Shard:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = storage.join(shard_file("parquet", number))
    try:
        with storage.filesystem.open_input_file(path) as stream:
            file = pq.ParquetFile(stream)
            state = json.loads((file.schema_arrow.metadata or {})[_STATE.encode()])
            versions = {one[0]: (one[1], one[2]) for one in state["versions"]}
            errors = {one[0]: one[1] for one in state["errors"]}
            table = file.read().to_pylist() if rows else []
    except (OSError, pa.ArrowException, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{storage.address(path)}: this shard is damaged ({reason_of(error)}); delete it, and "
            "it is computed again"
        ) from error
    return Shard(versions, errors, dict(zip(sorted(versions), table, strict=rows)))


def _annotations(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for segment in row["segments"]:
        keys = ("area", "bbox", "segmentation", "score", "kind")
        annotation = {
            "id": segment["id"],
            "image_id": row["image_id"],
            "category_id": segment["category_id"],
            "iscrowd": 0,
            **{key: segment[key] for key in keys},
        }
        whole = segment["part_of"]
        yield annotation if whole is None else annotation | {"part_of": whole}
