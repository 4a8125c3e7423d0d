"""From decoder outputs to Detectron2's results and to raw predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hipie.modeling.meta_arch.inputs import output_size
from hipie.modeling.postprocessing.part_inference import enforce_part_consistency
from hipie.modeling.postprocessing.part_panoptic import part_owners
from hipie.modeling.postprocessing.universal_inference import (
    InferenceSettings,
    universal_inference,
)
from hipie.structures import DecoderOutput, HIPIEOutput, MaskHead, RawBranch
from hipie.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from hipie.modeling.open_vocabulary.clip_ensemble import ClipMaskScores
    from hipie.modeling.postprocessing.pixel_scores import PixelScores


def requested_settings(item: dict[str, Any], settings: InferenceSettings) -> InferenceSettings:
    """Restrict the settings to the results that an input requests.

    Its key `results`, if present, names them: "instances", "sem_seg", "sem_seg_labels",
    "panoptic_seg". A result that the settings turn off is not computed either way. `part_seg` comes
    with a semantic and a panoptic map. "sem_seg_labels" is the best class of every pixel, without
    the scores [K, H, W] of all classes. `background` says that pixels may have none of the classes,
    so that scores have to be comparable with a threshold.
    """
    settings = replace(settings, background=bool(item.get("background", False)))
    if "results" not in item:
        return settings
    requested = item["results"]
    return replace(
        settings,
        instance_on=settings.instance_on and "instances" in requested,
        semantic_on=settings.semantic_on
        and ("sem_seg" in requested or "sem_seg_labels" in requested),
        semantic_labels_only="sem_seg" not in requested,
        panoptic_on=settings.panoptic_on and "panoptic_seg" in requested,
    )


def requested_threshold(item: dict[str, Any], settings: InferenceSettings) -> float:
    """Return the score below which an expression of an input describes nothing.

    It is that of the settings, unless `results` of the input have "best_instances": then the best
    query of every expression is requested, whatever its score.
    """
    return 0.0 if "best_instances" in item.get("results", ()) else settings.no_target_threshold


def vocabulary_results(
    output: HIPIEOutput,
    image: int,
    item: dict[str, Any],
    vocabulary: Vocabulary,
    settings: InferenceSettings,
    *,
    thing_mask_head: MaskHead,
    stuff_mask_head: MaskHead | None,
    clip_scores: ClipMaskScores | None,
    pixel_scores: PixelScores | None = None,
) -> dict[str, Any]:
    """Compute the results of one image of a batch; see `universal_inference`.

    Args:
        output: of both decoders.
        image: index in the batch.
        item: its input dict.
        vocabulary: its classes.
        settings: of the model.
        thing_mask_head: of the thing decoder.
        stuff_mask_head: of the stuff decoder, if there is one.
        clip_scores: of the image, if CLIP is enabled.
        pixel_scores: of the image, if there is a pixel class head.
    """
    settings = requested_settings(item, settings)
    wholes = [entry.whole for entry in vocabulary.classes]
    stuff = None
    if output.stuff is not None and stuff_mask_head is not None:
        stuff = output.stuff.of_image(image, stuff_mask_head)

    def enforce_consistency(scores: Tensor) -> Tensor:
        return enforce_part_consistency(scores, vocabulary.names, wholes)

    return universal_inference(
        output.things.of_image(image, thing_mask_head),
        stuff,
        token_spans=output.token_spans[image],
        is_thing=vocabulary.is_thing,
        input_size=output.image_sizes[image],
        output_size=output_size(item, output.image_sizes[image]),
        settings=settings,
        clip_scores=clip_scores,
        pixel_scores=pixel_scores,
        owners=part_owners(vocabulary.names, wholes),
        enforce_consistency=enforce_consistency if settings.consistent_parts else None,
    )


def raw_branch(
    output: DecoderOutput, mask_head: MaskHead, query_index: Sequence[int] | Tensor | None
) -> RawBranch:
    """Raw predictions of one decoder.

    Args:
        output: of B images.
        mask_head: of the decoder.
        query_index: queries whose masks are computed; None = all.

    Raises:
        ValueError: if a query does not exist.
    """
    last = output.layers[-1]
    assert last.logits is not None, "the class head has not read the text"
    batch, count = last.boxes.shape[:2]
    device = last.boxes.device
    requested = torch.arange(count) if query_index is None else torch.as_tensor(query_index).long()
    if len(requested) and not 0 <= int(requested.min()) <= int(requested.max()) < count:
        raise ValueError(
            f"the mask of query {int(requested.max())} was requested; there are {count} queries"
        )
    requested = requested.to(device)
    images = torch.arange(batch, device=device)
    masks = mask_head.logits(
        last,
        output.mask_features,
        images.repeat_interleave(len(requested)),
        requested.repeat(batch),
        [len(requested)] * batch,
    )
    return RawBranch(
        token_logits=last.require_logits(),
        boxes=last.boxes,
        mask_logits=masks.unflatten(0, (batch, len(requested))),
        references=output.references,
        proposals=output.proposal_index,
        iou_logits=last.iou_logits,
    )
