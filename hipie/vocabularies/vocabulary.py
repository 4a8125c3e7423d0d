"""Vocabularies: ordered lists of thing, stuff and part classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hipie.errors import InputError, describe

KINDS = ("thing", "stuff", "part")
Name = str | Sequence[str]
Names = str | Iterable[Name]
Parts = Mapping[str, "Names | Mapping[str, Names]"]


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


def parse_names(text: str) -> list[tuple[str, ...]]:
    """Parse class names separated by ";", each with its synonyms after ",".

    >>> parse_names("car; dog, puppy")
    [('car',), ('dog', 'puppy')]
    """
    entries = [tuple(name.strip() for name in entry.split(",")) for entry in text.split(";")]
    return [tuple(name for name in entry if name) for entry in entries if any(entry)]


def parse_parts(text: str) -> dict[str, list[str]]:
    """Parse part names by whole, as in "car: wheel, window; dog: head".

    Raises:
        VocabularyError: for an entry without a colon, or with several.
    """
    parts: dict[str, list[str]] = {}
    for entry in filter(None, (entry.strip() for entry in text.split(";"))):
        whole, colon, names = entry.partition(":")
        part_names = [name.strip() for name in names.split(",") if name.strip()]
        if not colon or not whole.strip() or not part_names:
            raise VocabularyError(f'parts "{entry}": write them as "whole: part, part"')
        if ":" in names:
            raise VocabularyError(
                f'parts "{entry}" have more than one colon; write them as "whole: part, part", '
                'and parts of a part after ";", as in "car: wheel; car wheel: rim"'
            )
        parts.setdefault(whole.strip(), []).extend(part_names)
    return parts


def read_names(names: Names | None, what: str = "class names") -> list[Name]:
    """Read class names in any form that callers give, once.

    Args:
        names: an iterable of names, each a text or a sequence of a name and its synonyms; or one
            text, read as on the command line: one name, or several with ";" between them. A set
            is sorted; None is no name.
        what: the argument, for messages.

    Raises:
        VocabularyError: for a text whose comma may separate classes or synonyms, a mapping, bytes,
            and whatever is not iterable.
    """
    if names is None:
        return []
    if isinstance(names, str):
        if "," in names and ";" not in names:
            classes = [name.strip() for name in names.split(",")]
            raise VocabularyError(
                f'{what} "{names}" are several classes or one with synonyms: pass {classes} or '
                f"[{tuple(classes)}]"
            )
        return [entry[0] if len(entry) == 1 else entry for entry in parse_names(names)]
    if isinstance(names, Mapping | bytes | bytearray) or not isinstance(names, Iterable):
        raise VocabularyError(f"{what} must be a list of strings, not {describe(names)}")
    return sorted(names, key=str) if isinstance(names, set | frozenset) else list(names)


def read_parts(parts: Parts | str | None) -> dict[str, Any]:
    """Read the parts of wholes in any form that callers give, once.

    Args:
        parts: a mapping as for `Vocabulary.from_names`, or a text as on the command line.

    Returns:
        Lists of names, or mappings of such for parts of parts, by whole. A text in place of a list
        is split at "," and ";".

    Raises:
        VocabularyError: naming the whole, if it is something else.
    """
    if parts is None:
        return {}
    if isinstance(parts, str):
        return dict(parse_parts(parts))
    if not isinstance(parts, Mapping):
        raise VocabularyError(
            f'parts must be a dict such as {{"car": ["wheel"]}}, not {describe(parts)}'
        )
    read: dict[str, Any] = {}
    for whole, names in parts.items():
        if not isinstance(whole, str):
            raise VocabularyError(f"the name of a whole must be a string, not {describe(whole)}")
        if isinstance(names, Mapping):
            read[whole] = read_parts(names)
        elif isinstance(names, str):
            read[whole] = [name.strip() for name in re.split("[,;]", names) if name.strip()]
        else:
            read[whole] = read_names(names, f'the parts of "{whole}"')
    return read


def name_key(name: str) -> str:
    """Return what two names have in common that text encoders do not tell apart by case."""
    return name.strip().lower()


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
            raise VocabularyError(f"a class name must be a string, not {describe(self.name)}")
        if self.kind not in KINDS:
            raise VocabularyError(
                f'class "{self.name}": kind "{self.kind}" is none of {", ".join(KINDS)}'
            )
        if not any(character.isalnum() for character in clean_class_name(self.name)):
            raise VocabularyError(
                f'class name "{self.name}" has no letter or digit outside brackets'
            )
        object.__setattr__(self, "synonyms", tuple(self.synonyms))
        for synonym in self.synonyms:
            if not isinstance(synonym, str):
                raise VocabularyError(
                    f'a synonym of "{self.name}" must be a string, not {describe(synonym)}'
                )
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
            raise VocabularyError("a vocabulary needs at least one class name").on_command_line(
                "name at least one class with --things, --stuff or --parts"
            )
        entries: dict[str, VocabularyClass] = {}
        for entry in self.classes:
            other = entries.setdefault(name_key(entry.name), entry)
            if other is not entry:
                raise VocabularyError(_duplicate(other, entry))

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
        things: Names = (),
        stuff: Names = (),
        parts: Parts | str | None = None,
    ) -> Vocabulary:
        """Build a vocabulary of things, then stuff, then parts.

        Args:
            things: class names; a tuple or list is a name followed by its synonyms, and the class's
                `synonyms` then contain all of them. One text is read as by `read_names`.
            stuff: likewise.
            parts: names of parts by the name of their whole, which is not itself added. The class
                name joins both ("dog" and "tail" give "dog tail"). Parts of parts are given as a
                mapping, `{"person": {"head": ["eye"], "arm": []}}`, or by the part's name,
                `{"person": ["head"], "person head": ["eye"]}`; their class name joins the root and
                the part ("person eye"), and `whole` is "person head".

        Raises:
            VocabularyError: if there is no class, or a name occurs twice or has no letter or digit.
        """
        classes = [_named(name, "thing") for name in read_names(things, "things")]
        classes += [_named(name, "stuff") for name in read_names(stuff, "stuff")]
        return cls((*classes, *_part_classes(read_parts(parts))))

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
    parts = read_parts(parts)
    part_names = {name_key(part.name) for part in _part_classes(parts)}
    return tuple(whole for whole in parts if name_key(whole) not in part_names)


def _part_classes(parts: Parts) -> list[VocabularyClass]:
    """One class for each part; parts of parts follow those of their whole."""
    classes: list[VocabularyClass] = []
    # Name and root of the parts so far, which may be wholes of others in any case.
    known: dict[str, tuple[str, str]] = {}
    pending = list(parts.items())
    for whole, names in pending:
        whole, root = known.get(name_key(whole), (whole, whole))
        for name in names:
            part = replace(_named(name, "part", root), whole=whole)
            classes.append(part)
            known[name_key(part.name)] = part.name, root
            nested = (
                names.get(name) if isinstance(names, Mapping) and isinstance(name, str) else None
            )
            if nested:
                pending.append((part.name, nested))
    return classes


def _duplicate(first: VocabularyClass, second: VocabularyClass) -> str:
    """Message about two classes whose names are the same but for their case."""
    message = f'class name "{second.name}" occurs twice in the vocabulary'
    if first.name != second.name:
        message += f': as "{first.name}", and case makes no difference'
    elif first.kind != second.kind:
        message += f": as {first.kind} and as {second.kind}"
    return message


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
    if whole is not None and isinstance(first, str) and any(map(str.isalnum, first)):
        first = f"{whole} {first}"
        synonyms = [f"{whole} {s}" if isinstance(s, str) else s for s in synonyms]
    return VocabularyClass(first, kind, (first, *synonyms) if synonyms else (), whole)
