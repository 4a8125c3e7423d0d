"""Dense features of CLIP's convolutional image encoders, and CLIP features of masks from them.

A convolutional CLIP keeps its alignment of image and text at other sizes than in training, and for
the features of single regions, so that one frozen network is the backbone of the mask decoder and
classifies its masks (FC-CLIP, Yu et al., NeurIPS 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from hipie.errors import InputError
from hipie_proposal_clip.modeling.mask_pooling import binary_masks, mask_pooling

STAGES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
STRIDE = 32
DENSE = "dense"


class ConvClip:
    """Dense features of a ConvNeXt or ResNet of open_clip; not an `nn.Module`.

    Args:
        visual: image encoder of open_clip.
        name: of the model, for the error message.

    Raises:
        InputError: for another image encoder.
    """

    def __init__(self, visual: nn.Module, name: str) -> None:
        self.visual: Any = visual
        trunk = getattr(visual, "trunk", None)
        self.is_resnet = hasattr(visual, "attnpool") and hasattr(visual, "layer4")
        if not self.is_resnet and not all(
            hasattr(trunk, part) for part in ("stem", "stages", "norm_pre", "head")
        ):
            raise InputError(
                f"MODEL.PROPOSAL_CLIP.CLIP.MODEL: the image encoder of {name} is no ConvNeXt or "
                "ResNet, which dense features need; use for example convnext_large_d_320 or RN50"
            )

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of the stages."""
        if self.is_resnet:
            channels = [
                getattr(self.visual, f"layer{index}")[-1].conv3.out_channels
                for index in range(1, 5)
            ]
        else:
            channels = [info["num_chs"] for info in self.visual.trunk.feature_info]
        return {
            name: ShapeSpec(channels=count, stride=stride)
            for (name, stride), count in zip(STAGES.items(), channels, strict=True)
        }

    def features(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the features of all stages.

        Args:
            pixels: [B, 3, H, W] normalised, sides multiples of 32.

        Returns:
            `res2` to `res5` [B, C, H / stride, W / stride], and `dense`: the features that CLIP
            pools, at stride 32.
        """
        outputs = dict(zip(STAGES, self._stages(pixels), strict=True))
        last = outputs["res5"]
        outputs[DENSE] = last if self.is_resnet else self.visual.trunk.norm_pre(last)
        return outputs

    def mask_features(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Compute the CLIP features of masks.

        With a ConvNeXt, the mean of a mask takes the place of the mean of the image before CLIP's
        projection. With a ResNet, CLIP's attention pooling attends to the pixels of the mask, with
        the query of the whole image; a mask without pixels attends to all.

        Args:
            dense: [B, C, h, w] of `features`.
            mask_logits: [B, Q, h', w'].

        Returns:
            [B, Q, D], not normalised.
        """
        if self.is_resnet:
            size = (dense.shape[-2], dense.shape[-1])
            return self._attention_pooling(dense, binary_masks(mask_logits, size))
        pooled = mask_pooling(dense, mask_logits)
        projected = self.visual.head(self.visual.trunk.head(pooled.flatten(0, 1)[..., None, None]))
        features: Tensor = projected.unflatten(0, pooled.shape[:2])
        return features

    def _stages(self, pixels: Tensor) -> Iterator[Tensor]:
        visual = self.visual
        if self.is_resnet:
            x = visual.stem(pixels)
            stages = [getattr(visual, f"layer{index}") for index in range(1, 5)]
        else:
            x = visual.trunk.stem(pixels)
            stages = list(visual.trunk.stages)
        for stage in stages:
            x = stage(x)
            yield x

    def _attention_pooling(self, dense: Tensor, inside: Tensor) -> Tensor:
        """[B, Q, D] of dense features [B, C, h, w] and masks [B, Q, h, w] bool."""
        pool = self.visual.attnpool
        position = pool.positional_embedding.to(dense.dtype)
        grid = round((len(position) - 1) ** 0.5)
        spatial = position[1:].t().reshape(1, -1, grid, grid)
        spatial = F.interpolate(spatial, size=dense.shape[-2:], mode="bilinear")
        tokens = dense.flatten(2).transpose(1, 2)
        query = pool.q_proj(tokens.mean(1, keepdim=True) + position[:1])
        placed = tokens + spatial.flatten(2).transpose(1, 2)
        queries, keys, values = (
            part.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for part in (
                query.expand(-1, inside.shape[1], -1),
                pool.k_proj(placed),
                pool.v_proj(placed),
            )
        )
        attended_pixels = inside.flatten(2) | ~inside.flatten(2).any(-1, keepdim=True)
        attended = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=attended_pixels[:, None]
        )
        features: Tensor = pool.c_proj(attended.transpose(1, 2).flatten(2))
        return features
