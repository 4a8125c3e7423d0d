"""Splitting of groups into parts of a fixed number of images."""

from __future__ import annotations

from collections.abc import Iterator


def split_and_pad(num_images: int, group_size: int) -> Iterator[tuple[slice, list[int]]]:
    """Split a group into parts of `group_size` images, in the order of the group.

    The last part is padded by repeating its own images in turn.

    Args:
        num_images: number of images in the group.
        group_size: number of images in a part.

    Yields:
        The slice of the group whose results the part provides, and the `group_size` indices of
        the images that it consists of.
    """
    for start in range(0, num_images, group_size):
        members = list(range(start, min(start + group_size, num_images)))
        padded = [members[i % len(members)] for i in range(group_size)]
        yield slice(start, members[-1] + 1), padded
