"""What is annotated of the objects of a training set: `DATASETS.SUPERVISION`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from hipie import structures
from hipie.data.io.partial_annotations import POINT_COORDS
from hipie.data.io.partial_annotations import SCRIBBLES as SCRIBBLES_FIELD
from hipie.errors import InputError
from hipie.logs import get_logger
from hipie.structures import BOX, SCRIBBLE

logger = get_logger(__name__)

MASKS, BOXES, POINTS, SCRIBBLES, TAGS, NONE = (
    *("masks", "boxes", "points", "scribbles"),
    *("tags", "none"),
)
KINDS = (MASKS, BOXES, POINTS, SCRIBBLES, TAGS, NONE)
WEAK_KINDS = {BOX: BOXES, structures.POINTS: POINTS, SCRIBBLE: SCRIBBLES}
"""Kinds of sets by that of their objects, see `hipie.structures.Supervision`."""
KEY = "DATASETS.SUPERVISION"
Record = dict[str, Any]


@dataclass(frozen=True)
class WeakLabels:
    """What the dataset mapper keeps of the annotations of a training set.

    Attributes:
        kind: one of `KINDS`.
        num_points: derived points of an object.
        scribble_points: pixels of a scribble, and pixels beside the object, at most.
        seed: of what is derived from masks.
    """

    kind: str = MASKS
    num_points: int = 10
    scribble_points: int = 64
    seed: int = 0

    @property
    def has_objects(self) -> bool:
        """Whether objects are annotated one by one."""
        return self.kind not in (TAGS, NONE)


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
    if kind == MASKS:
        return None
    node = cfg.DATASETS.WEAK_LABELS
    for key in ("POINTS", "SCRIBBLE_PIXELS"):
        if node[key] < 1:
            raise InputError(f"DATASETS.WEAK_LABELS.{key} must be at least 1, not {node[key]}")
    return WeakLabels(kind, node.POINTS, node.SCRIBBLE_PIXELS, node.SEED)


def require_annotations(dataset_name: str, kind: str, records: Sequence[Record]) -> None:
    """Check that the records of a set have what its kind of supervision takes.

    A set without a kind whose objects have boxes only is a warning.

    Args:
        dataset_name: the data set.
        kind: one of `KINDS`, or "".
        records: its records.

    Raises:
        InputError: naming the data set and what is missing.
    """
    objects = [entry for record in records for entry in record.get("annotations") or ()]
    given = {POINTS: POINT_COORDS, SCRIBBLES: SCRIBBLES_FIELD}.get(kind)
    if given is not None:
        without = [entry for entry in objects if given not in entry and "segmentation" not in entry]
        if without:
            raise InputError(
                f"{KEY} says that {dataset_name} has {kind}, but {len(without)} of its "
                f'{len(objects)} annotations have neither "{given}" nor a "segmentation" to derive '
                "them from"
            )
    if kind not in (MASKS, "") or not objects or any("segmentation" in entry for entry in objects):
        return
    if kind == MASKS:
        raise InputError(
            f"{KEY} says that {dataset_name} has masks, but none of its {len(objects)} annotations "
            'has a "segmentation"; its kind may be boxes'
        )
    logger.warning(
        '%s: none of its %d annotations has a "segmentation", so that filled boxes are trained as '
        'masks; with ["%s", "boxes"] in %s they are trained as boxes.',
        dataset_name,
        len(objects),
        dataset_name,
        KEY,
    )
