"""Classes and attributes of the picture book, and those that are held out of training.

Category ids are 1-based over `THINGS` then `STUFF`, the same in every file and every split.
Label maps of parts hold the 1-based index into `PARTS`; 0 is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 52, 48),
    "orange": (240, 138, 40),
    "yellow": (246, 208, 62),
    "green": (72, 158, 76),
    "blue": (58, 112, 200),
    "purple": (138, 78, 170),
    "white": (246, 244, 238),
    "black": (54, 54, 62),
}
SIZES: dict[str, float] = {"small": 0.66, "medium": 1.0, "large": 1.45}
PATTERNS: tuple[str, ...] = ("plain", "striped", "dotted")


@dataclass(frozen=True)
class PartClass:
    """Part class of a thing; `parent` is the part that contains it, None for the thing itself."""

    name: str
    parent: str | None = None

    @property
    def level(self) -> int:
        """Depth in the part hierarchy: 1 for a part of the thing, 2 for a part of a part."""
        return 1 if self.parent is None else 2


@dataclass(frozen=True)
class ThingClass:
    """Countable class: its names, proportions, parts and the stuff that it may be placed on.

    `height` is the height at medium size as a fraction of the page's shorter side; `aspect` is
    width over height; `grounds` are pairs (stuff that it may be placed on, sampling weight);
    `floating`: it is surrounded by its ground, as a fish is, and does not touch it at its foot.
    """

    name: str
    synonyms: tuple[str, ...]
    height: float
    aspect: float
    grounds: tuple[tuple[str, float], ...]
    parts: tuple[PartClass, ...] = ()
    plural: str = ""
    floating: bool = False

    @property
    def plural_name(self) -> str:
        """Plural of the name."""
        return self.plural or self.name + "s"

    def phrase(self, part: str) -> str:
        """Return the class name of a part, such as "car wheel"."""
        return f"{self.name} {part}"


@dataclass(frozen=True)
class StuffClass:
    """Uncountable class; `preposition` is used in expressions such as "in the sky"."""

    name: str
    synonyms: tuple[str, ...]
    preposition: str = "on"


def _grounds(**preferences: float) -> tuple[tuple[str, float], ...]:
    return tuple(preferences.items())


def _parts(*names: str, **nested: tuple[str, ...]) -> tuple[PartClass, ...]:
    parts = [PartClass(name) for name in names]
    parts += [PartClass(name, parent) for parent, inner in nested.items() for name in inner]
    return tuple(parts)


_LAND = _grounds(grass=1, road=0.5, sand=1, snow=1, pavement=1, floor=1, carpet=1)
_AIR = _grounds(sky=1, wall=1, mountain=0.3)
_WATER = _grounds(water=1)
_ROOTED = _grounds(grass=1, sand=1, snow=1, pavement=0.4)
_DRIVEN = _grounds(road=4, pavement=1, grass=0.4, sand=0.5, snow=0.5, floor=0.3, carpet=0.3)
_LEGGED = _parts("head", "torso", "leg", "tail")

THINGS: tuple[ThingClass, ...] = (
    ThingClass(
        "person",
        ("human", "child"),
        0.37,
        0.62,
        _LAND,
        _parts("head", "torso", "arm", "leg", head=("eye", "mouth")),
        "people",
    ),
    ThingClass("dog", ("puppy",), 0.24, 1.2, _LAND, _LEGGED),
    ThingClass("cat", ("kitten",), 0.26, 0.85, _LAND, _LEGGED),
    ThingClass(
        "bird",
        ("songbird",),
        0.17,
        1.3,
        _grounds(sky=1, grass=0.4, sand=0.5, snow=0.5, wall=0.3),
        _parts("head", "wing", "tail", "body"),
    ),
    ThingClass("fish", (), 0.16, 1.6, _WATER, _parts("tail", "fin", "body"), "fish", True),
    ThingClass("car", ("automobile",), 0.18, 1.85, _DRIVEN, _parts("wheel", "window", "body")),
    ThingClass("boat", ("sailboat",), 0.27, 1.0, _WATER, _parts("sail", "hull")),
    ThingClass(
        "house", ("cottage",), 0.31, 1.05, _ROOTED, _parts("roof", "wall", "door", "window")
    ),
    ThingClass("tree", (), 0.34, 0.72, _ROOTED, _parts("crown", "trunk")),
    ThingClass(
        "flower",
        ("blossom",),
        0.23,
        0.6,
        _grounds(grass=1, sand=0.4, snow=0.4, floor=0.4),
        _parts("bloom", "stem"),
    ),
    ThingClass("ball", (), 0.14, 1.0, _LAND),
    ThingClass("balloon", (), 0.24, 0.55, _AIR),
    ThingClass("kite", (), 0.24, 0.75, _grounds(sky=1, mountain=0.3, wall=0.3)),
    ThingClass("umbrella", ("parasol",), 0.24, 1.05, _LAND),
    ThingClass("chair", ("seat",), 0.25, 0.75, _LAND),
    ThingClass("cup", ("mug",), 0.15, 1.2, _LAND),
    ThingClass("horse", ("pony",), 0.32, 1.2, _ROOTED, _LEGGED),
    ThingClass("bus", ("coach",), 0.22, 1.85, _DRIVEN, _parts("wheel", "window", "body"), "buses"),
    ThingClass("teapot", ("tea kettle",), 0.17, 1.45, _LAND),
)
STUFF: tuple[StuffClass, ...] = (
    StuffClass("sky", (), "in"),
    StuffClass("mountain", ("hill",)),
    StuffClass("grass", ("lawn", "meadow")),
    StuffClass("road", ("street",)),
    StuffClass("water", ("sea", "lake"), "in"),
    StuffClass("sand", ("beach",)),
    StuffClass("snow", ()),
    StuffClass("pavement", ("bricks",)),
    StuffClass("wall", ("wallpaper",), "against"),
    StuffClass("floor", ("floorboards",)),
    StuffClass("carpet", ("rug",)),
)

UNSEEN_THINGS: frozenset[str] = frozenset({"horse", "bus", "teapot"})
"""Things drawn, and named, in the split `unseen` only."""

HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("purple", "dog"),
        ("red", "cat"),
        ("green", "car"),
        ("yellow", "house"),
        ("blue", "tree"),
        ("white", "boat"),
        ("orange", "person"),
        ("black", "umbrella"),
        ("striped", "bird"),
        ("striped", "house"),
        ("dotted", "car"),
        ("dotted", "cup"),
        ("striped", "ball"),
        ("dotted", "person"),
    }
)
"""(colour or pattern, thing) pairs drawn, and named, in the split `unseen` only."""

SPLITS: tuple[str, ...] = ("train", "val", "unseen")

THING_BY_NAME: dict[str, ThingClass] = {thing.name: thing for thing in THINGS}
STUFF_BY_NAME: dict[str, StuffClass] = {stuff.name: stuff for stuff in STUFF}
SEEN_THINGS: tuple[str, ...] = tuple(t.name for t in THINGS if t.name not in UNSEEN_THINGS)
CLASS_NAMES: tuple[str, ...] = (*(c.name for c in THINGS), *(c.name for c in STUFF))
CATEGORY_IDS: dict[str, int] = {name: number for number, name in enumerate(CLASS_NAMES, 1)}


@dataclass(frozen=True)
class PartPhrase:
    """Class of the parts vocabulary.

    `whole` is None for a class without parts; `parent` is the class name of the part that
    contains a part of level 2.
    """

    name: str
    whole: str | None
    part: str | None
    level: int
    parent: str | None
    kind: str


def _part_phrases() -> tuple[PartPhrase, ...]:
    rows: list[PartPhrase] = []
    for thing in THINGS:
        if not thing.parts:
            rows.append(PartPhrase(thing.name, None, None, 0, None, "thing"))
        for part in thing.parts:
            parent = None if part.parent is None else thing.phrase(part.parent)
            rows.append(
                PartPhrase(
                    thing.phrase(part.name), thing.name, part.name, part.level, parent, "part"
                )
            )
    rows += [PartPhrase(stuff.name, None, None, 0, None, "stuff") for stuff in STUFF]
    return tuple(rows)


PARTS: tuple[PartPhrase, ...] = _part_phrases()
PART_IDS: dict[str, int] = {row.name: number for number, row in enumerate(PARTS, 1)}


def held_out(thing: str, *attributes: str) -> bool:
    """Return whether a thing class, or its pair with an attribute, is held out of training."""
    return thing in UNSEEN_THINGS or any((a, thing) in HELD_OUT_PAIRS for a in attributes)
