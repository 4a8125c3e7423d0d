"""Base classes of the errors that this package raises for unusable input."""

from __future__ import annotations


class HipieError(Exception):
    """Unusable input; the message is one sentence naming the file, key, value or data set."""


class InputError(HipieError, ValueError):
    """Configuration, data, file or argument that cannot be used."""
