"""Referring expressions made from instance annotations: class, position, size and colour.

Every expression is checked against all annotated objects of its image: it is kept only if it is
clearly true of one object and clearly false of all others, or clearly false of all objects.
Positions and sizes that are close, colours that are mixed, and classes with crowds are left out.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from detectron2.data.catalog import Metadata
from numpy.typing import NDArray

from hipie.data.broken_images import READING_RULES
from hipie.data.dataset_mappers.annotations import decode_mask
from hipie.data.image_io import read_record_image
from hipie.data.io.reading_rules import read_by
from hipie.errors import InputError

Record = dict[str, Any]

MIN_TARGET_SHARE = 0.005
"""Smallest share of the image of an object that is described."""
POSITION_MARGIN = 0.08
"""Least distance of two centres, as a share of the image's side, that makes an order."""
SIZE_RATIO = 1.5
"""Least ratio of two areas that makes one object larger."""
MAX_DUPLICATE_IOU = 0.6
"""Objects of a class that overlap more may be one object: the class is left out."""

CLEAR_SHARE = 0.55
"""Share of an object's pixels from which it has a colour ..."""
OTHER_SHARE = 0.25
"""... if no other colour has more than this."""
ABSENT_SHARE = 0.08
"""Largest share of a colour that an object does not have ..."""
NEAR_SHARE = 0.4
"""... together with the colours that may be called the same."""

COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray"
)  # fmt: skip
UNCLEAR = len(COLOURS)
NEAR_COLOURS = {
    "red": ("orange", "pink", "brown", "purple"),
    "orange": ("red", "yellow", "brown", "pink"),
    "yellow": ("orange", "green", "brown"),
    "green": ("yellow", "blue"),
    "blue": ("green", "purple", "gray"),
    "purple": ("blue", "pink", "red"),
    "pink": ("red", "purple", "orange"),
    "brown": ("red", "orange", "yellow", "black", "gray"),
    "black": ("gray", "brown"),
    "white": ("gray",),
    "gray": ("black", "white", "blue", "brown"),
}
# A colour of these would be that of their clothes or their skin.
PEOPLE = {"person", "people", "man", "woman", "boy", "girl", "child", "baby", "rider", "pedestrian"}
ORDINALS = ("first", "second", "third", "fourth")


@dataclass(frozen=True)
class AnnotatedObject:
    """Object of an image.

    Attributes:
        name: of its class.
        mask: [H, W] bool, not empty.
        box: x1, y1, x2, y2 of its pixels, pixels; x2 and y2 exclusive.
        center: mean x and y of its pixels, pixels.
        area: pixels.
        colours: share of its pixels of each of `COLOURS`.
    """

    name: str
    mask: NDArray[Any]
    box: tuple[int, int, int, int]
    center: tuple[float, float]
    area: int
    colours: tuple[float, ...]


@dataclass(frozen=True)
class Description:
    """What an expression says of an object, apart from its class.

    Attributes:
        kind: "class", "position", "size" or "colour".
        texts: equivalent expressions.
        key: "x" or "y" and the rank from the start (from the end if negative, -1 the last) of a
            position; "largest" or "smallest"; the name of a colour.
        count: number of objects of the class that the expression implies; 0 = any.
    """

    kind: str
    texts: tuple[str, ...]
    key: tuple[str, int] = ("", 0)
    count: int = 0


