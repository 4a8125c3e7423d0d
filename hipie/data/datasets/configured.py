"""Registration of the data sets that a configuration describes in one line each."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode

from hipie.config.dataset_entries import ENTRY_FORMS, split_entry
from hipie.data.datasets.catalog import register_dataset
from hipie.data.datasets.coco_format import register_coco
from hipie.data.datasets.label_map_format import register_parts, register_semantic
from hipie.data.datasets.panoptic_format import register_coco_panoptic
from hipie.data.datasets.referring_format import register_groups, register_referring


def register_configured(cfg: CfgNode) -> None:
    """Register the entries of DATASETS.COCO_FORMAT and of the other keys of `ENTRY_FORMS`.

    Raises:
        InputError: naming the key and the entry, if it has another form.
        FileNotFoundError, DatasetError: of the file that names the classes.
    """
    for key in ENTRY_FORMS:
        for entry in cfg.DATASETS[key]:
            values, options = split_entry(key, entry)
            _REGISTER[key](values, options)


def _semantic(values: list[Any], options: dict[str, Any]) -> None:
    register_semantic(*values, **options)


def _parts(values: list[Any], options: dict[str, Any]) -> None:
    register_parts(*values, **options)


def _coco(values: list[Any], options: dict[str, Any]) -> None:
    register_coco(*values, **options)


def _panoptic(values: list[Any], options: dict[str, Any]) -> None:
    register_coco_panoptic(*values, sem_seg_root=options.get("semantic"))


def _referring(values: list[Any], options: dict[str, Any]) -> None:
    name, refs_file, _, image_root = values
    if os.path.isfile(refs_file):
        register_referring(*values, **options)
        return

    # The file may be made later (hipie data expressions): the entry is an error when it is used.
    def load() -> list[dict[str, Any]]:
        raise FileNotFoundError(
            f'{refs_file}, the refs of the data set "{name}" (DATASETS.REFERRING), does not exist'
        )

    register_dataset(
        name,
        load,
        task="referring",
        evaluator_type=options.get("evaluator") or "grefer",
        image_root=str(image_root),
        annotations_have_classes=True,
    )


def _groups(values: list[Any], options: dict[str, Any]) -> None:
    register_groups(*values, **options)


_REGISTER: dict[str, Callable[[list[Any], dict[str, Any]], None]] = {
    "COCO_FORMAT": _coco,
    "COCO_PANOPTIC": _panoptic,
    "SEMANTIC": _semantic,
    "PARTS": _parts,
    "REFERRING": _referring,
    "GROUPS": _groups,
}
