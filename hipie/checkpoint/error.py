"""The one error of this room."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A file of weights that cannot be read, written, or does not fit; the message names it."""


def first_line(error: BaseException) -> str:
    """What an error says in its first line, without the full stop; its type if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