def pixel_colours(image: NDArray[Any]) -> NDArray[Any]:
    """Return the basic colour of every pixel: positions in `COLOURS`, `UNCLEAR` between two.

    Args:
        image: uint8 RGB [H, W, 3].

    Returns:
        uint8 [H, W].
    """
    hue, saturation, value = cv2.split(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV))
    degrees = hue.astype(np.int32) * 2
    # Name, first and last degree of the hue, and the colour's name where it is dark.
    hues = (
        ("red", 346, 360, "red"), ("red", 0, 12, "brown"), ("orange", 18, 40, "brown"),
        ("yellow", 46, 66, "brown"), ("green", 76, 165, "green"), ("blue", 180, 250, "blue"),
        ("purple", 260, 290, "purple"), ("pink", 300, 340, "purple"),
    )  # fmt: skip
    colours = np.full(hue.shape, UNCLEAR, np.uint8)
    vivid = (saturation >= 70) & (value >= 60)
    for name, first, last, dark in hues:
        inside = vivid & (degrees >= first) & (degrees <= last)
        colours[inside & (value >= 150)] = COLOURS.index(name)
        colours[inside & (value < 130)] = COLOURS.index(dark)
    pale = saturation < 40
    colours[pale & (value >= 200)] = COLOURS.index("white")
    colours[pale & (value >= 90) & (value < 180)] = COLOURS.index("gray")
    colours[value < 45] = COLOURS.index("black")
    return colours


def read_objects(
    record: Record, names: Sequence[str], image: NDArray[Any]
) -> tuple[list[AnnotatedObject], dict[str, NDArray[Any]]]:
    """Return the objects of a record, and the masks of the classes of which it has crowds.

    An object without a pixel counts as a crowd: it is there, and nobody can say where.

    Args:
        record: Detectron2's, with `annotations`.
        names: class names by `category_id`.
        image: uint8 RGB [H, W, 3], of the record.
    """
    height, width = image.shape[:2]
    colours = pixel_colours(image)
    objects: list[AnnotatedObject] = []
    crowds: dict[str, NDArray[Any]] = {}
    for annotation in record["annotations"]:
        name = names[annotation["category_id"]]
        mask = decode_mask(annotation["segmentation"], height, width).astype(bool)
        if annotation.get("iscrowd") or not mask.any():
            crowds[name] = mask | crowds.get(name, np.zeros_like(mask))
            continue
        rows, columns = np.nonzero(mask)
        counts = np.bincount(colours[mask], minlength=UNCLEAR + 1)[:UNCLEAR]
        objects.append(
            AnnotatedObject(
                name,
                mask,
                (
                    int(columns.min()),
                    int(rows.min()),
                    int(columns.max()) + 1,
                    int(rows.max()) + 1,
                ),
                (float(columns.mean()), float(rows.mean())),
                len(rows),
                tuple((counts / len(rows)).tolist()),
            )
        )
    return objects, crowds


def descriptions(name: str, count: int) -> Iterator[Description]:
    """Iterate over what can be said of an object of a class.

    Args:
        name: of the class.
        count: number of its objects in the image.
    """
    yield Description("class", (f"the {name}",), count=1)
    for axis, sides in (("x", ("left", "right")), ("y", ("top", "bottom"))):
        for side, rank in zip(sides, (0, -1), strict=True):
            where = f"on the {side}" if axis == "x" else f"at the {side}"
            two = (f"the {name} {where}", f"the {side} {name}")
            yield Description("position", two, (axis, rank), 2)
            if count > 2:
                most = "bottommost" if side == "bottom" else f"{side}most"
                yield Description("position", (f"the {most} {name}",), (axis, rank))
    if count == 3:
        yield Description(
            "position", (f"the {name} in the middle", f"the middle {name}"), ("x", 1), 3
        )
    for rank in range(1, len(ORDINALS)):
        if count == 2 and rank == 1:
            continue  # true, and nobody would say it
        for side, position in (("left", rank), ("right", -1 - rank)):
            text = f"the {ORDINALS[rank]} {name} from the {side}"
            yield Description("position", (text,), ("x", position))
    yield Description("size", (f"the largest {name}", f"the biggest {name}"), ("largest", 0))
    yield Description("size", (f"the smallest {name}",), ("smallest", 0))
    if name.lower() not in PEOPLE:
        for colour in COLOURS:
            yield Description("colour", (f"the {colour} {name}",), (colour, 0))


