"""Errors about fields that records of a data set do not have, naming the data set and the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hipie.data.io.reading_rules import ReadingRules, read_by
from hipie.data.io.validation import DatasetError

# Fields of records, annotations, segments, expressions and groups.
FIELDS = frozenset(
    [
        *("file_name", "image_id", "height", "width", "annotations", "id", "bbox", "bbox_mode"),
        *("segmentation", "category_id", "iscrowd", "area", "isthing", "segments_info"),
        *("sem_seg_file_name", "pan_seg_file_name", "part_seg_file_name", "sem_seg", "pan_seg"),
        *("expressions", "targets", "text", "sent_id", "ref_id", "group_id", "images"),
        *("json_file", "image_root", "categories", "name", "counts", "size"),
    ]
)


@contextmanager
def record_errors(dataset_name: str, record: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Replace the `KeyError` of a field or id that a data set lacks by one sentence about it.

    Other errors get a note with the data set and the image for the log.

    Args:
        dataset_name: a name in Detectron2's catalogs.
        record: the record that is read, if it is known.

    Raises:
        DatasetError: naming the data set, the image if it is known, and the field or the id.
    """
    place = f"the data set {dataset_name}"
    if record is not None and "file_name" in record:
        place = f"{record['file_name']}, an image of {place}"
    try:
        yield
    except KeyError as error:
        message = _missing(error)
        if message is None:
            error.add_note(f"({place})")
            raise
        raise DatasetError(f"{place}: {message}") from error
    except Exception as error:
        error.add_note(f"({place})")
        raise


class NamedMapper:
    """Dataset mapper whose errors name the data set and the image; picklable.

    Args:
        mapper: called with a record, and a seed in training.
        dataset_name: a name in Detectron2's catalogs.
        rules: by which the mapper reads files, also in a worker; None: by those that hold.
    """

    def __init__(
        self,
        mapper: Callable[..., dict[str, Any]],
        dataset_name: str,
        rules: ReadingRules | None = None,
    ) -> None:
        self.mapper = mapper
        self.dataset_name = dataset_name
        self.rules = rules

    def __call__(self, record: Mapping[str, Any], *seed: Any) -> dict[str, Any]:
        """Return the model's input for a record."""
        with record_errors(self.dataset_name, record), read_by(self.rules):
            return self.mapper(record, *seed)


def _missing(error: KeyError) -> str | None:
    """Describe a field or id that is not there; None for any other key."""
    key = error.args[0] if len(error.args) == 1 else None
    if isinstance(key, str) and key in FIELDS:
        return f'a record has no "{key}", which is needed here'
    if isinstance(key, int) and not isinstance(key, bool):
        return f"the id {key} is used and not declared (in its metadata or its categories)"
    return None
