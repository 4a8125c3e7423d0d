"""Universal inference: instances, semantic and panoptic maps and parts of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hipie.modeling.postprocessing.instance_inference import (
    ImageFrame,
    QueryMasks,
    instance_inference,
)
from hipie.modeling.postprocessing.mask_upsampling import (
    MaskRowUpsampler,
    mask_chunks,
    row_bands,
    upsample_to_input,
)
from hipie.modeling.postprocessing.nms_topk import class_aware_nms, topk_query_class_pairs
from hipie.modeling.postprocessing.panoptic_inference import (
    PanopticAccumulator,
    PanopticThresholds,
)
from hipie.modeling.postprocessing.part_panoptic import (
    PartOwners,
    part_segmentation,
    suppress_part_queries,
)
from hipie.modeling.postprocessing.score_calibration import instance_scores, panoptic_scores
from hipie.modeling.postprocessing.semantic_inference import SemanticAccumulator
from hipie.modeling.postprocessing.token_to_class import (
    MASKED_LOGIT,
    mask_stuff_classes,
    mask_thing_classes,
    pool_token_logits,
)
from hipie.structures import ImageQueries, Size

if TYPE_CHECKING:
    from hipie.modeling.open_vocabulary.clip_ensemble import ClipMaskScores

# Masks are processed in chunks as if by a CLIP model with images of this size.
CLIP_IMAGE_SIZE = (336, 336)


@dataclass(frozen=True)
class InferenceSettings:
    """Requested outputs and thresholds of HIPIE's inference.

    Attributes:
        instance_on, semantic_on, panoptic_on: outputs that are computed.
        detections_per_image: maximum number of instances.
        token_pooling: "mean" or "max" over the tokens of a class.
        nms_threshold: IoU above which the lower-scoring of two boxes of a class is removed.
        temperature: of the softmax over classes for panoptic and semantic maps.
        min_softmax_classes: see `panoptic_scores`; for the panoptic map.
        object_mask_threshold: best class score above which a query joins the panoptic map.
        overlap_threshold: share of its own mask that a query must win there.
        thing_scores_from_stuff_decoder: whether stuff queries keep their scores of things in the
            maps.
        panoptic_from_stuff_decoder_only: whether the maps are computed from stuff queries only.
        consistent_parts: whether `enforce_part_consistency` is applied to the semantic map.
        unfused_expression_features: whether queries are compared with an expression as it is before
            fusion with the image, as published weights expect; in training it is after.
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
    unfused_expression_features: bool = True


@dataclass(frozen=True)
class _QueryGroup:
    """Queries of one decoder that compete for the pixels of the maps.

    Attributes:
        masks: of the queries of the decoder.
        queries: [n].
        class_logits: [n, K].
    """

    masks: QueryMasks
    queries: Tensor
    class_logits: Tensor


def universal_inference(
    things: ImageQueries,
    stuff: ImageQueries | None,
    *,
    token_spans: Sequence[Sequence[int]],
    is_thing: Sequence[bool],
    input_size: Size,
    output_size: Size,
    settings: InferenceSettings,
    clip_scores: ClipMaskScores | None = None,
    owners: PartOwners = (),
) -> dict[str, Any]:
    """Compute the requested outputs of one image of a batch.

    Args:
        things: predictions of the thing decoder for the image.
        stuff: of the stuff decoder. Without one, thing queries predict stuff too.
        token_spans: K tuples of token positions, one tuple a class.
        is_thing: [K].
        input_size: (height, width) of the unpadded image.
        output_size: (height, width) of the results.
        settings: requested outputs and thresholds.
        clip_scores: CLIP scores of the image's masks, combined with the class scores.
        owners: [K], see `part_owners`; () = no class is a part.

    Returns:
        The requested ones of `instances` (pred_boxes, scores, pred_classes, pred_masks), `sem_seg`
        [K, H, W] and `panoptic_seg` (map, segments). With both maps and classes that are parts
        also `part_seg` [H, W], see `part_segmentation`. Masks and maps take bounded memory beside
        the results, see `hipie.modeling.postprocessing.mask_upsampling`.
    """
    frame = ImageFrame(input_size, output_size)
    layer, masks = things.layer, QueryMasks(things)
    with torch.autocast(layer.boxes.device.type, enabled=False):
        class_logits = pool_token_logits(things.token_logits, token_spans, settings.token_pooling)
        if stuff is not None:
            class_logits = mask_stuff_classes(class_logits, is_thing)
        if clip_scores is None:
            scores = instance_scores(class_logits, things.iou_logits)
        else:
            patches = _thing_patch_masks(masks, len(class_logits), clip_scores)
            scores = clip_scores.instance_scores(class_logits, things.iou_logits, patches)
        nms_indices = class_aware_nms(scores, layer.boxes[0].float(), settings.nms_threshold)
        results: dict[str, Any] = {}
        # Maps first: they need most of the masks, which instances then share.
        if settings.semantic_on or settings.panoptic_on:
            groups = []
            if stuff is None or not settings.panoptic_from_stuff_decoder_only:
                groups.append(_QueryGroup(masks, nms_indices, class_logits[nms_indices]))
            if stuff is not None:
                groups += _stuff_groups(stuff, token_spans, is_thing, settings)
            results.update(_dense_maps(groups, is_thing, owners, frame, settings, clip_scores))
        if settings.instance_on:
            allowed = is_thing if any(is_thing) else None
            nms_row, label, score = topk_query_class_pairs(
                scores[nms_indices], settings.detections_per_image, allowed
            )
            results["instances"] = instance_inference(
                masks, nms_indices[nms_row], score, label, frame
            )
        if {"sem_seg", "panoptic_seg"} <= set(results) and any(o is not None for o in owners):
            panoptic_map, segments = results["panoptic_seg"]
            results["part_seg"] = part_segmentation(
                panoptic_map, segments, results["sem_seg"], owners
            )
    return results


