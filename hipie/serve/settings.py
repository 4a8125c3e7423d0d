"""Limits of the service."""

from __future__ import annotations

from dataclasses import dataclass

from hipie.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """Limits of requests, all of them at least 1.

    Attributes:
        queue: requests that are read, wait or run at a time; more are answered by status 429.
        batch: images of equal sizes whose features are computed together.
        timeout: seconds from the end of a request's body to its result.
        upload_timeout: seconds in which a request's body has to arrive.
        body_bytes: of the body of a request.
        pixels: of an image; checked before it is decoded.
        images: of a group.
        names: class names of a request, all kinds and synonyms together.
        expressions: of a request.
        prompts: points and boxes of a request, together.
    """

    queue: int = 32
    batch: int = 4
    timeout: float = 60.0
    upload_timeout: float = 30.0
    body_bytes: int = 20_000_000
    pixels: int = 25_000_000
    images: int = 16
    names: int = 1000
    expressions: int = 64
    prompts: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 1 <= value < 2**40:
                raise UsageError(f"--max-{name.replace('_', '-')} has to be at least 1: {value}")
