"""Groups of any size for a model that takes a fixed number of images."""

from __future__ import annotations

from collections.abc import Iterator


def chunks(images: int, size: int) -> Iterator[tuple[slice, list[int]]]:
    """Cut a group into chunks in its own order; the last one is filled by repeating its images.

    Args:
        images: how many the group has.
        size: how many a chunk has.

    Yields:
        The images that a chunk answers for, and the `size` positions that it is made of.
    """
    for start in range(0, images, size):
        own = list(range(start, min(start + size, images)))
        yield slice(start, own[-1] + 1), [own[i % len(own)] for i in range(size)]
