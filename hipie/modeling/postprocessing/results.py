"""The last predictions of both branches -> Detectron2's results of one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from hipie.modeling.postprocessing.mask_upsampling import (
    MaskRowUpsampler,
    Size,
    mask_chunks,
    row_bands,
    upsample_instance_masks,
    upsample_to_input,
)
from hipie.modeling.postprocessing.nms_topk import class_aware_nms, corners, topk_query_class_pairs
from hipie.modeling.postprocessing.panoptic_inference import (
    PanopticAccumulator,
    PanopticThresholds,
    SemanticAccumulator,
)
from hipie.modeling.postprocessing.part_panoptic import (
    PartOwners,
    part_segmentation,
    suppress_part_queries,
)
from hipie.modeling.postprocessing.referring_inference import best_query
from hipie.modeling.postprocessing.score_calibration import instance_scores, panoptic_scores
from hipie.modeling.postprocessing.token_to_class import (
    MASKED_LOGIT,
    mask_stuff_classes,
    mask_thing_classes,
    pool_token_logits,
)

# Masks are looked at in a few at a time, as if by a model that takes images of this size.
CLIP_SIZE = (336, 336)


class Prediction(Protocol):
    """One decoder layer's answer for a batch; see `hipie.modeling.criterion.predictions`."""

    token_logits: Tensor
    boxes: Tensor
    iou_logits: Tensor | None
    masks: Callable[[Tensor, Tensor], Tensor] | None


class ClipEnsemble(Protocol):
    """Another model's view of the masks of one image; see `hipie.modeling.open_vocabulary.clip_mask_scores`."""

    size: Size

    def visible(self, mask_logits: Tensor) -> Tensor:
        """What it will see of masks [N, h, w]."""

    def instance_scores(self, class_logits: Tensor, iou_logits: Tensor, visible: Tensor) -> Tensor:
        """[Q, K] scores of things from logits [Q, K] and [Q, 1]."""

    def panoptic_scores(self, scores: Sequence[Tensor], visible: Tensor) -> list[Tensor]:
        """Scores [N, K] of merges, joined with its own."""


@dataclass(frozen=True)
class InferenceSettings:
    """What is asked for, and the thresholds of HIPIE's inference.

    Attributes:
        instance_on, semantic_on, panoptic_on: which results are made.
        detections_per_image: instances an image at most.
        token_pooling: "mean" or "max" over the tokens of a class.
        nms_threshold: overlap above which the lower of two boxes of a class goes.
        temperature: of the softmax over classes in the merge.
        min_softmax_classes: see `panoptic_scores`; for the panoptic map.
        object_mask_threshold: best class score above which a query joins the panoptic map.
        overlap_threshold: share of its own mask that a query must win there.
        thing_scores_from_stuff_decoder: the stuff branch keeps its thing scores in the merge.
        panoptic_from_stuff_decoder_only: only the stuff branch feeds the semantic and panoptic maps.
        consistent_parts: see `hipie.modeling.postprocessing.part_inference.enforce_part_consistency`; of the semantic map.
    """

    instance_on: bool = True
    semantic_on: bool = True
    panoptic_on: bool = True
    detections_per_image: int = 100
    token_pooling: str = "mean"
    nms_threshold: float = 0.7
    temperature: float = 0.06
    min_softmax_classes: int = 0
    object_mask_threshold: float = 0.25
    overlap_threshold: float = 0.8
    thing_scores_from_stuff_decoder: bool = False
    panoptic_from_stuff_decoder_only: bool = False
    consistent_parts: bool = False


@dataclass(frozen=True)
class _Image:
    """Which row of the batch, and its sizes."""

    row: int
    input_size: Size
    output_size: Size


