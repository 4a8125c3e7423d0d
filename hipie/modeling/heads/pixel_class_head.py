"""Pixel class head: similarity of every pixel with the names of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.pixel_decoder.multi_scale_features import NORM_GROUPS
from hipie.structures import TextFeatures, TokenSpans

STRIDES = (4, 8)


class PixelClassHead(nn.Module):
    """Dot products of pixel features with projected class names, and a logit of "no class".

    Pixel features are a sum of all maps at stride 8, as in the semantic branch of Panoptic FPN
    (Kirillov et al., CVPR 2019, section 3.1): of the backbone's, which know most classes from the
    start, and of the stuff decoder's mask features, which know the outlines. As in LSeg (Li et al.,
    ICLR 2022, section 3.1) every pixel is compared with the text feature of every class: the mean
    of its tokens, of unit length and projected to the features' width. Pixels of no class of the
    vocabulary have a logit of their own that reads no text.

    At stride 4 the features are upsampled, and a projection of the mask features at their own
    stride is added, which is 0 at the start: thin objects are a pixel of stride 8 or less.

    Args:
        in_channels: channels of the backbone's feature maps.
        width: channels of the mask features.
        text_width: channels of a token.
        stride: of the logits where there are mask features, one of `STRIDES`.
        context: whether a projection of the mean of the coarsest map, which tells what the image
            shows, is added to all pixels (the image-level features of ParseNet, Liu et al., 2015,
            and DeepLabv3, Chen et al., 2017, section 3.3); 0 at the start.

    Raises:
        InputError: for another stride.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        width: int,
        text_width: int,
        stride: int = 8,
        context: bool = False,
    ) -> None:
        super().__init__()
        if stride not in STRIDES:
            raise InputError(f"MODEL.HIPIE.PIXEL_HEAD.STRIDE must be 4 or 8, not {stride}")
        self.stride = stride
        self.projections = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in in_channels)
        # 0 at the start, so that a training of the backbone's maps alone can precede.
        self.mask_projection = nn.Conv2d(width, width, 1, bias=False)
        nn.init.zeros_(self.mask_projection.weight)
        self.features = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(NORM_GROUPS, width),
            nn.ReLU(),
        )
        if stride == STRIDES[0]:
            self.detail_projection = nn.Conv2d(width, width, 1, bias=False)
            nn.init.zeros_(self.detail_projection.weight)
        self.context: nn.Sequential | None = None
        if context:
            last = nn.Linear(width, width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.context = nn.Sequential(nn.Linear(in_channels[-1], width), nn.ReLU(), last)
        self.text_projection = nn.Linear(text_width, width)
        self.no_class = nn.Conv2d(width, 1, 1)

    def encode(
        self,
        features: Sequence[Tensor],
        mask_features: Tensor | None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute pixel features, which do not depend on any text.

        Args:
            features: [B, C_i, h_i, w_i] of the backbone, the finest first.
            mask_features: [B, width, h, w] at stride 4; None = without them.
            padding_mask: [B, H, W] bool, True where padded; None = nowhere.

        Returns:
            [B, width, h, w] at stride 4 and [B, width, h / 2, w / 2] at stride 8 with mask
            features, else of the size of the finest map.
        """
        if mask_features is None:
            size, maps = features[0].shape[-2:], []
        else:
            maps = [F.avg_pool2d(self.mask_projection(mask_features), 2, ceil_mode=True)]
            size = maps[0].shape[-2:]
        for projection, level in zip(self.projections, features, strict=True):
            maps.append(F.interpolate(projection(level), size=size, mode="bilinear"))
        encoded = self.features(torch.stack(maps).sum(0))
        if self.context is not None:
            mean = _mean_of_image(features[-1], padding_mask)
            encoded = encoded + self.context(mean)[:, :, None, None]
        if mask_features is None or self.stride != STRIDES[0]:
            return encoded
        encoded = F.interpolate(encoded, size=mask_features.shape[-2:], mode="bilinear")
        return encoded + self.detail_projection(mask_features)

    def forward(self, pixels: Tensor, classes: Tensor) -> Tensor:
        """Compute the logits of one image.

        Args:
            pixels: [width, h, w] of `encode`.
            classes: [K, text_width], see `class_features`.

        Returns:
            [K + 1, h, w] float32; the last is that of no class.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            pixels = pixels.float()
            keys = self.text_projection(F.normalize(classes.float(), dim=-1))
            logits = torch.einsum("kc,chw->khw", keys, pixels)
            return torch.cat([logits, self.no_class(pixels[None])[0]])

    def classify(self, pixels: Sequence[Tensor], text: TextFeatures) -> tuple[Tensor, ...]:
        """Compute the logits of several images with the classes of their captions.

        Args:
            pixels: of every image, see `forward`.
            text: of their captions, in the same order.
        """
        return tuple(
            self(features, class_features(text, text.token_spans[image], image))
            for image, features in enumerate(pixels)
        )


def _mean_of_image(features: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Mean [B, C] of the pixels of feature maps [B, C, h, w] that are not padding."""
    if padding_mask is None:
        return features.mean((2, 3))
    inside = 1 - F.interpolate(padding_mask[:, None].to(features.dtype), features.shape[-2:])
    return (features * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)


def class_features(text: TextFeatures, spans: TokenSpans, image: int) -> Tensor:
    """Mean of the tokens of every class of one caption.

    Args:
        text: of the text encoder.
        spans: K tuples of token positions.
        image: index of the caption.

    Returns:
        [K, C].
    """
    return torch.stack([_mean(text.hidden[image], span) for span in spans])


def _mean(tokens: Tensor, span: Sequence[int]) -> Tensor:
    return tokens[list(span)].mean(0)
