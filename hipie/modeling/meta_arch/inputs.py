"""Preparation of Detectron2's input dicts: padding, task, vocabulary, ground truth, output size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Instances, PolygonMasks
from torch import Tensor

from hipie.box_ops import box_xyxy_to_cxcywh
from hipie.errors import InputError
from hipie.modeling.criterion.color_affinity import color_similarity, rgb_to_lab
from hipie.modeling.device_transfer import to_device
from hipie.modeling.text_encoder.positive_map import positive_map, propagate_part_to_whole
from hipie.structures import (
    BOX,
    COLOR_STRIDE,
    InferenceSize,
    Size,
    Supervision,
    Tags,
    Targets,
    TextFeatures,
)
from hipie.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASKS = ("detection", "semantic", "parts", "referring")
IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class InputConfig:
    """Normalisation and padding of images, and default vocabularies.

    Attributes:
        pixel_mean, pixel_std: three numbers each, in 0..255.
        size_divisibility: sides of the training canvas are multiples of this.
        pad_at_test: whether that holds at test, too.
        backbone_divisibility: divisor of the canvas's sides that the backbone always needs; 0 =
            none.
        image_format: "RGB" or "BGR", order of the channels of images.
        train_dataset, test_dataset: registered data sets with the classes of inputs that have
            neither `vocabulary` nor `expressions`; "" = none.
    """

    pixel_mean: Sequence[float]
    pixel_std: Sequence[float]
    size_divisibility: int = 32
    pad_at_test: bool = False
    backbone_divisibility: int = 0
    image_format: str = "RGB"
    train_dataset: str = ""
    test_dataset: str = ""

    def divisibility(self, training: bool) -> int:
        """Divisor of the canvas's sides; 1 = no padding beyond the largest image."""
        divisor = self.size_divisibility if training or self.pad_at_test else 1
        return math.lcm(max(divisor, 1), max(self.backbone_divisibility, 1))


