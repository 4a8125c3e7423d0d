"""A layout of weights as a table of names; what a table cannot say is a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from hipie.checkpoint.error import CheckpointError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Rename:
    """One rule of a table.

    Attributes:
        theirs: regular expression that a whole name matches.
        ours: our name, with groups as in `re.sub`; None leaves the tensor out.
    """

    theirs: str
    ours: str | None


@dataclass(frozen=True)
class Format:
    """A layout of weights.

    Attributes:
        name: for people.
        recognise: says from the names whether a file has this layout.
        convert: the layout's tensors -> ours and the names of those left out on purpose.
        whole: whether such a file holds all of a model; of another it is enough if some fit.
    """

    name: str
    recognise: Callable[[set[str]], bool]
    convert: Callable[[State], tuple[State, list[str]]]
    whole: bool = True


def by_table(rules: Sequence[Rename]) -> Callable[[State], tuple[State, list[str]]]:
    """A conversion that renames by the first rule that matches; other names stay.

    Raises:
        CheckpointError: when two names would become one.
    """
    patterns = [(re.compile(rule.theirs), rule.ours) for rule in rules]

    def convert(state: State) -> tuple[State, list[str]]:
        ours: State = {}
        dropped: list[str] = []
        for name, tensor in state.items():
            new = _renamed(name, patterns)
            if new is None:
                dropped.append(name)
            elif new in ours:
                raise CheckpointError(f'two tensors of the file would be "{new}", one is "{name}"')
            else:
                ours[new] = tensor
        return ours, dropped

    return convert


def _renamed(name: str, patterns: Sequence[tuple[re.Pattern[str], str | None]]) -> str | None:
    for pattern, ours in patterns:
        match = pattern.fullmatch(name)
        if match:
            return None if ours is None else match.expand(ours)
    return name
