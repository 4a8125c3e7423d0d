"""Sentences are read back from their words alone and judged by geometry written anew here."""

from __future__ import annotations

import re

import pytest

from hipie.data.picturebook import COLOURS, PATTERNS, SIZES, SPLITS, STUFF, THINGS, PictureBook

_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5}
_NAMES = {}
for _thing in THINGS:
    _NAMES[_thing.name] = _thing.name
    _NAMES[_thing.plural_name] = _thing.name
_EXTREMES = ("largest", "smallest", "leftmost", "rightmost")


def _read(text: str, things) -> set[int]:
    """Ids of the things that the words describe; a number in them must be theirs."""
    count = _NUMBERS.get(text.split()[1]) if " " in text else None
    if count:
        found = _read(text.split(maxsplit=2)[2], things)
        assert len(found) == count, text
        return found
    side = re.fullmatch(r"(.+) (left|right) of the (.+)", text)
    if side:
        anchor = _read(side[3], things)
        assert len(anchor) == 1, text
        (middle,) = (_middle(t) for t in things if t.id in anchor)
        chosen = _described(side[1], things)
        sign = 1 if side[2] == "right" else -1
        return {t.id for t in things if t.id in chosen and sign * (_middle(t) - middle) > 0}
    both = re.fullmatch(r"the (.+) and the (.+)", text)
    if both:
        first, second = _described(both[1], things), _described(both[2], things)
        assert len(first) == len(second) == 1, text
        return first | second
    return _described(text, things)


def _middle(thing) -> float:
    return thing.bbox[0] + thing.bbox[2] / 2


def _described(text: str, things) -> set[int]:
    places = "|".join(stuff.name for stuff in STUFF)
    place = re.fullmatch(rf"(.+) (?:in|on|against) the ({places})", text)
    ground = place[2] if place else None
    words = (place[1] if place else text).split()
    words = [w for w in words if w not in ("the", "all", "in", "a", "shirt", "shirts")]
    names = {_NAMES[w] for w in words if w in _NAMES}
    colour = {w for w in words if w in COLOURS}
    size = {w for w in words if w in SIZES}
    pattern = {w for w in words if w in PATTERNS}
    extreme = [w for w in words if w in _EXTREMES]
    known = colour | size | pattern | set(extreme) | set(_NAMES)
    assert len(names) == 1 and set(words) <= known, text
    found = [
        t
        for t in things
        if t.name in names
        and (not colour or t.colour in colour)
        and (not size or t.size in size)
        and (not pattern or t.pattern in pattern)
        and (ground is None or t.ground == ground)
    ]
    if extreme:
        assert len(found) > 1, text
        keys = {
            "largest": lambda t: -t.height, "smallest": lambda t: t.height,
            "leftmost": _middle, "rightmost": lambda t: -_middle(t),
        }  # fmt: skip
        found = [min(found, key=keys[extreme[0]])]
    return {t.id for t in found}


@pytest.mark.parametrize("split", SPLITS)
def test_expressions_describe_exactly_their_targets(split: str) -> None:
    book = PictureBook(6, split)
    for index in range(40):
        page = book.page(index)
        for expression in page.expressions:
            assert _read(expression.text, page.things) == set(expression.targets), expression.text
            assert expression.query.select(page.things) == set(expression.targets)
            number = {0: "none", 1: "one"}.get(len(expression.targets), "several")
            assert expression.number == number


def test_every_kind_of_expression_occurs() -> None:
    kinds, numbers = set(), set()
    for index in range(40):
        page = PictureBook(0, "train").page(index)
        texts = [expression.text for expression in page.expressions]
        assert len(set(texts)) == len(texts)
        assert sum(e.number == "several" for e in page.expressions) <= 3
        assert sum(e.number == "none" for e in page.expressions) <= 2
        for expression in page.expressions:
            kinds.add(expression.kind)
            numbers.add(expression.number)
    assert kinds == {"class", "attribute", "place", "relation", "superlative"}
    assert numbers == {"one", "several", "none"}


def test_unseen_pages_have_novel_expressions() -> None:
    found = {e.novel for i in range(40) for e in PictureBook(0, "unseen").page(i).expressions}
    assert found == {"", "class", "pair"}
