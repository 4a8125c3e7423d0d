"""Choosing things for a scene, drawing them, and finding them room on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .classes import (
    COLOURS,
    HELD_OUT_PAIRS,
    PATTERNS,
    SIZES,
    STUFF,
    THING_BY_NAME,
    THINGS,
    UNSEEN_THINGS,
    held_out,
)
from .drawings import DRAWINGS
from .painting import INDEX
from .pen import Pen, Sprite
from .scenes import LAYOUTS, Scene

AIRY: frozenset[str] = frozenset({"sky", "mountain", "wall"})
"""Stuff that things hang in front of, rather than stand on."""
_TRIES = 14
_ODDS = {"fish": 3.0, "boat": 2.5, "car": 2.0, "house": 1.4, "tree": 1.4, "chair": 0.8}
"""How often a class is chosen, where it can stand at all, if not 1: few scenes have water."""


@dataclass(frozen=True)
class Wish:
    """What a thing must be; None leaves it to chance."""

    name: str | None = None
    colour: str | None = None
    size: str | None = None
    pattern: str | None = None

    def matches(self, made: Wish) -> bool:
        """Return whether a drawn thing satisfies this wish."""
        pairs = (
            (self.name, made.name), (self.colour, made.colour),
            (self.size, made.size), (self.pattern, made.pattern),
        )  # fmt: skip
        return all(required is None or required == actual for required, actual in pairs)


@dataclass(frozen=True)
class CompleteWish(Wish):
    """A wish that leaves nothing to chance."""

    name: str
    colour: str
    size: str
    pattern: str


Veto = Callable[[Wish], bool]


@dataclass(frozen=True)
class Placed:
    """A drawn thing at (left, top) of the page; later ones hide earlier ones."""

    wish: CompleteWish
    sprite: Sprite
    left: int
    top: int
    ground: str | None
    height: float
    depth: float
    hangs: bool


def complete(
    rng: np.random.Generator,
    wish: Wish,
    kinds: frozenset[str],
    split: str,
    veto: Veto | None = None,
) -> CompleteWish | None:
    """Fill in what a wish leaves open, for a scene with these kinds of stuff; None if it cannot."""
    names = [
        thing.name
        for thing in THINGS
        if any(kind in kinds for kind, _ in thing.grounds)
        and (wish.name is None or thing.name == wish.name)
        and (
            wish.name is not None
            or thing.name not in UNSEEN_THINGS
            or (split == "unseen" and rng.random() < 0.5)
        )
    ]
    if not names:
        return None
    odds = np.array([_ODDS.get(name, 1.0) for name in names])
    for _ in range(24):
        name = names[rng.choice(len(names), p=odds / odds.sum())]
        made = CompleteWish(
            name,
            wish.colour or str(rng.choice(list(COLOURS))),
            wish.size or str(rng.choice(list(SIZES), p=(0.3, 0.42, 0.28))),
            wish.pattern or str(rng.choice(PATTERNS, p=(0.5, 0.25, 0.25))),
        )
        if split != "unseen" and held_out(name, made.colour, made.pattern):
            continue
        if veto is None or not veto(made):
            return made
    return None


def novel_wish(rng: np.random.Generator) -> Wish:
    """A thing of an unseen class, or one with an attribute that training withholds from it."""
    if rng.random() < 0.5:
        return Wish(str(rng.choice(sorted(UNSEEN_THINGS))))
    pairs = sorted(HELD_OUT_PAIRS)
    attribute, name = pairs[rng.integers(len(pairs))]
    if attribute in COLOURS:
        return Wish(name, colour=attribute)
    return Wish(name, pattern=attribute)


def choose_scene(rng: np.random.Generator, names: Sequence[str]) -> str:
    """A scene that surely has ground for every one of these things."""
    fitting = []
    for name, (_, weight, kinds) in LAYOUTS.items():
        grounds = [{kind for kind, _ in THING_BY_NAME[thing].grounds} for thing in names]
        if all(ground & set(kinds) for ground in grounds):
            fitting.append((name, weight))
    if not fitting:
        fitting = [("lake", 1.0)]
    weights = np.array([weight for _, weight in fitting])
    return fitting[rng.choice(len(fitting), p=weights / weights.sum())][0]


class Placer:
    """Puts things on one scene, one by one, without hiding too much."""

    def __init__(self, rng: np.random.Generator, scene: Scene) -> None:
        self.rng, self.scene = rng, scene
        self.height, self.width = scene.stuff.shape
        self.unit = min(self.height, self.width)
        self.kinds = frozenset(STUFF[i].name for i in np.unique(scene.stuff))
        self.placed: list[Placed] = []
        self._boxes: list[NDArray[Any]] = []
        self._coarse = scene.stuff[3::6, 3::6]

    def put(self, wish: CompleteWish) -> bool:
        """Place a complete wish; False when there is no room for it."""
        thing = THING_BY_NAME[wish.name]
        tall = thing.height * SIZES[wish.size] * self.rng.uniform(0.94, 1.06) * self.unit
        wide = tall * thing.aspect
        spot = self._spot(dict(thing.grounds), wide, tall, thing.hangs)
        if spot is None:
            return False
        x, foot, hangs = spot
        tilt = self.rng.uniform(-0.16, 0.16) if hangs else self.rng.uniform(-0.04, 0.04)
        pen = Pen(
            tall, thing.aspect, wish.colour, wish.pattern, self.rng,
            flip=bool(self.rng.random() < 0.5), tilt=tilt, line=1.25 * self.unit / 320,
        )  # fmt: skip
        DRAWINGS[wish.name](pen, self.rng)
        sprite = pen.finish()
        box = np.array([x - wide / 2, foot - tall, x + wide / 2, foot])
        self._boxes.append(box)
        ground = self._ground(box, hangs, dict(thing.grounds))
        depth = foot - (2 * self.height if hangs else 0)
        left, top = round(x) - sprite.foot[0], round(foot) - sprite.foot[1]
        self.placed.append(
            Placed(wish, sprite, left, top, ground, float(tall), float(depth), hangs)
        )
        return True

    def _spot(
        self, grounds: dict[str, float], wide: float, tall: float, always_hangs: bool
    ) -> tuple[float, float, bool] | None:
        weight = np.zeros(len(STUFF))
        for kind, preference in grounds.items():
            weight[INDEX[kind]] = preference
        chance = weight[self._coarse].ravel()
        total = chance.sum()
        if total == 0:
            return None
        steps = np.cumsum(chance)
        best, least = None, 0.42
        for cell in np.searchsorted(steps, self.rng.uniform(0, total, _TRIES), side="right"):
            row, column = divmod(int(min(cell, chance.size - 1)), self._coarse.shape[1])
            hangs = always_hangs or STUFF[self._coarse[row, column]].name in AIRY
            x, y = column * 6 + 3.0, row * 6 + 3.0
            if hangs:
                y += tall / 2
            x = float(np.clip(x, wide * 0.42, self.width - wide * 0.42))
            y = float(np.clip(y, tall * 0.94, self.height - 2))
            hidden = self._overlap(np.array([x - wide / 2, y - tall, x + wide / 2, y]))
            if hidden < least and self._fits(x, y, wide, tall, hangs, grounds):
                best, least = (x, y, hangs), hidden
            if least < 0.06:
                break
        return best

    def _at(self, x: float, y: float) -> str:
        row, column = np.clip((y, x), 0, (self.height - 1, self.width - 1)).astype(int)
        return STUFF[self.scene.stuff[row, column]].name

    def _fits(
        self, x: float, y: float, wide: float, tall: float, hangs: bool, grounds: dict[str, float]
    ) -> bool:
        """Whether a thing with its foot at (x, y) has its ground there, not merely a horizon."""
        if not hangs:
            return self._at(x, y - 1) in grounds and self._at(x, y - 0.16 * tall) not in AIRY
        middle = y - tall / 2
        if self._at(x, middle) not in AIRY:
            ends = ((x - 0.4 * wide, middle), (x + 0.4 * wide, middle), (x, y), (x, y - tall))
            return all(self._at(*end) in grounds for end in ends)
        return self._at(x, middle) in grounds and self._at(x, y - 0.2 * tall) in (*grounds, *AIRY)

    def _overlap(self, box: NDArray[Any]) -> float:
        """The largest share that this box and an earlier one hide of each other."""
        worst = 0.0
        for other in self._boxes:
            low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
            shared = np.prod(np.maximum(high - low, 0))
            smaller = min(np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2]))
            worst = max(worst, float(shared / smaller))
        return worst

    def _ground(self, box: NDArray[Any], hangs: bool, grounds: dict[str, float]) -> str | None:
        x0, x1 = (int(np.clip(v, 0, self.width - 1)) for v in (box[0], box[2]))
        if hangs:
            y0, y1 = (int(np.clip(v, 0, self.height - 1)) for v in (box[1], box[3]))
        else:
            span = (box[3] - box[1]) * 0.06
            y0, y1 = (
                int(np.clip(v, 0, self.height - 1)) for v in (box[3] - span, box[3] + span / 2)
            )
        inside = self.scene.stuff[y0 : y1 + 1, x0 : x1 + 1]
        counts = np.bincount(inside.ravel(), minlength=len(STUFF))
        first = int(counts.argmax())
        name = STUFF[first].name
        if counts[first] < 0.85 * inside.size or name not in grounds:
            return None
        return name

    def ordered(self) -> list[Placed]:
        """Far things first."""
        return sorted(self.placed, key=lambda placed: placed.depth)
