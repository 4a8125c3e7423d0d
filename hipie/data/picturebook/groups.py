"""Generation of groups: expressions over related pages, some of which show the target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .classes import COLOURS, PATTERNS, SEEN_THINGS, THINGS, held_out
from .composition import draw_page
from .numbering import PAGES_A_GROUP
from .page import Page
from .placing import ThingPredicate, ThingSpec
from .queries import Query, describe

_MIN_PAGES = 4


@dataclass(frozen=True)
class GroupExpression:
    """An expression over a group.

    Attributes:
        text: the expression.
        query: the query that the text describes.
        targets: for each page the ids of the targets; empty on negative pages.
        absent: whether it is an expression of absence ("a dog that is not red").
    """

    text: str
    query: Query
    targets: tuple[tuple[int, ...], ...]
    absent: bool = False


@dataclass(frozen=True)
class Group:
    """Related pages with their expressions.

    The group is drawn for the first of `expressions`, which has a target on at least one page and
    none on at least one other.
    """

    index: int
    split: str
    pages: tuple[Page, ...]
    expressions: tuple[GroupExpression, ...]

    @property
    def text(self) -> str:
        """Text of the first expression."""
        return self.expressions[0].text

    @property
    def targets(self) -> tuple[tuple[int, ...], ...]:
        """Targets of the first expression."""
        return self.expressions[0].targets


def draw_group(rng: np.random.Generator, split: str, index: int) -> Group:
    """Draw 4 to 8 pages for a sampled query; negative pages share its class or its colour."""
    query = _sample_query(rng, split)
    count = int(rng.integers(_MIN_PAGES, PAGES_A_GROUP + 1))
    positive = int(rng.integers(1, count))
    order = rng.permutation(count)
    pages = []
    for position in range(count):
        if order[position] < positive:
            required_things = [_spec_of(query)]
            pages.append(draw_page(rng, split, position, required_things))
        else:
            pages.append(
                draw_page(
                    rng, split, position, _sample_related(rng, query, split), _matches_query(query)
                )
            )
    queries = [query, Query(query.name)]
    if query.colour is not None:
        queries.append(Query(query.name, excluded_colour=query.colour))
    group_expressions = tuple(_expression_over(pages, member) for member in dict.fromkeys(queries))
    return Group(index, split, tuple(pages), group_expressions)


def _sample_query(rng: np.random.Generator, split: str) -> Query:
    """Sample a class, with or without a colour or pattern, that the split may contain."""
    names = SEEN_THINGS if split != "unseen" else tuple(thing.name for thing in THINGS)
    while True:
        name, choice = str(rng.choice(names)), rng.random()
        if choice < 0.3:
            return Query(name)
        if choice < 0.75:
            query = Query(name, colour=str(rng.choice(list(COLOURS))))
        else:
            query = Query(name, pattern=str(rng.choice(PATTERNS[1:])))
        if split == "unseen" or not held_out(name, query.colour or "", query.pattern or ""):
            return query


def _spec_of(query: Query) -> ThingSpec:
    return ThingSpec(query.name, query.colour, query.size, query.pattern)


def _matches_query(query: Query) -> ThingPredicate:
    return _spec_of(query).matches


def _sample_related(rng: np.random.Generator, query: Query, split: str) -> list[ThingSpec]:
    """Sample the required thing of a negative page: the query with one attribute changed."""
    choice = rng.random()
    if choice < 0.6 and query.colour is not None:
        others = [c for c in COLOURS if c != query.colour]
        allowed = [c for c in others if split == "unseen" or not held_out(query.name, c)]
        return [ThingSpec(query.name, colour=allowed[rng.integers(len(allowed))])]
    if choice < 0.6 and query.pattern is not None:
        return [ThingSpec(query.name, pattern="plain")]
    names = [n for n in SEEN_THINGS if n != query.name]
    name = names[rng.integers(len(names))]
    colour = query.colour
    if colour is not None and split != "unseen" and held_out(name, colour):
        colour = None
    return [ThingSpec(name, colour=colour)]


def _expression_over(pages: list[Page], query: Query) -> GroupExpression:
    selected_ids = [query.select(page.things) or frozenset() for page in pages]
    article = "" if query.colour is None and query.pattern is None else "the "
    text = article + describe(query, 1, 0)
    targets = tuple(tuple(sorted(ids)) for ids in selected_ids)
    return GroupExpression(text, query, targets, absent=query.excluded_colour is not None)
