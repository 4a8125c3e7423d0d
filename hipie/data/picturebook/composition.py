"""Composition of a page from a scene and things, with its annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .classes import STUFF, THING_BY_NAME
from .expressions import write_expressions
from .page import Page, Part, mask_box
from .placing import (
    PlacedThing,
    Placer,
    ThingPredicate,
    ThingSpec,
    complete_spec,
    sample_scene_name,
)
from .scenes import Scene, make_scene
from .segment import Segment

_COUNT_PROBABILITIES = (0.05, 0.08, 0.12, 0.16, 0.17, 0.14, 0.11, 0.08, 0.05, 0.04)
_MIN_VISIBLE_SIDE = 12
_MIN_VISIBLE_FRACTION = 0.35
_MIN_STUFF_AREA = 60
_ATTEMPTS = 60


def draw_page(
    rng: np.random.Generator,
    split: str,
    index: int,
    required_things: Sequence[ThingSpec] = (),
    is_forbidden: ThingPredicate | None = None,
) -> Page:
    """Draw a page with all required things, at least one thing, and no forbidden ones.

    Args:
        rng: generator of the page.
        split: "train", "val" or "unseen".
        index: number of the page.
        required_things: specifications, each of which some visible thing matches.
        is_forbidden: returns whether a thing that is not required must not appear.

    Raises:
        RuntimeError: if no page with all required things was found.
    """
    for _ in range(_ATTEMPTS):
        scene, placed = _compose_scene(rng, split, required_things, is_forbidden)
        placed, owner = _visible(scene, placed)
        shown = [item.spec for item in placed]
        if shown and all(
            any(spec.matches(drawn_spec) for drawn_spec in shown) for spec in required_things
        ):
            return _assemble(rng, scene, placed, owner, split, index)
    raise RuntimeError(f"no page could be drawn with all of {', '.join(map(str, required_things))}")


def _compose_scene(
    rng: np.random.Generator,
    split: str,
    required_things: Sequence[ThingSpec],
    is_forbidden: ThingPredicate | None,
) -> tuple[Scene, list[PlacedThing]]:
    shorter_side = int(320 + 128 * rng.uniform() ** 2)
    longer_side = min(640, int(shorter_side * rng.uniform(1.0, 1.5)))
    width, height = (
        (longer_side, shorter_side) if rng.random() < 0.7 else (shorter_side, longer_side)
    )
    scene = make_scene(
        rng, sample_scene_name(rng, [w.name for w in required_things if w.name]), width, height
    )
    placer = Placer(rng, scene)
    count = max(
        len(required_things), 1 + int(rng.choice(len(_COUNT_PROBABILITIES), p=_COUNT_PROBABILITIES))
    )
    specs = list(required_things) + [ThingSpec()] * (count - len(required_things))
    for number, spec in enumerate(specs):
        required = number < len(required_things)
        if not required and placer.placed and rng.random() < 0.33:
            spec = ThingSpec(placer.placed[rng.integers(len(placer.placed))].spec.name)
        thing_spec = complete_spec(
            rng, spec, placer.kinds, split, None if required else is_forbidden
        )
        if thing_spec is not None:
            placer.place(thing_spec)
    return scene, placer.far_to_near()


def _assemble(
    rng: np.random.Generator,
    scene: Scene,
    placed: list[PlacedThing],
    owner: NDArray[Any],
    split: str,
    index: int,
) -> Page:
    canvas = scene.canvas
    part_map = np.zeros(owner.shape, np.int32)
    bases, total = [], 0
    for item in placed:
        _shadow(canvas, item)
        _compose(canvas, part_map, item, total)
        bases.append(total)
        total += len(item.sprite.parts)
    panoptic, segments = _segments(scene, placed, owner)
    things = [segment for segment in segments if segment.kind == "thing"]
    image = _finish(rng, scene, canvas)
    return Page(
        index=index,
        split=split,
        scene=scene.name,
        image=image,
        panoptic=panoptic,
        part_map=part_map,
        segments=tuple(segments),
        parts=_parts(placed, bases, part_map),
        expressions=write_expressions(rng, things, split),
    )


def _window(
    item: PlacedThing, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the slices of the page and of the sprite where the two overlap."""
    height, width = item.sprite.labels.shape
    y0, x0 = max(item.top, 0), max(item.left, 0)
    y1, x1 = min(item.top + height, shape[0]), min(item.left + width, shape[1])
    page = (slice(y0, max(y0, y1)), slice(x0, max(x0, x1)))
    sprite = (
        slice(y0 - item.top, max(y0, y1) - item.top),
        slice(x0 - item.left, max(x0, x1) - item.left),
    )
    return page, sprite


