"""Reference of the data sets that are registered in Detectron2's catalogs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from hipie.registration import register_all

# A vocabulary of more classes is given by its first names.
MAX_NAMES = 12
PLACES = ("json_file", "panoptic_json", "instances_json", "sem_seg_root", "image_root", "image_dir")


@dataclass(frozen=True)
class RegisteredDataSet:
    """A data set of the catalog.

    Attributes:
        name: in `DatasetCatalog`.
        task: of the mapper, "universal" if the metadata has none.
        evaluator: `evaluator_type` of the metadata; "" without one.
        kinds: number of classes of each kind, "80 things, 53 stuff"; "" if they are read from disk.
        names: its class names, in order.
        place: annotation file or folder; "" if the metadata has none.
        collection: "odinw", "seginw" or "".
        is_own: hipie or a project has registered it, not Detectron2.
    """

    name: str
    task: str
    evaluator: str
    kinds: str
    names: tuple[str, ...]
    place: str
    collection: str
    is_own: bool


def all_data_sets() -> list[RegisteredDataSet]:
    """Return every registered data set, in the order of registration."""
    register_all()
    return [_data_set(MetadataCatalog.get(name)) for name in DatasetCatalog.list()]


def _data_set(metadata: Metadata) -> RegisteredDataSet:
    values = metadata.as_dict()
    load = DatasetCatalog[metadata.name]
    is_own = not str(getattr(load, "__module__", "")).startswith("detectron2.")
    return RegisteredDataSet(
        metadata.name,
        values.get("task", "universal"),
        values.get("evaluator_type") or "",
        *_classes(values),
        _place(values),
        values.get("collection", ""),
        is_own,
    )


def _classes(values: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    vocabulary = values.get("vocabulary")
    if vocabulary is not None:
        counts = dict.fromkeys(("thing", "stuff", "part"), 0)
        for each in vocabulary.classes:
            counts[each.kind] += 1
        names = tuple(each.name for each in vocabulary.classes)
    else:
        things = list(values.get("thing_classes") or [])
        stuff = [name for name in values.get("stuff_classes") or [] if name not in things]
        counts = {"thing": len(things), "stuff": len(stuff), "part": 0}
        names = (*things, *stuff)
    plural = {"thing": "things", "stuff": "stuff", "part": "parts"}
    shown = [f"{count} {plural[kind]}" for kind, count in counts.items() if count]
    return ", ".join(shown), names


def _place(values: dict[str, Any]) -> str:
    """Return where the annotations are, below the root of the data sets."""
    root = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    for key in PLACES:
        place = values.get(key)
        if place:
            inside = os.path.abspath(str(place)).startswith(os.path.abspath(root) + os.sep)
            return f"datasets/{os.path.relpath(place, root)}" if inside else os.path.basename(place)
    return ""


def table(data_sets: Sequence[RegisteredDataSet]) -> str:
    """Return a table with a row for each data set."""
    rows = ["| name | task | evaluator | classes | annotations |", "|---|---|---|---|---|"]
    for each in data_sets:
        place = f"`{each.place}`" if each.place else ""
        evaluator = f"`{each.evaluator}`" if each.evaluator else ""
        rows.append(f"| `{each.name}` | {each.task} | {evaluator} | {each.kinds} | {place} |")
    return "\n".join(rows) + "\n"


def class_lists(data_sets: Sequence[RegisteredDataSet]) -> Iterator[str]:
    """Yield a paragraph for every distinct list of class names: the sets and the first names."""
    by_names: dict[tuple[str, ...], list[str]] = {}
    for each in data_sets:
        if each.names:
            by_names.setdefault(each.names, []).append(each.name)
    for names, members in by_names.items():
        shown = ", ".join(name.replace("|", "/") for name in names[:MAX_NAMES])
        rest = f", and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        yield f"{', '.join(f'`{name}`' for name in members)}\n:   {_plain(shown)}{rest}\n"


def _plain(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", r"\*").replace("_", r"\_").replace("[", r"\[")


def pages() -> dict[str, str]:
    """Return the pages of the reference: Markdown by path below `reference/`."""
    data_sets = all_data_sets()
    own = [each for each in data_sets if each.is_own and not each.collection]
    collections = [each for each in data_sets if each.collection]
    other = [each for each in data_sets if not each.is_own]
    return {
        "data_sets.md": (
            "# Data sets\n\nNames for `DATASETS.TRAIN` and `DATASETS.TEST`. They are registered "
            "whether their files exist or not; [datasets/README.md](../datasets/README.md) has the "
            "folders, and [the programs](preparation.md) that prepare them. Your own need no code: "
            "[Your own data](../your_own_data.md). ODinW and SegInW are on "
            "[a page of their own](data_set_collections.md).\n\n"
            "## Of hipie and its projects\n\n"
            f"{table(own)}\n### Class names\n\n{chr(10).join(class_lists(own))}\n"
            f"## Of Detectron2\n\n{table(other)}"
        ),
        "data_set_collections.md": (
            "# Data sets of ODinW and SegInW\n\nODinW has few-shot splits beside its full ones: "
            "`_SHOTS_SEED` at the end of a name is the number of examples a class and the seed of "
            f"their choice.\n\n{table(collections)}"
        ),
    }
