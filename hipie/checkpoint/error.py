"""Error of reading and writing checkpoints."""

from __future__ import annotations

from hipie.errors import InputError


class CheckpointError(InputError):
    """File of weights that cannot be read or written, or does not fit; the message names it."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without full stop; its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
