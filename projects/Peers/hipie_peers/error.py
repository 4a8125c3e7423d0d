"""Error of the project."""

from __future__ import annotations

from hipie.errors import InputError


class PeerError(InputError):
    """A network, folder or input that a model of another group cannot use; the message names it."""
