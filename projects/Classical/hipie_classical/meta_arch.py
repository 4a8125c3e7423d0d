"""Meta-architecture of classical segmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from hipie.box_ops import masks_to_boxes
from hipie.errors import InputError
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.inputs import (
    IMAGE_CHANNELS,
    named_inference_size,
    output_size,
    vocabulary_of,
)
from hipie.modeling.postprocessing.class_maps import segmentation_outputs
from hipie.refinement.masks import refine_masks, require_refinement
from hipie.structures import InferenceSize
from hipie_classical.modeling.label_maps import (
    LabelMap,
    RGBImage,
    absorb_small_regions,
    connected_regions,
)

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures


@META_ARCH_REGISTRY.register()
class ClassicalRegions(SegmentationModel):
    """Regions of an image by a method without learning, and a class for each of them.

    Takes Detectron2's list of dicts. Every dict has `image` ([3, H, W], 0..255) and may have
    `vocabulary`, by default the classes of `DATASETS.TEST[0]`; `height` and `width` give the size
    of the outputs. Returns a dict for each image with `sem_seg` [K, H, W], `panoptic_seg`, and
    `instances` of the things.

    Args:
        regions: divides an image [H, W, 3] into regions [H, W] that are numbered from 0.
        naming: class probabilities [R, K] of the regions, see `PrototypeNaming`.
        min_area: share of the pixels below which a region is given to its neighbours.
        join_touching: whether regions that touch and have the same class become one.
        refinement: "", "crf" or "pamr"; see `hipie.refinement`.
        image_format: "RGB" or "BGR".
        default_dataset: data set with the classes of images without a vocabulary.
    """

    tasks = frozenset({"universal"})

    @configurable
    def __init__(
        self,
        *,
        regions: Callable[[RGBImage], LabelMap],
        naming: nn.Module,
        min_area: float = 0.001,
        join_touching: bool = True,
        refinement: str = "",
        image_format: str = "RGB",
        default_dataset: str = "",
    ) -> None:
        super().__init__()
        if not 0 <= min_area < 1:
            raise InputError(f"MODEL.CLASSICAL.MIN_AREA is {min_area}; it has to be in 0..1")
        if refinement:
            require_refinement(refinement)
        if refinement == "sam":
            raise InputError('MODEL.CLASSICAL.REFINEMENT is "sam"; it has to be "crf" or "pamr"')
        self.regions, self.naming = regions, naming
        self.min_area, self.join_touching, self.refinement = min_area, join_touching, refinement
        self.image_format, self.default_dataset = image_format, default_dataset
        self.register_buffer("device_indicator", torch.zeros(()), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.CLASSICAL`."""
        from hipie_classical.build import build_naming, build_regions

        node = cfg.MODEL.CLASSICAL
        return {
            "regions": build_regions(cfg),
            "naming": build_naming(cfg),
            "min_area": node.MIN_AREA,
            "join_touching": node.JOIN_TOUCHING,
            "refinement": node.REFINEMENT,
            "image_format": cfg.INPUT.FORMAT,
            "default_dataset": cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "",
        }

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return False: prototypes are a file of their own, and CLIP has its weights."""
        return False

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Any]]:
        """Segment a batch of images; see the class.

        Raises:
            InputError: naming the file, for an image without pixels; if no class has a
                prototype.
        """
        return [self._segment(item) for item in batched_inputs]

    def inference_size(self, batched_inputs: Sequence[dict[str, Any]]) -> InferenceSize:
        """Sizes that determine the memory of inference; see `SegmentationModel`."""
        return named_inference_size(batched_inputs, self.default_dataset)

    def divide(self, image: RGBImage) -> LabelMap:
        """Divide an image [H, W, 3] into regions [H, W] of at least the smallest area."""
        return absorb_small_regions(self.regions(image), round(self.min_area * image[..., 0].size))

    def _segment(self, item: dict[str, Any]) -> dict[str, Any]:
        image = self._rgb_image(item)
        vocabulary = vocabulary_of(item, self.default_dataset)
        labels = self.divide(image)
        scores = self.naming(image, labels, vocabulary)
        if self.join_touching:
            labels, scores = join_touching_regions(labels, scores)
        if self.refinement:
            labels = _refined(image, labels, self.refinement)
        size = output_size(item, (image.shape[0], image.shape[1]))
        segments = torch.from_numpy(labels).to(self.device)
        segments = F.interpolate(segments[None, None].float(), size=size, mode="nearest")[0, 0]
        segments = segments.long()
        pixel_scores = scores.to(self.device).t()[:, segments]
        outputs = segmentation_outputs(pixel_scores, vocabulary, regions=segments)
        return {**outputs, "instances": _instances(*outputs["panoptic_seg"])}

    def _rgb_image(self, item: dict[str, Any]) -> RGBImage:
        image = item["image"]
        if image.ndim != 3 or image.shape[0] != IMAGE_CHANNELS or 0 in image.shape:
            file = item.get("file_name", "an image")
            raise InputError(
                f"{file}: images have to be [3, H, W], and this is {list(image.shape)}"
            )
        channels = image.flip(0) if self.image_format == "BGR" else image
        pixels = channels.permute(1, 2, 0).round().clamp(0, 255).to("cpu", torch.uint8)
        return np.ascontiguousarray(pixels.numpy())


def join_touching_regions(labels: LabelMap, scores: Tensor) -> tuple[LabelMap, Tensor]:
    """Join regions that touch (4 neighbours) and have the same best class.

    Args:
        labels: [H, W], R regions from 0.
        scores: [R, K].

    Returns:
        The joined regions [H, W], numbered from 0, and their scores [R', K]: means over pixels.
    """
    joined = connected_regions(scores.argmax(1).numpy()[labels])
    count = int(joined.max()) + 1
    pairs = joined.ravel().astype(np.int64) * len(scores) + labels.ravel()
    areas = np.bincount(pairs, minlength=count * len(scores)).reshape(count, len(scores))
    shares = torch.from_numpy(areas / areas.sum(1, keepdims=True)).to(scores.dtype)
    return joined, shares @ scores


def _refined(image: RGBImage, labels: LabelMap, method: str) -> LabelMap:
    masks = labels[None] == np.arange(int(labels.max()) + 1)[:, None, None]
    refined = refine_masks(image, masks, method)
    result = labels.copy()
    for region, mask in enumerate(refined):
        result[mask] = region
    return result


def _instances(panoptic: Tensor, infos: list[dict[str, Any]]) -> Instances:
    things = [info for info in infos if info["isthing"]]
    ids = torch.tensor([info["id"] for info in things], device=panoptic.device)
    instances = Instances((panoptic.shape[0], panoptic.shape[1]))
    instances.pred_masks = panoptic[None] == ids[:, None, None]
    instances.pred_boxes = Boxes(masks_to_boxes(instances.pred_masks))
    instances.scores = torch.tensor([info["score"] for info in things], device=panoptic.device)
    instances.pred_classes = torch.tensor(
        [info["category_id"] for info in things], dtype=torch.int64, device=panoptic.device
    )
    return instances
