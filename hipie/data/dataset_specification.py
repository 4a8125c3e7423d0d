"""Data sets as texts of a command line, `NAME=instances.json:images`, whose kind is recognised."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hipie.config.dataset_entries import ENTRY_FORMS
from hipie.data.datasets.annotation_kinds import EXPRESSIONS, GROUPS, INSTANCES, PANOPTIC, kind_of
from hipie.data.datasets.refcoco import read_refs
from hipie.data.io.json_file import read_json
from hipie.errors import InputError, printable
from hipie.vocabularies.vocabulary import name_key

# Key of DATASETS -> its kind and how such a set is written, for the help and for messages.
FORMS = {
    "COCO_FORMAT": ("instances in COCO's format", "NAME=instances.json:images"),
    "COCO_PANOPTIC": ("COCO panoptic", "NAME=panoptic.json:maps:images"),
    "SEMANTIC": ("label maps", "NAME=images:maps:classes.txt"),
    "PARTS": ("label maps of parts", "NAME=images:maps:classes.txt:whole=face"),
    "REFERRING": ("referring expressions", "NAME=refs.json:instances.json:images"),
    "GROUPS": ("groups of images", "NAME=groups.json:folder:split=train"),
}
_KEYS = {
    INSTANCES: "COCO_FORMAT",
    PANOPTIC: "COCO_PANOPTIC",
    EXPRESSIONS: "REFERRING",
    GROUPS: "GROUPS",
}
DEFAULT_IGNORED = 255


@dataclass(frozen=True)
class DatasetSpecification:
    """A data set that a command line names or describes.

    Attributes:
        name: in Detectron2's catalogs.
        key: of `DATASETS` that takes it, such as "SEMANTIC"; "" for a set that is registered.
        entry: the value of that key.
    """

    name: str
    key: str = ""
    entry: tuple[Any, ...] = ()


def parse_dataset(text: str, split: str) -> DatasetSpecification:
    r"""Parse a data set of a command line.

    `NAME=FILE:FOLDER:...`, see `FORMS`, with options of the entry (`whole=car`, `background=void`)
    and `ignore=VALUE` of label maps in any place behind the name. Files and folders may contain
    colons, as `C:\shelf\train.json` does, where they exist. Refs with masks of their own are
    `NAME=refs.json:images`. A text without "=" is the name of a registered data set.

    Args:
        text: the argument.
        split: of groups without the option `split`.

    Raises:
        InputError: naming what is missing, unknown or of another form.
    """
    name, equals, rest = text.partition("=")
    name = name.strip()
    if not equals:
        return DatasetSpecification(_require_name(text, name))
    _require_name(text, name)
    paths, options = _split_paths(rest)
    if not paths:
        raise InputError(f'"{printable(text)}" has no files: {_all_forms()}')
    for path in paths:
        if not os.path.exists(path):
            raise InputError(f'the data set "{name}": there is no file or folder {printable(path)}')
    key = _recognise(name, paths[0], options)
    values = _entry_values(name, key, paths, options, split)
    unknown = sorted(set(options) - set(ENTRY_FORMS[key].options))
    if unknown:
        known = ", ".join(ENTRY_FORMS[key].options)
        raise InputError(
            f'the data set "{name}": {FORMS[key][0]} have no option "{printable(unknown[0])}"; '
            f"there are {known}"
        )
    is_path = ENTRY_FORMS[key].options
    given = {k: os.path.abspath(value) if is_path[k] else value for k, value in options.items()}
    numbered = {k: _whole_number(name, k, v) if k == "negatives" else v for k, v in given.items()}
    entry = [name, *values, *([numbered] if numbered else [])]
    return DatasetSpecification(name, key, tuple(entry))


def forms_text(indent: str = "  ") -> str:
    """Return one line for each kind of data set."""
    width = max(len(form) for _, form in FORMS.values())
    return "\n".join(f"{indent}{form:{width}}  {kind}" for kind, form in FORMS.values())


def _all_forms() -> str:
    return "write " + ", ".join(form for _, form in FORMS.values())


def _require_name(text: str, name: str) -> str:
    if not name or "/" in name or "\\" in name:
        raise InputError(
            f'"{printable(text)}" has no name of a data set before "=", without "/" in it: '
            f"{_all_forms()}"
        )
    return name


def _split_paths(text: str) -> tuple[list[str], dict[str, str]]:
    """Split at colons into paths and options; a path that exists may contain colons."""
    known = {option for form in ENTRY_FORMS.values() for option in form.options}
    known |= {"whole", "split", "ignore"}
    pieces = text.split(":")
    paths: list[str] = []
    options: dict[str, str] = {}
    position = 0
    while position < len(pieces):
        option, equals, value = pieces[position].partition("=")
        if equals and option in known:
            count, value = _longest_value(pieces, position, value)
            options[option] = value
        else:
            count, path = _longest_path(pieces, position)
            if path:
                paths.append(path)
        position += count
    return paths, options


def _longest_path(pieces: Sequence[str], start: int) -> tuple[int, str]:
    """Return the number of pieces of the next path, and the path with `~` replaced."""
    drive = re.fullmatch("[A-Za-z]", pieces[start]) and start + 1 < len(pieces)
    first = 2 if drive and pieces[start + 1][:1] in ("\\", "/") else 1
    for end in (start + 1, *range(start + 2, len(pieces) + 1)):
        path = os.path.expanduser(":".join(pieces[start:end]))
        if path and os.path.exists(path):
            return end - start, path
    return first, os.path.expanduser(":".join(pieces[start : start + first]))


def _longest_value(pieces: Sequence[str], start: int, value: str) -> tuple[int, str]:
    """Return the number of pieces of an option, whose value may be a path with colons."""
    if os.path.exists(value):
        return 1, value
    for end in range(start + 2, len(pieces) + 1):
        joined = ":".join([value, *pieces[start + 1 : end]])
        if os.path.exists(joined):
            return end - start, joined
    return 1, value


def _recognise(name: str, path: str, options: dict[str, str]) -> str:
    """Return the key of DATASETS that takes a data set, by its first file or folder."""
    if os.path.isdir(path):
        return "PARTS" if "whole" in options else "SEMANTIC"
    if not path.lower().endswith(".json"):
        read_refs(path)  # a pickle of refs; others are an error
        return "REFERRING"
    kind = kind_of(read_json(path))
    if kind not in _KEYS:
        described = f"{kind}, which no model learns" if kind else "a JSON file of another kind"
        raise InputError(f'the data set "{name}": {printable(path)} is {described}; {_all_forms()}')
    return _KEYS[kind]


def _entry_values(
    name: str, key: str, paths: Sequence[str], options: dict[str, str], split: str
) -> list[Any]:
    """Return the values of an entry after the name; options that are values are taken out.

    Raises:
        InputError: for another number or order of files and folders.
    """
    kind, form = FORMS[key]
    expected = re.split("[=:]", form)[1:]
    expected = [part for part in expected if part not in ("whole", "face", "split", "train")]
    is_list = key == "REFERRING" and len(paths) == 2
    if is_list:
        form, expected = "NAME=refs.json:images", ["refs.json", "images"]
    are_files = ["." in part for part in expected]
    if len(paths) != len(expected) or [os.path.isfile(path) for path in paths] != are_files:
        raise InputError(
            f'the data set "{name}": {printable(paths[0])} is the beginning of {kind}, which are '
            f"written {form}"
        )
    absolute = [os.path.abspath(path) for path in paths]
    if key in ("SEMANTIC", "PARTS"):
        ignored = _whole_number(name, "ignore", options.pop("ignore", str(DEFAULT_IGNORED)))
        return [*absolute, ignored, *([options.pop("whole")] if key == "PARTS" else [])]
    if key == "GROUPS":
        return [absolute[0], options.pop("split", split), absolute[1]]
    return [absolute[0], "", absolute[1]] if is_list else absolute


def _whole_number(name: str, option: str, value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise InputError(
            f'the data set "{name}": {option} has to be a whole number, not "{printable(value)}"'
        ) from error


def require_common_class(names: Sequence[str], others: Sequence[str]) -> None:
    """Check that the data sets of an evaluation have a class of those of the training.

    Sets of expressions have no classes and are not checked.

    Args:
        names: registered training sets.
        others: registered test sets.

    Raises:
        InputError: naming the sets and some of their classes.
    """
    trained = list(_class_names(names))
    for other in others:
        evaluated = list(_class_names([other]))
        common = {name_key(one) for one in trained} & {name_key(one) for one in evaluated}
        if trained and evaluated and not common:
            raise InputError(
                f'the data set "{other}" has no class in common with {", ".join(names)}: '
                f"{_listed(evaluated)} and {_listed(trained)}"
            )


def _class_names(names: Sequence[str]) -> Iterator[str]:
    from detectron2.data import MetadataCatalog

    from hipie.data.annotation_view import background_of, dataset_vocabulary

    for name in names:
        metadata = MetadataCatalog.get(name)
        vocabulary = dataset_vocabulary(metadata)
        background = background_of(metadata)
        for index, entry in enumerate(vocabulary.names if vocabulary else ()):
            if index != background:
                yield entry


def _listed(names: Sequence[str], count: int = 3) -> str:
    shown = ", ".join(f'"{printable(name)}"' for name in names[:count])
    return f"{shown}, ..." if len(names) > count else shown