def universal_inference(
    things: Prediction,
    stuff: Prediction | None,
    *,
    image: int,
    background_queries: int,
    token_spans: Sequence[Sequence[int]],
    is_thing: Sequence[bool],
    input_size: Size,
    output_size: Size,
    settings: InferenceSettings,
    opinion: ClipEnsemble | None = None,
    owners: PartOwners = (),
) -> dict[str, Any]:
    """Everything that was asked for about one image of a batch.

    Args:
        things, stuff: the last layers; masks at a quarter of the canvas. Without a stuff branch
            things' queries stand for stuff too.
        image: row of the batch.
        background_queries: leading thing queries that are left out.
        token_spans: K tuples, the tokens of each class.
        is_thing: [K].
        input_size: (height, width) of the image inside the canvas.
        output_size: (height, width) of the results.
        opinion: joins the scores; it judges all queries of the things, then those that merge.
        owners: [K], whose part each class is, see `part_owners`; () = none is.

    Returns:
        `instances` (pred_boxes, scores, pred_classes, pred_masks), `sem_seg` [K, H, W] and
        `panoptic_seg` (map, segments), those that the settings ask for. Where both maps are made
        and classes have owners also `part_seg` [H, W], see `part_segmentation`. Masks and maps take
        bounded memory beside the results, see `hipie.modeling.postprocessing.mask_upsampling`.
    """
    place = _Image(image, input_size, output_size)
    with torch.autocast(things.token_logits.device.type, enabled=False):
        tokens = things.token_logits[image, background_queries:]
        logits = pool_token_logits(tokens, token_spans, settings.token_pooling)
        if stuff is not None:
            logits = mask_stuff_classes(logits, is_thing)
        quality = things.iou_logits[image, background_queries:]
        if opinion is None:
            scores = instance_scores(logits, quality)
        else:
            visible = _visible_things(things, background_queries, len(logits), place, opinion)
            scores = opinion.instance_scores(logits, quality, visible)
        boxes = things.boxes[image, background_queries:].float()
        kept = class_aware_nms(scores, boxes, settings.nms_threshold)
        results: dict[str, Any] = {}
        if settings.instance_on:
            shown = is_thing if any(is_thing) else None
            row, label, score = topk_query_class_pairs(
                scores[kept], settings.detections_per_image, shown
            )
            query = kept[row] + background_queries
            results["instances"] = _instances(things, query, score, label, place)
        if settings.semantic_on or settings.panoptic_on:
            groups = []
            if stuff is None or not settings.panoptic_from_stuff_decoder_only:
                groups.append((things, kept + background_queries, logits[kept]))
            if stuff is not None:
                groups += _stuff_group(stuff, image, token_spans, is_thing, settings)
            results.update(_merged(groups, is_thing, owners, place, settings, opinion))
        if {"sem_seg", "panoptic_seg"} <= set(results) and any(o is not None for o in owners):
            results["part_seg"] = part_segmentation(
                *results["panoptic_seg"], results["sem_seg"], owners
            )
    return results


def referring_inference(
    things: Prediction, *, row: int, background_queries: int, input_size: Size, output_size: Size
) -> Instances:
    """The one instance that an expression describes best (none only where its box is empty).

    Args:
        things: the last layer for (image, expression) pairs, one logit a query.
        row: the pair.
        background_queries, input_size, output_size: as in `universal_inference`.
    """
    place = _Image(row, input_size, output_size)
    with torch.autocast(things.token_logits.device.type, enabled=False):
        query, score = best_query(
            things.token_logits[row, background_queries:],
            things.iou_logits[row, background_queries:],
        )
        query = query[None] + background_queries
        return _instances(things, query, score[None], torch.zeros_like(query), place)


def _stuff_group(
    stuff: Prediction,
    image: int,
    token_spans: Sequence[Sequence[int]],
    is_thing: Sequence[bool],
    settings: InferenceSettings,
) -> list[tuple[Prediction, Tensor, Tensor]]:
    """The stuff branch's queries for the merge.

    Where all classes are things its queries count for every class alike, as published, or are
    left out where few classes count as many (`min_softmax_classes`) and their scores would be tiny.
    """
    logits = pool_token_logits(stuff.token_logits[image], token_spans, settings.token_pooling)
    if not (settings.thing_scores_from_stuff_decoder or settings.panoptic_from_stuff_decoder_only):
        if all(is_thing) and settings.min_softmax_classes:
            return []
        logits = mask_thing_classes(logits, is_thing)
    return [(stuff, torch.arange(len(logits), device=logits.device), logits)]


