"""A picture's predictions as Detectron2's results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import box_convert

from hipie.inference.masks import instance_masks, probabilities
from hipie.inference.merge import panoptic, semantic
from hipie.inference.scores import merge_scores, thing_scores
from hipie.inference.selection import Selection, best_pairs, suppress
from hipie.inference.token_pooling import mask_classes, pool_tokens


@dataclass(frozen=True)
class ResultSettings:
    """How predictions become results; the defaults are the published ones.

    Attributes:
        instance_on, semantic_on, panoptic_on: which results are made.
        detections: instances a picture at most.
        token_pooling: "mean" or "max" over a class's word pieces.
        nms_threshold: IoU of suppression among things.
        temperature: of the softmax over classes in the merge.
        object_threshold, overlap_threshold: of the panoptic map.
        stuff_scores_things: the stuff decoder's queries may be things in the merge.
        merge_stuff_only: only the stuff decoder feeds semantic and panoptic results.
    """

    instance_on: bool = True
    semantic_on: bool = True
    panoptic_on: bool = True
    detections: int = 100
    token_pooling: str = "mean"
    nms_threshold: float = 0.7
    temperature: float = 0.06
    object_threshold: float = 0.25
    overlap_threshold: float = 0.8
    stuff_scores_things: bool = False
    merge_stuff_only: bool = False


def universal_results(
    things: Any,
    stuff: Any,
    *,
    picture: int,
    background_queries: int,
    token_spans: Sequence[Sequence[int]],
    is_thing: Sequence[bool],
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    settings: ResultSettings,
) -> dict[str, Any]:
    """`instances`, `sem_seg` [K, H, W] and `panoptic_seg` of one picture, as far as asked for.

    Args:
        things, stuff: predictions of the last decoder layers (`LayerPrediction`); the things'
            first `background_queries` are left out.
        picture: which of the batch.
        token_spans: of the vocabulary, K.
        is_thing: K.
        input_size, output_size: (height, width) of what the model saw and of the results.
        settings: see there.
    """
    spans, how = token_spans, settings.token_pooling
    thing_flags = torch.tensor(list(is_thing), device=things.boxes.device)
    any_thing = bool(thing_flags.any())
    chosen = slice(background_queries, None)
    logits = pool_tokens(things.token_logits[picture, chosen], spans, how)
    if any_thing:
        logits = mask_classes(logits, ~thing_flags)
    boxes = things.boxes[picture, chosen]
    scores = thing_scores(logits, things.iou_logits[picture, chosen])
    survivors = suppress(boxes, scores, settings.nms_threshold)
    results: dict[str, Any] = {}
    if settings.instance_on:
        best = best_pairs(scores, survivors, settings.detections)
        masks = _masks_of(things, picture, best.queries + background_queries)
        results["instances"] = _instances(best, boxes, masks, input_size, output_size)
    if not (settings.semantic_on or settings.panoptic_on):
        return results
    covered = pool_tokens(stuff.token_logits[picture], spans, how)
    if any_thing and not (settings.stuff_scores_things or settings.merge_stuff_only):
        covered = mask_classes(covered, thing_flags)
    queries = torch.arange(len(covered), device=covered.device)
    class_logits, mask_logits = covered, _masks_of(stuff, picture, queries)
    if not settings.merge_stuff_only:
        of_things = _masks_of(things, picture, survivors + background_queries)
        class_logits = torch.cat([logits[survivors], covered])
        mask_logits = torch.cat(
            [_crop_like(of_things, mask_logits), _crop_like(mask_logits, of_things)]
        )
    merged = merge_scores(class_logits, settings.temperature)
    masks = probabilities(mask_logits, input_size, output_size)
    if settings.semantic_on:
        results["sem_seg"] = semantic(merged, masks)
    if settings.panoptic_on:
        results["panoptic_seg"] = panoptic(
            merged, masks, is_thing, settings.object_threshold, settings.overlap_threshold
        )
    return results


def referring_results(
    things: Any,
    *,
    row: int,
    background_queries: int,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
) -> Instances:
    """The one best instance of a sentence.

    Args:
        things: the last layer's predictions over (picture, sentence) pairs, one logit a query.
        row: which pair.
        background_queries: how many of the first queries are left out.
        input_size, output_size: (height, width) of what the model saw and of the result.
    """
    chosen = slice(background_queries, None)
    scores = thing_scores(things.token_logits[row, chosen, :1], things.iou_logits[row, chosen])
    boxes = things.boxes[row, chosen]
    best = best_pairs(scores, torch.arange(len(scores), device=scores.device), 1)
    masks = _masks_of(things, row, best.queries + background_queries)
    return _instances(best, boxes, masks, input_size, output_size)


def _masks_of(prediction: Any, picture: int, queries: Tensor) -> Tensor:
    """[n, h, w] logits at stride 4 of some queries of one picture."""
    return prediction.masks(torch.full_like(queries, picture), queries).float()


def _crop_like(maps: Tensor, other: Tensor) -> Tensor:
    """Both branches round odd sides alike, save for the last row or column."""
    height = min(maps.shape[-2], other.shape[-2])
    width = min(maps.shape[-1], other.shape[-1])
    return maps[:, :height, :width]


def _instances(
    chosen: Selection,
    boxes: Tensor,
    mask_logits: Tensor,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
) -> Instances:
    """Detectron2's instances; those with an empty box are left out."""
    height, width = output_size
    corners = box_convert(boxes[chosen.queries].float(), "cxcywh", "xyxy")
    placed = Boxes(corners * corners.new_tensor([width, height, width, height]))
    placed.clip(output_size)
    found = Instances(output_size)
    found.pred_boxes = placed
    found.scores = chosen.scores
    found.pred_classes = chosen.classes
    found.pred_masks = instance_masks(mask_logits, input_size, output_size)
    return found[placed.nonempty()]
