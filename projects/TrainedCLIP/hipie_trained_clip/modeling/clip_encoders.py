"""Stages of CLIP's image encoders, on which the networks are built.

The modules are those of open_clip; their parameters keep CLIP's names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.open_vocabulary.clip import has_own_text_encoder
from hipie.modeling.open_vocabulary.masked_attention_pooling import has_class_token

if TYPE_CHECKING:
    from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
    from open_clip.transformer import VisionTransformer

# Multiples of CLIP's ResNet width: channels of its stages 2 to 4.
STAGE_FACTORS = (8, 16, 32)


class DensePooling(nn.Module):
    """Attention pooling of CLIP's ResNet that keeps the feature map (CRIS, section 3.1).

    Every position attends to all others, without the mean token, and the result is added to a
    projection of the input.

    Args:
        in_channels: of the last stage.
        out_channels: D of CLIP's joint space.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )

    def forward(self, pool: AttentionPool2d, x: Tensor) -> Tensor:
        """Pool features.

        Args:
            pool: CLIP's attention pooling.
            x: [B, C, h, w].

        Returns:
            [B, D, h, w].
        """
        return F.relu(dense_attention(pool, x) + self.shortcut(x))


def dense_attention(pool: AttentionPool2d, x: Tensor) -> Tensor:
    """Apply the attention of CLIP's pooling to all positions: [B, C, h, w] -> [B, D, h, w].

    Position embeddings are resized bicubically.
    """
    table = pool.positional_embedding[1:]
    side = int(len(table) ** 0.5)
    positions = table.t().reshape(1, -1, side, side)
    positions = F.interpolate(positions, size=x.shape[-2:], mode="bicubic", align_corners=False)
    tokens = (x + positions).flatten(2).transpose(1, 2)
    q, k, v = (
        projection(tokens).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for projection in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return pool.c_proj(attended).transpose(1, 2).unflatten(2, x.shape[-2:])


def resnet_stem(visual: ModifiedResNet, pixels: Tensor) -> Tensor:
    """Compute the features of stage 1: [B, 3, H, W] -> [B, 4 width, H / 4, W / 4]."""
    return visual.layer1(visual.stem(pixels))


def resnet_stages(visual: ModifiedResNet) -> tuple[nn.Module, ...]:
    """Return the stages 2 to 4, with strides of 8, 16 and 32 pixels."""
    return (visual.layer2, visual.layer3, visual.layer4)


def stage_channels(visual: ModifiedResNet) -> tuple[int, ...]:
    """Return the channels of the stages 2 to 4."""
    width = visual.conv3.out_channels
    return tuple(factor * width for factor in STAGE_FACTORS)


def is_resnet(visual: nn.Module) -> bool:
    """Whether an image encoder of open_clip is CLIP's ResNet."""
    from open_clip.modified_resnet import ModifiedResNet

    return isinstance(visual, ModifiedResNet)


def require_encoders(clip: Any, architecture: str, *, vit: bool) -> None:
    """Check that a CLIP has encoders whose stages can be run one by one.

    Args:
        clip: of open_clip.
        architecture: name for the message.
        vit: whether a ViT is supported as well as a ResNet.

    Raises:
        InputError: if it has others.
    """
    if not has_own_text_encoder(clip):
        raise InputError(
            f"{architecture} needs CLIP's own text encoder, and MODEL.TRAINED_CLIP.CLIP.MODEL has "
            f"a {type(clip).__name__}"
        )
    if not (is_resnet(clip.visual) or (vit and has_class_token(clip.visual))):
        kinds = "a ResNet or a ViT" if vit else "a ResNet"
        raise InputError(
            f"{architecture} needs {kinds} of CLIP, and MODEL.TRAINED_CLIP.CLIP.MODEL has a "
            f"{type(clip.visual).__name__}"
        )


def resize_position_table(visual: VisionTransformer, side: int) -> None:
    """Resize the position embeddings of a ViT to square images bicubically, in place.

    Args:
        visual: of open_clip.
        side: of the images in pixels, a multiple of the patch size.
    """
    grid = tuple(side // patch for patch in visual.patch_size)
    if grid == tuple(visual.grid_size):
        return
    positions = visual.positional_embedding.detach()
    table = positions[1:].t().reshape(1, -1, *visual.grid_size)
    table = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
    resized = torch.cat([positions[:1], table[0].flatten(1).t()])
    visual.positional_embedding = nn.Parameter(resized)
    visual.grid_size = grid
    visual.image_size = (side, side)
