"""Annotation and prediction of single images of a test set, as masks, with a score each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from numpy.typing import NDArray

from hipie.data.annotation_maps import read_class_map
from hipie.data.annotation_view import dataset_vocabulary, read_annotation
from hipie.data.broken_images import reading_rules_of
from hipie.data.image_io import read_image
from hipie.data.io.reading_rules import read_by
from hipie.data.io.rle import RLE
from hipie.data.label_values import background_index, ignore_label, offset_part_labels
from hipie.errors import InputError
from hipie.evaluation.group_predictions import predicted_map
from hipie.evaluation.metrics.background import BackgroundThresholds, best_named_class
from hipie.evaluation.metrics.expression_iou import match_expressions, target_rles
from hipie.evaluation.metrics.image_quality import label_quality, mask_iou, segment_quality
from hipie.segmentation import Segment, Segmentation

# Score from which an instance is compared and drawn.
MIN_SCORE = 0.4
MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class ImageComparison:
    """One image, or the images of a group, annotated and predicted.

    Attributes:
        title: name of the image's file, or the expression of a group.
        score: in 0..1, 1 = the prediction is the annotation.
        truth: one entry an image.
        predicted: likewise.
    """

    title: str
    score: float
    truth: tuple[Segmentation, ...]
    predicted: tuple[Segmentation, ...]


class ImageComparer:
    """Compares the output of a model with the annotation of an image, as suits the kind of the set.

    Instances and panoptic segments are compared by `segment_quality`, label maps by
    `label_quality`, expressions by the mean IoU of their masks, groups by that of their images.

    Args:
        cfg: reads MODEL.HIPIE.TEST.BACKGROUND_THRESHOLD.
        dataset_name: a registered test set.

    Raises:
        InputError: for a set of a kind that is not compared.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        self._metadata = MetadataCatalog.get(dataset_name)
        kind = self._metadata.get("evaluator_type")
        if kind not in _COMPARISONS:
            raise InputError(
                f'the data set {dataset_name} has the evaluator_type "{kind}"; drawn are '
                f"{', '.join(_COMPARISONS)}"
            )
        self._result, self._compare = _COMPARISONS[kind]
        self._threshold = cfg.MODEL.HIPIE.TEST.BACKGROUND_THRESHOLD

    def request(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return a model input that asks for what is compared, and nothing else."""
        return {"results": (self._result,), **item} if self._result else item

    def compare(self, item: dict[str, Any], record: dict[str, Any], output: Any) -> ImageComparison:
        """Compare the output of a model with the annotation.

        Args:
            item: the model's input.
            record: of the data set, from which the input was made.
            output: a dict; of a group a list of them.
        """
        if self._result and self._result not in output:
            raise InputError(
                f"the model gives no {self._result} for the data set {self._metadata.name}"
            )
        with read_by(reading_rules_of(self._metadata.name)):
            return self._compare(item, record, output, self._metadata, self._threshold)


Compare = Callable[[dict[str, Any], dict[str, Any], Any, Metadata, float], ImageComparison]


def _instances(
    item: dict[str, Any], record: dict[str, Any], output: Any, metadata: Metadata, _: float
) -> ImageComparison:
    names, kinds = _classes(metadata)
    instances = output["instances"].to("cpu")
    instances = instances[instances.scores >= MIN_SCORE]
    segments = [
        Segment(names[index], kinds[index], mask.numpy() > 0.5, float(score))
        for mask, index, score in zip(
            instances.pred_masks, instances.pred_classes.tolist(), instances.scores, strict=True
        )
    ]
    return _by_segments(record, metadata, segments)


def _panoptic(
    item: dict[str, Any], record: dict[str, Any], output: Any, metadata: Metadata, _: float
) -> ImageComparison:
    names, kinds = _classes(metadata)
    panoptic, infos = output["panoptic_seg"]
    ids = panoptic.cpu().numpy()
    segments = [
        Segment(
            names[info["category_id"]],
            kinds[info["category_id"]],
            ids == info["id"],
            float(info.get("score", 1.0)),
        )
        for info in infos
    ]
    return _by_segments(record, metadata, segments)


def _by_segments(
    record: dict[str, Any], metadata: Metadata, segments: list[Segment]
) -> ImageComparison:
    view = read_annotation(record, metadata)
    score = segment_quality(segments, view.segments)
    return _single(record, score, view.image, view.segments, segments)


def _labels(
    item: dict[str, Any], record: dict[str, Any], output: Any, metadata: Metadata, threshold: float
) -> ImageComparison:
    names, kinds = _classes(metadata)
    background = background_index(metadata, names)
    named, best = best_named_class(output["sem_seg_labels"])
    predicted = named.astype(np.int64)
    if background is not None:
        predicted = BackgroundThresholds(len(names), background, threshold).labels(named, best)
    truth = _true_labels(record, metadata)
    image = read_image(record["file_name"])
    drawn = [
        [
            Segment(names[index], kinds[index], labels == index, 1.0)
            for index in np.unique(labels)
            if 0 <= index < len(names) and index != background
        ]
        for labels in (truth, predicted)
    ]
    return _single(record, label_quality(predicted, truth), image, *drawn)


def _true_labels(record: dict[str, Any], metadata: Metadata) -> NDArray[np.int64]:
    """Return the class of every pixel, -1 where it is not known."""
    if "part_seg_file_name" in record:
        labels = read_class_map(record["part_seg_file_name"])
        offset = offset_part_labels(labels, metadata.get("part_ignore_label"))
        return offset.astype(np.int64) - 1
    labels = read_class_map(record["sem_seg_file_name"]).astype(np.int64)
    return np.where(labels == ignore_label(metadata), -1, labels)


def _expressions(
    item: dict[str, Any], record: dict[str, Any], output: Any, metadata: Metadata, _: float
) -> ImageComparison:
    truth, predicted, ious = [], [], []
    for (expression, mask, target), instances in zip(
        match_expressions(record, output["referring"]), output["referring"], strict=True
    ):
        masks = [_as_array(target), _as_array(mask)]
        ious.append(mask_iou(masks[1], masks[0]))
        score = float(instances.scores[0]) if len(instances) and instances.has("scores") else 1.0
        truth.append(Segment(expression["expression"], "expression", masks[0], 1.0))
        predicted.append(Segment(expression["expression"], "expression", masks[1], score))
    image = read_image(record["file_name"])
    return _single(record, float(np.mean(ious)) if ious else 1.0, image, truth, predicted)


def _group(
    item: dict[str, Any], record: dict[str, Any], output: Any, metadata: Metadata, threshold: float
) -> ImageComparison:
    if "images" not in item:
        return _expressions(item, record, output, metadata, threshold)
    expression = item["expression"]
    pairs, ious = [], []
    for image_record, image_output in zip(record["images"], output, strict=True):
        mask = predicted_map(image_output) >= MASK_THRESHOLD
        target = _as_array(target_rles(image_record)[0])
        ious.append(mask_iou(mask, target))
        image = read_image(image_record["file_name"])
        score = float(image_output.get("score", 1.0))
        pairs.append(
            [
                Segmentation(image, [Segment(expression, "expression", area, certainty)])
                for area, certainty in ((target, 1.0), (mask, score))
            ]
        )
    truth, predicted = zip(*pairs, strict=True)
    return ImageComparison(expression, float(np.mean(ious)), truth, predicted)


def _as_array(mask: RLE | NDArray[Any]) -> NDArray[np.bool_]:
    pixels = mask if isinstance(mask, np.ndarray) else mask_util.decode(mask)
    return np.asarray(pixels, dtype=bool)


def _single(
    record: dict[str, Any],
    score: float,
    image: NDArray[Any],
    truth: Sequence[Segment],
    predicted: Sequence[Segment],
) -> ImageComparison:
    title = Path(record["file_name"]).name
    return ImageComparison(
        title, score, (Segmentation(image, truth),), (Segmentation(image, predicted),)
    )


def _classes(metadata: Metadata) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names and kinds of the classes of a set."""
    vocabulary = dataset_vocabulary(metadata)
    if vocabulary is None:
        raise InputError(f"the data set {metadata.name} has no class names")
    return tuple(vocabulary.names), tuple(vocabulary.kinds)


# Evaluator of a set -> the result that a model is asked for ("" = all), and the comparison.
_COMPARISONS: dict[str, tuple[str, Compare]] = {
    "coco": ("instances", _instances),
    "lvis": ("instances", _instances),
    "coco_panoptic_seg": ("panoptic_seg", _panoptic),
    "sem_seg": ("sem_seg_labels", _labels),
    "parts": ("sem_seg_labels", _labels),
    "refer": ("", _expressions),
    "grefer": ("", _expressions),
    "refzom": ("", _expressions),
    "group": ("", _group),
}
