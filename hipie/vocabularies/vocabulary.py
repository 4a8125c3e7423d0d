"""Which words may be asked of an image, and what each of them is: thing, stuff or part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hipie.vocabularies.normalization import clean_class_name

KINDS = ("thing", "stuff", "part")
Name = str | Sequence[str]
Parts = Mapping[str, "Iterable[Name] | Mapping[str, Iterable[Name]]"]


class VocabularyError(ValueError):
    """A vocabulary that cannot be used; the message names the class at fault."""


@dataclass(frozen=True)
class VocabularyClass:
    """One class.

    Attributes:
        name: what the text encoder reads, commas included.
        kind: "thing", "stuff" or "part".
        synonyms: names for encoders of whole phrases such as CLIP, which read them instead.
        whole: for a part, the name of what it belongs to; for a part of a part, that part's.

    Raises:
        VocabularyError: for an unknown kind, or a name without any letter or digit.
    """

    name: str
    kind: str
    synonyms: tuple[str, ...] = ()
    whole: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise VocabularyError(f"a class name must be a string, not {self.name!r}")
        if self.kind not in KINDS:
            raise VocabularyError(
                f'class "{self.name}": kind "{self.kind}" is none of {", ".join(KINDS)}'
            )
        if not any(letter.isalnum() for letter in clean_class_name(self.name)):
            raise VocabularyError(
                f'class name "{self.name}" has no letter or digit outside brackets'
            )
        object.__setattr__(self, "synonyms", tuple(self.synonyms))

    @property
    def phrases(self) -> tuple[str, ...]:
        """What encoders of whole phrases read: the synonyms, else the name, cut at commas."""
        if self.synonyms:
            return self.synonyms
        cut = (part.strip() for part in clean_class_name(self.name).split(","))
        return tuple(part for part in cut if part)


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of classes; captions, score columns and `sem_seg` keep its order.

    Names are compared without regard to case, as the text encoders read them.

    Raises:
        VocabularyError: if it is empty or a name stands in it twice.
    """

    classes: tuple[VocabularyClass, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if not self.classes:
            raise VocabularyError("a vocabulary needs at least one class name")
        seen: set[str] = set()
        for entry in self.classes:
            key = entry.name.strip().lower()
            if key in seen:
                raise VocabularyError(f'class name "{entry.name}" stands in the vocabulary twice')
            seen.add(key)

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """K names."""
        return tuple(entry.name for entry in self.classes)

    @property
    def kinds(self) -> tuple[str, ...]:
        """K times "thing", "stuff" or "part"."""
        return tuple(entry.kind for entry in self.classes)

    @property
    def is_thing(self) -> tuple[bool, ...]:
        """K truth values; stuff and parts are no things."""
        return tuple(entry.kind == "thing" for entry in self.classes)

    @property
    def wholes(self) -> tuple[str, ...]:
        """Names of what the parts belong to, each once, in order of appearance."""
        return tuple(dict.fromkeys(entry.whole for entry in self.classes if entry.whole))

    @classmethod
    def from_names(
        cls,
        things: Iterable[Name] = (),
        stuff: Iterable[Name] = (),
        parts: Parts | None = None,
    ) -> Vocabulary:
        """Things first, then stuff, then parts.

        Args:
            things, stuff: names; a tuple or list is a name and then its synonyms. The class's
                `synonyms` then hold them all.
            parts: names of parts by the name of their whole, which is not itself added. The class
                is called by both words ("dog", "tail" makes "dog tail"). Parts of parts come in a
                mapping, `{"person": {"head": ["eye"], "arm": []}}`, or by the part's name,
                `{"person": ["head"], "person head": ["eye"]}`; they are called by the whole's word
                and their own ("person eye"), and `whole` is "person head".

        Raises:
            VocabularyError: if there is nothing in it, a name is a duplicate or has no letters.
        """
        for given in (things, stuff):
            if isinstance(given, str):
                raise VocabularyError(f'class names must be a list, not the one string "{given}"')
        classes = [_named(name, "thing") for name in things]
        classes += [_named(name, "stuff") for name in stuff]
        return cls((*classes, *_part_classes(parts or {})))

    @classmethod
    def from_metadata(cls, meta: Any) -> Vocabulary:
        """The vocabulary of a Detectron2 data set, in the data set's own order.

        `meta` is a `detectron2.data.Metadata`. Its `vocabulary` is taken where it has one.
        Otherwise its lists of names decide:

        * `thing_classes` alone are things, `stuff_classes` alone are stuff;
        * where one list holds the other (panoptic data sets whose contiguous ids run over both),
          the longer list gives the order. `thing_dataset_id_to_contiguous_id` tells the things
          apart where both lists are the same;
        * otherwise things come first and stuff follows; a first stuff class called "things"
          (Detectron2's "separated" panoptic sets) is no class;
        * `parts`, a mapping from a whole to its parts, comes last.

        Raises:
            VocabularyError: if the metadata names no class at all, or one of them twice.
        """
        ready = getattr(meta, "vocabulary", None)
        if ready is not None:
            return ready
        things = list(getattr(meta, "thing_classes", None) or ())
        stuff = list(getattr(meta, "stuff_classes", None) or ())
        parts = getattr(meta, "parts", None)
        if not (things or stuff or parts):
            raise VocabularyError(
                f'data set "{getattr(meta, "name", "?")}" has neither thing_classes nor '
                "stuff_classes in its metadata"
            )
        if things and stuff and (set(things) <= set(stuff) or set(stuff) <= set(things)):
            order = stuff if len(stuff) >= len(things) else things
            found = _things_among(order, things, stuff, meta)
            classes = [
                _named(name, "thing" if is_thing else "stuff")
                for name, is_thing in zip(order, found, strict=True)
            ]
        else:
            if things and stuff and stuff[0] == "things":
                stuff = stuff[1:]
            classes = [_named(name, "thing") for name in things]
            classes += [_named(name, "stuff") for name in stuff]
        return cls((*classes, *_part_classes(parts or {})))


def root_wholes(parts: Parts) -> tuple[str, ...]:
    """The keys of `parts`, as for `Vocabulary.from_names`, that are not themselves parts."""
    named = {one.name for one in _part_classes(parts)}
    return tuple(whole for whole in parts if whole not in named)


def _part_classes(parts: Parts) -> list[VocabularyClass]:
    """One class a part; parts of parts after those of their whole."""
    found: list[VocabularyClass] = []
    roots: dict[str, str] = {}
    pending = list(parts.items())
    for whole, names in pending:
        if isinstance(names, str):
            raise VocabularyError(
                f'the parts of "{whole}" must be a list, not the one string "{names}"'
            )
        root = roots.get(whole, whole)
        for name in names:
            one = replace(_named(name, "part", root), whole=whole)
            found.append(one)
            roots[one.name] = root
            if isinstance(names, Mapping) and names[name]:
                pending.append((one.name, names[name]))
    return found


def _things_among(
    order: Sequence[str], things: Sequence[str], stuff: Sequence[str], meta: Any
) -> list[bool]:
    """Which names of `order` are things, where one list of names holds the other."""
    if set(things) != set(stuff):
        larger_is_stuff = len(stuff) > len(things)
        smaller = set(things) if larger_is_stuff else set(stuff)
        return [(name in smaller) == larger_is_stuff for name in order]
    ids = getattr(meta, "thing_dataset_id_to_contiguous_id", None)
    if ids is None:
        raise VocabularyError(
            f'data set "{getattr(meta, "name", "?")}" lists the same names as thing_classes and '
            "as stuff_classes, and has no thing_dataset_id_to_contiguous_id to tell them apart"
        )
    chosen = set(ids.values())
    return [i in chosen for i in range(len(order))]


def _named(name: Name, kind: str, whole: str | None = None) -> VocabularyClass:
    first, *synonyms = list(name) or [""] if isinstance(name, list | tuple) else [name]
    if whole is not None and any(letter.isalnum() for letter in str(first)):
        first = f"{whole} {first}"
        synonyms = [f"{whole} {synonym}" for synonym in synonyms]
    return VocabularyClass(first, kind, (first, *synonyms) if synonyms else (), whole)
