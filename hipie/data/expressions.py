"""Referring expressions of records: those without a word, which no text encoder can encode."""

from __future__ import annotations

from typing import Any

from hipie.errors import InputError
from hipie.logs import get_logger

Record = dict[str, Any]
MAX_LISTED = 5

logger = get_logger(__name__)


def has_word(expression: str) -> bool:
    """Whether an expression has any letter or digit."""
    return any(character.isalnum() for character in expression)


def wordless_expressions(record: Record) -> list[str]:
    """Describe the expressions of a record that have no word, with their refs."""
    return [
        f'{record["file_name"]}: the expression "{entry["expression"]}"'
        + (f" of ref {entry['ref_id']}" if "ref_id" in entry else "")
        + " has no word"
        for entry in record.get("expressions", ())
        if not has_word(entry["expression"])
    ]


def without_wordless(dataset_name: str, records: list[Record], skip_broken: bool) -> list[Record]:
    """Leave out expressions without a word, or refuse them.

    Args:
        dataset_name: for messages.
        records: of a data set, with or without expressions.
        skip_broken: leave them out with a warning.

    Returns:
        The same records if all expressions have a word, else new ones.

    Raises:
        InputError: naming the image and the ref, unless `skip_broken`.
    """
    faults = [fault for record in records for fault in wordless_expressions(record)]
    if not faults:
        return records
    more = len(faults) - MAX_LISTED
    listed = "; ".join(faults[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
    if not skip_broken:
        raise InputError(
            f"the data set {dataset_name} has expressions without a word: {listed}; correct them, "
            "or leave them out with DATALOADER.SKIP_BROKEN True"
        )
    logger.warning("%s: left out, since they have no word: %s", dataset_name, listed)
    return [
        {
            **record,
            "expressions": [e for e in record["expressions"] if has_word(e["expression"])],
        }
        if wordless_expressions(record)
        else record
        for record in records
    ]