def referents(
    description: Description, objects: Sequence[AnnotatedObject], size: tuple[int, int]
) -> list[int] | None:
    """Return the objects that a description is true of; None where that is not clear.

    Args:
        description: of an object of a class.
        objects: all objects of this class in the image.
        size: (height, width) of the image, pixels.
    """
    key, rank = description.key
    if description.kind == "class":
        return [0] if len(objects) == 1 else None
    if description.kind == "position":
        if description.count and len(objects) != description.count:
            return None
        return _by_position(objects, key, rank, size)
    if description.kind == "size":
        return _by_size(objects, key)
    has_colour = [_has_colour(each, key) for each in objects]
    if None in has_colour:
        return None
    return [index for index, value in enumerate(has_colour) if value]


def _by_position(
    objects: Sequence[AnnotatedObject], axis: str, rank: int, size: tuple[int, int]
) -> list[int] | None:
    count = len(objects)
    position = rank if rank >= 0 else count + rank
    if position in (-1, count) and count:
        return []  # one more than there are
    if not 0 <= position < count:
        return None
    if count < 2:
        return None
    side = 0 if axis == "x" else 1
    margin = POSITION_MARGIN * size[1 - side]
    order = sorted(range(count), key=lambda index: objects[index].center[side])
    target = objects[order[position]]

    def is_before(first: AnnotatedObject, second: AnnotatedObject) -> bool:
        edges = first.box[side] <= second.box[side] and first.box[side + 2] <= second.box[side + 2]
        return edges and second.center[side] - first.center[side] >= margin

    clear = all(is_before(objects[index], target) for index in order[:position])
    clear = clear and all(is_before(target, objects[index]) for index in order[position + 1 :])
    return [order[position]] if clear else None


def _by_size(objects: Sequence[AnnotatedObject], key: str) -> list[int] | None:
    if len(objects) < 2:
        return None
    order = sorted(range(len(objects)), key=lambda index: objects[index].area)
    target, smaller, larger = order[-1], order[-2], order[-1]
    if key == "smallest":
        target, smaller, larger = order[0], order[0], order[1]
    is_clear = objects[larger].area >= SIZE_RATIO * objects[smaller].area
    return [target] if is_clear else None


def _has_colour(each: AnnotatedObject, colour: str) -> bool | None:
    shares = dict(zip(COLOURS, each.colours, strict=True))
    share = shares.pop(colour)
    if share >= CLEAR_SHARE and max(shares.values()) <= OTHER_SHARE:
        return True
    near = share + sum(shares[other] for other in NEAR_COLOURS[colour])
    named = share + sum(shares.values())
    # Pixels between two colours may be called either.
    if share <= ABSENT_SHARE and near + (1 - named) <= NEAR_SHARE:
        return False
    return None


def describe_objects(
    objects: Sequence[AnnotatedObject],
    crowds: Collection[str],
    names: Sequence[str],
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    max_expressions: int,
    none_share: float,
) -> list[tuple[str, int | None]]:
    """Choose expressions of an image, of different kinds and objects where there are any.

    Args:
        objects: all objects of the image.
        crowds: classes of which the image has crowds; nothing is said of these.
        names: all classes that the data set annotates.
        size: (height, width) of the image, pixels.
        rng: for the choice.
        max_expressions: largest number.
        none_share: expected share of expressions that describe nothing; they are at most as many
            as the others.

    Returns:
        Pairs of an expression and the position of its object, None if it has none.
    """
    by_class: dict[str, list[int]] = defaultdict(list)
    for index, each in enumerate(objects):
        by_class[each.name].append(index)
    smallest = MIN_TARGET_SHARE * size[0] * size[1]
    true: dict[str, list[tuple[str, int | None]]] = defaultdict(list)
    false: dict[str, list[tuple[str, int | None]]] = defaultdict(list)
    for name, indices in by_class.items():
        members = [objects[index] for index in indices]
        if name in crowds or _has_duplicates(members):
            continue
        for description in descriptions(name, len(members)):
            matching = referents(description, members, size)
            text = description.texts[int(rng.integers(len(description.texts)))]
            if matching == []:
                false[description.kind].append((text, None))
            elif (
                matching is not None
                and len(matching) == 1
                and members[matching[0]].area >= smallest
            ):
                true[description.kind].append((text, indices[matching[0]]))
    absent = [name for name in names if name not in by_class and name not in crowds]
    false["class"] += [(f"the {name}", None) for name in absent]
    count_false = int(rng.binomial(max_expressions, none_share)) if none_share else 0
    chosen = _choose(true, max_expressions - count_false, rng)
    return chosen + _choose(false, min(count_false, len(chosen)), rng)


