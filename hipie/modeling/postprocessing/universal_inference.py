"""Universal inference: instances, semantic and panoptic maps and parts of one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hipie.modeling.chunking import mask_bytes, working_bytes
from hipie.modeling.device_transfer import to_device, to_host
from hipie.modeling.postprocessing.instance_inference import (
    ImageFrame,
    InstanceCandidates,
    QueryMasks,
    instance_inference,
    kept_pairs,
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
    panoptic_candidates,
)
from hipie.modeling.postprocessing.part_panoptic import (
    PartOwners,
    best_parts,
    parts_of_segments,
    suppress_part_queries,
)
from hipie.modeling.postprocessing.pixel_scores import PixelRows, PixelScores
from hipie.modeling.postprocessing.score_calibration import instance_scores, panoptic_scores
from hipie.modeling.postprocessing.semantic_inference import (
    QueryBlock,
    SemanticAccumulator,
    SemanticLabelAccumulator,
)
from hipie.modeling.postprocessing.token_to_class import (
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
        semantic_labels_only: whether the semantic map has the best class of every pixel only, which
            takes less memory than the scores of all classes.
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
        background: whether pixels of the semantic map may have none of the classes. The scores are
            then those of the panoptic map, with absent classes in the softmax: without them even
            queries of no class have a score of 1 / K.
        consistent_parts: whether `enforce_part_consistency` is applied to the semantic map.
        unfused_expression_features: whether queries are compared with an expression as it is before
            fusion with the image, as published weights expect; in training it is after.
        no_target_threshold: an expression whose best query has a lower score describes nothing.
    """

    instance_on: bool = True
    semantic_on: bool = True
    panoptic_on: bool = True
    semantic_labels_only: bool = False
    detections_per_image: int = 100
    token_pooling: str = "mean"
    nms_threshold: float = 0.7
    temperature: float = 0.06
    min_softmax_classes: int = 0
    object_mask_threshold: float = 0.25
    overlap_threshold: float = 0.8
    thing_scores_from_stuff_decoder: bool = False
    panoptic_from_stuff_decoder_only: bool = False
    background: bool = False
    consistent_parts: bool = False
    unfused_expression_features: bool = True
    no_target_threshold: float = 0.0

    @property
    def keeps_scores(self) -> bool:
        """Whether the semantic scores of all classes are a result."""
        return self.semantic_on and not self.semantic_labels_only


