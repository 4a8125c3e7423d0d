"""The three modules of SAM (Kirillov et al., 2023), for images of any size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.backbone.vit_attention import GridAttention

if TYPE_CHECKING:
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder

PATCH_SIZE = 16
PROMPT_WIDTH = 256
DIVISOR = 32


@dataclass(frozen=True)
class SamVariant:
    """Shape of an image encoder.

    Attributes:
        width, depth, heads: of the ViT.
        global_blocks: indices of the blocks with global attention; each ends a group of blocks.
        window: window size of the other blocks, in patches.
        image_size: image size of the position embeddings, in pixels.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    window: int = 14
    image_size: int = 1024

    @property
    def groups(self) -> tuple[range, ...]:
        """Indices of the blocks of every group, in order."""
        return self.split_blocks(len(self.global_blocks))

    def split_blocks(self, count: int) -> tuple[range, ...]:
        """Split the blocks into `count` groups, each of which ends with global attention.

        Raises:
            ValueError: if there are fewer blocks with global attention.
        """
        available = len(self.global_blocks)
        if not 1 <= count <= available:
            raise InputError(
                f"MODEL.REFERSAM.NUM_INTERACTIONS is {count}; it has to be from 1 to {available}, "
                "the number of blocks with global attention"
            )
        last = [-(-available * (group + 1) // count) - 1 for group in range(count)]
        ends = [self.global_blocks[i] + 1 for i in last]
        return tuple(range(start, end) for start, end in zip([0, *ends], ends, strict=False))


VARIANTS = {
    "vit_t": SamVariant(192, 12, 3, (2, 5, 8, 11), window=8, image_size=256),
    "vit_b": SamVariant(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": SamVariant(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": SamVariant(1280, 32, 16, (7, 15, 23, 31)),
}


def sam_variant(name: str) -> SamVariant:
    """Return a variant by name.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    if name not in VARIANTS:
        raise InputError(f'there is no SAM of type "{name}"; available: {", ".join(VARIANTS)}')
    return VARIANTS[name]


def build_image_encoder(variant: SamVariant) -> ImageEncoderViT:
    """Build SAM's image encoder with random weights and SAM's parameter names."""
    modeling = _segment_anything()
    encoder = modeling.ImageEncoderViT(
        img_size=variant.image_size,
        patch_size=PATCH_SIZE,
        embed_dim=variant.width,
        depth=variant.depth,
        num_heads=variant.heads,
        out_chans=PROMPT_WIDTH,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=variant.window,
        global_attn_indexes=variant.global_blocks,
    )
    for block in encoder.blocks:
        block.attn = GridAttention.from_attention(block.attn)
    nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
    return encoder


def build_prompt_encoder() -> PromptEncoder:
    """Build SAM's prompt encoder; its mask branch and position encoding are used."""
    side = 1024 // PATCH_SIZE
    return _segment_anything().PromptEncoder(
        embed_dim=PROMPT_WIDTH,
        image_embedding_size=(side, side),
        input_image_size=(1024, 1024),
        mask_in_chans=16,
    )


def build_mask_decoder() -> MaskDecoder:
    """Build SAM's mask decoder."""
    modeling = _segment_anything()
    transformer = modeling.TwoWayTransformer(
        depth=2, embedding_dim=PROMPT_WIDTH, mlp_dim=2048, num_heads=8
    )
    return modeling.MaskDecoder(transformer_dim=PROMPT_WIDTH, transformer=transformer)


def check_size(height: int, width: int) -> None:
    """Check that the sides of an image are multiples of 32.

    Raises:
        ValueError: naming the sizes.
    """
    if height % DIVISOR or width % DIVISOR or not height or not width:
        raise InputError(
            f"an image of {height}x{width} pixels does not fit: both sides must be divisible by "
            f"{DIVISOR}; resize it to {_nearest_valid(height)}x{_nearest_valid(width)}, do not "
            "pad it"
        )


def add_position_embedding(encoder: ImageEncoderViT, patches: Tensor) -> Tensor:
    """Add the position embedding, resized to the grid, to patches [B, h, w, C]."""
    embedding = encoder.pos_embed
    if embedding.shape[1:3] != patches.shape[1:3]:
        size = tuple(patches.shape[1:3])
        embedding = F.interpolate(embedding.float().permute(0, 3, 1, 2), size=size, mode="bilinear")
        embedding = embedding.permute(0, 2, 3, 1)
    return patches + embedding


def decode_masks(
    decoder: MaskDecoder, image: Tensor, positions: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """Run SAM's mask decoder for B images with one prompt each (SAM's own takes one image).

    Args:
        decoder: see `build_mask_decoder`.
        image: [B, 256, h, w] embeddings.
        positions: [1, 256, h, w].
        sparse: [B, N, 256] prompt tokens.
        dense: [B, 256, h, w] mask prompt.

    Returns:
        Logits of the first mask [B, 1, 4h, 4w], and the IoU token [B, 256].
    """
    batch, width, height, columns = image.shape
    learned = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([learned.expand(batch, -1, -1).to(sparse.dtype), sparse], dim=1)
    output_tokens, attended = decoder.transformer(
        image + dense, positions.to(image.dtype).expand(batch, -1, -1, -1), tokens
    )
    grid = attended.transpose(1, 2).reshape(batch, width, height, columns)
    pixels = decoder.output_upscaling(grid)
    # All four hypernetworks run, so that the three unused ones have gradients of 0.
    hypernetworks = decoder.output_hypernetworks_mlps
    filters = torch.stack(
        [net(output_tokens[:, 1 + i]) for i, net in enumerate(hypernetworks)], dim=1
    )
    return torch.einsum("bnc,bchw->bnhw", filters[:, :1], pixels), output_tokens[:, 0]


def _nearest_valid(side: int) -> int:
    return max(DIVISOR, round(side / DIVISOR) * DIVISOR)


def _segment_anything() -> Any:
    try:
        from segment_anything import modeling
    except ImportError as error:
        raise InputError(
            "ReferSAM needs the package segment-anything: pip install segment-anything"
        ) from error
    return modeling
