"""HIPIE with fixed class names as a function of one image, which exporters can trace."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.errors import UnsupportedError
from hipie.modeling.meta_arch.hipie import HIPIE
from hipie.modeling.postprocessing.score_calibration import instance_scores, panoptic_scores
from hipie.modeling.postprocessing.token_to_class import (
    mask_stuff_classes,
    mask_thing_classes,
    pool_token_logits,
)
from hipie.modeling.text_encoder.caption import vocabulary_caption
from hipie.structures import LayerOutput, MaskHead
from hipie.vocabularies.vocabulary import Vocabulary

OUTPUT_NAMES = ("boxes", "scores", "panoptic_scores", "masks")


class ExportedNetwork(nn.Module):
    """HIPIE for one image and one vocabulary, up to the masks of all queries at stride 4.

    What depends on the content of an image (non-maximum suppression, the selection of segments)
    follows outside, as in `examples/run_onnx.py`.

    Args:
        model: in evaluation mode; it is copied.
        vocabulary: the K classes.

    Raises:
        UnsupportedError: for a model without stuff decoder, with CLIP, or in bfloat16.
    """

    def __init__(self, model: HIPIE, vocabulary: Vocabulary) -> None:
        super().__init__()
        if model.stuff is None or model.clip_ensemble is not None or model.precision != "float32":
            raise UnsupportedError(
                "models are exported in float32, with a stuff decoder (MODEL.HIPIE.STUFF.ENABLED) "
                "and without CLIP (MODEL.HIPIE.CLIP.ENABLED)"
            )
        with torch.no_grad():
            text = model.text_encoder([vocabulary_caption(vocabulary)])
        self.model = copy.deepcopy(model)
        del self.model.text_encoder, self.model.thing_criterion, self.model.stuff_criterion
        for module in self.model.modules():
            if "Conv2dSame" in (base.__name__ for base in type(module).__mro__):  # of timm
                module.forward = partial(_convolve_same, module)
        self.is_thing = tuple(vocabulary.is_thing)
        self.token_spans = text.token_spans[0]
        self.text: Tensor
        self.text_mask: Tensor
        self.pooled_text: Tensor
        self.register_buffer("text", text.hidden.clone())
        self.register_buffer("text_mask", text.mask.clone())
        self.register_buffer("pooled_text", text.pooled().clone())

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compute the predictions of one image.

        Args:
            image: [3, H, W] float32, 0..255, in the model's channel order, padded to the right and
                at the bottom to a multiple of what the backbone needs.
            size: [2] int64, (height, width) of the image without padding.

        Returns:
            `boxes` [Q, 4] cxcywh of the Q thing queries in 0..1 of the image; `scores` [Q, K] of
            instances; `panoptic_scores` [Q + S, K], those of S stuff queries last; and `masks`
            [Q + S, H / 4, W / 4], logits.
        """
        model, settings = self.model, self.model.settings
        stuff_branch = model.stuff
        assert stuff_branch is not None  # checked by the constructor
        rows = torch.arange(image.shape[1], device=image.device) >= size[0]
        columns = torch.arange(image.shape[2], device=image.device) >= size[1]
        padded = rows[:, None] | columns
        pixels = (image - model.pixel_mean) / model.pixel_std
        pixels = pixels.masked_fill(padded, 0.0)[None]
        by_name = model.backbone(pixels)
        names = [*([model.lateral_feature] if model.lateral_feature else []), *model.in_features]
        features = [by_name[name] for name in names]
        levels = model._project(features, padded[None])
        levels, fused_text = model.things.fuse(levels, self.text, self.text_mask)
        things, _ = model.things(
            levels, size[None], class_text=fused_text, pooled_text=self.pooled_text
        )
        stuff = stuff_branch.classify(stuff_branch.decode(features), fused_text)
        thing, other = things.layers[-1], stuff.layers[-1]
        thing_logits = self._class_logits(thing)
        stuff_logits = self._class_logits(other)
        if any(self.is_thing):
            thing_logits = mask_stuff_classes(thing_logits, self.is_thing)
        if not settings.thing_scores_from_stuff_decoder:
            stuff_logits = mask_thing_classes(stuff_logits, self.is_thing)
        assert thing.iou_logits is not None  # of every thing decoder
        masks = [
            _all_masks(model.things.mask_head, thing, things.mask_features),
            _all_masks(stuff_branch.mask_head, other, stuff.mask_features),
        ]
        competing = panoptic_scores(
            torch.cat([thing_logits, stuff_logits]),
            settings.temperature,
            settings.min_softmax_classes,
        )
        scores = instance_scores(thing_logits, thing.iou_logits[0])
        return thing.boxes[0], scores, competing, torch.cat(masks)

    def _class_logits(self, layer: LayerOutput) -> Tensor:
        pooling = self.model.settings.token_pooling
        return pool_token_logits(layer.require_logits()[0], self.token_spans, pooling)


def _all_masks(head: MaskHead, layer: LayerOutput, features: tuple[Tensor, ...]) -> Tensor:
    queries = torch.arange(layer.boxes.shape[1], device=layer.boxes.device)
    count = layer.boxes.shape[1]
    return head.logits(layer, features, torch.zeros_like(queries), queries, [count]).float()


def _convolve_same(layer: Any, x: Tensor) -> Tensor:
    """TensorFlow's "same" convolution of maps whose sides are multiples of the stride."""
    around = []
    for kernel, stride, dilation in zip(
        layer.kernel_size[::-1], layer.stride[::-1], layer.dilation[::-1], strict=True
    ):
        total = max((kernel - 1) * dilation + 1 - stride, 0)
        around += [total // 2, total - total // 2]
    return F.conv2d(
        F.pad(x, around), layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups
    )
