"""Composition of a page: scene, things, shadows, parts, segments and expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .classes import STUFF, THING_BY_NAME
from .expressions import write_expressions
from .page import Page, Part, mask_box
from .placing import Placed, Placer, Veto, Wish, choose_scene, complete
from .scenes import Scene, make_scene
from .segment import Segment

_COUNT_ODDS = (0.05, 0.08, 0.12, 0.16, 0.17, 0.14, 0.11, 0.08, 0.05, 0.04)
_LEAST_SIDE = 12
_LEAST_SHOWN = 0.35
_LEAST_STUFF = 60
_ATTEMPTS = 60


def draw_page(
    rng: np.random.Generator,
    split: str,
    index: int,
    wishes: Sequence[Wish] = (),
    veto: Veto | None = None,
) -> Page:
    """Draw a page that shows all wishes and at least one thing, and nothing that `veto` matches.

    Args:
        rng: generator of the page.
        split: "train", "val" or "unseen".
        index: number of the page.
        wishes: required things.
        veto: returns whether a thing is forbidden.

    Raises:
        RuntimeError: if the wishes cannot be shown together.
    """
    for _ in range(_ATTEMPTS):
        scene, placed = _compose_scene(rng, split, wishes, veto)
        placed, owner = _visible(scene, placed)
        shown = [item.wish for item in placed]
        if shown and all(any(wish.matches(made) for made in shown) for wish in wishes):
            return _assemble(rng, scene, placed, owner, split, index)
    raise RuntimeError(f"no page can show {', '.join(map(str, wishes))}")


def _compose_scene(
    rng: np.random.Generator, split: str, wishes: Sequence[Wish], veto: Veto | None
) -> tuple[Scene, list[Placed]]:
    short = int(320 + 128 * rng.uniform() ** 2)
    long = min(640, int(short * rng.uniform(1.0, 1.5)))
    width, height = (long, short) if rng.random() < 0.7 else (short, long)
    scene = make_scene(rng, choose_scene(rng, [w.name for w in wishes if w.name]), width, height)
    placer = Placer(rng, scene)
    count = max(len(wishes), 1 + int(rng.choice(len(_COUNT_ODDS), p=_COUNT_ODDS)))
    queue = list(wishes) + [Wish()] * (count - len(wishes))
    for number, wish in enumerate(queue):
        required = number < len(wishes)
        if not required and placer.placed and rng.random() < 0.33:
            wish = Wish(placer.placed[rng.integers(len(placer.placed))].wish.name)
        made = complete(rng, wish, placer.kinds, split, None if required else veto)
        if made is not None:
            placer.put(made)
    return scene, placer.ordered()


def _assemble(
    rng: np.random.Generator,
    scene: Scene,
    placed: list[Placed],
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
    item: Placed, shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the page and of the sprite where the two meet."""
    tall, wide = item.sprite.labels.shape
    y0, x0 = max(item.top, 0), max(item.left, 0)
    y1, x1 = min(item.top + tall, shape[0]), min(item.left + wide, shape[1])
    page = (slice(y0, max(y0, y1)), slice(x0, max(x0, x1)))
    sprite = (
        slice(y0 - item.top, max(y0, y1) - item.top),
        slice(x0 - item.left, max(x0, x1) - item.left),
    )
    return page, sprite


def _visible(scene: Scene, placed: list[Placed]) -> tuple[list[Placed], NDArray[Any]]:
    """Drop, from the most hidden on, things of which too little shows; who owns which pixel."""
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
            high, wide = mask.any(1).sum(), mask.any(0).sum()
            if share < _LEAST_SHOWN or min(high, wide) < _LEAST_SIDE:
                worst, shown = (number, share) if worst is None or share < shown else (worst, shown)
        if worst is None:
            return placed, owner
        placed = [item for number, item in enumerate(placed, 1) if number != worst]


def _shadow(canvas: NDArray[Any], item: Placed) -> None:
    """Darken the ground under a standing thing with a soft ellipse."""
    if item.hangs:
        return
    wide = int(item.height * THING_BY_NAME[item.wish.name].aspect * 1.15)
    tall = max(4, wide // 6)
    y = np.linspace(-1, 1, tall, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, wide, dtype=np.float32)[None]
    shade = 1 - 0.36 * np.clip(1.25 * (1 - x * x - y * y), 0, 1)
    foot = (item.left + item.sprite.foot[0], item.top + item.sprite.foot[1])
    top, left = foot[1] - tall // 2, foot[0] - wide // 2
    page = canvas[max(top, 0) : max(top + tall, 0), max(left, 0) : max(left + wide, 0)]
    first, start = max(-top, 0), max(-left, 0)
    page *= shade[first : first + page.shape[0], start : start + page.shape[1], None]


def _compose(canvas: NDArray[Any], part_map: NDArray[Any], item: Placed, base: int) -> None:
    page, inside = _window(item, part_map.shape)
    cover = item.sprite.cover[inside][..., None]
    canvas[page] = canvas[page] * (1 - cover) + item.sprite.colours[inside]
    labels = item.sprite.labels[inside]
    has_parts = bool(THING_BY_NAME[item.wish.name].parts)
    target = part_map[page]
    target[labels > 0] = base + labels[labels > 0] if has_parts else 0


def _segments(
    scene: Scene, placed: list[Placed], owner: NDArray[Any]
) -> tuple[NDArray[Any], list[Segment]]:
    panoptic = owner.copy()
    segments = []
    for number, item in enumerate(placed, 1):
        mask = owner == number
        wish = item.wish
        segments.append(
            Segment(
                number, wish.name, "thing", mask_box(mask), int(mask.sum()), wish.colour, wish.size,
                wish.pattern, item.ground, item.height,
            )
        )  # fmt: skip
    free = owner == 0
    for number, stuff in enumerate(STUFF):
        mask = free & (scene.stuff == number)
        area = int(mask.sum())
        if area < _LEAST_STUFF:
            continue
        identity = len(segments) + 1
        panoptic[mask] = identity
        segments.append(Segment(identity, stuff.name, "stuff", mask_box(mask), area))
    return panoptic, segments


def _parts(placed: list[Placed], bases: list[int], part_map: NDArray[Any]) -> tuple[Part, ...]:
    parts = []
    for thing_id, (item, base) in enumerate(zip(placed, bases, strict=True), 1):
        thing = THING_BY_NAME[item.wish.name]
        if not thing.parts:
            continue
        page, _ = _window(item, part_map.shape)
        local = part_map[page]
        for number, (name, parent) in enumerate(item.sprite.parts):
            inner = [k for k, (_, held_by) in enumerate(item.sprite.parts) if held_by == number]
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
    """Tint the page by the hour, darken its corners a little, and give it the grain of paper."""
    height, width = scene.stuff.shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] ** 2
    light = 1.0 - 0.05 * (x + y)
    grain = rng.integers(-5, 6, (height // 2 + 1, width // 2 + 1), dtype=np.int8).astype(np.float32)
    grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR)
    shaded = canvas * (light[..., None] * scene.tint) + grain[..., None]
    return np.clip(shaded + 0.5, 0, 255).astype(np.uint8)
