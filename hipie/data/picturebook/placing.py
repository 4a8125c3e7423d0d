"""Sampling of things for a scene, and of their positions on it."""

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

BACKDROP_STUFF: frozenset[str] = frozenset({"sky", "mountain", "wall"})
"""Stuff in front of which things float; they do not stand on it."""
_NUM_SPOT_CANDIDATES = 14
_CLASS_WEIGHTS = {"fish": 3.0, "boat": 2.5, "car": 2.0, "house": 1.4, "tree": 1.4, "chair": 0.8}
"""Sampling weights of classes (default 1), to balance classes that few scenes have ground for."""


@dataclass(frozen=True)
class ThingSpec:
    """Required class and attributes of a thing; None = sampled."""

    name: str | None = None
    colour: str | None = None
    size: str | None = None
    pattern: str | None = None

    def matches(self, other: ThingSpec) -> bool:
        """Return whether the specification of a drawn thing satisfies this one."""
        pairs = (
            (self.name, other.name), (self.colour, other.colour),
            (self.size, other.size), (self.pattern, other.pattern),
        )  # fmt: skip
        return all(required is None or required == actual for required, actual in pairs)


@dataclass(frozen=True)
class CompleteThingSpec(ThingSpec):
    """Specification with class and all attributes."""

    name: str
    colour: str
    size: str
    pattern: str


ThingPredicate = Callable[[ThingSpec], bool]


@dataclass(frozen=True)
class PlacedThing:
    """Sprite at (left, top) of the page; later sprites occlude earlier ones."""

    spec: CompleteThingSpec
    sprite: Sprite
    left: int
    top: int
    ground: str | None
    height: float
    depth: float
    floating: bool


def complete_spec(
    rng: np.random.Generator,
    spec: ThingSpec,
    kinds: frozenset[str],
    split: str,
    is_forbidden: ThingPredicate | None = None,
) -> CompleteThingSpec | None:
    """Sample the open fields of a specification; None if no class fits the scene's stuff."""
    names = [
        thing.name
        for thing in THINGS
        if any(kind in kinds for kind, _ in thing.grounds)
        and (spec.name is None or thing.name == spec.name)
        and (
            spec.name is not None
            or thing.name not in UNSEEN_THINGS
            or (split == "unseen" and rng.random() < 0.5)
        )
    ]
    if not names:
        return None
    class_weights = np.array([_CLASS_WEIGHTS.get(name, 1.0) for name in names])
    for _ in range(24):
        name = names[rng.choice(len(names), p=class_weights / class_weights.sum())]
        sampled = CompleteThingSpec(
            name,
            spec.colour or str(rng.choice(list(COLOURS))),
            spec.size or str(rng.choice(list(SIZES), p=(0.3, 0.42, 0.28))),
            spec.pattern or str(rng.choice(PATTERNS, p=(0.5, 0.25, 0.25))),
        )
        if split != "unseen" and held_out(name, sampled.colour, sampled.pattern):
            continue
        if is_forbidden is None or not is_forbidden(sampled):
            return sampled
    return None


def sample_novel_spec(rng: np.random.Generator) -> ThingSpec:
    """Sample an unseen class, or a pair of class and attribute that is held out of training."""
    if rng.random() < 0.5:
        return ThingSpec(str(rng.choice(sorted(UNSEEN_THINGS))))
    pairs = sorted(HELD_OUT_PAIRS)
    attribute, name = pairs[rng.integers(len(pairs))]
    if attribute in COLOURS:
        return ThingSpec(name, colour=attribute)
    return ThingSpec(name, pattern=attribute)


def sample_scene_name(rng: np.random.Generator, names: Sequence[str]) -> str:
    """Sample a scene that has suitable ground for all of these thing classes."""
    layouts = []
    for name, (_, weight, kinds) in LAYOUTS.items():
        grounds = [{kind for kind, _ in THING_BY_NAME[thing].grounds} for thing in names]
        if all(ground & set(kinds) for ground in grounds):
            layouts.append((name, weight))
    if not layouts:
        layouts = [("lake", 1.0)]
    weights = np.array([weight for _, weight in layouts])
    return layouts[rng.choice(len(layouts), p=weights / weights.sum())][0]


