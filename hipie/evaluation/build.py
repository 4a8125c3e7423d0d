"""Evaluators of registered data sets, built from a configuration."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    PascalVOCDetectionEvaluator,
)
from detectron2.utils.file_io import PathManager
from fvcore.common.registry import Registry

from hipie.data.broken_images import set_reading_rules
from hipie.data.held_out_classes import held_out_indices, vocabulary_of
from hipie.data.io.reading_rules import read_by, rules_of
from hipie.data.record_errors import record_errors
from hipie.data.record_list import RecordList, read_records
from hipie.errors import InputError, MissingFileError
from hipie.evaluation.class_agnostic_recall import ClassAgnosticRecall
from hipie.evaluation.coco_evaluation import (
    COCOInstanceEvaluator,
    PanopticInstanceEvaluator,
)
from hipie.evaluation.cosaliency_evaluation import CoSaliencyEvaluator
from hipie.evaluation.generalized_referring_evaluation import GeneralizedReferringEvaluator
from hipie.evaluation.group_evaluation import GroupReferringEvaluator
from hipie.evaluation.lvis_evaluation import MAX_DETECTIONS_PER_IMAGE, LVISInstanceEvaluator
from hipie.evaluation.panoptic_evaluation import PanopticEvaluator
from hipie.evaluation.part_evaluation import PartEvaluator
from hipie.evaluation.part_pq_evaluation import PartPQEvaluator
from hipie.evaluation.referring_evaluation import ReferringEvaluator
from hipie.evaluation.refzom_evaluation import RefZOMEvaluator
from hipie.evaluation.requests import RequestingEvaluators
from hipie.evaluation.semantic_evaluation import SemanticEvaluator
from hipie.logs import get_logger
from hipie.modeling.meta_arch.base import meta_architecture
from hipie.vocabularies.vocabulary import Vocabulary

CITYSCAPES = "cityscapesscripts"
PANOPTICAPI = "panopticapi-lite"
logger = get_logger(__name__)
EVALUATOR_REGISTRY = Registry("EVALUATOR")
EVALUATOR_REGISTRY.__doc__ = """
Registry of functions `(cfg, dataset_name, output_folder) -> DatasetEvaluator`.

A data set names its function by `evaluator_type` in its metadata. An architecture whose predictions
have a form of their own names another one; see `SegmentationModel.evaluator`. `output_folder` is
None where predictions are not written. The metadata's `result_name` renames the task in the
results, and with `resized_to` masks of expressions are compared a second time after resizing.
"""


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """Build the evaluator of a registered data set.

    Args:
        cfg: reads MODEL.META_ARCHITECTURE, MODEL.HIPIE.TEST and TEST.
        dataset_name: a name in Detectron2's catalogs.
        output_folder: where predictions are written; None = nowhere.

    Raises:
        ValueError: if the data set has no `evaluator_type`, or one that is not registered, or a
            package is missing.
    """
    architecture = meta_architecture(cfg)
    name = architecture and architecture.evaluator(cfg, dataset_name)
    name = name or MetadataCatalog.get(dataset_name).get("evaluator_type")
    if name not in EVALUATOR_REGISTRY:
        raise InputError(
            f'the data set {dataset_name} has the evaluator_type "{name}"; registered are '
            f"{', '.join(sorted(name for name, _ in EVALUATOR_REGISTRY))}"
        )
    if output_folder is not None:
        os.makedirs(output_folder, exist_ok=True)
    set_reading_rules(dataset_name, rules_of(cfg))
    with record_errors(dataset_name), read_by(rules_of(cfg)):
        evaluator: DatasetEvaluator = EVALUATOR_REGISTRY.get(name)(cfg, dataset_name, output_folder)
    return evaluator


@EVALUATOR_REGISTRY.register()
def coco(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of COCO's box and mask AP."""
    faster = cfg.TEST.FASTER_COCO_EVAL
    return COCOInstanceEvaluator(dataset_name, output_folder, faster=faster)