@dataclass(frozen=True)
class _QueryGroup:
    """Queries of one decoder that compete for the pixels of the maps.

    Attributes:
        masks: of the queries of the decoder.
        queries: [n].
        class_logits: [n, K].
        scored_classes: [K], the classes whose logits are not masked; None = all.
    """

    masks: QueryMasks
    queries: Tensor
    class_logits: Tensor
    scored_classes: Sequence[bool] | None


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
    pixel_scores: PixelScores | None = None,
    owners: PartOwners = (),
    enforce_consistency: Callable[[Tensor], Any] | None = None,
) -> dict[str, Any]:
    """Compute the requested outputs of one image of a batch.

    The host waits for the device at most four times: twice in torchvision's non-maximum
    suppression, for the selection of masks, and for the segments.

    Args:
        things: predictions of the thing decoder for the image.
        stuff: of the stuff decoder. Without one, thing queries predict stuff too.
        token_spans: K tuples of token positions, one tuple a class.
        is_thing: [K].
        input_size: (height, width) of the unpadded image.
        output_size: (height, width) of the results.
        settings: requested outputs and thresholds.
        clip_scores: CLIP scores of the image's masks, combined with the class scores.
        pixel_scores: of the pixel class head, combined with the scores after those of CLIP.
        owners: [K], see `part_owners`; () = no class is a part.
        enforce_consistency: changes semantic scores [K, R, W] in place, after the parts of segments
            are known; see `enforce_part_consistency`.

    Returns:
        The requested ones of `instances` (pred_boxes, scores, pred_classes, pred_masks), `sem_seg`
        [K, H, W] or `sem_seg_labels`, and `panoptic_seg` (map, segments). With both maps and
        classes that are parts also `part_seg` [H, W], see `part_segmentation`. Masks and maps take
        bounded memory beside the results, see `hipie.modeling.postprocessing.mask_upsampling`.
    """
    frame = ImageFrame(input_size, output_size)
    boxes, masks = things.layer.boxes[0], QueryMasks(things)
    with torch.autocast(boxes.device.type, enabled=False):
        class_logits = pool_token_logits(things.token_logits, token_spans, settings.token_pooling)
        scored_classes = None
        if stuff is not None and any(is_thing):
            class_logits, scored_classes = mask_stuff_classes(class_logits, is_thing), is_thing
        if clip_scores is None:
            scores = instance_scores(class_logits, things.iou_logits)
        else:
            patches = _thing_patch_masks(masks, clip_scores)
            scores = clip_scores.instance_scores(class_logits, things.iou_logits, patches)
        if pixel_scores is not None and pixel_scores.mask_weight:
            (scores,) = pixel_scores.combine(masks.all(), scores)
        kept = class_aware_nms(scores, boxes.float(), settings.nms_threshold)
        groups = []
        if settings.semantic_on or settings.panoptic_on:
            if stuff is None or not settings.panoptic_from_stuff_decoder_only:
                groups.append(_QueryGroup(masks, kept, class_logits[kept], scored_classes))
            if stuff is not None:
                groups += _stuff_groups(stuff, token_spans, is_thing, settings)
        maps = _DenseMaps(
            groups, is_thing, owners, frame, settings, clip_scores, pixel_scores, boxes.device
        )
        instances = None
        if settings.instance_on:
            pairs = topk_query_class_pairs(
                scores[kept],
                settings.detections_per_image,
                is_thing if any(is_thing) else None,
            )
            query, label, score = pairs
            instances = InstanceCandidates.from_pairs(boxes[kept], query, score, label, frame)
        return _compute_results(maps, instances, masks, kept, enforce_consistency)


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
    scored_classes = None
    if not (settings.thing_scores_from_stuff_decoder or settings.panoptic_from_stuff_decoder_only):
        if all(is_thing) and settings.min_softmax_classes:
            return []
        logits = mask_thing_classes(logits, is_thing)
        scored_classes = [not thing for thing in is_thing]
    queries = torch.arange(len(logits), device=logits.device)
    return [_QueryGroup(QueryMasks(stuff), queries, logits, scored_classes)]


