from __future__ import annotations

import pytest

from hipie.data.dataset_mappers.text_flip import mirrored_words


@pytest.mark.parametrize(
    ("expression", "mirrored"),
    [
        ("the car left of the tree", "the car right of the tree"),
        ("Left dog, RIGHT cat", "Right dog, LEFT cat"),
        ("the leftmost ball on the right-hand side", "the rightmost ball on the left-hand side"),
        ("rightside lefthand righter", "leftside righthand lefter"),
        ("a bright light, the leftover copyright", "a bright light, the leftover copyright"),
        ("upright man", "upright man"),
        ("person left arm", "person right arm"),
        ("", ""),
    ],
)
def test_sides_swap(expression: str, mirrored: str) -> None:
    assert mirrored_words(expression) == mirrored
    assert mirrored_words(mirrored) == expression