def _merged(
    groups: Sequence[tuple[Prediction, Tensor, Tensor]],
    is_thing: Sequence[bool],
    owners: PartOwners,
    place: _Image,
    settings: InferenceSettings,
    opinion: ClipEnsemble | None,
) -> dict[str, Any]:
    """Semantic and panoptic map of queries (prediction, query [n], class logits [n, K])."""
    logits = torch.cat([logits for _, _, logits in groups])
    scores = panoptic_scores(logits, settings.temperature)
    padded = panoptic_scores(logits, settings.temperature, settings.min_softmax_classes)
    if opinion is not None:
        visible = [_visible_inside(_small_masks(*g[:2], place), place, opinion) for g in groups]
        scores, padded = opinion.panoptic_scores([scores, padded], torch.cat(visible))
    thresholds = PanopticThresholds(settings.object_mask_threshold, settings.overlap_threshold)
    semantic = SemanticAccumulator(scores, place.output_size) if settings.semantic_on else None
    panoptic = (
        PanopticAccumulator(
            suppress_part_queries(padded, owners), is_thing, place.output_size, thresholds
        )
        if settings.panoptic_on
        else None
    )
    sources = []
    start = 0
    for prediction, queries, logits in groups:
        wanted = torch.arange(start, start + len(queries), device=queries.device)
        start += len(queries)
        if semantic is None:
            chosen = panoptic.wanted[wanted]
            wanted, queries = wanted[chosen], queries[chosen]
        if len(queries) == 0:
            continue
        small = _small_masks(prediction, queries, place)
        full = MaskRowUpsampler(small, place.input_size, place.output_size)
        sources.append((wanted, full, _own_columns(logits) if opinion is None else None))
    height, width = place.output_size
    most = max((len(wanted) for wanted, _, _ in sources), default=0)
    for rows in row_bands(height, 4 * width * most):
        for wanted, full, own in sources:
            probabilities = full(rows.start, rows.stop).sigmoid_()
            if semantic is not None:
                semantic.add(wanted, rows, probabilities, own)
            if panoptic is not None:
                panoptic.add(wanted, rows, probabilities)
    results: dict[str, Any] = {}
    if semantic is not None:
        results["sem_seg"] = semantic.result()
    if panoptic is not None:
        results["panoptic_seg"] = panoptic.result()
    return results


def _own_columns(logits: Tensor) -> Tensor:
    """[K] bool, the classes that a branch scores; all others have the same small score."""
    return (logits > MASKED_LOGIT).any(0)


def _visible_things(
    things: Prediction, first: int, count: int, place: _Image, opinion: ClipEnsemble
) -> Tensor:
    """What the opinion sees of all queries, on the canvas that the image has alone."""
    # Both branches make masks at twice the size of the features of stride 8.
    height, width = (2 * -(-side // 8) for side in opinion.size)
    queries = torch.arange(first, first + count, device=things.boxes.device)
    small = _small_masks(things, queries, place)[:, :height, :width]
    seen = [opinion.visible(small[rows]) for rows in mask_chunks(count, CLIP_SIZE)]
    return torch.cat(seen) if seen else opinion.visible(small)


def _visible_inside(small: Tensor, place: _Image, opinion: ClipEnsemble) -> Tensor:
    """What the opinion sees of masks that are cut to the image."""
    parts = mask_chunks(len(small), place.input_size, CLIP_SIZE)
    seen = [opinion.visible(upsample_to_input(small[rows], place.input_size)) for rows in parts]
    return torch.cat(seen) if seen else opinion.visible(small)


def _small_masks(prediction: Prediction, queries: Tensor, place: _Image) -> Tensor:
    """[n, h, w] float32 mask logits at a quarter of the canvas."""
    return prediction.masks(torch.full_like(queries, place.row), queries).float()


def _instances(
    things: Prediction, queries: Tensor, scores: Tensor, classes: Tensor, place: _Image
) -> Instances:
    """Detectron2's instances in pixels of the output; empty boxes are left out."""
    height, width = place.output_size
    boxes = things.boxes[place.row, queries].float()
    found = Boxes(corners(boxes) * boxes.new_tensor([width, height, width, height]))
    found.clip(place.output_size)
    full = found.nonempty()
    unique, back = torch.unique(queries[full], return_inverse=True)
    small = _small_masks(things, unique, place)[back]
    result = Instances(place.output_size)
    result.pred_boxes = found[full]
    result.scores = scores[full]
    result.pred_classes = classes[full]
    result.pred_masks = upsample_instance_masks(small, place.input_size, place.output_size)
    return result
