"""Groups of any size for a model that takes a fixed number of pictures."""

from __future__ import annotations

from collections.abc import Iterator


def chunks(pictures: int, size: int) -> Iterator[tuple[slice, list[int]]]:
    """Cut a group into chunks in its own order; the last one is filled by repeating its pictures.

    Args:
        pictures: how many the group has.
        size: how many a chunk has.

    Yields:
        The pictures that a chunk answers for, and the `size` positions that it is made of.
    """
    for start in range(0, pictures, size):
        own = list(range(start, min(start + size, pictures)))
        yield slice(start, own[-1] + 1), [own[i % len(own)] for i in range(size)]
