"""Data sets that a configuration describes in one line each: `DATASETS.SEMANTIC` and its relatives.

An entry is a list: the name of the data set, files and folders, further values, and at the end, if
there are any, a mapping of options.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from hipie.config.reading import FindBase, read_with_sources
from hipie.errors import InputError


@dataclass(frozen=True)
class EntryForm:
    """Form of the entries of a key.

    Attributes:
        fields: what the values of an entry are, the name first.
        paths: positions of files and folders.
        options: option -> whether it is a file or folder.
        optional: number of values at the end that may be missing.
    """

    fields: tuple[str, ...]
    paths: tuple[int, ...]
    options: dict[str, bool] = field(default_factory=dict)
    optional: int = 0

    def __str__(self) -> str:
        return f"[{', '.join(self.fields)}]"


_LABEL_MAPS = ("name", "folder of the images", "folder of the label maps", "file of class names")
_LABEL_MAP_OPTIONS = {"background": False, "label_suffix": False, "image_suffix": False}
ENTRY_FORMS = {
    "COCO_FORMAT": EntryForm(
        ("name", "instances JSON", "folder of the images"), (1, 2), {"whole": False}
    ),
    "COCO_PANOPTIC": EntryForm(
        ("name", "panoptic JSON", "folder of its PNGs", "folder of the images"),
        (1, 2, 3),
        {"semantic": True},
    ),
    "SEMANTIC": EntryForm(
        (*_LABEL_MAPS, "ignored value"), (1, 2, 3), _LABEL_MAP_OPTIONS, optional=1
    ),
    "PARTS": EntryForm(
        (*_LABEL_MAPS, "ignored value", "name of the whole"), (1, 2, 3), _LABEL_MAP_OPTIONS
    ),
    "REFERRING": EntryForm(
        ("name", "refs file", 'instances JSON or ""', "folder of the images"),
        (1, 2, 3),
        {"split": False, "evaluator": False},
    ),
    "GROUPS": EntryForm(
        ("name", "groups.json", "split", "folder"),
        (1, 3),
        {"negatives": False, "instances": True, "label_maps": True, "class_names": True},
    ),
}


def split_entry(key: str, entry: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the values and the options of an entry.

    Args:
        key: one of `ENTRY_FORMS`.
        entry: a value of the list `DATASETS.<key>`.

    Raises:
        InputError: naming the key and the entry, if it has another form.
    """
    form = ENTRY_FORMS[key]
    if isinstance(entry, str) or not isinstance(entry, Sequence):
        raise InputError(f"DATASETS.{key} has {entry!r}: it takes {form}")
    values, options = list(entry), {}
    if values and isinstance(values[-1], dict):
        options = dict(values.pop())
    texts = [values[i] for i in (0, *form.paths) if i < len(values)]
    required = len(form.fields) - form.optional
    if not required <= len(values) <= len(form.fields) or not all(
        isinstance(text, str) for text in texts
    ):
        raise InputError(f"DATASETS.{key} has {entry!r}: it takes {form}")
    unknown = sorted(set(options) - set(form.options))
    if unknown:
        known = ", ".join(form.options) or "none"
        raise InputError(
            f'DATASETS.{key}, "{values[0]}": there is no option "{unknown[0]}"; there are {known}'
        )
    return values, options


def resolve_paths(
    cfg: CfgNode, file: str | os.PathLike[str], find_base: FindBase | None = None
) -> None:
    """Replace paths of entries by those beside the configuration file that has the entry, in place.

    A path that exists relative to the folder of that file (the file itself, or the `_BASE_` that
    sets the key) becomes absolute. Others stay, and are relative to the working folder.

    Args:
        cfg: a configuration into which the file was merged.
        file: the file.
        find_base: see `read_with_bases`.
    """
    sources = read_with_sources(str(file), find_base)[1]
    for key, form in ENTRY_FORMS.items():
        entries = cfg.DATASETS.get(key)
        source = sources.get(f"DATASETS.{key}")
        if not entries or source is None:
            continue
        folder = Path(source).absolute().parent
        resolved = []
        for entry in entries:
            if isinstance(entry, str) or not isinstance(entry, Sequence):
                resolved.append(entry)
                continue
            values = list(entry)
            for position in form.paths:
                if position < len(values) and isinstance(values[position], str):
                    values[position] = _beside(folder, values[position])
            if values and isinstance(values[-1], dict):
                values[-1] = {
                    option: _beside(folder, value) if form.options.get(option) else value
                    for option, value in values[-1].items()
                }
            resolved.append(values)
        cfg.DATASETS[key] = resolved


def _beside(folder: Path, path: Any) -> Any:
    """Return the absolute form of a path that exists relative to a folder; else the path."""
    if not isinstance(path, str) or not path:
        return path
    expanded = os.path.expanduser(path)
    candidate = os.path.join(folder, expanded)
    return os.path.normpath(candidate) if os.path.exists(candidate) else expanded
