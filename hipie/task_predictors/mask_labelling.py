"""Task predictor that gives class names to masks, given ones or SAM's automatic ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie.modeling.postprocessing.mask_labelling import (
    LabelledMask,
    PartCandidates,
    classify_masks,
    label_masks_and_parts,
    non_overlapping_segments,
)
from hipie.segmentation import Segment, Segmentation
from hipie.task_predictors.base import (
    PreparedImage,
    TaskPredictor,
    encode_with_sam,
    register_task_predictor,
)
from hipie.vocabularies.vocabulary import Vocabulary, name_key

if TYPE_CHECKING:
    from hipie.modeling.sam.predictor import Sam


@register_task_predictor("mask_labelling")
class MaskLabellingPredictor(TaskPredictor):
    """Class names for masks: of each the class whose semantic scores have the largest sum in it."""

    model_task = "universal"

    def predict(
        self,
        images: Sequence[PreparedImage],
        *,
        vocabulary: Vocabulary,
        part_vocabulary: Vocabulary | None = None,
        masks: NDArray[Any] | torch.Tensor | None = None,
        sam: Sam | None = None,
        sam_options: dict[str, float] | None = None,
    ) -> list[Segmentation]:
        """Label masks; small masks are painted over large ones.

        Masks of one stuff class become one segment.

        Args:
            images: one or more; one where masks are given.
            vocabulary: classes to choose from.
            part_vocabulary: with classes of kind "part", for masks inside those of their wholes;
                see `label_masks_and_parts`.
            masks: [N, H, W] bool; by default SAM's automatic masks of each image.
            sam: makes the automatic masks.
            sam_options: see `hipie.modeling.sam.automatic_masks.automatic_masks`.

        Returns:
            One result an image, without segments where SAM proposes no mask.

        Raises:
            OpenVocabularyError: for no mask, an empty mask, or masks of another size.
        """
        results = []
        for image in images:
            if part_vocabulary is not None:
                image.encode()
            if masks is None:
                proposals = _automatic_masks(image, sam, sam_options or {})
                if not len(proposals):
                    names = _class_names(vocabulary, part_vocabulary)
                    results.append(Segmentation(image.pixels, (), names))
                    continue
            else:
                proposals = _as_masks(masks)
            results.append(_label(image, proposals, vocabulary, part_vocabulary))
        return results


def _label(
    image: PreparedImage,
    masks: torch.Tensor,
    vocabulary: Vocabulary,
    part_vocabulary: Vocabulary | None,
) -> Segmentation:
    _require_masks(masks, image.size)
    scores = image.run(vocabulary=vocabulary, results=("sem_seg",))["sem_seg"].cpu()
    if part_vocabulary is not None:
        part_scores = image.run(vocabulary=part_vocabulary, results=("sem_seg",))["sem_seg"].cpu()
        parts = _part_candidates(part_scores, vocabulary, part_vocabulary)
        labelled = label_masks_and_parts(masks, scores, vocabulary.is_thing, parts)
        objects = [_segment(mask, vocabulary, part_vocabulary) for mask in labelled]
        return Segmentation(image.pixels, objects, _class_names(vocabulary, part_vocabulary))
    classes, shares = classify_masks(masks, scores)
    segments = []
    for index, score, mask in non_overlapping_segments(masks, classes, shares, vocabulary.is_thing):
        entry = vocabulary.classes[index]
        segments.append(Segment(entry.name, entry.kind, mask.numpy(), score))
    return Segmentation(image.pixels, segments, vocabulary.names)


def _part_candidates(
    scores: torch.Tensor, vocabulary: Vocabulary, part_vocabulary: Vocabulary
) -> PartCandidates:
    """Parts of each class of both vocabularies, by the names of their wholes."""
    indices_of: dict[str, list[int]] = defaultdict(list)
    for index, entry in enumerate(part_vocabulary.classes):
        if entry.kind == "part" and entry.whole:
            indices_of[name_key(entry.whole)].append(index)
    of_classes, of_parts = (
        [indices_of[name_key(entry.name)] for entry in classes]
        for classes in (vocabulary.classes, part_vocabulary.classes)
    )
    return PartCandidates(scores, of_classes, of_parts)


def _segment(labelled: LabelledMask, vocabulary: Vocabulary, parts: Vocabulary) -> Segment:
    entry = vocabulary.classes[labelled.index]
    nested = tuple(_segment(part, parts, parts) for part in labelled.parts)
    return Segment(entry.name, entry.kind, labelled.mask.numpy(), labelled.score, nested)


def _class_names(vocabulary: Vocabulary, parts: Vocabulary | None) -> tuple[str, ...]:
    """Names of all classes, those of parts last."""
    part_classes = () if parts is None else parts.classes
    return (*vocabulary.names, *(part.name for part in part_classes if part.kind == "part"))


def _automatic_masks(
    image: PreparedImage, sam: Sam | None, options: dict[str, float]
) -> torch.Tensor:
    from hipie.modeling.sam.automatic_masks import automatic_masks

    if sam is None:
        raise OpenVocabularyError("labelling needs masks, or a SAM that proposes them")
    return automatic_masks(sam, image.pixels, encode_with_sam(image, sam), **options)[0]


def _as_masks(masks: Any) -> torch.Tensor:
    """Return masks as a tensor of bool, on the CPU.

    Raises:
        OpenVocabularyError: if they are neither a tensor nor an array nor a list of them.
    """
    try:
        if isinstance(masks, torch.Tensor):
            return masks.detach().cpu().bool()
        if not isinstance(masks, np.ndarray):
            masks = np.stack([np.asarray(mask) for mask in masks])
        return torch.from_numpy(np.ascontiguousarray(masks.astype(bool)))
    except (TypeError, ValueError, RuntimeError) as error:
        raise OpenVocabularyError(
            "masks must be a bool array [N, H, W], or a list of arrays [H, W], not a value of type "
            f"{type(masks).__name__}"
        ) from error


def _require_masks(masks: torch.Tensor, size: tuple[int, int]) -> None:
    if masks.ndim != 3 or tuple(masks.shape[1:]) != tuple(size):
        raise OpenVocabularyError(
            f"the masks are {list(masks.shape)}, and the image needs [N, {size[0]}, {size[1]}]"
        )
    if not len(masks):
        raise OpenVocabularyError("there is no mask to be labelled")
    empty = (~masks.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise OpenVocabularyError(f"mask {empty[0]} is empty, so it cannot be labelled")
