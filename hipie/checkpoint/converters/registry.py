"""Whose weights a file holds, told by its keys, and how they become ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hipie.checkpoint.converters.hipie import OFFICIAL_HIPIE, UNINEXT
from hipie.checkpoint.converters.key_table import Format, Rename, State, by_table

__all__ = [
    "FORMATS",
    "Conversion",
    "Format",
    "Rename",
    "State",
    "by_table",
    "register_format",
    "to_ours",
]


@dataclass(frozen=True)
class Conversion:
    """What became of a file's tensors.

    Attributes:
        state: tensors under our names.
        dropped: the file's names that were left out on purpose.
        layout: whose names the file had.
        whole: whether such a file holds all of a model.
    """

    state: State
    dropped: tuple[str, ...] = ()
    layout: str = "hipie"
    whole: bool = True


def _is_wrapped(names: set[str]) -> bool:
    return bool(names) and all(name.startswith("module.") for name in names)


# Each format that recognises the names converts them, in this order.
FORMATS: list[Format] = [
    Format("several processes", _is_wrapped, by_table([Rename(r"module\.(.+)", r"\1")])),
    OFFICIAL_HIPIE,
    UNINEXT,
]


def register_format(one: Format) -> None:
    """Add a project's layout; again under the same name, it takes the earlier one's place."""
    FORMATS[:] = [known for known in FORMATS if known.name != one.name] + [one]


def to_ours(state: State, formats: Sequence[Format] = FORMATS) -> Conversion:
    """Convert a state dict of any known layout; one of no known layout stays as it is."""
    dropped: list[str] = []
    layouts: list[str] = []
    whole = True
    for one in formats:
        if one.recognise(set(state)):
            state, left_out = one.convert(state)
            dropped += left_out
            layouts.append(one.name)
            whole = whole and one.whole
    return Conversion(state, tuple(dropped), ", ".join(layouts) or "hipie", whole)
