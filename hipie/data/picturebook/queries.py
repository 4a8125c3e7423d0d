"""Queries: three-valued predicates over the things of a page, and their description as text.

Positions and sizes count as true or false only when they are so by a margin; between the margins
the query is unclear for the page, and no expression is made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .classes import HELD_OUT_PAIRS, STUFF_BY_NAME, THING_BY_NAME, UNSEEN_THINGS
from .segment import Segment

MARGIN = 1.2
"""Minimum ratio of the heights of the largest and the second largest thing."""
SIDES = ("left", "right")
EXTREMES = ("largest", "smallest", "leftmost", "rightmost")
_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True)
class Query:
    """Selection of things of a class by attributes, ground, relation or superlative.

    `side` with `anchor`: left or right of the only thing that `anchor` selects. `extreme`: the
    largest, smallest, leftmost or rightmost of at least two things that the other fields select.
    `excluded_colour`: a colour that they must not have. `other_query`: a query whose things are
    added.
    """

    name: str
    colour: str | None = None
    size: str | None = None
    pattern: str | None = None
    ground: str | None = None
    side: str | None = None
    anchor: Query | None = None
    extreme: str | None = None
    excluded_colour: str | None = None
    other_query: Query | None = None

    def select(self, things: Sequence[Segment]) -> frozenset[int] | None:
        """Return the ids of the selected things; None if the selection is ambiguous."""
        candidates = [thing for thing in things if self._fits(thing)]
        if self.ground is not None:
            if any(thing.ground is None for thing in candidates):
                return None
            candidates = [thing for thing in candidates if thing.ground == self.ground]
        if self.anchor is not None:
            beside = self._beside(candidates, things)
            if beside is None:
                return None
            candidates = beside
        if self.extreme is not None:
            extreme_thing = _extreme(candidates, self.extreme)
            if extreme_thing is None:
                return None
            candidates = [extreme_thing]
        selected = frozenset(thing.id for thing in candidates)
        if self.other_query is None:
            return selected
        other_ids = self.other_query.select(things)
        return None if other_ids is None else selected | other_ids

    def _fits(self, thing: Segment) -> bool:
        pairs = (
            (self.colour, thing.colour),
            (self.size, thing.size),
            (self.pattern, thing.pattern),
        )
        return (
            thing.name == self.name
            and all(required is None or required == actual for required, actual in pairs)
            and (self.excluded_colour is None or thing.colour != self.excluded_colour)
        )

    def _beside(self, candidates: list[Segment], things: Sequence[Segment]) -> list[Segment] | None:
        anchors = self.anchor.select(things) if self.anchor is not None else None
        if anchors is None or len(anchors) != 1:
            return None
        anchor = next(thing for thing in things if thing.id in anchors)
        selected_things = []
        for thing in candidates:
            if thing.id == anchor.id:
                continue
            is_beside = _left_of(thing, anchor) if self.side == "left" else _left_of(anchor, thing)
            if is_beside is None:
                return None
            if is_beside:
                selected_things.append(thing)
        return selected_things

    def names_novel(self) -> str:
        """Return "class" or "pair" if the query names one that is held out of training, else ""."""
        novel = {q.names_novel() for q in (self.anchor, self.other_query) if q is not None}
        attributes = (self.colour, self.pattern, self.excluded_colour)
        if self.name in UNSEEN_THINGS or "class" in novel:
            return "class"
        if (
            any((attribute, self.name) in HELD_OUT_PAIRS for attribute in attributes)
            or "pair" in novel
        ):
            return "pair"
        return ""


def _centre(thing: Segment) -> float:
    return thing.bbox[0] + thing.bbox[2] / 2


def _left_of(first: Segment, second: Segment) -> bool | None:
    """Return whether `first` is left of `second`; None if their boxes overlap too much."""
    a, b = _centre(first), _centre(second)
    if a >= b:
        return False
    clear = a < second.bbox[0] and first.bbox[0] + first.bbox[2] < b
    return True if clear else None


def _drawn_height(thing: Segment) -> float:
    assert thing.height is not None, "stuff has no height"
    return thing.height


def _extreme(candidates: list[Segment], extreme: str) -> Segment | None:
    """Return the extreme thing of at least two; None if it does not differ by the margin."""
    if len(candidates) < 2:
        return None
    if extreme in ("largest", "smallest"):
        ordered = sorted(candidates, key=_drawn_height, reverse=extreme == "largest")
        first, second = ordered[:2]
        ratio = _drawn_height(first) / _drawn_height(second)
        if max(ratio, 1 / ratio) < MARGIN:
            return None
        by_area = max if extreme == "largest" else min
        return first if by_area(thing.area for thing in candidates) == first.area else None
    ordered = sorted(candidates, key=_centre, reverse=extreme == "rightmost")
    first, second = ordered[:2]
    is_outermost = _left_of(first, second) if extreme == "leftmost" else _left_of(second, first)
    return first if is_outermost else None


def noun(query: Query, plural: bool = False) -> str:
    """Return the noun phrase of a query: "small striped red car on the road"."""
    thing = THING_BY_NAME[query.name]
    words = [query.extreme] if query.extreme else []
    words += [query.size] if query.size else []
    is_person = query.name == "person"
    if not is_person:
        words += [word for word in (query.pattern, query.colour) if word]
    words.append(thing.plural_name if plural else thing.name)
    if is_person and query.pattern:
        shirt = "shirts" if plural else "shirt"
        article = "" if plural else "a "
        words.append(
            f"in {article}{' '.join(w for w in (query.pattern, query.colour) if w)} {shirt}"
        )
    elif is_person and query.colour:
        words.append(f"in {query.colour}")
    if query.excluded_colour:
        verb = "are" if plural else "is"
        words.append(f"that {verb} not {'in ' if is_person else ''}{query.excluded_colour}")
    if query.ground:
        words.append(f"{STUFF_BY_NAME[query.ground].preposition} the {query.ground}")
    if query.anchor is not None:
        place = "left" if query.side == "left" else "right"
        words.append(f"{place} of the {noun(query.anchor)}")
    return " ".join(words)


def describe(query: Query, count: int, style: int) -> str:
    """Describe a query that selects `count` things, in one of three styles (0, 1, 2)."""
    if query.other_query is not None:
        first, second = noun(query).strip(), noun(query.other_query)
        return f"the {first} and the {second}"
    if count < 2:
        singular = noun(query)
        return singular if style == 0 and query.extreme is None else f"the {singular}"
    plural_phrase = noun(query, plural=True)
    if style == 0 and count in _COUNTS:
        return f"the {_COUNTS[count]} {plural_phrase}"
    return f"all the {plural_phrase}" if style == 1 else f"the {plural_phrase}"