def _stuff_groups(
    stuff: ImageQueries,
    token_spans: Sequence[Sequence[int]],
    is_thing: Sequence[bool],
    settings: InferenceSettings,
) -> list[_QueryGroup]:
    """Stuff queries that compete for the pixels of the maps.

    If all classes are things, stuff queries have the same score for every class, as published.
    With `min_softmax_classes` that score would be tiny and they are left out.
    """
    logits = pool_token_logits(stuff.token_logits, token_spans, settings.token_pooling)
    if not (settings.thing_scores_from_stuff_decoder or settings.panoptic_from_stuff_decoder_only):
        if all(is_thing) and settings.min_softmax_classes:
            return []
        logits = mask_thing_classes(logits, is_thing)
    queries = torch.arange(len(logits), device=logits.device)
    return [_QueryGroup(QueryMasks(stuff), queries, logits)]


def _dense_maps(
    groups: Sequence[_QueryGroup],
    is_thing: Sequence[bool],
    owners: PartOwners,
    frame: ImageFrame,
    settings: InferenceSettings,
    clip_scores: ClipMaskScores | None,
) -> dict[str, Any]:
    """Semantic and panoptic map; every mask is upsampled once for both."""
    class_logits = torch.cat([group.class_logits for group in groups])
    scores = panoptic_scores(class_logits, settings.temperature)
    padded_scores = panoptic_scores(
        class_logits, settings.temperature, settings.min_softmax_classes
    )
    if clip_scores is not None:
        patches = torch.cat([_cropped_patch_masks(group, frame, clip_scores) for group in groups])
        scores, padded_scores = clip_scores.panoptic_scores([scores, padded_scores], patches)
    thresholds = PanopticThresholds(settings.object_mask_threshold, settings.overlap_threshold)
    semantic = SemanticAccumulator(scores, frame.output_size) if settings.semantic_on else None
    panoptic = (
        PanopticAccumulator(
            suppress_part_queries(padded_scores, owners), is_thing, frame.output_size, thresholds
        )
        if settings.panoptic_on
        else None
    )
    sources = []
    start = 0
    for group in groups:
        queries = group.queries
        rows = torch.arange(start, start + len(queries), device=queries.device)
        start += len(queries)
        if semantic is None and panoptic is not None:
            candidates = panoptic.is_candidate[rows]
            rows, queries = rows[candidates], queries[candidates]
        if len(queries) == 0:
            continue
        mask_logits = group.masks(queries)
        upsampler = MaskRowUpsampler(mask_logits, frame.input_size, frame.output_size)
        scored_classes = (group.class_logits > MASKED_LOGIT).any(0) if clip_scores is None else None
        sources.append((rows, upsampler, scored_classes))
    height, width = frame.output_size
    max_queries = max((len(rows) for rows, _, _ in sources), default=0)
    for band in row_bands(height, 4 * width * max_queries):
        for rows, upsampler, scored_classes in sources:
            probabilities = upsampler(band.start, band.stop).sigmoid_()
            if semantic is not None:
                semantic.add(rows, band, probabilities, scored_classes)
            if panoptic is not None:
                panoptic.add(rows, band, probabilities)
    results: dict[str, Any] = {}
    if semantic is not None:
        results["sem_seg"] = semantic.result()
    if panoptic is not None:
        results["panoptic_seg"] = panoptic.result()
    return results


def _thing_patch_masks(masks: QueryMasks, count: int, clip_scores: ClipMaskScores) -> Tensor:
    """CLIP patches of all thing masks, on the canvas of a batch of this image only."""
    # Both decoders compute masks at twice the size of the features of stride 8.
    height, width = (2 * -(-side // 8) for side in clip_scores.size)
    queries = torch.arange(count, device=masks.layer.boxes.device)
    mask_logits = masks(queries)[:, :height, :width]
    chunks = [
        clip_scores.patch_masks(mask_logits[rows]) for rows in mask_chunks(count, CLIP_IMAGE_SIZE)
    ]
    return torch.cat(chunks) if chunks else clip_scores.patch_masks(mask_logits)


def _cropped_patch_masks(
    group: _QueryGroup, frame: ImageFrame, clip_scores: ClipMaskScores
) -> Tensor:
    """CLIP patches of masks that are cropped to the unpadded image."""
    mask_logits = group.masks(group.queries)
    chunks = [
        clip_scores.patch_masks(upsample_to_input(mask_logits[rows], frame.input_size))
        for rows in mask_chunks(len(mask_logits), frame.input_size, CLIP_IMAGE_SIZE)
    ]
    return torch.cat(chunks) if chunks else clip_scores.patch_masks(mask_logits)
