"""What a mirror does to words."""

from __future__ import annotations

import re

_SIDE = re.compile(r"\b(left|right)(?=(most|ward|wards|er|hand|side|ish|est)?\b)", re.IGNORECASE)


def mirrored_words(text: str) -> str:
    """An expression or name as it reads for the mirrored image: left and right swapped.

    The words built on them ("leftmost", "right-hand", "leftside") are swapped too, and capitals
    stay where they are; "bright" or "leftover" are not touched.
    """
    return _SIDE.sub(_other_side, text)


def _other_side(match: re.Match[str]) -> str:
    word = match.group(1)
    other = "right" if word.lower() == "left" else "left"
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
