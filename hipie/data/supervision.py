"""What is annotated of the objects of a training set: `DATASETS.SUPERVISION`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from hipie.errors import InputError

MASKS, BOXES = "masks", "boxes"
KINDS = (MASKS, BOXES)
KEY = "DATASETS.SUPERVISION"
Record = dict[str, Any]


@dataclass(frozen=True)
class WeakLabels:
    """What the dataset mapper keeps of the annotations of a training set.

    Attributes:
        kind: one of `KINDS`.
    """

    kind: str = MASKS


def supervision_kinds(cfg: CfgNode) -> dict[str, str]:
    """Return the kind of every data set that `DATASETS.SUPERVISION` names.

    Raises:
        InputError: naming the entry, if it has another form, its set is not trained on or is named
            twice, or there is no such kind.
    """
    kinds: dict[str, str] = {}
    for entry in cfg.DATASETS.SUPERVISION:
        if isinstance(entry, str) or not isinstance(entry, Sequence) or len(entry) != 2:
            raise InputError(f"{KEY} has {entry!r}: it takes [data set, kind]")
        name, kind = entry
        if kind not in KINDS:
            raise InputError(
                f'{KEY} has the kind "{kind}" for {name}; there are {", ".join(KINDS)}'
            )
        if name not in cfg.DATASETS.TRAIN:
            raise InputError(f"{KEY} names {name}, which is not in DATASETS.TRAIN")
        if name in kinds:
            raise InputError(f"{KEY} names {name} twice")
        kinds[name] = kind
    return kinds


def weak_labels(cfg: CfgNode, dataset_name: str) -> WeakLabels | None:
    """Return what is kept of the annotations of a training set; None = everything.

    Raises:
        InputError: see `supervision_kinds`.
    """
    kind = supervision_kinds(cfg).get(dataset_name, MASKS)
    return None if kind == MASKS else WeakLabels(kind)


def require_annotations(dataset_name: str, kind: str, records: Sequence[Record]) -> None:
    """Check that the records of a set have what its kind of supervision takes.

    Args:
        dataset_name: the data set.
        kind: one of `KINDS`.
        records: its records.

    Raises:
        InputError: naming the data set and what is missing.
    """
    if kind != MASKS:
        return
    objects = [entry for record in records for entry in record.get("annotations") or ()]
    if objects and not any("segmentation" in entry for entry in objects):
        raise InputError(
            f"{KEY} says that {dataset_name} has masks, but none of its {len(objects)} annotations "
            'has a "segmentation"; its kind may be boxes'
        )
