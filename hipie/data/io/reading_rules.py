"""Rules by which annotation files of strangers are read, in the current context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

MAX_ANNOTATION_BYTES = 8 * 2**30
"""Default of DATASETS.MAX_ANNOTATION_BYTES."""


@dataclass(frozen=True)
class ReadingRules:
    """Rules by which annotation files are read.

    Attributes:
        max_bytes: larger files are refused (DATASETS.MAX_ANNOTATION_BYTES).
        outside_files: whether the names of images and maps in an annotation file may be absolute or
            have `..` (DATASETS.ALLOW_OUTSIDE_FILES).
    """

    max_bytes: int = MAX_ANNOTATION_BYTES
    outside_files: bool = False


_DEFAULT = ReadingRules()
_rules: ContextVar[ReadingRules] = ContextVar("reading_rules", default=_DEFAULT)


def reading_rules() -> ReadingRules:
    """Return the rules of the current context; the defaults outside of `read_by`."""
    return _rules.get()


@contextmanager
def read_by(rules: ReadingRules | None) -> Iterator[None]:
    """Read annotation files by these rules within this context; None: by those that hold."""
    if rules is None:
        yield
        return
    token = _rules.set(rules)
    try:
        yield
    finally:
        _rules.reset(token)


def rules_of(cfg: Any) -> ReadingRules:
    """Return the rules of a configuration, by its keys in DATASETS."""
    datasets = cfg.DATASETS
    return ReadingRules(datasets.MAX_ANNOTATION_BYTES, datasets.ALLOW_OUTSIDE_FILES)
