"""Errors of requests, and the HTTP status of every error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hipie.errors import HipieError, InputError, MachineError, OutOfMemoryError, TooLargeError

# Header where the rest of a request's body is not read: the connection ends.
CLOSE = {"Connection": "close"}


class RequestError(InputError):
    """A request that is refused.

    Args:
        status: HTTP status, 4xx or 503.
        message: one sentence.
        headers: of the response.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status, str(self), self.headers)


def status_of(error: HipieError) -> int:
    """Return the HTTP status of an error.

    Returns:
        That of a `RequestError`; 413 for an image with too many pixels, 422 for other input that
        cannot be used; 503 where memory or the machine does not suffice at the moment; 500 for a
        bug.
    """
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, TooLargeError):
        return 413
    if isinstance(error, InputError):
        return 422
    return 503 if isinstance(error, MachineError | OutOfMemoryError) else 500
