"""Conversion of checkpoints with foreign parameter names, given as tables of renaming rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from hipie.checkpoint.error import CheckpointError

State = dict[str, Tensor]
OWN_LAYOUT = "hipie"


@dataclass(frozen=True)
class Rename:
    """Renaming rule of a table.

    Attributes:
        pattern: regular expression that a foreign name matches from start to end.
        replacement: the name here, with groups as in `re.sub`; None leaves the tensor out.
    """

    pattern: str
    replacement: str | None


@dataclass(frozen=True)
class CheckpointConverter:
    """Conversion of one foreign checkpoint layout to the parameter names of an architecture.

    Attributes:
        name: name of the layout, for reports.
        recognizes: whether a set of tensor names has this layout.
        convert: maps the layout's tensors to renamed tensors and the names that are left out.
        complete: whether such a checkpoint holds a model's weights completely; of another one it
            is enough that some of its tensors fit.
    """

    name: str
    recognizes: Callable[[set[str]], bool]
    convert: Callable[[State], tuple[State, list[str]]]
    complete: bool = True


@dataclass(frozen=True)
class Conversion:
    """Result of `convert_state`.

    Attributes:
        state: tensors under the names of the architecture.
        dropped: foreign names that were left out on purpose.
        layout: name of the layout that was recognised, "hipie" for the package's own.
        complete: see `CheckpointConverter`.
    """

    state: State
    dropped: tuple[str, ...] = ()
    layout: str = OWN_LAYOUT
    complete: bool = True


def convert_state(state: State, converters: Sequence[CheckpointConverter]) -> Conversion:
    """Convert a state dict by every converter that recognises it, in order.

    Args:
        state: tensors by name.
        converters: of an architecture; see `CheckpointableModel.checkpoint_converters`.

    Returns:
        The converted tensors; a state dict that no converter recognises stays as it is.
    """
    dropped: list[str] = []
    applied: list[CheckpointConverter] = []
    for converter in converters:
        if converter.recognizes(set(state)):
            state, left_out = converter.convert(state)
            dropped += left_out
            applied.append(converter)
    return Conversion(
        state,
        tuple(dropped),
        ", ".join(converter.name for converter in applied) or OWN_LAYOUT,
        all(converter.complete for converter in applied),
    )


def rename_by_table(rules: Sequence[Rename]) -> Callable[[State], tuple[State, list[str]]]:
    """Return a conversion that renames each tensor by the first rule that matches.

    Names that no rule matches stay.

    Raises:
        CheckpointError: by the conversion, when two tensors would get the same name.
    """
    patterns = [(re.compile(rule.pattern), rule.replacement) for rule in rules]

    def convert(state: State) -> tuple[State, list[str]]:
        renamed: State = {}
        dropped: list[str] = []
        for name, tensor in state.items():
            new = _renamed(name, patterns)
            if new is None:
                dropped.append(name)
            elif new in renamed:
                raise CheckpointError(f'two tensors of the file would be "{new}", one is "{name}"')
            else:
                renamed[new] = tensor
        return renamed, dropped

    return convert


def _renamed(name: str, patterns: Sequence[tuple[re.Pattern[str], str | None]]) -> str | None:
    for pattern, replacement in patterns:
        match = pattern.fullmatch(name)
        if match:
            return None if replacement is None else match.expand(replacement)
    return name
