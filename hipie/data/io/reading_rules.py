"""Rules by which files of strangers are read, in the current context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

MAX_ANNOTATION_BYTES = 8 * 2**30
"""Default of DATASETS.MAX_ANNOTATION_BYTES."""
MAX_PIXELS = 50_000_000
"""Default of INPUT.MAX_PIXELS."""


@dataclass(frozen=True)
class ReadingRules:
    """Rules by which annotation files, images and maps are read.

    Attributes:
        max_bytes: larger files are refused (DATASETS.MAX_ANNOTATION_BYTES).
        outside_files: whether the names of images and maps in an annotation file may be absolute or
            have `..` (DATASETS.ALLOW_OUTSIDE_FILES).
        max_pixels: images, label maps and masks of more are refused (INPUT.MAX_PIXELS).
    """

    max_bytes: int = MAX_ANNOTATION_BYTES
    outside_files: bool = False
    max_pixels: int = MAX_PIXELS


_DEFAULT = ReadingRules()
_rules: ContextVar[ReadingRules] = ContextVar("reading_rules", default=_DEFAULT)


def reading_rules() -> ReadingRules:
    """Return the rules of the current context; the defaults outside of `read_by`."""
    return _rules.get()


def pixel_limit(max_pixels: int | None = None) -> int:
    """Return `max_pixels`; of None, the limit of the rules that hold."""
    return reading_rules().max_pixels if max_pixels is None else max_pixels


@contextmanager
def read_by(rules: ReadingRules | None) -> Iterator[None]:
    """Read files by these rules within this context; None: by those that hold."""
    if rules is None:
        yield
        return
    token = _rules.set(rules)
    try:
        yield
    finally:
        _rules.reset(token)


def rules_of(cfg: Any) -> ReadingRules:
    """Return the rules of a configuration, by its keys in DATASETS and INPUT."""
    datasets = cfg.DATASETS
    return ReadingRules(
        datasets.MAX_ANNOTATION_BYTES, datasets.ALLOW_OUTSIDE_FILES, cfg.INPUT.MAX_PIXELS
    )
