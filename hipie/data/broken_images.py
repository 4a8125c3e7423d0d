"""Images that cannot be used: left out with a warning, counted, at most a number of them.

`DATALOADER.SKIP_BROKEN` selects this. In training a broken image is replaced by the next one of its
data set, so that a batch still depends on the seed and the iteration only; in evaluation it is left
out. Workers report what they left out with the items that they return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from detectron2.data import MetadataCatalog
from torch.utils.data import DataLoader

from hipie.data.io.reading_rules import ReadingRules
from hipie.errors import InputError
from hipie.logs import get_logger

Record = dict[str, Any]
LEFT_OUT = "left_out_images"
"""Key of an item with the messages about images that were left out before it, by file."""
SKIP_BROKEN, BROKEN_FILES = "skip_broken", "broken_files"
READING_RULES = "reading_rules"
"""Metadata of a data set: whether to leave out, and the files that are known to be broken."""
BROKEN_ERRORS = (InputError, OSError)

logger = get_logger(__name__)


def set_skip_broken(
    dataset_name: str, enabled: bool, broken_files: Iterable[str] | None = None
) -> None:
    """Set whether broken images and expressions of a data set are left out when it is read.

    Args:
        dataset_name: a name in Detectron2's catalogs.
        enabled: DATALOADER.SKIP_BROKEN.
        broken_files: `file_name` of records that are left out; None = as before.
    """
    values: dict[str, Any] = {SKIP_BROKEN: enabled}
    if broken_files is not None:
        values[BROKEN_FILES] = frozenset(broken_files)
    _set(dataset_name, values)


def _set(dataset_name: str, values: Mapping[str, Any]) -> None:
    metadata = MetadataCatalog.get(dataset_name)
    for key, value in values.items():
        if metadata.get(key) != value:
            # Metadata refuse another value.
            metadata.__dict__.pop(key, None)
            metadata.set(**{key: value})


def set_reading_rules(dataset_name: str, rules: ReadingRules) -> None:
    """Set the rules by which the annotation files of a data set are read."""
    _set(dataset_name, {READING_RULES: rules})


def reading_rules_of(dataset_name: str) -> ReadingRules | None:
    """Return the rules of a data set; None if none were set."""
    rules: ReadingRules | None = MetadataCatalog.get(dataset_name).get(READING_RULES)
    return rules


def skips_broken(dataset_name: str) -> bool:
    """Whether broken images and expressions of a data set are left out."""
    return bool(MetadataCatalog.get(dataset_name).get(SKIP_BROKEN, False))


def without_broken(dataset_name: str, records: list[Record]) -> list[Record]:
    """Leave out the records whose files are known to be broken."""
    broken = MetadataCatalog.get(dataset_name).get(BROKEN_FILES, frozenset())
    if not broken or not skips_broken(dataset_name):
        return records
    return [record for record in records if record.get("file_name") not in broken]


class BrokenImages:
    """Count of the images that were left out.

    Args:
        limit: largest number of them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.messages: dict[str, str] = {}

    def add(self, messages: Mapping[str, str]) -> None:
        """Log and count images; those that were counted before are ignored.

        Args:
            messages: file -> why it cannot be used.

        Raises:
            InputError: if there are more than the limit.
        """
        for file, message in messages.items():
            if file in self.messages:
                continue
            self.messages[file] = message
            logger.warning("Left out, the %d. image: %s", len(self.messages), message)
            if len(self.messages) > self.limit:
                raise InputError(
                    f"{len(self.messages)} images cannot be used, more than DATALOADER.MAX_BROKEN "
                    f"{self.limit}; the last one: {message}"
                )


def usable_item(
    records: Callable[[int], Record],
    count: int,
    index: int,
    mapper: Callable[[Record], Record],
    limit: int,
) -> Record:
    """Map a record, or the next one that can be mapped.

    Args:
        records: returns the record of an index.
        count: number of records.
        index: of the first record that is tried.
        mapper: raises one of `BROKEN_ERRORS` for a record that cannot be used.
        limit: largest number of records that are left out.

    Returns:
        The item, with `LEFT_OUT` if a record before it was left out.

    Raises:
        InputError: if more records than the limit cannot be used, or all.
    """
    messages: dict[str, str] = {}
    for offset in range(min(count, limit + 1)):
        record = records((index + offset) % count)
        try:
            item = mapper(record)
        except BROKEN_ERRORS as error:
            messages[file_of(record)] = str(error)
            continue
        return {**item, LEFT_OUT: messages} if messages else item
    raise InputError(
        f"{len(messages)} images in a row cannot be used (DATALOADER.MAX_BROKEN is {limit}); the "
        f"last one: {list(messages.values())[-1]}"
    )


class SkippingMapper:
    """Mapper of a test set that reports a broken image in place of the item; picklable.

    Args:
        mapper: raises one of `BROKEN_ERRORS` for a record that cannot be used.
    """

    def __init__(self, mapper: Callable[[Record], Record]) -> None:
        self.mapper = mapper

    def __call__(self, record: Record) -> Record:
        """Return the item, or a dict with nothing but `LEFT_OUT`."""
        try:
            return self.mapper(record)
        except BROKEN_ERRORS as error:
            return {LEFT_OUT: {file_of(record): str(error)}}


class CountingLoader:
    """Batches of a loader without the items that were left out, which are counted.

    Args:
        loader: of lists of items.
        limit: largest number of images that are left out.
    """

    def __init__(self, loader: DataLoader[Any], limit: int) -> None:
        self.loader = loader
        self.broken = BrokenImages(limit)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[Record]]:
        for batch in self.loader:
            for item in batch:
                self.broken.add(item.pop(LEFT_OUT, {}))
            kept = [item for item in batch if item]
            if kept:
                yield kept


def file_of(record: Record) -> str:
    """Return the file of a record, or of the first image of a group."""
    if "file_name" in record:
        return str(record["file_name"])
    images = record.get("images") or [{}]
    return str(images[0].get("file_name", "a record without file_name"))
