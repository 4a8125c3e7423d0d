"""From classified masks to Detectron2's instances, semantic and panoptic maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from hipie.modeling.chunking import mask_bytes
from hipie.modeling.postprocessing.instance_inference import ImageFrame
from hipie.modeling.postprocessing.mask_labelling import non_overlapping_segments
from hipie.modeling.postprocessing.mask_upsampling import (
    MaskRowUpsampler,
    row_bands,
    upsample_instance_masks,
)
from hipie.modeling.postprocessing.nms_topk import topk_query_class_pairs
from hipie.modeling.postprocessing.panoptic_inference import (
    PanopticAccumulator,
    PanopticThresholds,
)
from hipie.modeling.postprocessing.semantic_inference import (
    SemanticAccumulator,
    SemanticLabelAccumulator,
    semantic_labels,
)
from hipie.modeling.postprocessing.universal_inference import InferenceSettings
from hipie.structures import Size


def query_results(
    scores: Tensor,
    mask_logits: Tensor,
    is_thing: Sequence[bool],
    frame: ImageFrame,
    settings: InferenceSettings,
) -> dict[str, Any]:
    """Compute the results of one image from the masks of a decoder's queries (MaskFormer).

    A query is a segment if its best class has a score above the threshold and above that of no
    object. An instance is a (query, class) pair; its score is multiplied by the mean probability of
    the pixels of its mask.

    Args:
        scores: [Q, K + 1], no object last.
        mask_logits: [Q, h, w] at a quarter of the padded canvas.
        is_thing: [K].
        frame: sizes of the image.
        settings: requested outputs and thresholds.

    Returns:
        Those requested of `instances`, `sem_seg` or `sem_seg_labels`, and `panoptic_seg`.
    """
    classes, void = scores[:, :-1].float(), scores[:, -1].float()
    best = classes.amax(-1)
    candidates = ((best > settings.object_mask_threshold) & (best > void)).nonzero().flatten()
    semantic = _semantic_accumulator(classes, frame.output_size, settings)
    panoptic = None
    if settings.panoptic_on:
        thresholds = PanopticThresholds(settings.object_mask_threshold, settings.overlap_threshold)
        panoptic = PanopticAccumulator(classes[candidates], is_thing, frame.output_size, thresholds)
    sums, areas = classes.new_zeros(2, len(classes))
    height, width = frame.output_size
    upsampler = MaskRowUpsampler([mask_logits], frame.input_size, frame.output_size)
    planes = 2 * len(classes) + (classes.shape[1] if semantic is not None else 0)
    for band in row_bands(height, 4 * width * planes, mask_bytes(mask_logits.device)):
        probabilities = upsampler(band.start, band.stop).sigmoid_()
        if settings.instance_on:
            inside = probabilities > 0.5
            sums += (probabilities * inside).sum((0, 2))
            areas += inside.sum((0, 2))
        if semantic is not None:
            semantic.add(band, probabilities)
        if panoptic is not None:
            panoptic.add(band, probabilities[:, candidates])
    results: dict[str, Any] = {}
    if semantic is not None:
        results[_semantic_name(settings)] = semantic.result()
    if panoptic is not None:
        results["panoptic_seg"] = panoptic.result()
    if settings.instance_on:
        query, label, score = topk_query_class_pairs(
            classes, settings.detections_per_image, is_thing
        )
        masks = upsample_instance_masks(mask_logits[query], frame.input_size, frame.output_size)
        score = score * (sums / areas.clamp(min=1))[query]
        results["instances"] = _instances(masks, label, score, frame.output_size)
    return results


def mask_results(
    masks: Tensor,
    scores: Tensor,
    is_thing: Sequence[bool],
    size: Size,
    settings: InferenceSettings,
) -> dict[str, Any]:
    """Compute the results of one image from classified binary masks that may overlap.

    Smaller masks take precedence over larger ones. A mask whose best class does not reach the
    threshold is no segment; in the semantic map it has its scores.

    Args:
        masks: [N, h, w] bool.
        scores: [N, K].
        is_thing: [K].
        size: (height, width) of the results.
        settings: requested outputs and thresholds.

    Returns:
        As `query_results`.
    """
    if tuple(masks.shape[-2:]) != tuple(size) and len(masks):
        masks = F.interpolate(masks[None].float(), size=size, mode="nearest")[0].bool()
    visible = masks.flatten(1).any(1)
    masks = masks[visible] if len(masks) else masks.new_zeros(0, *size)
    scores = scores[visible].float()
    best, labels = scores.max(-1)
    results: dict[str, Any] = {}
    if settings.semantic_on:
        semantic = scores.new_zeros(scores.shape[1], *size)
        order = masks.flatten(1).sum(1).argsort(descending=True, stable=True)
        for index in order.tolist():
            semantic[:, masks[index]] = scores[index][:, None]
        results["sem_seg"] = semantic
        if settings.semantic_labels_only:
            results = {"sem_seg_labels": semantic_labels(results)}
    if settings.panoptic_on:
        kept = best > settings.object_mask_threshold
        results["panoptic_seg"] = _panoptic(
            non_overlapping_segments(masks[kept], labels[kept], best[kept], is_thing),
            is_thing,
            size,
        )
    if settings.instance_on:
        things = torch.tensor(list(is_thing), device=labels.device)[labels].nonzero().flatten()
        order = best[things].argsort(descending=True, stable=True)
        rows = things[order[: settings.detections_per_image]]
        results["instances"] = _instances(masks[rows], labels[rows], best[rows], size)
    return results


def _semantic_accumulator(
    scores: Tensor, size: Size, settings: InferenceSettings
) -> SemanticAccumulator | SemanticLabelAccumulator | None:
    if not settings.semantic_on:
        return None
    if settings.semantic_labels_only:
        return SemanticLabelAccumulator(scores, size)
    return SemanticAccumulator(scores, size)


def _semantic_name(settings: InferenceSettings) -> str:
    return "sem_seg_labels" if settings.semantic_labels_only else "sem_seg"


def _panoptic(
    segments: Sequence[tuple[int, float, Tensor]], is_thing: Sequence[bool], size: Size
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Panoptic map [H, W] int32 and its segments."""
    device = segments[0][2].device if segments else None
    panoptic = torch.zeros(size, dtype=torch.int32, device=device)
    described = []
    for index, (label, score, mask) in enumerate(segments, start=1):
        panoptic[mask] = index
        described.append(
            {"id": index, "isthing": is_thing[label], "category_id": label, "score": score}
        )
    return panoptic, described


def _instances(masks: Tensor, labels: Tensor, scores: Tensor, size: Size) -> Instances:
    """Instances of masks [n, H, W] that are not empty."""
    visible = masks.flatten(1).any(1)
    instances = Instances(size)
    instances.pred_masks = masks[visible]
    instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
    instances.scores, instances.pred_classes = scores[visible], labels[visible]
    return instances
