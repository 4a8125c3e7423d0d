from __future__ import annotations

import pytest

from hipie.data.picturebook import SPLITS, PictureBook


@pytest.mark.parametrize("split", SPLITS)
def test_some_pages_of_a_group_show_the_target_and_some_do_not(split: str) -> None:
    for index in range(5):
        group = PictureBook(0, split).group(index)
        assert 4 <= len(group.pages) <= 8
        shown = [bool(targets) for targets in group.targets]
        assert any(shown) and not all(shown)
        for expression in group.expressions:
            for page, targets in zip(group.pages, expression.targets, strict=True):
                things = [t for t in page.things if t.name == expression.query.name]
                wanted = {
                    t.id
                    for t in things
                    if expression.query.colour in (None, t.colour)
                    and expression.query.pattern in (None, t.pattern)
                    and t.colour != expression.query.excluded_colour
                }
                assert wanted == set(targets)
            assert expression.absent == ("not" in expression.text.split())
        if split != "unseen":
            assert all(expression.query.names_novel() == "" for expression in group.expressions)


def test_a_group_is_a_function_of_its_number() -> None:
    first, second = PictureBook(3, "val").group(2), PictureBook(3, "val").group(2)
    assert first.text == second.text and first.targets == second.targets
    assert all((a.image == b.image).all() for a, b in zip(first.pages, second.pages, strict=True))
