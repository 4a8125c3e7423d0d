"""From what the branches say of images with words to Detectron2's results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hipie.modeling.criterion.predictions import LayerPrediction
from hipie.modeling.meta_arch.inputs import output_size
from hipie.modeling.postprocessing.part_inference import enforce_part_consistency
from hipie.modeling.postprocessing.part_panoptic import part_owners
from hipie.modeling.postprocessing.universal_inference import (
    InferenceSettings,
    universal_inference,
)
from hipie.modeling.transformer_decoder.thing_branch import ThingOutput
from hipie.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from hipie.modeling.open_vocabulary.clip_mask_scores import ClipMaskScores


@dataclass(frozen=True)
class Looked:
    """Images with words, seen but not yet judged; of `hipie.modeling.meta_arch.hipie.HIPIE.look`.

    Attributes:
        sizes: (height, width) of each image inside the canvas.
        token_spans: of each image the tokens of each class.
        things: what the thing branch says.
        stuff: the last layer of the stuff branch, if there is one.
    """

    sizes: list[tuple[int, int]]
    token_spans: Sequence[Sequence[Sequence[int]]]
    things: ThingOutput
    stuff: LayerPrediction | None


def wanted(item: dict[str, Any], settings: InferenceSettings) -> InferenceSettings:
    """The settings for one of Detectron2's dicts.

    Its `results`, if it has them, name those that are made: "instances", "sem_seg",
    "panoptic_seg". What the settings leave out is not made either way. `part_seg` comes with the
    latter two.
    """
    if "results" not in item:
        return settings
    named = item["results"]
    return replace(
        settings,
        instance_on=settings.instance_on and "instances" in named,
        semantic_on=settings.semantic_on and "sem_seg" in named,
        panoptic_on=settings.panoptic_on and "panoptic_seg" in named,
    )


def image_results(
    looked: Looked,
    i: int,
    item: dict[str, Any],
    vocabulary: Vocabulary,
    settings: InferenceSettings,
    clip_scores: ClipMaskScores | None,
) -> dict[str, Any]:
    """Results of one image of a batch; see `universal_inference`.

    Args:
        looked: what the branches say.
        i: the image's place in the batch.
        item: its dict.
        vocabulary: its classes.
        settings: what is asked for.
        clip_scores: of the image, if CLIP is enabled.
    """
    settings = wanted(item, settings)
    wholes = [one.whole for one in vocabulary.classes]
    result = universal_inference(
        looked.things.layers[-1],
        looked.stuff,
        image=i,
        num_background=looked.things.num_background,
        token_spans=looked.token_spans[i],
        is_thing=vocabulary.is_thing,
        input_size=looked.sizes[i],
        output_size=output_size(item, looked.sizes[i]),
        settings=settings,
        clip_scores=clip_scores,
        owners=part_owners(vocabulary.names, wholes),
    )
    if settings.consistent_parts and settings.semantic_on:
        enforce_part_consistency(result["sem_seg"], vocabulary.names, wholes)
    return result