def _visible(scene: Scene, placed: list[PlacedThing]) -> tuple[list[PlacedThing], NDArray[Any]]:
    """Drop things that are mostly hidden, the most hidden first; return the rest and an id map."""
    while True:
        owner = np.zeros(scene.stuff.shape, np.int32)
        for number, item in enumerate(placed, 1):
            page, inside = _window(item, owner.shape)
            owner[page][item.sprite.labels[inside] > 0] = number
        worst, shown = None, 1.0
        for number, item in enumerate(placed, 1):
            page, _ = _window(item, owner.shape)
            mask = owner[page] == number
            share = mask.sum() / max(1, (item.sprite.labels > 0).sum())
            height, width = mask.any(1).sum(), mask.any(0).sum()
            if share < _MIN_VISIBLE_FRACTION or min(height, width) < _MIN_VISIBLE_SIDE:
                worst, shown = (number, share) if worst is None or share < shown else (worst, shown)
        if worst is None:
            return placed, owner
        placed = [item for number, item in enumerate(placed, 1) if number != worst]


def _shadow(canvas: NDArray[Any], item: PlacedThing) -> None:
    """Draw a soft elliptic shadow under a thing that stands on its ground."""
    if item.floating:
        return
    width = int(item.height * THING_BY_NAME[item.spec.name].aspect * 1.15)
    height = max(4, width // 6)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    shade = 1 - 0.36 * np.clip(1.25 * (1 - x * x - y * y), 0, 1)
    foot = (item.left + item.sprite.foot[0], item.top + item.sprite.foot[1])
    top, left = foot[1] - height // 2, foot[0] - width // 2
    page = canvas[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    first, start = max(-top, 0), max(-left, 0)
    page *= shade[first : first + page.shape[0], start : start + page.shape[1], None]


def _compose(canvas: NDArray[Any], part_map: NDArray[Any], item: PlacedThing, base: int) -> None:
    page, inside = _window(item, part_map.shape)
    alpha = item.sprite.alpha[inside][..., None]
    canvas[page] = canvas[page] * (1 - alpha) + item.sprite.colours[inside]
    labels = item.sprite.labels[inside]
    has_parts = bool(THING_BY_NAME[item.spec.name].parts)
    target = part_map[page]
    target[labels > 0] = base + labels[labels > 0] if has_parts else 0


def _segments(
    scene: Scene, placed: list[PlacedThing], owner: NDArray[Any]
) -> tuple[NDArray[Any], list[Segment]]:
    panoptic = owner.copy()
    segments = []
    for number, item in enumerate(placed, 1):
        mask = owner == number
        spec = item.spec
        segments.append(
            Segment(
                number, spec.name, "thing", mask_box(mask), int(mask.sum()), spec.colour, spec.size,
                spec.pattern, item.ground, item.height,
            )
        )  # fmt: skip
    free = owner == 0
    for number, stuff in enumerate(STUFF):
        mask = free & (scene.stuff == number)
        area = int(mask.sum())
        if area < _MIN_STUFF_AREA:
            continue
        identity = len(segments) + 1
        panoptic[mask] = identity
        segments.append(Segment(identity, stuff.name, "stuff", mask_box(mask), area))
    return panoptic, segments


def _parts(placed: list[PlacedThing], bases: list[int], part_map: NDArray[Any]) -> tuple[Part, ...]:
    parts = []
    for thing_id, (item, base) in enumerate(zip(placed, bases, strict=True), 1):
        thing = THING_BY_NAME[item.spec.name]
        if not thing.parts:
            continue
        page, _ = _window(item, part_map.shape)
        local = part_map[page]
        for number, (name, parent) in enumerate(item.sprite.parts):
            inner = [
                k for k, (_, part_parent) in enumerate(item.sprite.parts) if part_parent == number
            ]
            ids = [base + k + 1 for k in (number, *inner)]
            inside = np.isin(local, ids)
            if not inside.any():
                continue
            mask = np.zeros(part_map.shape, bool)
            mask[page] = inside
            parts.append(
                Part(
                    ids[0], thing_id, thing.phrase(name), 1 if parent < 0 else 2,
                    None if parent < 0 else base + parent + 1, mask,
                )
            )  # fmt: skip
    return tuple(parts)


def _finish(rng: np.random.Generator, scene: Scene, canvas: NDArray[Any]) -> NDArray[Any]:
    """Apply the scene's tint, vignetting and low-frequency noise; return uint8 RGB."""
    height, width = scene.stuff.shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2
    light = 1.0 - 0.05 * (x + y)
    grain = rng.integers(-5, 6, (height // 2 + 1, width // 2 + 1), dtype=np.int8).astype(np.float32)
    grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
    shaded = canvas * (light[..., None] * scene.tint) + grain[..., None]
    return np.clip(shaded + 0.5, 0, 255).astype(np.uint8)
