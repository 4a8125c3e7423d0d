"""Generation of referring expressions for a page, with one, several or no target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .classes import COLOURS, PATTERNS, SEEN_THINGS, SIZES, THINGS
from .page import Expression
from .queries import EXTREMES, SIDES, Query, describe
from .segment import Segment

Candidate = tuple[str, Query]
MAX_EXPRESSIONS_PER_THING = 3


def write_expressions(
    rng: np.random.Generator, things: Sequence[Segment], split: str
) -> tuple[Expression, ...]:
    """Generate up to three expressions per thing, three with several targets and two without.

    The targets of every expression are computed over all things of the page. Except in the split
    "unseen", no expression names a class or pair that is held out from training.

    Args:
        rng: generator of the page.
        things: things of the page.
        split: "train", "val" or "unseen".
    """
    writer = _ExpressionWriter(rng, things, split)
    for thing in things:
        writer.write_single_target(thing)
    writer.write_multiple_targets()
    writer.write_no_target()
    return tuple(writer.written)


def _query_kind(query: Query) -> str:
    if query.anchor is not None:
        return "relation"
    if query.extreme is not None:
        return "superlative"
    if query.ground is not None:
        return "place"
    attributes = (query.colour, query.size, query.pattern, query.excluded_colour)
    if any(attributes) or (
        query.other_query is not None and _query_kind(query.other_query) == "attribute"
    ):
        return "attribute"
    return "class"


class _ExpressionWriter:
    def __init__(self, rng: np.random.Generator, things: Sequence[Segment], split: str) -> None:
        self.rng, self.things, self.split = rng, things, split
        self.written: list[Expression] = []
        self._texts: set[str] = set()
        self._queries: set[Query] = set()

    def add(self, query: Query, targets: frozenset[int]) -> bool:
        novel = query.names_novel()
        if novel and self.split != "unseen":
            return False
        text = describe(query, len(targets), int(self.rng.integers(3)))
        if text in self._texts or query in self._queries:
            return False
        self._texts.add(text)
        self._queries.add(query)
        number = ("none", "one")[len(targets)] if len(targets) < 2 else "several"
        self.written.append(
            Expression(text, tuple(sorted(targets)), _query_kind(query), number, query, novel)
        )
        return True

    def write_single_target(self, thing: Segment) -> None:
        """Add expressions of different kinds for one thing."""
        written_kinds: set[str] = set()
        for kind, query in self._candidates(thing):
            if len(written_kinds) == MAX_EXPRESSIONS_PER_THING:
                return
            if (
                kind not in written_kinds
                and query.select(self.things) == frozenset({thing.id})
                and self.add(query, frozenset({thing.id}))
            ):
                written_kinds.add(kind)

    def _candidates(self, thing: Segment) -> Iterator[Candidate]:
        name = thing.name
        order = self.rng.permutation(5)
        for choice in order:
            if choice == 0:
                yield "class", Query(name)
            elif choice == 1:
                yield from self._attributes(thing)
            elif choice == 2 and thing.ground is not None:
                yield "place", Query(name, ground=thing.ground)
                yield "place", Query(name, colour=thing.colour, ground=thing.ground)
            elif choice == 3:
                yield from self._relations(thing)
            elif choice == 4:
                for extreme in self.rng.permutation(EXTREMES):
                    yield "superlative", Query(name, extreme=str(extreme))

    def _attributes(self, thing: Segment) -> Iterator[Candidate]:
        name, colour, size, pattern = thing.name, thing.colour, thing.size, thing.pattern
        pattern = None if pattern == "plain" else pattern
        options = [Query(name, colour=colour), Query(name, size=size)]
        if pattern is not None:
            options += [Query(name, pattern=pattern), Query(name, colour=colour, pattern=pattern)]
        options = [options[i] for i in self.rng.permutation(len(options))]
        options += [Query(name, colour=colour, size=size), Query(name, colour, size, pattern)]
        for query in options:
            yield "attribute", query

    def _relations(self, thing: Segment) -> Iterator[Candidate]:
        others = [other for other in self.things if other.id != thing.id]
        for number in self.rng.permutation(len(others))[:3]:
            other = others[number]
            anchors = [Query(other.name)]
            if other.name == thing.name:
                anchors = []
            anchors.append(Query(other.name, colour=other.colour))
            for anchor in anchors:
                for side in SIDES:
                    yield "relation", Query(thing.name, side=side, anchor=anchor)
                    yield "relation", Query(thing.name, thing.colour, side=side, anchor=anchor)

    def write_multiple_targets(self) -> None:
        """Add up to three expressions that describe more than one thing."""
        options: list[Query] = []
        for name in sorted({thing.name for thing in self.things}):
            same_class = [thing for thing in self.things if thing.name == name]
            options.append(Query(name))
            for thing in same_class:
                options += [
                    Query(name, colour=thing.colour),
                    Query(name, pattern=thing.pattern),
                    Query(name, size=thing.size),
                ]
                if thing.ground is not None:
                    options.append(Query(name, ground=thing.ground))
                options += [
                    Query(name, side=side, anchor=Query(o.name))
                    for o in self.things
                    if o.name != name
                    for side in SIDES
                ]
        if len(self.things) > 1:
            for _ in range(3):
                a, b = (self.things[i] for i in self.rng.permutation(len(self.things))[:2])
                if a.name != b.name:
                    first = Query(a.name, colour=a.colour if self.rng.random() < 0.5 else None)
                    second = Query(b.name, colour=b.colour if self.rng.random() < 0.5 else None)
                    if all(len(q.select(self.things) or ()) == 1 for q in (first, second)):
                        options.append(Query(first.name, first.colour, other_query=second))
        added = 0
        for number in self.rng.permutation(len(options)):
            targets = options[number].select(self.things)
            if targets is not None and len(targets) > 1 and self.add(options[number], targets):
                added += 1
            if added == 3:
                return

    def write_no_target(self) -> None:
        """Add two expressions without a target, most of them with one changed attribute."""
        names = SEEN_THINGS if self.split != "unseen" else tuple(thing.name for thing in THINGS)
        added = 0
        for _ in range(16):
            if added == 2:
                return
            query = self._sample_absent_query(names)
            if query.select(self.things) == frozenset() and self.add(query, frozenset()):
                added += 1

    def _sample_absent_query(self, names: Sequence[str]) -> Query:
        rng = self.rng
        colour = str(rng.choice(list(COLOURS)))
        if not self.things or rng.random() < 0.3:
            name = str(rng.choice(names))
            return Query(name, colour=colour if rng.random() < 0.5 else None)
        thing = self.things[rng.integers(len(self.things))]
        choice = rng.integers(4)
        if choice == 0:
            return Query(thing.name, colour=colour)
        if choice == 1:
            return Query(thing.name, colour=thing.colour, pattern=str(rng.choice(PATTERNS[1:])))
        if choice == 2:
            return Query(thing.name, size=str(rng.choice(list(SIZES))), colour=thing.colour)
        other = self.things[rng.integers(len(self.things))]
        return Query(thing.name, side=str(rng.choice(SIDES)), anchor=Query(other.name))