def pad_images(
    images: Sequence[Tensor], mean: Tensor, std: Tensor, divisibility: int = 0
) -> tuple[Tensor, Tensor, tuple[Size, ...]]:
    """Normalise images and pad them to one canvas, to the right and at the bottom.

    Args:
        images: B tensors [3, h, w], uint8 or float, 0..255.
        mean: [3, 1, 1]; its device is the batch's.
        std: [3, 1, 1].
        divisibility: the canvas's sides are multiples of this (0 or 1: no further padding).

    Returns:
        Pixels [B, 3, H, W], 0 where padded; padding mask [B, H, W] bool, True where padded; and
        (height, width) of each image.
    """
    sizes = tuple((int(image.shape[-2]), int(image.shape[-1])) for image in images)
    step = max(divisibility, 1)
    height, width = (-(-max(side) // step) * step for side in zip(*sizes, strict=True))
    pixels = mean.new_zeros(len(sizes), 3, height, width)
    padding_mask = torch.ones(len(sizes), height, width, dtype=torch.bool, device=mean.device)
    for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
        pixels[i, :, :h, :w] = (to_device(image, mean.device) - mean) / std
        padding_mask[i, :h, :w] = False
    return pixels, padding_mask, sizes


def training_task(batched_inputs: Sequence[dict[str, Any]]) -> str:
    """Return the task of a training batch.

    An input without `task` but with `instances` and without `expressions`, as Detectron2's own
    `DatasetMapper` makes it, is of the task "detection".

    Raises:
        ValueError: if the batch mixes tasks, or the task is unknown or missing.
    """
    tasks = {_task(item) for item in batched_inputs}
    if len(tasks) != 1:
        raise InputError(f"a training batch must have one task, and this one has {sorted(tasks)}")
    task = tasks.pop()
    if task not in TASKS:
        raise InputError(f'unknown task "{task}"; known are {", ".join(TASKS)}')
    return task


def _task(item: dict[str, Any]) -> str:
    if "task" in item:
        return str(item["task"])
    if "instances" in item and "expressions" not in item:
        return "detection"
    raise InputError(f"a training input has no `task`, one of {', '.join(TASKS)}")


def vocabulary_of(item: dict[str, Any], default_dataset: str) -> Vocabulary:
    """Return the vocabulary of an input, else that of a registered data set, without background.

    Raises:
        ValueError: if there is neither.
    """
    vocabulary = item.get("vocabulary")
    if vocabulary:
        return vocabulary
    if not default_dataset:
        raise InputError(
            "an image has neither `vocabulary` nor `expressions`, and DATASETS.TRAIN or "
            "DATASETS.TEST names no data set whose classes could be used"
        )
    metadata = MetadataCatalog.get(default_dataset)
    vocabulary, background = Vocabulary.from_metadata(metadata), metadata.get("background_class")
    if background is None:
        return vocabulary
    return Vocabulary(tuple(entry for entry in vocabulary.classes if entry.name != background))


def output_size(item: dict[str, Any], default: Size) -> Size:
    """Return the (height, width) of an input's results."""
    return item.get("height", default[0]), item.get("width", default[1])


def vocabulary_targets(
    item: dict[str, Any],
    vocabulary: Vocabulary,
    text: TextFeatures,
    image: int,
    canvas: Size,
    *,
    all_things: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
    image_format: str = "RGB",
) -> Targets:
    """Ground truth of an image with a vocabulary.

    Args:
        item: with `instances`, and where pixels give no loss `ignored` (uint8 [h, w], see
            `IgnoredPixels`); see also `build_supervision` and `image_tags`.
        vocabulary: its classes.
        text: features of the batch's captions.
        image: index of the image in the batch.
        canvas: (height, width) of the padded batch.
        all_things: treat stuff as things.
        tokenizer: if given, a part is also positive for its whole's name elsewhere in the caption.
        image_format: "RGB" or "BGR".
    """
    instances = _instances_of(item)
    length = text.hidden.shape[1]
    positive = positive_map(text.token_spans[image], instances.gt_classes, length)
    positive = to_device(positive, text.hidden.device)
    if tokenizer is not None:
        positive = propagate_part_to_whole(positive, text.input_ids[image], vocabulary, tokenizer)
    is_thing = (True,) * len(vocabulary) if all_things else vocabulary.is_thing
    device = text.hidden.device
    return build_targets(
        instances,
        canvas,
        positive_map=positive,
        is_thing=is_thing,
        device=device,
        ignored=item.get("ignored"),
        supervision=build_supervision(
            instances, canvas, item["image"], device=device, image_format=image_format
        ),
        tags=image_tags(item, text, image, is_thing),
    )


def image_tags(
    item: dict[str, Any], text: TextFeatures, image: int, is_thing: Sequence[bool]
) -> Tags | None:
    """Ground truth of an image whose objects are not annotated; None for others.

    Args:
        item: with `tags` [C], indices of classes, or `unlabelled`, if nothing is known.
        text: features of the batch's captions.
        image: index of the image in the batch.
        is_thing: whether each class of the vocabulary is a thing.
    """
    if "tags" not in item and not item.get("unlabelled"):
        return None
    device, length = text.hidden.device, text.hidden.shape[1]
    classes = item.get("tags", torch.zeros(0, dtype=torch.long))
    present = to_device(positive_map(text.token_spans[image], classes, length), device)
    things = torch.tensor(list(is_thing), dtype=torch.bool)[classes]
    absent = text.mask[image].bool() & ~present.any(dim=0)
    if item.get("unlabelled"):
        absent = torch.zeros_like(absent)
    return Tags(present, to_device(things, device), absent)


def expression_targets(item: dict[str, Any], canvas: Size, device: torch.device) -> list[Targets]:
    """Ground truth of each expression of an image; every expression is a class of its own.

    Args:
        item: with `expressions` and `instances`, whose `gt_classes` [N] are the index of the
            expression that describes an object.
        canvas: (height, width) of the padded batch.
        device: of the results.
    """
    instances = _instances_of(item)
    targets = []
    for expression in range(len(item["expressions"])):
        described = instances[instances.gt_classes == expression]
        described.gt_classes = torch.zeros_like(described.gt_classes)
        positive = torch.ones(len(described), 1, dtype=torch.bool)
        targets.append(
            build_targets(described, canvas, positive_map=positive, is_thing=(True,), device=device)
        )
    return targets


def build_targets(
    instances: Instances,
    canvas: Size,
    *,
    positive_map: Tensor,
    is_thing: Sequence[bool],
    device: torch.device,
    ignored: Tensor | None = None,
    supervision: Supervision | None = None,
    tags: Tags | None = None,
) -> Targets:
    """Convert Detectron2's ground-truth instances of one image.

    Args:
        instances: `gt_classes` [N], `gt_boxes` (xyxy in pixels), `gt_masks` (`BitMasks` or
            `PolygonMasks`).
        canvas: (height, width) of the padded batch.
        positive_map: [N, T] bool, the tokens that name each object.
        is_thing: whether each class of the vocabulary is a thing.
        device: of the result.
        ignored: uint8 [h, w] of the unpadded image, see `IgnoredPixels`.
        supervision: of `build_supervision`.
        tags: of `image_tags`.
    """
    height, width = instances.image_size
    labels = instances.gt_classes
    boxes = instances.gt_boxes.tensor.float()
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, height, width)
    thing_classes = torch.tensor(list(is_thing), dtype=torch.bool, device=labels.device)
    padding = (0, canvas[1] - width, 0, canvas[0] - height)
    boxes = boxes / boxes.new_tensor([width, height, width, height])
    return Targets(
        labels=to_device(labels, device),
        boxes=to_device(box_xyxy_to_cxcywh(boxes), device),
        masks=F.pad(to_device(masks.tensor, device), padding),
        is_thing=to_device(thing_classes[labels], device),
        positive_map=to_device(positive_map, device),
        image_size=(height, width),
        ignored=None if ignored is None else F.pad(to_device(ignored, device), padding),
        supervision=supervision,
        tags=tags,
    )


def build_supervision(
    instances: Instances,
    canvas: Size,
    image: Tensor,
    *,
    device: torch.device,
    image_format: str = "RGB",
) -> Supervision | None:
    """Convert what is annotated of the instances of one image; None = all have masks.

    Args:
        instances: with `gt_supervision` [N] (`MASK`, `BOX`, `POINTS` or `SCRIBBLE`), if not all
            have masks; `gt_scores` [N], the weights of their losses, by default 1; and `gt_points`
            [N, P, 3], x and y in pixels, and 1 on the object, 0 beside it, -1 for no point.
        canvas: (height, width) of the padded batch.
        image: [3, h, w] of 0..255.
        device: of the result.
        image_format: "RGB" or "BGR".
    """
    if not instances.has("gt_supervision") and not instances.has("gt_scores"):
        return None
    masks = Supervision.of_masks(len(instances), torch.zeros((), device=device))
    if instances.has("gt_scores"):
        masks = replace(masks, scores=to_device(instances.gt_scores.float(), device))
    if not instances.has("gt_supervision"):
        return masks
    kinds = instances.gt_supervision
    points, labels = masks.points, masks.point_labels
    if instances.has("gt_points"):
        size = instances.gt_points.new_tensor([canvas[1], canvas[0]])
        points = to_device((instances.gt_points[..., :2] / size).float(), device)
        labels = to_device(instances.gt_points[..., 2].long(), device)
    similarity = masks.similarity
    if bool((kinds == BOX).any()):
        similarity = canvas_similarity(to_device(image, device), canvas, image_format)
    return Supervision(to_device(kinds, device), masks.scores, points, labels, similarity)


def canvas_similarity(image: Tensor, canvas: Size, image_format: str) -> Tensor:
    """Similarity of neighbouring colours of an image, see `Supervision`.

    Args:
        image: [3, h, w] of 0..255.
        canvas: (height, width) of the padded batch.
        image_format: "RGB" or "BGR".

    Returns:
        [8, H / 4, W / 4].
    """
    height, width = int(image.shape[-2]), int(image.shape[-1])
    padded = F.pad(image.float(), (0, canvas[1] - width, 0, canvas[0] - height))
    small = F.avg_pool2d(padded[None], COLOR_STRIDE)
    rows, columns = (torch.arange(side, device=image.device) for side in small.shape[-2:])
    start = COLOR_STRIDE // 2
    inside = (rows * COLOR_STRIDE + start < height)[:, None] & (
        columns * COLOR_STRIDE + start < width
    )
    rgb = small.flip(1) if image_format == "BGR" else small
    return color_similarity(rgb_to_lab(rgb / 255), inside[None])[0]


def _instances_of(item: dict[str, Any]) -> Instances:
    if "instances" not in item:
        raise InputError("a training input has no `instances`")
    instances = item["instances"]
    for field in ("gt_classes", "gt_boxes", "gt_masks"):
        if not instances.has(field):
            raise InputError(f"the `instances` of a training input have no `{field}`")
    return instances


def named_inference_size(
    batched_inputs: Sequence[dict[str, Any]], default_dataset: str
) -> InferenceSize:
    """Sizes of a model that keeps no features of more channels than an image has.

    Args:
        batched_inputs: Detectron2's dicts of one batch; those with `expressions` have no classes.
        default_dataset: see `vocabulary_of`.
    """
    num_classes = [
        len(vocabulary_of(item, default_dataset))
        for item in batched_inputs
        if "expressions" not in item
    ]
    return batch_inference_size(
        batched_inputs, channels=IMAGE_CHANNELS, num_classes=max(num_classes, default=0)
    )


def batch_inference_size(
    batched_inputs: Sequence[dict[str, Any]], *, channels: int, num_classes: int
) -> InferenceSize:
    """Sizes that determine the memory of inference on a batch.

    Args:
        batched_inputs: Detectron2's dicts of one batch.
        channels: feature channels of the model.
        num_classes: of the largest vocabulary with a semantic map; 0 without maps.
    """
    images = [item["image"] for item in batched_inputs]
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    outputs = [output_size(item, size) for item, size in zip(batched_inputs, sizes, strict=True)]
    return InferenceSize(
        canvas_size=(max(height for height, _ in sizes), max(width for _, width in sizes)),
        num_images=len(sizes),
        output_pixels=sum(height * width for height, width in outputs),
        channels=channels,
        num_classes=num_classes,
        output_size=max(outputs, key=lambda size: size[0] * size[1]),
    )
