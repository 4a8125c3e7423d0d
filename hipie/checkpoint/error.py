"""Error of reading and writing checkpoints."""

from __future__ import annotations

from hipie.errors import InputError


class CheckpointError(InputError):
    """File of weights that cannot be read or written, or does not fit; the message names it."""