class Placer:
    """Places things on a scene, one after another, with limited occlusion."""

    def __init__(self, rng: np.random.Generator, scene: Scene) -> None:
        self.rng, self.scene = rng, scene
        self.height, self.width = scene.stuff.shape
        self.unit = min(self.height, self.width)
        self.kinds = frozenset(STUFF[i].name for i in np.unique(scene.stuff))
        self.placed: list[PlacedThing] = []
        self._boxes: list[NDArray[Any]] = []
        self._coarse = scene.stuff[3::6, 3::6]

    def place(self, spec: CompleteThingSpec) -> bool:
        """Draw and place a thing; return False if no suitable position was sampled."""
        thing = THING_BY_NAME[spec.name]
        thing_height = thing.height * SIZES[spec.size] * self.rng.uniform(0.94, 1.06) * self.unit
        thing_width = thing_height * thing.aspect
        spot = self._sample_spot(dict(thing.grounds), thing_width, thing_height, thing.floating)
        if spot is None:
            return False
        x, foot, floating = spot
        tilt = self.rng.uniform(-0.16, 0.16) if floating else self.rng.uniform(-0.04, 0.04)
        pen = Pen(
            thing_height, thing.aspect, spec.colour, spec.pattern, self.rng,
            flip=bool(self.rng.random() < 0.5), tilt=tilt, line=1.25 * self.unit / 320,
        )  # fmt: skip
        DRAWINGS[spec.name](pen, self.rng)
        sprite = pen.to_sprite()
        box = np.array([x - thing_width / 2, foot - thing_height, x + thing_width / 2, foot])
        self._boxes.append(box)
        ground = self._ground_of(box, floating, dict(thing.grounds))
        depth = foot - (2 * self.height if floating else 0)
        left, top = round(x) - sprite.foot[0], round(foot) - sprite.foot[1]
        self.placed.append(
            PlacedThing(
                spec, sprite, left, top, ground, float(thing_height), float(depth), floating
            )
        )
        return True

    def _sample_spot(
        self,
        grounds: dict[str, float],
        thing_width: float,
        thing_height: float,
        always_floating: bool,
    ) -> tuple[float, float, bool] | None:
        weight = np.zeros(len(STUFF))
        for kind, preference in grounds.items():
            weight[INDEX[kind]] = preference
        cell_weights = weight[self._coarse].ravel()
        total = cell_weights.sum()
        if total == 0:
            return None
        cumulative = np.cumsum(cell_weights)
        best, least_overlap = None, 0.42
        for cell in np.searchsorted(
            cumulative, self.rng.uniform(0, total, _NUM_SPOT_CANDIDATES), side="right"
        ):
            row, column = divmod(int(min(cell, cell_weights.size - 1)), self._coarse.shape[1])
            floating = always_floating or STUFF[self._coarse[row, column]].name in BACKDROP_STUFF
            x, y = column * 6 + 3.0, row * 6 + 3.0
            if floating:
                y += thing_height / 2
            x = float(np.clip(x, thing_width * 0.42, self.width - thing_width * 0.42))
            y = float(np.clip(y, thing_height * 0.94, self.height - 2))
            overlap = self._overlap(
                np.array([x - thing_width / 2, y - thing_height, x + thing_width / 2, y])
            )
            if overlap < least_overlap and self._has_ground(
                x, y, thing_width, thing_height, floating, grounds
            ):
                best, least_overlap = (x, y, floating), overlap
            if least_overlap < 0.06:
                break
        return best

    def _stuff_at(self, x: float, y: float) -> str:
        row, column = np.clip((y, x), 0, (self.height - 1, self.width - 1)).astype(int)
        return STUFF[self.scene.stuff[row, column]].name

    def _has_ground(
        self,
        x: float,
        y: float,
        thing_width: float,
        thing_height: float,
        floating: bool,
        grounds: dict[str, float],
    ) -> bool:
        """Return whether a thing with its foot at (x, y) is on suitable ground."""
        if not floating:
            return (
                self._stuff_at(x, y - 1) in grounds
                and self._stuff_at(x, y - 0.16 * thing_height) not in BACKDROP_STUFF
            )
        middle = y - thing_height / 2
        if self._stuff_at(x, middle) not in BACKDROP_STUFF:
            ends = (
                (x - 0.4 * thing_width, middle),
                (x + 0.4 * thing_width, middle),
                (x, y),
                (x, y - thing_height),
            )
            return all(self._stuff_at(*end) in grounds for end in ends)
        return self._stuff_at(x, middle) in grounds and self._stuff_at(
            x, y - 0.2 * thing_height
        ) in (*grounds, *BACKDROP_STUFF)

    def _overlap(self, box: NDArray[Any]) -> float:
        """Compute the largest intersection over the smaller area with the boxes placed before."""
        worst = 0.0
        for other in self._boxes:
            low, high = np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])
            shared = np.prod(np.maximum(high - low, 0))
            smaller = min(np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2]))
            worst = max(worst, float(shared / smaller))
        return worst

    def _ground_of(
        self, box: NDArray[Any], floating: bool, grounds: dict[str, float]
    ) -> str | None:
        x0, x1 = (int(np.clip(v, 0, self.width - 1)) for v in (box[0], box[2]))
        if floating:
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

    def far_to_near(self) -> list[PlacedThing]:
        """Return the placed things, the farthest first."""
        return sorted(self.placed, key=lambda placed: placed.depth)
