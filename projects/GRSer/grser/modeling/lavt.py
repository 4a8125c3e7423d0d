"""LAVT: a language-aware image encoder and a light decoder (Yang et al., CVPR 2022).

GRSer's encoder is this encoder, its decoder this decoder; without its group modules GRSer is LAVT.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import get_norm
from torch import Tensor, nn

from grser.modeling.efficientnet import EfficientNetTrunk
from grser.modeling.fusion import LanguageGate, PixelWordAttention
from grser.modeling.swin import SwinTrunk

CLASSES = 2
NORMS = ("BN", "SyncBN", "FrozenBN")


class LanguageAwareEncoder(nn.Module):
    """A trunk of four stages that takes words on after each.

    Args:
        trunk: with `widths`, `start` and `stage`; see `SwinTrunk`.
        word_width: size of a word's feature.
    """

    def __init__(self, trunk: SwinTrunk | EfficientNetTrunk, word_width: int) -> None:
        super().__init__()
        self.backbone = trunk
        self.widths = trunk.widths
        self.fusions = nn.ModuleList(PixelWordAttention(w, word_width) for w in self.widths)
        self.gates = nn.ModuleList(LanguageGate(w) for w in self.widths)
        self.norms = nn.ModuleList(nn.LayerNorm(w) for w in self.widths)

    def forward(self, pixels: Tensor, words: Tensor, mask: Tensor) -> list[Tensor]:
        """Normalised images [B, 3, H, W], words [B, T, W] and mask [B, T] -> four maps.

        Returns:
            [B, C, h, w] at strides 4, 8, 16 and 32.

        Raises:
            ValueError: if the coarsest map would have a single pixel.
        """
        if max(pixels.shape[-2:]) <= 32:
            raise ValueError(
                f"images of {pixels.shape[-2]}x{pixels.shape[-1]} pixels are too small: one "
                "side must have more than 32"
            )
        x, maps = self.backbone.start(pixels), []
        for number, (fusion, gate, norm) in enumerate(
            zip(self.fusions, self.gates, self.norms, strict=True)
        ):
            x = self.backbone.stage(number, x)
            said = fusion(x.flatten(1, 2), words, mask).unflatten(1, x.shape[1:3])
            x = x + gate(said) * said
            maps.append(norm(said).permute(0, 3, 1, 2))
        return maps


class Decoder(nn.Module):
    """From the coarsest map up: each level is widened to the next and read together with it.

    Args:
        widths: channels of the four maps, finest first.
        width: channels inside.
        norm: Detectron2's name of its normalisation.
    """

    def __init__(self, widths: Sequence[int], width: int = 512, norm: str = "BN") -> None:
        super().__init__()
        entering = (widths[-1], *(width for _ in widths[2:]))
        self.levels = nn.ModuleList(
            nn.Sequential(*_conv(below + beside, width, norm), *_conv(width, width, norm))
            for below, beside in zip(entering, reversed(widths[:-1]), strict=True)
        )
        self.classes = nn.Conv2d(width, CLASSES, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps, finest first -> logits [B, 2, H/4, W/4] of background and target."""
        x = maps[-1]
        for level, beside in zip(self.levels, reversed(maps[:-1]), strict=True):
            x = level(torch.cat([enlarged(x, tuple(beside.shape[-2:])), beside], 1))
        return self.classes(x)


class LAVT(nn.Module):
    """Encoder and decoder.

    Args:
        encoder: see `LanguageAwareEncoder`.
        decoder_width: channels of the decoder.
        norm: see `Decoder`.
    """

    def __init__(
        self, encoder: LanguageAwareEncoder, decoder_width: int = 512, norm: str = "BN"
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(encoder.widths, decoder_width, norm)

    def forward(self, pixels: Tensor, words: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        """As the encoder -> its four maps, and logits [B, 2, H, W]."""
        maps = self.encoder(pixels, words, mask)
        return maps, enlarged(self.decoder(maps), tuple(pixels.shape[-2:]))


def enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners on corners, as everywhere in LAVT."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def _conv(entering: int, leaving: int, norm: str) -> list[nn.Module]:
    conv = nn.Conv2d(entering, leaving, 3, padding=1, bias=False)
    return [conv, get_norm(norm, leaving), nn.ReLU()]
