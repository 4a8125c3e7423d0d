"""Registration of data sets with questions.

- `reason_seg_{train,val,test}`: `reason_seg/ReasonSeg/<split>`, below the root of all data sets,
  and `reason_seg/ReasonSeg/explanatory/train.json`
- `picturebook_{train,val}_reason`: questions about pages of the picture book;
  `picturebook_val_reason_held_out`: the same in wordings that are not in the training split
"""

from __future__ import annotations

from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog

from hipie.data.datasets.catalog import register_dataset
from hipie.data.io.paths import datasets_root
from hipie_reasoning.data.picturebook_questions import add_questions
from hipie_reasoning.data.reason_seg import load_reason_seg

TASK = "reasoning"


def register_reasoning_datasets() -> None:
    """Register the data sets; no file is read before one is used."""
    for split in ("train", "val", "test"):
        load = partial(_load_reason_seg, split)
        register_dataset(f"reason_seg_{split}", load, task=TASK, evaluator_type=TASK)
    for name, split, held_out in (
        ("picturebook_train_reason", "train", False),
        ("picturebook_val_reason", "val", False),
        ("picturebook_val_reason_held_out", "val", True),
    ):
        load = partial(_load_picturebook, split, held_out)
        result = "reasoning_held_out" if held_out else TASK
        register_dataset(name, load, task=TASK, evaluator_type=TASK, result_name=result)


def _load_reason_seg(split: str) -> list[dict[str, Any]]:
    root = datasets_root() / "reason_seg" / "ReasonSeg"
    explanations = root / "explanatory" / "train.json" if split == "train" else None
    return load_reason_seg(root / split, explanations, first_only=split != "train")


def _load_picturebook(split: str, held_out: bool) -> list[dict[str, Any]]:
    records = DatasetCatalog.get(f"picturebook_{split}_panoptic")
    return add_questions(records, held_out=held_out)
