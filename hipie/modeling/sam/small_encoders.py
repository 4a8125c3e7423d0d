"""Image encoders of MobileSAM and EdgeSAM, which are distilled from SAM's and replace it.

Their prompt encoder and mask decoder are those of SAM. The backbones are timm's, with the changes
that the authors made; the neck is that of SAM's image encoder.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from timm.models import repvit, tiny_vit
from torch import Tensor, nn

from hipie.checkpoint.converters.conversion import Rename

CHANNELS = 256


def sam_neck(in_channels: int, channels: int = CHANNELS) -> nn.Sequential:
    """Return the neck of SAM's image encoder: 1x1 and 3x3 convolutions with layer norms."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size=1, bias=False),
        LayerNorm2d(channels),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
        LayerNorm2d(channels),
    )


class TinyViTEncoder(nn.Module):
    """MobileSAM's image encoder: TinyViT-5M without the stride of its last stage.

    Zhang et al., "Faster Segment Anything: Towards Lightweight SAM for Mobile Applications", 2023;
    Wu et al., "TinyViT", ECCV 2022.

    Args:
        img_size: side of the square input; its features have stride 16.
    """

    def __init__(self, img_size: int = 1024) -> None:
        super().__init__()
        self.img_size = img_size
        backbone: Any = tiny_vit.tiny_vit_5m_224(num_classes=0)
        backbone.head = nn.Identity()
        backbone.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.backbone = backbone
        self.neck = sam_neck(backbone.num_features)

    def forward(self, x: Tensor) -> Tensor:
        """Encode pixels [B, 3, S, S] to features [B, 256, S/16, S/16]."""
        features: Tensor = self.neck(self.backbone.forward_features(x))
        return features


class RepViTEncoder(nn.Module):
    """EdgeSAM's image encoder: RepViT-M1 with its two last resolutions summed.

    Zhou et al., "EdgeSAM: Prompt-In-the-Loop Distillation for On-Device Deployment of SAM", 2023;
    Wang et al., "RepViT", CVPR 2024. Features of stride 32 are upsampled bicubically and added to
    those of stride 16, which are taken after the block before the last downsampling.

    Args:
        img_size: side of the square input; its features have stride 16.
    """

    def __init__(self, img_size: int = 1024) -> None:
        super().__init__()
        self.img_size = img_size
        backbone: Any = repvit.repvit_m1(num_classes=0)
        self.stem, self.stages = backbone.stem, backbone.stages
        last = self.stages[3].downsample
        self.end_of_stage2, last.pre_block = last.pre_block, nn.Identity()
        widths = [info["num_chs"] for info in backbone.feature_info]
        self.fuse_stage2 = nn.Conv2d(widths[2], CHANNELS, kernel_size=1, bias=False)
        self.fuse_stage3 = nn.Conv2d(widths[3], CHANNELS, kernel_size=1, bias=False)
        self.neck = sam_neck(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Encode pixels [B, 3, S, S] to features [B, 256, S/16, S/16]."""
        x = self.stem(x)
        for stage in self.stages[:3]:
            x = stage(x)
        middle = self.end_of_stage2(x)
        small = self.fuse_stage3(self.stages[3](middle))
        upsampled = F.interpolate(small, scale_factor=2, mode="bicubic", align_corners=False)
        features: Tensor = self.neck(self.fuse_stage2(middle) + upsampled)
        return features


_E = r"image_encoder\."
# MobileSAM's names -> those of `TinyViTEncoder`. The classifier of the backbone is not used.
MOBILE_SAM_RULES = (
    Rename(_E + r"(norm_head|head)\..+", None),
    Rename(r".+\.(attention_bias_idxs|ab)", None),
    Rename(
        _E + r"patch_embed\.seq\.0\.c\.(.+)", r"image_encoder.backbone.patch_embed.conv1.conv.\1"
    ),
    Rename(_E + r"patch_embed\.seq\.0\.(bn.+)", r"image_encoder.backbone.patch_embed.conv1.\1"),
    Rename(
        _E + r"patch_embed\.seq\.2\.c\.(.+)", r"image_encoder.backbone.patch_embed.conv2.conv.\1"
    ),
    Rename(_E + r"patch_embed\.seq\.2\.(bn.+)", r"image_encoder.backbone.patch_embed.conv2.\1"),
    *(
        rule
        for stage in range(3)
        for rule in (
            Rename(
                _E + rf"layers\.{stage}\.downsample\.(conv\d)\.c\.(.+)",
                rf"image_encoder.backbone.stages.{stage + 1}.downsample.\1.conv.\2",
            ),
            Rename(
                _E + rf"layers\.{stage}\.downsample\.(.+)",
                rf"image_encoder.backbone.stages.{stage + 1}.downsample.\1",
            ),
        )
    ),
    Rename(
        _E + r"layers\.(\d+\.blocks\.\d+\.\w+)\.c\.(.+)",
        r"image_encoder.backbone.stages.\1.conv.\2",
    ),
    Rename(_E + r"layers\.(.+)", r"image_encoder.backbone.stages.\1"),
)

# Blocks of EdgeSAM's encoder with their place in timm's RepViT-M1: three stages, each ended by the
# block before the next downsampling, and the last one.
_DEPTHS = (2, 2, 14, 2)


def _edge_sam_block_rules() -> list[Rename]:
    rules: list[Rename] = []
    index = 1
    for stage, depth in enumerate(_DEPTHS):
        if stage:
            place = f"image_encoder.stages.{stage}.downsample."
            rules += _downsample_rules(index, place)
            index += 1
        for block in range(depth):
            rules += _block_rules(index, f"image_encoder.stages.{stage}.blocks.{block}.")
            index += 1
        if stage == len(_DEPTHS) - 2:
            rules += _block_rules(index, "image_encoder.end_of_stage2.")
            index += 1
        elif stage < len(_DEPTHS) - 2:
            place = f"image_encoder.stages.{stage + 1}.downsample.pre_block."
            rules += _block_rules(index, place)
            index += 1
    return rules


def _block_rules(index: int, place: str) -> list[Rename]:
    start = _E + rf"features\.{index}\."
    return [
        Rename(start + r"token_mixer\.0\.(.+)", rf"{place}token_mixer.\1"),
        Rename(start + r"token_mixer\.1\.(.+)", rf"{place}se.\1"),
        Rename(start + r"channel_mixer\.m\.0\.(.+)", rf"{place}channel_mixer.conv1.\1"),
        Rename(start + r"channel_mixer\.m\.2\.(.+)", rf"{place}channel_mixer.conv2.\1"),
    ]


def _downsample_rules(index: int, place: str) -> list[Rename]:
    start = _E + rf"features\.{index}\."
    return [
        Rename(start + r"token_mixer\.0\.(.+)", rf"{place}spatial_downsample.\1"),
        Rename(start + r"token_mixer\.2\.(.+)", rf"{place}channel_downsample.\1"),
        Rename(start + r"channel_mixer\.m\.0\.(.+)", rf"{place}ffn.conv1.\1"),
        Rename(start + r"channel_mixer\.m\.2\.(.+)", rf"{place}ffn.conv2.\1"),
    ]


# EdgeSAM's names -> those of `RepViTEncoder`.
EDGE_SAM_RULES = (
    Rename(_E + r"features\.0\.0\.(.+)", r"image_encoder.stem.conv1.\1"),
    Rename(_E + r"features\.0\.2\.(.+)", r"image_encoder.stem.conv2.\1"),
    *_edge_sam_block_rules(),
    Rename(_E + r"fuse_stage3\.op_list\.0\.(.+)", r"image_encoder.fuse_stage3.\1"),
)
