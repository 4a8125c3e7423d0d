"""Figures of the model cards that are stored beside packaged weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_HEADING = re.compile(r"^# Model card: *`?([\w.-]+)`?", re.MULTILINE)
_ROW = re.compile(r"^\|([^|]+)\|([^|]*`[^|]+`[^|]*)\|\s*([0-9][^|]*)\|", re.MULTILINE)


@dataclass(frozen=True)
class CardFigure:
    """A row of a model card's tables of figures.

    Attributes:
        measure: what was measured, such as "PQ".
        key: its key in `results.json`.
        value: as it is in the card.
    """

    measure: str
    key: str
    value: str


def read_figures(weights: Path) -> list[CardFigure]:
    """Read the figures of a model card.

    A card is a section "# Model card: NAME" of a Markdown file beside the weights, whose name is
    that of the weights. Figures are rows of three cells: measure, key in backquotes, value.

    Args:
        weights: file of the weights.

    Returns:
        The rows in order; empty without a card.
    """
    for file in sorted(weights.parent.glob("*.md")):
        text = file.read_text(encoding="utf-8")
        headings = list(_HEADING.finditer(text))
        ends = [*(heading.start() for heading in headings[1:]), len(text)]
        for heading, end in zip(headings, ends, strict=True):
            if heading[1] == weights.stem:
                return [
                    CardFigure(measure.strip(), key.strip().strip("`"), value.strip())
                    for measure, key, value in _ROW.findall(text[heading.end() : end])
                ]
    return []
