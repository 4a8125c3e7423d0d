"""The classes that a picture is asked for, in an order that every result keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("thing", "stuff", "part")
Name = str | Sequence[str]


@dataclass(frozen=True)
class VocabularyClass:
    """One class.

    Attributes:
        name: what the text encoder reads, literally; commas stay.
        kind: "thing" (counted one by one), "stuff" (not counted) or "part" (of a whole).
        synonyms: other names, for CLIP.
        whole: for a part, the name of the class it belongs to.
    """

    name: str
    kind: str
    synonyms: tuple[str, ...] = ()
    whole: str | None = None


class Vocabulary:
    """An ordered list of classes: the order of the caption, of scores and of `sem_seg`.

    Args:
        classes: at least one, with names that differ.

    Raises:
        ValueError: for no classes, two of one name, a name without a letter or digit, or a kind
            that does not exist; the message names it.
    """

    def __init__(self, classes: Sequence[VocabularyClass]) -> None:
        self.classes = tuple(classes)
        if not self.classes:
            raise ValueError("the vocabulary is empty: name at least one class")
        seen: set[str] = set()
        for entry in self.classes:
            if not any(letter.isalnum() for letter in entry.name):
                raise ValueError(f'the class name "{entry.name}" has no letter and no digit')
            if entry.kind not in KINDS:
                raise ValueError(
                    f'class "{entry.name}": unknown kind "{entry.kind}"; kinds are {KINDS}'
                )
            if entry.name in seen:
                raise ValueError(f'the class name "{entry.name}" occurs twice in the vocabulary')
            seen.add(entry.name)

    def __len__(self) -> int:
        return len(self.classes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.classes == other.classes

    def __hash__(self) -> int:
        return hash(self.classes)

    def __repr__(self) -> str:
        return f"Vocabulary({', '.join(self.names[:5])}{', ...' if len(self) > 5 else ''})"

    @property
    def names(self) -> tuple[str, ...]:
        """K class names."""
        return tuple(entry.name for entry in self.classes)

    @property
    def kinds(self) -> tuple[str, ...]:
        """K kinds."""
        return tuple(entry.kind for entry in self.classes)

    @property
    def is_thing(self) -> tuple[bool, ...]:
        """K flags."""
        return tuple(entry.kind == "thing" for entry in self.classes)

    @classmethod
    def from_names(
        cls,
        things: Sequence[Name] = (),
        stuff: Sequence[Name] = (),
        parts: Mapping[str, Sequence[str]] | None = None,
    ) -> Vocabulary:
        """Things first, then stuff, then parts.

        Args:
            things, stuff: a string, or a tuple with the name first and its synonyms after, a class.
            parts: part names by whole; the class of {"dog": ["head"]} is called "dog head".
        """
        classes = [_entry(name, "thing") for name in things]
        classes += [_entry(name, "stuff") for name in stuff]
        for whole, names in (parts or {}).items():
            classes += [VocabularyClass(f"{whole} {part}", "part", whole=whole) for part in names]
        return cls(classes)

    @classmethod
    def from_metadata(cls, metadata: Any) -> Vocabulary:
        """The classes of a Detectron2 data set, in its order.

        Reads `vocabulary` where the metadata has one; else `stuff_classes`, which Detectron2's
        panoptic sets begin with the things; else `thing_classes`.

        Raises:
            ValueError: if there are none of these.
        """
        own = metadata.get("vocabulary")
        if own is not None:
            return own
        things = list(metadata.get("thing_classes") or ())
        stuff = [name for name in metadata.get("stuff_classes") or () if name != "things"]
        listed = stuff if set(things) <= set(stuff) else [*things, *stuff]
        if not listed:
            raise ValueError(
                f'data set "{metadata.get("name")}" has neither thing_classes nor stuff_classes'
            )
        named = set(things)
        return cls([VocabularyClass(n, "thing" if n in named else "stuff") for n in listed])


def _entry(name: Name, kind: str) -> VocabularyClass:
    first, *synonyms = [name] if isinstance(name, str) else list(name)
    return VocabularyClass(first, kind, tuple(synonyms))
