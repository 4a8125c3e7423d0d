"""Captions longer than a text encoder's window, read window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Markers:
    """Ids of a tokenizer's special tokens: start, end, padding and the full stop."""

    start: int
    end: int
    padding: int
    full_stop: int


@dataclass(frozen=True)
class Window:
    """One sequence for the encoder.

    Attributes:
        ids: what the encoder reads.
        offset: position in the caption of the first id kept.
        skip: how many ids at the front are not the caption's own.
    """

    ids: tuple[int, ...]
    offset: int
    skip: int


def cut_into_windows(ids: Sequence[int], markers: Markers, window: int = 512) -> list[Window]:
    """Sequences of at most `window` ids that together cover a caption.

    A caption that fits is one window. Otherwise each window ends with the last full stop (or end
    marker) among the first `window - 2` ids left, and this piece is read as the end marker; all
    windows but the first begin with a start marker of their own. So the features of the full
    stops at the cuts are those of end markers (the published HIPIE reads long lists this way).

    Raises:
        ValueError: if some stretch of that length has no full stop.
    """
    if len(ids) <= window:
        return [Window(tuple(ids), 0, 0)]
    windows: list[Window] = []
    start = 0
    while start < len(ids):
        reach = ids[start : start + window - 2]
        ends = [i for i, piece in enumerate(reach) if piece in (markers.full_stop, markers.end)]
        if not ends:
            raise ValueError(
                f"tokens {start} to {start + window - 2} of a caption have no full stop "
                "between two names where it could be cut"
            )
        own = (*reach[: ends[-1]], markers.end)
        prefix = (markers.start,) if start else ()
        windows.append(Window(prefix + own, start, len(prefix)))
        start += len(own)
    return windows
