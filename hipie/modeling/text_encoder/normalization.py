"""How referring expressions are written before a text encoder reads them."""

from __future__ import annotations

REMOVED = dict.fromkeys(map(ord, ".,'!?\"()*#:;"))
SPACED = dict.fromkeys(map(ord, "-/"), " ")


def clean_expression(expression: str) -> str:
    """A referring expression: lower case, no punctuation, hyphens and slashes as spaces."""
    return " ".join(expression.lower().translate(REMOVED).translate(SPACED).split())