@EVALUATOR_REGISTRY.register()
def coco_panoptic_seg(
    cfg: CfgNode, dataset_name: str, output_folder: str | None
) -> DatasetEvaluator:
    """Build the evaluators of AP, mIoU and PQ.

    `MODEL.HIPIE.TEST.{INSTANCE,SEMANTIC,PANOPTIC}_ON` say which. AP needs thing classes, mIoU
    records with semantic label maps or segments.
    """
    records = read_records(dataset_name)  # draws the picture book where it is not yet drawn
    kinds = Vocabulary.from_metadata(MetadataCatalog.get(dataset_name)).kinds
    enabled = cfg.MODEL.HIPIE.TEST
    evaluators: list[DatasetEvaluator] = []
    requested: list[str] = []
    if enabled.INSTANCE_ON and "thing" in kinds:
        faster = cfg.TEST.FASTER_COCO_EVAL
        requested.append("instances")
        evaluators.append(PanopticInstanceEvaluator(dataset_name, output_folder, faster=faster))
    if enabled.SEMANTIC_ON and (
        _all_have(records, "sem_seg_file_name") or _all_have(records, "segments_info")
    ):
        requested.append("sem_seg_labels")
        evaluators.append(sem_seg(cfg, dataset_name, output_folder))
    if enabled.PANOPTIC_ON:
        requested.append("panoptic_seg")
        evaluators.append(_panoptic(dataset_name, records, output_folder))
    return RequestingEvaluators(evaluators, requested)


def _panoptic(
    dataset_name: str, records: RecordList, output_folder: str | None
) -> DatasetEvaluator:
    """Build the evaluator of PQ, from the records where they have the panoptic annotation."""
    if _all_have(records, "segments_info"):
        return PanopticEvaluator(dataset_name, output_folder)
    # Detectron2's "separated" data sets have it in the files of their metadata only.
    return _panoptic_of_files(dataset_name, output_folder)