def _has_duplicates(objects: Sequence[AnnotatedObject]) -> bool:
    for number, first in enumerate(objects):
        for second in objects[:number]:
            intersection = np.count_nonzero(first.mask & second.mask)
            union = first.area + second.area - intersection
            if intersection > MAX_DUPLICATE_IOU * union:
                return True
    return False


def _choose(
    candidates: dict[str, list[tuple[str, int | None]]], count: int, rng: np.random.Generator
) -> list[tuple[str, int | None]]:
    """Choose expressions, one of every kind in turn, of objects that have the fewest so far."""
    shuffled = {
        kind: [values[i] for i in rng.permutation(len(values))]
        for kind, values in sorted(candidates.items())
        if values
    }
    kinds = [sorted(shuffled)[i] for i in rng.permutation(len(shuffled))]
    chosen: list[tuple[str, int | None]] = []
    uses: dict[int | None, int] = defaultdict(int)
    while len(chosen) < count and any(shuffled.values()):
        for kind in kinds:
            if shuffled[kind] and len(chosen) < count:
                best = min(shuffled[kind], key=lambda pair: uses[pair[1]])
                shuffled[kind].remove(best)
                uses[best[1]] += 1
                chosen.append(best)
    return chosen


def make_expressions(
    record: Record,
    metadata: Metadata,
    *,
    seed: int = 0,
    max_expressions: int = 6,
    none_share: float = 0.2,
) -> list[tuple[dict[str, Any], NDArray[Any] | None]]:
    """Make the expressions of an image of a data set of instances.

    They depend on the seed and on the name of the image only, not on other images.

    Args:
        record: with `annotations`, of all objects of the set's classes.
        metadata: with `thing_classes`.
        seed: of all random choices.
        max_expressions: largest number.
        none_share: expected share of expressions that describe nothing.

    Returns:
        Pairs of an entry of a refs list (without `image` and `mask`) and its mask, bool [H, W],
        None without target. Classes that no expression is about have an entry without sentences,
        so that the list says which classes the image shows.

    Raises:
        InputError: naming the image, if it cannot be read, or its classes are not annotated
            exhaustively (LVIS).
    """
    if "neg_category_ids" in record:
        raise InputError(
            f"{record['file_name']}: not all objects of this data set are annotated, so nobody can "
            "say what is true of one of them only"
        )
    names = list(metadata.thing_classes)
    with read_by(metadata.get(READING_RULES)):
        image = read_record_image(record)
    objects, crowds = read_objects(record, names, image)
    stem = str(record["file_name"]).replace("\\", "/").rpartition("/")[2]
    rng = np.random.default_rng([seed, zlib.crc32(stem.encode())])
    pairs = describe_objects(
        objects,
        crowds,
        names,
        (image.shape[0], image.shape[1]),
        rng,
        max_expressions=max_expressions,
        none_share=none_share,
    )
    expressions: dict[int, list[str]] = defaultdict(list)
    for text, index in pairs:
        if index is not None:
            expressions[index].append(text)
    entries: list[tuple[dict[str, Any], NDArray[Any] | None]] = [
        ({"class": objects[index].name, "sentences": texts}, objects[index].mask)
        for index, texts in sorted(expressions.items())
    ]
    described = {objects[index].name for index in expressions}
    for name in sorted(({each.name for each in objects} | crowds.keys()) - described):
        masks = [each.mask for each in objects if each.name == name]
        masks += [crowds[name]] if name in crowds else []
        entries.append(({"class": name, "sentences": []}, np.any(masks, axis=0)))
    without_target = [text for text, index in pairs if index is None]
    if without_target:
        entries.append(({"sentences": without_target}, None))
    return entries
