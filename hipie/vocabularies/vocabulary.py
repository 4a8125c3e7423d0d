"""Vocabularies: ordered lists of thing, stuff and part classes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hipie.errors import InputError

KINDS = ("thing", "stuff", "part")
Name = str | Sequence[str]
Parts = Mapping[str, "Iterable[Name] | Mapping[str, Iterable[Name]]"]


class VocabularyError(InputError):
    """An invalid vocabulary; the message names the class."""


def require_text(text: str, what: str) -> None:
    """Check that a text has only characters, and no bytes that could not be decoded.

    Python puts half characters (surrogates) where a command line is not in the locale's encoding.

    Raises:
        VocabularyError: with the text.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        shown = text.encode("utf-8", "replace").decode()
        raise VocabularyError(
            f'the {what} "{shown}" is not valid text; use a locale with UTF-8 (LC_ALL=C.UTF-8)'
        )


def clean_class_name(name: str) -> str:
    """Normalize a class name for captions.

    Text between the first "(" and the last ")" is removed, underscores become spaces, and double
    spaces become single ones, once. Case and hyphens stay.
    """
    first, last = name.find("("), name.rfind(")")
    if 0 <= first < last:
        name = name[:first] + name[last + 1 :]
    return name.replace("_", " ").replace("  ", " ")