def _panoptic_of_files(dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build Detectron2's evaluator of PQ, which reads the files of the metadata at its end.

    Raises:
        MissingPackageError: without panopticapi.
        InputError: if the metadata does not name the files.
        MissingFileError: if they do not exist.
    """
    require_package("panopticapi", f"the data set {dataset_name}", PANOPTICAPI)
    metadata = MetadataCatalog.get(dataset_name)
    for key in ("panoptic_json", "panoptic_root"):
        path = metadata.get(key)
        if not path:
            raise InputError(
                f'the data set {dataset_name} has neither segments_info in its records nor "{key}" '
                "in its metadata, which panoptic quality needs"
            )
        if not PathManager.exists(path):
            raise MissingFileError(
                f"the data set {dataset_name}: its {key} {path} does not exist, which panoptic "
                "quality needs"
            )
    return COCOPanopticEvaluator(dataset_name, output_folder)


def _all_have(records: RecordList, key: str) -> bool:
    return len(records) > 0 and all(key in record for record in records)


def require_package(module: str, purpose: str, requirement: str) -> None:
    """Check that a package of evaluators is installed, which they import when they are run.

    Args:
        module: name by which it is imported.
        purpose: what needs it, for the error message.
        requirement: what pip installs.

    Raises:
        InputError: with the command that installs it.
    """
    if importlib.util.find_spec(module) is None:
        raise InputError(
            f"{purpose} needs the package {module}, which is not installed: pip install "
            f'"{requirement}"'
        )


@EVALUATOR_REGISTRY.register()
def sem_seg(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of mIoU, with hIoU where classes are held out of the training.

    Those are `DATASETS.HELD_OUT_CLASSES` and the `unseen_classes` of the data set's metadata.
    """
    threshold = cfg.MODEL.HIPIE.TEST.BACKGROUND_THRESHOLD
    vocabulary = vocabulary_of(dataset_name)
    held_out = held_out_indices(cfg.DATASETS.HELD_OUT_CLASSES, vocabulary)
    unseen = {vocabulary.names[index] for index in held_out}
    unseen.update(MetadataCatalog.get(dataset_name).get("unseen_classes", ()))
    return SemanticEvaluator(
        dataset_name, output_folder, background_threshold=threshold, unseen_classes=unseen
    )


@EVALUATOR_REGISTRY.register()
def lvis(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of LVIS's box and mask AP, or of AP_fixed with `TEST.LVIS_FIXED_AP`."""
    if cfg.TEST.DETECTIONS_PER_IMAGE < MAX_DETECTIONS_PER_IMAGE:
        logger.warning(
            "%s: LVIS counts %d detections an image, but TEST.DETECTIONS_PER_IMAGE is %d",
            dataset_name,
            MAX_DETECTIONS_PER_IMAGE,
            cfg.TEST.DETECTIONS_PER_IMAGE,
        )
    return LVISInstanceEvaluator(dataset_name, output_folder, fixed=cfg.TEST.LVIS_FIXED_AP)


@EVALUATOR_REGISTRY.register()
def pascal_voc(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of Pascal VOC's box AP."""
    return PascalVOCDetectionEvaluator(dataset_name)


@EVALUATOR_REGISTRY.register()
def cityscapes_instance(
    cfg: CfgNode, dataset_name: str, output_folder: str | None
) -> DatasetEvaluator:
    """Build the evaluator of Cityscapes' mask AP."""
    require_package("cityscapesscripts", f"the data set {dataset_name}", CITYSCAPES)
    return CityscapesInstanceEvaluator(dataset_name)


@EVALUATOR_REGISTRY.register()
def cityscapes_sem_seg(
    cfg: CfgNode, dataset_name: str, output_folder: str | None
) -> DatasetEvaluator:
    """Build the evaluator of Cityscapes' mIoU."""
    require_package("cityscapesscripts", f"the data set {dataset_name}", CITYSCAPES)
    return CityscapesSemSegEvaluator(dataset_name)


@EVALUATOR_REGISTRY.register()
def cityscapes_panoptic_seg(
    cfg: CfgNode, dataset_name: str, output_folder: str | None
) -> DatasetEvaluator:
    """Build the evaluator of Cityscapes' PQ."""
    return _panoptic_of_files(dataset_name, output_folder)


@EVALUATOR_REGISTRY.register()
def parts(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of mIoU of parts."""
    threshold = cfg.MODEL.HIPIE.TEST.BACKGROUND_THRESHOLD
    return PartEvaluator(dataset_name, background_threshold=threshold, **_options(dataset_name))


@EVALUATOR_REGISTRY.register()
def part_pq(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of PartPQ."""
    return PartPQEvaluator(dataset_name, **_options(dataset_name))


@EVALUATOR_REGISTRY.register()
def unseen(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of the recall of classes that are not in training."""
    return ClassAgnosticRecall(dataset_name, **_options(dataset_name))


@EVALUATOR_REGISTRY.register()
def refer(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of RefCOCO, RefCOCO+ and RefCOCOg."""
    return ReferringEvaluator(dataset_name, **_options(dataset_name))


@EVALUATOR_REGISTRY.register()
def grefer(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of gRefCOCO."""
    architecture = meta_architecture(cfg)
    by_score = architecture is not None and architecture.rejects_expressions_by_score
    return GeneralizedReferringEvaluator(
        dataset_name,
        no_target_threshold=cfg.MODEL.HIPIE.TEST.NO_TARGET if by_score else None,
        output_folder=output_folder,
        **_options(dataset_name),
    )


@EVALUATOR_REGISTRY.register()
def refzom(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of Ref-ZOM."""
    return RefZOMEvaluator(dataset_name, **_options(dataset_name))


@EVALUATOR_REGISTRY.register()
def group(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of GRD's groups."""
    return GroupReferringEvaluator(dataset_name, **_options(dataset_name))


@EVALUATOR_REGISTRY.register()
def cosaliency(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of co-saliency."""
    return CoSaliencyEvaluator(dataset_name, **_options(dataset_name))


def _options(dataset_name: str) -> dict[str, Any]:
    metadata = MetadataCatalog.get(dataset_name)
    return {key: metadata.get(key) for key in ("result_name", "resized_to") if metadata.get(key)}
