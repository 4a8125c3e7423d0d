"""LAVT: language-aware image encoder and segmentation decoder (Yang et al., CVPR 2022).

GRSer uses this encoder and decoder; without its group modules it is LAVT.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import get_norm
from torch import Tensor, nn

from grser.modeling.efficientnet import EfficientNetBackbone
from grser.modeling.fusion import LanguageGate, PixelWordAttention
from grser.modeling.swin import SwinBackbone
from hipie.errors import InputError

NUM_CLASSES = 2
NORMS = ("BN", "SyncBN", "FrozenBN")


class LanguageAwareEncoder(nn.Module):
    """Backbone of four stages with language fusion after each.

    Args:
        backbone: with `widths`, `forward_stem` and `forward_stage`; see `SwinBackbone`.
        text_width: W, size of a token's feature.
    """

    def __init__(self, backbone: SwinBackbone | EfficientNetBackbone, text_width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.widths = backbone.widths
        self.fusions = nn.ModuleList(PixelWordAttention(w, text_width) for w in self.widths)
        self.gates = nn.ModuleList(LanguageGate(w) for w in self.widths)
        self.norms = nn.ModuleList(nn.LayerNorm(w) for w in self.widths)

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor) -> list[Tensor]:
        """Encode images with their expressions.

        Args:
            images: [B, 3, H, W] normalised.
            tokens: [B, T, W].
            mask: [B, T], True for tokens that are not padding.

        Returns:
            Four feature maps [B, C, h, w] at strides 4, 8, 16 and 32.

        Raises:
            ValueError: if the coarsest map would have a single pixel.
        """
        if max(images.shape[-2:]) <= 32:
            raise InputError(
                f"images of {images.shape[-2]}x{images.shape[-1]} pixels are too small: one "
                "side must have more than 32"
            )
        x, features = self.backbone.forward_stem(images), []
        for index, (fusion, gate, norm) in enumerate(
            zip(self.fusions, self.gates, self.norms, strict=True)
        ):
            x = self.backbone.forward_stage(index, x)
            fused = fusion(x.flatten(1, 2), tokens, mask).unflatten(1, x.shape[1:3])
            x = x + gate(fused) * fused
            features.append(norm(fused).permute(0, 3, 1, 2))
        return features


class Decoder(nn.Module):
    """Top-down decoder that concatenates each level with the upsampled coarser one.

    Args:
        widths: channels of the four feature maps, finest first.
        width: channels of the decoder.
        norm: name of a normalisation in Detectron2.
    """

    def __init__(self, widths: Sequence[int], width: int = 512, norm: str = "BN") -> None:
        super().__init__()
        coarser_widths = (widths[-1], *(width for _ in widths[2:]))
        self.levels = nn.ModuleList(
            nn.Sequential(*_conv(coarser + finer, width, norm), *_conv(width, width, norm))
            for coarser, finer in zip(coarser_widths, reversed(widths[:-1]), strict=True)
        )
        self.classes = nn.Conv2d(width, NUM_CLASSES, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Four feature maps, finest first -> logits [B, 2, H/4, W/4] of background and target."""
        x = features[-1]
        for level, finer in zip(self.levels, reversed(features[:-1]), strict=True):
            x = level(torch.cat([upsample(x, tuple(finer.shape[-2:])), finer], 1))
        return self.classes(x)


class LAVT(nn.Module):
    """LAVT's encoder and decoder.

    Args:
        encoder: the language-aware encoder.
        decoder_width: channels of the decoder.
        norm: normalisation of the decoder.
    """

    def __init__(
        self, encoder: LanguageAwareEncoder, decoder_width: int = 512, norm: str = "BN"
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(encoder.widths, decoder_width, norm)

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        """Arguments of the encoder -> its four feature maps, and logits [B, 2, H, W]."""
        features = self.encoder(images, tokens, mask)
        return features, upsample(self.decoder(features), tuple(images.shape[-2:]))


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [B, C, h, w] bilinearly with aligned corners, as LAVT does throughout."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def _conv(in_channels: int, out_channels: int, norm: str) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return [conv, get_norm(norm, out_channels), nn.ReLU()]