@dataclass(frozen=True)
class VocabularyClass:
    """A class of a vocabulary.

    Attributes:
        name: prompt for the text encoder, commas included.
        kind: "thing", "stuff" or "part".
        synonyms: prompts for CLIP, which are used instead of the name.
        whole: for a part, the name of the class it belongs to; for a part of a part, the name of
            that part.

    Raises:
        VocabularyError: for an unknown kind, or a name without any letter or digit or that is not
            valid text.
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
        if not any(character.isalnum() for character in clean_class_name(self.name)):
            raise VocabularyError(
                f'class name "{self.name}" has no letter or digit outside brackets'
            )
        object.__setattr__(self, "synonyms", tuple(self.synonyms))
        for text in (self.name, *self.synonyms):
            require_text(text, "class name")

    @property
    def phrases(self) -> tuple[str, ...]:
        """Prompts for CLIP: the synonyms, or the name split at commas."""
        if self.synonyms:
            return self.synonyms
        parts = (part.strip() for part in clean_class_name(self.name).split(","))
        return tuple(part for part in parts if part)


@dataclass(frozen=True)
class Vocabulary:
    """An ordered list of classes; captions, score columns and `sem_seg` keep its order.

    Names are compared without regard to case, as text encoders do.

    Raises:
        VocabularyError: if there is no class, or a name occurs twice.
    """

    classes: tuple[VocabularyClass, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if not self.classes:
            raise VocabularyError("a vocabulary needs at least one class name")
        keys: set[str] = set()
        for entry in self.classes:
            key = entry.name.strip().lower()
            if key in keys:
                raise VocabularyError(f'class name "{entry.name}" occurs twice in the vocabulary')
            keys.add(key)

    def __len__(self) -> int:
        return len(self.classes)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.classes)

    def __getstate__(self) -> dict[str, Any]:
        # Cached properties are computed again: hashes of strings differ between processes.
        return {"classes": self.classes}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """K names."""
        return tuple(entry.name for entry in self.classes)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """K times "thing", "stuff" or "part"."""
        return tuple(entry.kind for entry in self.classes)

    @cached_property
    def is_thing(self) -> tuple[bool, ...]:
        """K flags, false for stuff and parts."""
        return tuple(entry.kind == "thing" for entry in self.classes)

    @cached_property
    def wholes(self) -> tuple[str, ...]:
        """Unique names that parts belong to, in order of appearance."""
        return tuple(dict.fromkeys(entry.whole for entry in self.classes if entry.whole))

    def prompts(self, excluded: Collection[str] = ()) -> frozenset[str]:
        """All CLIP prompts of the classes, except of classes with the excluded names."""
        return frozenset(
            phrase
            for entry in self.classes
            if entry.name not in excluded
            for phrase in entry.phrases
        )

    @classmethod
    def from_names(
        cls,
        things: Iterable[Name] = (),
        stuff: Iterable[Name] = (),
        parts: Parts | None = None,
    ) -> Vocabulary:
        """Build a vocabulary of things, then stuff, then parts.

        Args:
            things: class names; a tuple or list is a name followed by its synonyms, and the class's
                `synonyms` then contain all of them.
            stuff: likewise.
            parts: names of parts by the name of their whole, which is not itself added. The class
                name joins both ("dog" and "tail" give "dog tail"). Parts of parts are given as a
                mapping, `{"person": {"head": ["eye"], "arm": []}}`, or by the part's name,
                `{"person": ["head"], "person head": ["eye"]}`; their class name joins the root and
                the part ("person eye"), and `whole` is "person head".

        Raises:
            VocabularyError: if there is no class, or a name occurs twice or has no letter or digit.
        """
        for class_names in (things, stuff):
            if isinstance(class_names, str):
                raise VocabularyError(f'class names must be a list, not the string "{class_names}"')
        classes = [_named(name, "thing") for name in things]
        classes += [_named(name, "stuff") for name in stuff]
        return cls((*classes, *_part_classes(parts or {})))

    @classmethod
    def from_metadata(cls, meta: Any) -> Vocabulary:
        """Build the vocabulary of a Detectron2 data set, in the data set's order.

        The metadata's `vocabulary` is used if it has one. Otherwise its lists of names decide:

        * `thing_classes` alone are things, `stuff_classes` alone are stuff;
        * where one list contains the other (panoptic data sets whose contiguous ids run over both),
          the longer list gives the order. `thing_dataset_id_to_contiguous_id` identifies the
          things where both lists are the same;
        * otherwise things come first and stuff follows; a first stuff class called "things"
          (Detectron2's "separated" panoptic sets) is skipped;
        * `parts`, a mapping from a whole to its parts, comes last.

        Args:
            meta: a `detectron2.data.Metadata`.

        Raises:
            VocabularyError: if the metadata names no class, or a class twice.
        """
        vocabulary: Vocabulary | None = getattr(meta, "vocabulary", None)
        if vocabulary is not None:
            return vocabulary
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
            flags = _is_thing(order, things, stuff, meta)
            classes = [
                _named(name, "thing" if is_thing else "stuff")
                for name, is_thing in zip(order, flags, strict=True)
            ]
        else:
            if things and stuff and stuff[0] == "things":
                stuff = stuff[1:]
            classes = [_named(name, "thing") for name in things]
            classes += [_named(name, "stuff") for name in stuff]
        return cls((*classes, *_part_classes(parts or {})))


def root_wholes(parts: Parts) -> tuple[str, ...]:
    """Wholes of `parts` (as for `Vocabulary.from_names`) that are not themselves parts."""
    part_names = {part.name for part in _part_classes(parts)}
    return tuple(whole for whole in parts if whole not in part_names)


def _part_classes(parts: Parts) -> list[VocabularyClass]:
    """One class for each part; parts of parts follow those of their whole."""
    classes: list[VocabularyClass] = []
    roots: dict[str, str] = {}
    pending = list(parts.items())
    for whole, names in pending:
        if isinstance(names, str):
            raise VocabularyError(
                f'the parts of "{whole}" must be a list, not the string "{names}"'
            )
        root = roots.get(whole, whole)
        for name in names:
            part = replace(_named(name, "part", root), whole=whole)
            classes.append(part)
            roots[part.name] = root
            nested = (
                names.get(name) if isinstance(names, Mapping) and isinstance(name, str) else None
            )
            if nested:
                pending.append((part.name, nested))
    return classes


def _is_thing(
    order: Sequence[str], things: Sequence[str], stuff: Sequence[str], meta: Any
) -> list[bool]:
    """Thing flags of the names of `order`, where one list of names contains the other."""
    if set(things) != set(stuff):
        larger_is_stuff = len(stuff) > len(things)
        smaller = set(things) if larger_is_stuff else set(stuff)
        return [(name in smaller) == larger_is_stuff for name in order]
    ids = getattr(meta, "thing_dataset_id_to_contiguous_id", None)
    if ids is None:
        raise VocabularyError(
            f'data set "{getattr(meta, "name", "?")}" lists the same names as thing_classes and '
            "as stuff_classes, and has no thing_dataset_id_to_contiguous_id that identifies things"
        )
    thing_indices = set(ids.values())
    return [index in thing_indices for index in range(len(order))]


def _named(name: Name, kind: str, whole: str | None = None) -> VocabularyClass:
    """Class of a name or a (name, synonym, ...) sequence, prefixed by its whole if it has one."""
    names: Any = name
    first, *synonyms = list(names) or [""] if isinstance(names, list | tuple) else [names]
    if whole is not None and any(character.isalnum() for character in str(first)):
        first = f"{whole} {first}"
        synonyms = [f"{whole} {synonym}" for synonym in synonyms]
    return VocabularyClass(first, kind, (first, *synonyms) if synonyms else (), whole)