class _DenseMaps:
    """Semantic and panoptic map; every mask is upsampled once for both.

    Attributes:
        groups: queries that compete for pixels; none if no map is requested.
        frame: sizes of the image.
        candidates: [N] bool, the queries of all groups that compete in the panoptic map; [0]
            without one.
    """

    def __init__(
        self,
        groups: Sequence[_QueryGroup],
        is_thing: Sequence[bool],
        owners: PartOwners,
        frame: ImageFrame,
        settings: InferenceSettings,
        clip_scores: ClipMaskScores | None,
        pixel_scores: PixelScores | None,
        device: torch.device,
    ) -> None:
        self.candidates = torch.zeros(0, dtype=torch.bool, device=device)
        self.groups, self._is_thing, self._owners = groups, is_thing, owners
        self.frame, self._settings = frame, settings
        # All classes of a query differ then, see `QueryBlock`.
        self._classes_differ = clip_scores is not None or pixel_scores is not None
        self._pixel_scores = pixel_scores
        self._thresholds = PanopticThresholds(
            settings.object_mask_threshold, settings.overlap_threshold
        )
        if not groups:
            return
        class_logits = torch.cat([group.class_logits for group in groups])
        scores = panoptic_scores(class_logits, settings.temperature)
        padded_scores = panoptic_scores(
            class_logits, settings.temperature, settings.min_softmax_classes
        )
        if clip_scores is not None:
            patches = torch.cat(
                [_cropped_patch_masks(group, frame, clip_scores) for group in groups]
            )
            scores, padded_scores = clip_scores.panoptic_scores([scores, padded_scores], patches)
        if pixel_scores is not None and pixel_scores.mask_weight:
            mask_logits = torch.cat([group.masks.all()[group.queries] for group in groups])
            scores, padded_scores = pixel_scores.combine(mask_logits, scores, padded_scores)
        self._scores = padded_scores if settings.background else scores
        self._panoptic_scores = suppress_part_queries(padded_scores, owners)
        if settings.panoptic_on:
            self.candidates = panoptic_candidates(self._panoptic_scores, self._thresholds)

    def needed_rows(self, candidates: Sequence[int]) -> list[list[int]]:
        """Queries of every group whose masks the maps need; without semantic map, candidates."""
        rows, start = [], 0
        for size in (len(group.queries) for group in self.groups):
            if self._settings.semantic_on:
                rows.append(list(range(size)))
            else:
                rows.append([row - start for row in candidates if start <= row < start + size])
            start += size
        return rows

    def compute(
        self,
        mask_logits: Sequence[Tensor],
        candidates: Sequence[int],
        enforce_consistency: Callable[[Tensor], Any] | None,
    ) -> dict[str, Any]:
        """Compute the maps.

        Args:
            mask_logits: [n, h, w] of the needed queries of every group.
            candidates: queries that compete in the panoptic map.
            enforce_consistency: see `universal_inference`.
        """
        settings, frame = self._settings, self.frame
        device = self._scores.device
        upsampler = MaskRowUpsampler(mask_logits, frame.input_size, frame.output_size)
        candidate_index = to_device(torch.tensor(candidates, dtype=torch.long), device)
        best: dict[int, Tensor] = {}
        semantic: SemanticAccumulator | SemanticLabelAccumulator | None = None
        if settings.semantic_on:
            semantic = self._semantic_accumulator(best, enforce_consistency)
        panoptic = None
        if settings.panoptic_on:
            panoptic = PanopticAccumulator(
                self._panoptic_scores[candidate_index],
                self._is_thing,
                frame.output_size,
                self._thresholds,
            )
        height, width = frame.output_size
        count = sum(len(logits) for logits in mask_logits)
        if count:
            # The scores of all classes exist for one band too.
            planes = count
            if semantic is not None:
                planes += self._scores.shape[1] * (1 if self._pixel_scores is None else 2)
            for band in row_bands(height, 4 * width * planes, mask_bytes(device)):
                probabilities = upsampler(band.start, band.stop).sigmoid_()
                if semantic is not None:
                    semantic.add(band, probabilities)
                if panoptic is not None:
                    if len(candidates) < probabilities.shape[1]:
                        probabilities = probabilities.index_select(1, candidate_index)
                    panoptic.add(band, probabilities)
        results: dict[str, Any] = {}
        if semantic is not None:
            name = "sem_seg_labels" if settings.semantic_labels_only else "sem_seg"
            results[name] = semantic.result()
        if panoptic is not None:
            results["panoptic_seg"] = panoptic.result()
        if self._with_parts:
            panoptic_map, segments = results["panoptic_seg"]
            if isinstance(semantic, SemanticAccumulator):
                wholes = {segment["category_id"] for segment in segments}
                best = best_parts(semantic.result(), self._owners, wholes)
            results["part_seg"] = parts_of_segments(panoptic_map, segments, best)
        if isinstance(semantic, SemanticAccumulator) and enforce_consistency is not None:
            enforce_consistency(results["sem_seg"])
        return results

    @property
    def _with_parts(self) -> bool:
        with_maps = self._settings.semantic_on and self._settings.panoptic_on
        return with_maps and any(owner is not None for owner in self._owners)

    def _semantic_accumulator(
        self, best: dict[int, Tensor], enforce_consistency: Callable[[Tensor], Any] | None
    ) -> SemanticAccumulator | SemanticLabelAccumulator:
        """Accumulator of scores, or of labels, which then fills `best` with the best parts."""
        size, blocks, start = self.frame.output_size, [], 0
        for group in self.groups:
            queries = slice(start, start + len(group.queries))
            blocks.append(
                QueryBlock(queries, None if self._classes_differ else group.scored_classes)
            )
            start = queries.stop
        pixels = None
        if self._pixel_scores is not None and self._pixel_scores.semantic_weight:
            pixels = PixelRows(self._pixel_scores, self.frame.input_size, size)
        if not self._settings.semantic_labels_only:
            return SemanticAccumulator(self._scores, size, blocks, pixels)

        def change_band(scores: Tensor, rows: slice) -> None:
            if self._with_parts:
                for whole, parts in best_parts(scores, self._owners).items():
                    if whole not in best:
                        best[whole] = parts.new_zeros(size)
                    best[whole][rows] = parts
            if enforce_consistency is not None:
                enforce_consistency(scores)

        return SemanticLabelAccumulator(self._scores, size, blocks, change_band, pixels)


