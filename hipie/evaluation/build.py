"""The evaluator that a data set asks for."""

from __future__ import annotations

import os

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    SemSegEvaluator,
)
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image

from hipie.evaluation.class_agnostic_recall import ClassAgnosticRecall
from hipie.evaluation.coco_evaluation import CheckedCOCOEvaluator, PanopticInstancesEvaluator
from hipie.evaluation.cosaliency_evaluation import CoSaliencyEvaluator
from hipie.evaluation.generalized_referring_evaluation import GeneralizedReferringEvaluator
from hipie.evaluation.group_evaluation import GroupReferringEvaluator
from hipie.evaluation.part_evaluation import PartEvaluator
from hipie.evaluation.part_pq_evaluation import PartPQEvaluator
from hipie.evaluation.referring_evaluation import ReferringEvaluator
from hipie.evaluation.refzom_evaluation import RefZOMEvaluator

OWN = {
    "cosaliency": CoSaliencyEvaluator,
    "grefer": GeneralizedReferringEvaluator,
    "group": GroupReferringEvaluator,
    "part_pq": PartPQEvaluator,
    "parts": PartEvaluator,
    "refer": ReferringEvaluator,
    "refzom": RefZOMEvaluator,
    "unseen": ClassAgnosticRecall,
}
DETECTRON2S = ("coco", "coco_panoptic_seg", "sem_seg")


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """The evaluator for a registered data set, by its metadata's `evaluator_type`.

    An architecture that answers in a form of its own has `evaluator_of(cfg, name)`, which comes
    first, and may return None for data sets that it leaves to the others.

    "coco": box and mask AP. "coco_panoptic_seg": those, PQ and mIoU, as far as
    `MODEL.HIPIE.TEST.{INSTANCE,SEMANTIC,PANOPTIC}_ON` ask for. "sem_seg": mIoU. The others are
    evaluators of this package (`OWN`); the metadata's `result_name` renames their results, and
    `also_at` has expressions judged at a second size.

    Args:
        cfg: reads MODEL.HIPIE.TEST and TEST.FASTER_COCO_EVAL.
        dataset_name: a name in the catalogs.
        output_folder: where predictions are written; None = nowhere.

    Raises:
        ValueError: if the data set has no type, or one that is not known, or a package is missing.
    """
    own = _architectures_own(cfg, dataset_name)
    if own is not None:
        return own
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type")
    if output_folder is not None:
        os.makedirs(output_folder, exist_ok=True)
    options = {key: metadata.get(key) for key in ("result_name", "also_at") if metadata.get(key)}
    if kind in OWN:
        return OWN[kind](dataset_name, **options)
    if kind == "coco":
        return CheckedCOCOEvaluator(dataset_name, output_folder, faster=cfg.TEST.FASTER_COCO_EVAL)
    if kind == "sem_seg":
        return _semantic(dataset_name, output_folder)
    if kind != "coco_panoptic_seg":
        raise ValueError(
            f'the data set {dataset_name} has the evaluator_type "{kind}"; known are '
            f"{', '.join(sorted([*OWN, *DETECTRON2S]))}"
        )
    DatasetCatalog.get(dataset_name)  # Pages of the picture book may have to be drawn first.
    asked = cfg.MODEL.HIPIE.TEST
    parts = []
    if asked.INSTANCE_ON:
        faster = cfg.TEST.FASTER_COCO_EVAL
        parts.append(PanopticInstancesEvaluator(dataset_name, output_folder, faster=faster))
    if asked.SEMANTIC_ON:
        parts.append(_semantic(dataset_name, output_folder))
    if asked.PANOPTIC_ON:
        parts.append(COCOPanopticEvaluator(dataset_name, output_folder))
    return DatasetEvaluators(parts)


def _architectures_own(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator | None:
    known = cfg.MODEL.META_ARCHITECTURE
    architecture = META_ARCH_REGISTRY.get(known) if known in META_ARCH_REGISTRY else None
    own = getattr(architecture, "evaluator_of", None)
    return own(cfg, dataset_name) if own else None


def _semantic(dataset_name: str, output_folder: str | None) -> SemSegEvaluator:
    return SemSegEvaluator(
        dataset_name, output_dir=output_folder, sem_seg_loading_fn=_read_semantic
    )


def _read_semantic(path: str, dtype: type = int) -> np.ndarray:
    """A label map; Detectron2's own reader forbids the copy that NumPy 2 has to make."""
    with Image.open(path) as image:
        return np.array(image).astype(dtype)
