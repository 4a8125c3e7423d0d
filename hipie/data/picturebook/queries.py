"""Queries: three-valued predicates over the things of a page, and their wording.

Positions and sizes count as true or false only when they are so by a margin; between the margins
the query is unclear for the page, and no expression is made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .classes import HELD_OUT_PAIRS, STUFF_BY_NAME, THING_BY_NAME, UNSEEN_THINGS
from .segment import Segment

MARGIN = 1.2
"""A "largest" thing is drawn at least this many times as high as the next."""
SIDES = ("left", "right")
EXTREMES = ("largest", "smallest", "leftmost", "rightmost")
_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True)
class Query:
    """Things of one class, narrowed by attributes, a place, a neighbour or an extreme.

    `side` with `anchor`: left or right of the only thing that `anchor` selects. `extreme`: of the
    things selected so far, the largest, smallest, leftmost or rightmost, of at least two. `but`: a
    colour that they must not have. `also`: another query whose things are added.
    """

    name: str
    colour: str | None = None
    size: str | None = None
    pattern: str | None = None
    ground: str | None = None
    side: str | None = None
    anchor: Query | None = None
    extreme: str | None = None
    but: str | None = None
    also: Query | None = None

    def select(self, things: Sequence[Segment]) -> frozenset[int] | None:
        """Return the ids of the selected things; None if the page leaves it unclear."""
        chosen = [thing for thing in things if self._fits(thing)]
        if self.ground is not None:
            if any(thing.ground is None for thing in chosen):
                return None
            chosen = [thing for thing in chosen if thing.ground == self.ground]
        if self.anchor is not None:
            beside = self._beside(chosen, things)
            if beside is None:
                return None
            chosen = beside
        if self.extreme is not None:
            winner = _extreme(chosen, self.extreme)
            if winner is None:
                return None
            chosen = [winner]
        selected = frozenset(thing.id for thing in chosen)
        if self.also is None:
            return selected
        more = self.also.select(things)
        return None if more is None else selected | more

    def _fits(self, thing: Segment) -> bool:
        pairs = (
            (self.colour, thing.colour),
            (self.size, thing.size),
            (self.pattern, thing.pattern),
        )
        return (
            thing.name == self.name
            and all(required is None or required == actual for required, actual in pairs)
            and (self.but is None or thing.colour != self.but)
        )

    def _beside(self, chosen: list[Segment], things: Sequence[Segment]) -> list[Segment] | None:
        anchors = self.anchor.select(things) if self.anchor is not None else None
        if anchors is None or len(anchors) != 1:
            return None
        anchor = next(thing for thing in things if thing.id in anchors)
        kept = []
        for thing in chosen:
            if thing.id == anchor.id:
                continue
            near = _left_of(thing, anchor) if self.side == "left" else _left_of(anchor, thing)
            if near is None:
                return None
            if near:
                kept.append(thing)
        return kept

    def names_novel(self) -> str:
        """Return "class" or "pair" if the query names what is held out from training, else ""."""
        novel = {q.names_novel() for q in (self.anchor, self.also) if q is not None}
        words = (self.colour, self.pattern, self.but)
        if self.name in UNSEEN_THINGS or "class" in novel:
            return "class"
        if any((word, self.name) in HELD_OUT_PAIRS for word in words) or "pair" in novel:
            return "pair"
        return ""


def _centre(thing: Segment) -> float:
    return thing.bbox[0] + thing.bbox[2] / 2


def _left_of(first: Segment, second: Segment) -> bool | None:
    """Whether `first` is left of `second`; None when they overlap too much to say."""
    a, b = _centre(first), _centre(second)
    if a >= b:
        return False
    clear = a < second.bbox[0] and first.bbox[0] + first.bbox[2] < b
    return True if clear else None


def _drawn_height(thing: Segment) -> float:
    assert thing.height is not None, "stuff has no height"
    return thing.height


def _extreme(chosen: list[Segment], extreme: str) -> Segment | None:
    """The clear winner among at least two things, or None."""
    if len(chosen) < 2:
        return None
    if extreme in ("largest", "smallest"):
        ordered = sorted(chosen, key=_drawn_height, reverse=extreme == "largest")
        first, second = ordered[:2]
        ratio = _drawn_height(first) / _drawn_height(second)
        if max(ratio, 1 / ratio) < MARGIN:
            return None
        by_area = max if extreme == "largest" else min
        return first if by_area(thing.area for thing in chosen) == first.area else None
    ordered = sorted(chosen, key=_centre, reverse=extreme == "rightmost")
    first, second = ordered[:2]
    near = _left_of(first, second) if extreme == "leftmost" else _left_of(second, first)
    return first if near else None


def noun(query: Query, plural: bool = False) -> str:
    """The words for a query without an article: "small striped red car on the road"."""
    thing = THING_BY_NAME[query.name]
    words = [query.extreme] if query.extreme else []
    words += [query.size] if query.size else []
    dressed = query.name == "person"
    if not dressed:
        words += [word for word in (query.pattern, query.colour) if word]
    words.append(thing.plural_name if plural else thing.name)
    if dressed and query.pattern:
        shirt = "shirts" if plural else "shirt"
        article = "" if plural else "a "
        words.append(
            f"in {article}{' '.join(w for w in (query.pattern, query.colour) if w)} {shirt}"
        )
    elif dressed and query.colour:
        words.append(f"in {query.colour}")
    if query.but:
        words.append(f"that {'are' if plural else 'is'} not {'in ' if dressed else ''}{query.but}")
    if query.ground:
        words.append(f"{STUFF_BY_NAME[query.ground].preposition} the {query.ground}")
    if query.anchor is not None:
        place = "left" if query.side == "left" else "right"
        words.append(f"{place} of the {noun(query.anchor)}")
    return " ".join(words)


def describe(query: Query, count: int, style: int) -> str:
    """Return the wording of a query that selects `count` things; `style` (0, 1, 2) varies it."""
    if query.also is not None:
        first, second = noun(query).strip(), noun(query.also)
        return f"the {first} and the {second}"
    if count < 2:
        bare = noun(query)
        return bare if style == 0 and query.extreme is None else f"the {bare}"
    many = noun(query, plural=True)
    if style == 0 and count in _COUNTS:
        return f"the {_COUNTS[count]} {many}"
    return f"all the {many}" if style == 1 else f"the {many}"