def _compute_results(
    maps: _DenseMaps,
    instances: InstanceCandidates | None,
    masks: QueryMasks,
    kept: Tensor,
    enforce_consistency: Callable[[Tensor], Any] | None,
) -> dict[str, Any]:
    """Select masks on the host, compute each of them once, and from them the results.

    Args:
        maps: maps that are requested.
        instances: pairs whose queries are rows of `kept`; None = not requested.
        masks: of the thing queries.
        kept: [n] thing queries that non-maximum suppression keeps.
        enforce_consistency: see `universal_inference`.
    """
    if instances is None and not maps.groups:
        return {}
    pairs = [] if instances is None else [instances.queries, instances.is_valid]
    is_candidate, *pairs_on_host = to_host([maps.candidates, *pairs])
    candidates: list[int] = is_candidate.nonzero().flatten().tolist()
    pair_index: list[int] = []
    pair_rows: list[int] = []
    if pairs_on_host:
        pair_index = kept_pairs(pairs_on_host[1])
        all_rows = pairs_on_host[0].tolist()
        pair_rows = [all_rows[pair] for pair in pair_index]
    thing_logits, position = None, {}
    mask_logits = []
    for group, rows in zip(maps.groups, maps.needed_rows(candidates), strict=True):
        computed = rows if group.masks is not masks else sorted({*rows, *pair_rows})
        logits = _masks_of_rows(group.masks, group.queries, computed)
        if group.masks is masks:
            thing_logits, position = logits, {row: index for index, row in enumerate(computed)}
        if computed != rows:
            index = to_device(torch.tensor([position[row] for row in rows]).long(), logits.device)
            logits = logits[index]
        mask_logits.append(logits)
    results = maps.compute(mask_logits, candidates, enforce_consistency) if maps.groups else {}
    if instances is not None:
        if thing_logits is None:
            computed = sorted(set(pair_rows))
            position = {row: index for index, row in enumerate(computed)}
            thing_logits = _masks_of_rows(masks, kept, computed)
        mask_rows = [position[row] for row in pair_rows]
        results["instances"] = instance_inference(
            instances, pair_index, thing_logits, mask_rows, maps.frame
        )
    return results


def _masks_of_rows(masks: QueryMasks, queries: Tensor, rows: Sequence[int]) -> Tensor:
    """Mask logits of the queries [n] in some rows, increasing."""
    if len(rows) < len(queries):
        queries = queries[to_device(torch.tensor(rows, dtype=torch.long), queries.device)]
    return masks(queries)


def _thing_patch_masks(masks: QueryMasks, clip_scores: ClipMaskScores) -> Tensor:
    """CLIP patches of all thing masks, on the canvas of a batch of this image only."""
    mask_logits = masks.all()
    # Masks are at stride 4, and a whole multiple of the size of the mask features.
    factor = mask_logits.shape[-2] // masks.mask_features.shape[-2]
    height, width = (factor * -(-side // (4 * factor)) for side in clip_scores.size)
    mask_logits = mask_logits[:, :height, :width]
    chunks = [
        clip_scores.patch_masks(mask_logits[rows])
        for rows in mask_chunks(
            len(mask_logits), CLIP_IMAGE_SIZE, chunk_bytes=working_bytes(mask_logits.device)
        )
    ]
    return torch.cat(chunks) if chunks else clip_scores.patch_masks(mask_logits)


def _cropped_patch_masks(
    group: _QueryGroup, frame: ImageFrame, clip_scores: ClipMaskScores
) -> Tensor:
    """CLIP patches of masks that are cropped to the unpadded image."""
    mask_logits = group.masks.all()[group.queries]
    chunks = [
        clip_scores.patch_masks(upsample_to_input(mask_logits[rows], frame.input_size))
        for rows in mask_chunks(
            len(mask_logits),
            frame.input_size,
            CLIP_IMAGE_SIZE,
            chunk_bytes=working_bytes(mask_logits.device),
        )
    ]
    return torch.cat(chunks) if chunks else clip_scores.patch_masks(mask_logits)
