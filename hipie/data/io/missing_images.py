"""Whether readers accept annotation files that list images which do not exist."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_accepted: ContextVar[bool] = ContextVar("missing_images_accepted", default=False)


@contextmanager
def accept_missing_images(accepted: bool = True) -> Iterator[None]:
    """Let readers return records of images that do not exist, within this context."""
    token = _accepted.set(accepted)
    try:
        yield
    finally:
        _accepted.reset(token)


def missing_images_accepted() -> bool:
    """Whether records of images that do not exist are returned."""
    return _accepted.get()
