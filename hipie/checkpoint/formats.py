"""Whose weights a file holds, told by its keys, and how they become ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Format:
    """A layout of weights.

    Attributes:
        name: for people.
        recognise: says from the keys whether a file has this layout.
        convert: the layout's tensors -> ours and the names of those left out on purpose.
    """

    name: str
    recognise: Callable[[set[str]], bool]
    convert: Callable[[State], tuple[State, list[str]]]


def _is_parallel(keys: set[str]) -> bool:
    return bool(keys) and all(key.startswith("module.") for key in keys)


def _from_parallel(state: State) -> tuple[State, list[str]]:
    return {key.removeprefix("module."): value for key, value in state.items()}, []


# The first that recognises a file converts it; none: the file's names are ours.
FORMATS: tuple[Format, ...] = (
    Format("a model wrapped for several processes", _is_parallel, _from_parallel),
)


def to_ours(state: State) -> tuple[State, list[str], str]:
    """Convert a state dict.

    Returns:
        The tensors under our names, the names left out on purpose, and the layout's name.
    """
    keys = set(state)
    for one in FORMATS:
        if one.recognise(keys):
            return (*one.convert(state), one.name)
    return state, [], "hipie"
