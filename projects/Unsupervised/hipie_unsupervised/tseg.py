"""TSEG: segmentation of referring expressions that is learned without masks.

Strudel, Laptev, Schmid, "Weakly-supervised segmentation of referring expressions", 2022.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.device_transfer import to_device
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.inputs import output_size, pad_images
from hipie.modeling.postprocessing.referring_inference import expression_instances
from hipie.modeling.text_encoder import TextEncoder, build_text_encoder, expression_caption
from hipie_unsupervised.modeling.patch_assignment import (
    assign_patches,
    image_text_loss,
    image_text_scores,
    patch_text_similarity,
    positive_pairs,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hipie.structures import ImageFeatures, Size

KEY = "MODEL.UNSUPERVISED.TSEG"
# Of the cosines, before training, as in CLIP's initialisation.
INITIAL_SCALE = 1 / 0.07


@META_ARCH_REGISTRY.register()
class TSEG(SegmentationModel):
    """Patches of an image and texts in one space, trained by which texts an image has.

    Takes dicts with `image` ([3, H, W], 0..255) and `expressions`; `height` and `width` give the
    size of the output. Other entries, masks among them, are not read. Returns in training
    `loss_image_text`; otherwise a dict an image with `referring`, an `Instances` an expression.

    Args:
        backbone: of `BACKBONE_REGISTRY`, whose outputs are the patches.
        text_encoder: the text feature is the mean of its tokens.
        features: outputs of the backbone, see MODEL.UNSUPERVISED.TSEG.FEATURES.
        embed_dim: channels in which patches and texts are compared.
        mask_threshold: see MODEL.UNSUPERVISED.TSEG.MASK_THRESHOLD.
        pixel_mean, pixel_std: of the three channels, 0..255.

    Raises:
        InputError: if the backbone lacks an output, or a value is out of its range.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"referring"})

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        text_encoder: TextEncoder,
        features: Sequence[str],
        embed_dim: int,
        mask_threshold: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        super().__init__()
        shapes = backbone.output_shape()
        if not features or any(name not in shapes for name in features):
            raise InputError(
                f"{KEY}.FEATURES is {tuple(features)}; the backbone has {', '.join(shapes)}"
            )
        if embed_dim < 1:
            raise InputError(f"{KEY}.EMBED_DIM is {embed_dim}; it has to be at least 1")
        if not 0 < mask_threshold < 1:
            raise InputError(f"{KEY}.MASK_THRESHOLD is {mask_threshold}, not between 0 and 1")
        self.backbone, self.text_encoder = backbone, text_encoder
        self.features, self.mask_threshold = tuple(features), mask_threshold
        width = sum(shapes[name].channels for name in features)
        self.patch_projection = nn.Conv2d(width, embed_dim, 1)
        self.text_projection = nn.Linear(text_encoder.width, embed_dim)
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))
        self.background = nn.Parameter(torch.tensor(0.0))
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(list(pixel_mean)).view(3, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(list(pixel_std)).view(3, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.UNSUPERVISED.TSEG` and `MODEL.HIPIE.TEXT`."""
        node = cfg.MODEL.UNSUPERVISED.TSEG
        return {
            "backbone": build_backbone(cfg),
            "text_encoder": build_text_encoder(cfg),
            "features": tuple(node.FEATURES),
            "embed_dim": node.EMBED_DIM,
            "mask_threshold": node.MASK_THRESHOLD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @classmethod
    def dataset_mapper(cls, cfg: CfgNode, dataset_name: str, training: bool) -> str | None:
        """Name of the mapper of expressions without masks."""
        return "expressions_without_masks"

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """Tokenizer of the text encoder."""
        return self.text_encoder.tokenizer

    def parameters_without_weight_decay(self) -> set[str]:
        """Names of the two scalars."""
        return {"log_scale", "background"}

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Compute `loss_image_text` over all pairs of an image and a text of the batch.

        Raises:
            InputError: if an image has no expressions.
        """
        texts, is_positive = positive_pairs([_expressions(item) for item in batched_inputs])
        maps, is_patch, _ = self._encode_images(batched_inputs)
        patches = maps.flatten(2).transpose(1, 2)
        similarity = patch_text_similarity(patches, self._encode_texts(texts), self.scale)
        scores = image_text_scores(similarity, self.background, is_patch.flatten(1))
        positive = to_device(is_positive, scores.device)
        return {"loss_image_text": image_text_loss(scores, positive)}

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Any]]:
        """Compute the masks of all expressions; see the class.

        Raises:
            InputError: if an image has no expressions.
        """
        for item in batched_inputs:
            _expressions(item)
        maps, _, grids = self._encode_images(batched_inputs)
        results = []
        for item, of_image, (height, width) in zip(batched_inputs, maps, grids, strict=True):
            texts = self._encode_texts(item["expressions"])
            patches = of_image[:, :height, :width].flatten(1).t()[None]
            similarity = patch_text_similarity(patches, texts, self.scale)[0]
            scores = similarity.t().unflatten(1, (height, width))
            size = output_size(item, (int(item["image"].shape[-2]), int(item["image"].shape[-1])))
            scores = F.interpolate(scores[None], size=size, mode="bilinear")[0]
            probabilities = assign_patches(scores, self.background)
            results.append({"referring": [self._instance(one) for one in probabilities]})
        return results

    @property
    def scale(self) -> Tensor:
        """Factor of the cosines."""
        return self.log_scale.exp()

    def _instance(self, probabilities: Tensor) -> Any:
        mask = probabilities > self.mask_threshold * probabilities.max()
        return expression_instances(probabilities, mask)

    def _encode_texts(self, expressions: Sequence[str]) -> Tensor:
        """[K, C] in the common space."""
        features = self.text_encoder([expression_caption(text) for text in expressions])
        projected: Tensor = self.text_projection(features.pooled()[:, 0])
        return projected

    def _encode_images(
        self, batched_inputs: list[dict[str, Any]]
    ) -> tuple[Tensor, Tensor, list[Size]]:
        """Patches [B, C, h, w], which are not padding [B, h, w], and the grid of each image."""
        pixels, _, sizes = pad_images(
            [item["image"] for item in batched_inputs],
            self.pixel_mean,
            self.pixel_std,
            self.backbone.size_divisibility,
        )
        outputs = self.backbone(pixels)
        grid = outputs[self.features[0]].shape[-2:]
        parts = [
            F.interpolate(outputs[name], grid, mode="bilinear") if position else outputs[name]
            for position, name in enumerate(self.features)
        ]
        maps = self.patch_projection(torch.cat(parts, dim=1))
        stride = self.backbone.output_shape()[self.features[0]].stride
        assert stride is not None  # every backbone of this package states it
        grids = [(-(-height // stride), -(-width // stride)) for height, width in sizes]
        is_patch = torch.zeros(len(grids), *grid, dtype=torch.bool)
        for row, (height, width) in enumerate(grids):
            is_patch[row, :height, :width] = True
        return maps, to_device(is_patch, maps.device), grids


def _expressions(item: dict[str, Any]) -> list[str]:
    expressions: list[str] = item.get("expressions") or []
    if not expressions:
        name = item.get("file_name", "an image")
        raise InputError(f"{name}: TSEG needs `expressions`, a list of expressions")
    return expressions
