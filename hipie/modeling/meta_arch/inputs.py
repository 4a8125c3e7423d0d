"""What is asked of an image: its words, the size of its results, and whether they fit."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.data import MetadataCatalog
from torch import Tensor

from hipie.memory_check import check_memory
from hipie.modeling.text_encoder.positive_map import positive_map, propagate_part_to_whole
from hipie.structures import TextFeatures
from hipie.vocabularies.vocabulary import Vocabulary

Size = tuple[int, int]


def output_size(item: dict[str, Any], fallback: Size) -> Size:
    """(height, width) of the results of one of Detectron2's dicts."""
    return item.get("height", fallback[0]), item.get("width", fallback[1])


def vocabulary_of(item: dict[str, Any], default_dataset: str) -> Vocabulary:
    """The words of one of Detectron2's dicts, else those of a data set.

    Raises:
        ValueError: if there are none.
    """
    given = item.get("vocabulary")
    if given:
        return given
    if not default_dataset:
        raise ValueError(
            "an image has neither `vocabulary` nor `expressions`, and DATASETS.TEST names "
            "no data set whose classes could be used"
        )
    return Vocabulary.from_metadata(MetadataCatalog.get(default_dataset))


def object_pieces(
    text: TextFeatures, i: int, item: dict[str, Any], spread_by: Any | None = None
) -> Tensor:
    """[N, T] bool, the tokens that name the objects of a training image.

    Args:
        text: of the batch's captions.
        i: the image's place in the batch.
        item: its dict, with `instances` and `vocabulary`.
        spread_by: the tokenizer, where a part is also positive for its whole's name elsewhere.
    """
    spans = text.token_spans[i]
    pieces = positive_map(spans, item["instances"].gt_classes, text.hidden.shape[1])
    if spread_by is None:
        return pieces
    return propagate_part_to_whole(pieces, text.input_ids[i], item["vocabulary"], spread_by)


def require_room(
    inputs: list[dict[str, Any]], classes: int, width: int, device: torch.device
) -> None:
    """Refuse images whose results would not fit into memory; see `check_memory`.

    Args:
        inputs: Detectron2's dicts, looked at together.
        classes: of the largest vocabulary.
        width: channels of the model.
        device: where it is.
    """
    sizes = [tuple(item["image"].shape[-2:]) for item in inputs]
    outputs = [output_size(item, size) for item, size in zip(inputs, sizes, strict=True)]
    check_memory(
        (max(height for height, _ in sizes), max(width for _, width in sizes)),
        len(inputs),
        output_pixels=sum(height * width for height, width in outputs),
        width=width,
        classes=classes,
        device=device,
    )
