"""Parquet: one row an image, masks as COCO's compressed RLE."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from hipie.batch_inference.formats.base import ResultFormat, register_format
from hipie.batch_inference.formats.json_stream import coco_categories, coco_image, numbered_records
from hipie.batch_inference.records import ImageRecord
from hipie.errors import MissingPackageError
from hipie.result_files import SOFTWARE, replace_file
from hipie.segmentation import Segment

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import RunFolder

FILE = "segments.parquet"
ROWS_PER_GROUP = 256
CATEGORIES = "hipie.categories"
SETTINGS = "hipie.settings"


@register_format("parquet")
class ParquetFormat(ResultFormat):
    """`segments.parquet`: every image that was read, with the list of its segments and parts.

    Columns are `image_id`, `file_name`, `frame` (null but for videos), `height`, `width` and
    `segments`, whose entries have `id`, `part_of` (the id of the whole, null but for parts),
    `category_id`, `category`, `kind`, `score`, `area`, `bbox` (x, y, width, height) and
    `segmentation` (`size`, `counts`). The metadata of the schema have the categories and the
    settings, as JSON.

    Raises:
        MissingPackageError: without pyarrow.
    """

    run_files = (FILE,)

    def __init__(self) -> None:
        require_pyarrow("--format parquet")

    def finish(self, folder: RunFolder) -> None:
        """Write the file in groups of `ROWS_PER_GROUP` rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        metadata = {
            CATEGORIES: json.dumps(coco_categories(folder)),
            SETTINGS: json.dumps(folder.settings),
            "creator": SOFTWARE,
        }
        schema = parquet_schema().with_metadata(metadata)

        def write(file: Any) -> None:
            rows = _rows(folder)
            with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                while group := list(islice(rows, ROWS_PER_GROUP)):
                    writer.write_table(pa.Table.from_pylist(group, schema))

        replace_file(folder.path / FILE, write)


def require_pyarrow(what: str) -> None:
    """Check that pyarrow is installed.

    Raises:
        MissingPackageError: naming what needs it.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f'{what} needs pyarrow, which is not installed: pip install "hipie[parquet]"'
        ) from error


def parquet_schema() -> Any:
    """Return the `pyarrow.Schema` of the rows."""
    import pyarrow as pa

    segment = pa.struct(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field("part_of", pa.int64()),
            pa.field("category_id", pa.int64(), nullable=False),
            pa.field("category", pa.string(), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("score", pa.float64(), nullable=False),
            pa.field("area", pa.int64(), nullable=False),
            pa.field("bbox", pa.list_(pa.float64()), nullable=False),
            pa.field(
                "segmentation",
                pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())]),
                nullable=False,
            ),
        ]
    )
    return pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            pa.field("file_name", pa.string(), nullable=False),
            pa.field("frame", pa.int64()),
            pa.field("height", pa.int64(), nullable=False),
            pa.field("width", pa.int64(), nullable=False),
            pa.field("segments", pa.list_(segment), nullable=False),
        ]
    )


def image_row(
    image_id: int, record: ImageRecord, class_ids: dict[str, int], numbers: Iterator[int]
) -> dict[str, Any]:
    """Return the row of an image.

    Args:
        image_id: of the row.
        record: the result.
        class_ids: by name.
        numbers: ids of the segments and parts.
    """
    image = coco_image(image_id, record)
    return {
        "image_id": image_id,
        "file_name": _text(image["file_name"]),
        "frame": record.frame,
        "height": image["height"],
        "width": image["width"],
        "segments": list(_segments(record, class_ids, numbers)),
    }


def _rows(folder: RunFolder) -> Iterator[dict[str, Any]]:
    ids, numbers = folder.category_ids(), count(1)
    for image_id, record in numbered_records(folder):
        yield image_row(image_id, record, ids, numbers)


def _segments(
    record: ImageRecord, ids: dict[str, int], numbers: Iterator[int]
) -> Iterator[dict[str, Any]]:
    for segment in record.segments:
        yield from _segment(segment, ids, numbers, None)


def _segment(
    segment: Segment, ids: dict[str, int], numbers: Iterator[int], whole: int | None
) -> Iterator[dict[str, Any]]:
    number = None
    if segment.area:
        left, top, right, bottom = segment.box
        number = next(numbers)
        yield {
            "id": number,
            "part_of": whole,
            "category_id": ids[segment.label],
            "category": _text(segment.label),
            "kind": segment.kind,
            "score": segment.score,
            "area": segment.area,
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": segment.rle,
        }
    for part in segment.parts:
        yield from _segment(part, ids, numbers, number)


def _text(text: str) -> str:
    """Return text as Parquet holds it, UTF-8: bytes of names that are none are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
