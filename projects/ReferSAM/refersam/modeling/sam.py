"""The Segment Anything Model's three parts (Kirillov et al., 2023), for images of any size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder

PATCH = 16
PROMPT_WIDTH = 256
DIVISOR = 32


@dataclass(frozen=True)
class SamVariant:
    """Shape of an image encoder.

    Attributes:
        width, depth, heads: of the vision transformer.
        global_blocks: blocks that see the whole image; each ends a group of blocks.
        window: side of the other blocks' windows, patches.
        image_size: the size of images that the position tables are made for, pixels.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    window: int = 14
    image_size: int = 1024

    @property
    def groups(self) -> tuple[range, ...]:
        """The blocks of every group, in order."""
        ends = [last + 1 for last in self.global_blocks]
        return tuple(range(start, end) for start, end in zip([0, *ends], ends, strict=False))


VARIANTS = {
    "vit_t": SamVariant(192, 12, 3, (2, 5, 8, 11), window=8, image_size=256),
    "vit_b": SamVariant(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": SamVariant(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": SamVariant(1280, 32, 16, (7, 15, 23, 31)),
}


def sam_variant(name: str) -> SamVariant:
    """A variant by name.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in VARIANTS:
        raise ValueError(f'there is no SAM of type "{name}"; known are {", ".join(VARIANTS)}')
    return VARIANTS[name]


def build_image_encoder(variant: SamVariant) -> ImageEncoderViT:
    """SAM's image encoder with random weights; parameters are called as in SAM's files."""
    modeling = _segment_anything()
    encoder = modeling.ImageEncoderViT(
        img_size=variant.image_size,
        patch_size=PATCH,
        embed_dim=variant.width,
        depth=variant.depth,
        num_heads=variant.heads,
        out_chans=PROMPT_WIDTH,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=variant.window,
        global_attn_indexes=variant.global_blocks,
    )
    nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    return encoder


def build_prompt_encoder() -> PromptEncoder:
    """SAM's prompt encoder, of which the mask branch and the grid's positions are used."""
    side = 1024 // PATCH
    return _segment_anything().PromptEncoder(
        embed_dim=PROMPT_WIDTH,
        image_embedding_size=(side, side),
        input_image_size=(1024, 1024),
        mask_in_chans=16,
    )


def build_mask_decoder() -> MaskDecoder:
    """SAM's mask decoder."""
    modeling = _segment_anything()
    transformer = modeling.TwoWayTransformer(
        depth=2, embedding_dim=PROMPT_WIDTH, mlp_dim=2048, num_heads=8
    )
    return modeling.MaskDecoder(transformer_dim=PROMPT_WIDTH, transformer=transformer)


def check_size(height: int, width: int) -> None:
    """Refuse images whose sides do not divide by 32.

    Raises:
        ValueError: naming the sizes.
    """
    if height % DIVISOR or width % DIVISOR or not height or not width:
        raise ValueError(
            f"an image of {height}x{width} pixels does not fit: both sides must divide by "
            f"{DIVISOR}; resize it to {_near(height)}x{_near(width)}, do not pad it"
        )


def add_positions(encoder: ImageEncoderViT, patches: Tensor) -> Tensor:
    """Absolute positions onto patches [B, h, w, C], their table resized to the grid."""
    table = encoder.pos_embed
    if table.shape[1:3] != patches.shape[1:3]:
        size = tuple(patches.shape[1:3])
        table = F.interpolate(table.float().permute(0, 3, 1, 2), size=size, mode="bilinear")
        table = table.permute(0, 2, 3, 1)
    return patches + table


def decode_masks(
    decoder: MaskDecoder, image: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """SAM's decoder for B images with a prompt each; SAM's own takes one image.

    Args:
        decoder: see `build_mask_decoder`.
        image: [B, 256, h, w] embeddings.
        positions: [1, 256, h, w].
        sparse: [B, N, 256] prompt tokens.
        dense: [B, 256, h, w] mask prompt.

    Returns:
        Logits of the one mask [B, 1, 4h, 4w], and the token for its quality [B, 256].
    """
    batch, width, height, columns = image.shape
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(batch, -1, -1).to(sparse.dtype), sparse], dim=1)
    answers, seen = decoder.transformer(
        image + dense, positions.to(image.dtype).expand(batch, -1, -1, -1), tokens
    )
    grid = seen.transpose(1, 2).reshape(batch, width, height, columns)
    pixels = decoder.output_upscaling(grid)
    # All four masks' networks are asked, so that the three unused ones get gradients of 0.
    networks = decoder.output_hypernetworks_mlps
    filters = torch.stack([net(answers[:, 1 + i]) for i, net in enumerate(networks)], dim=1)
    return torch.einsum("bnc,bchw->bnhw", filters[:, :1], pixels), answers[:, 0]


def _near(side: int) -> int:
    return max(DIVISOR, round(side / DIVISOR) * DIVISOR)


def _segment_anything():
    try:
        from segment_anything import modeling
    except ImportError as error:
        raise ValueError(
            "ReferSAM needs the package segment-anything: pip install segment-anything"
        ) from error
    return modeling
