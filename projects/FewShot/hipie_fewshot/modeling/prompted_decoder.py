"""SAM's mask decoder with target-guided attention and target-semantic prompting of PerSAM.

Zhang et al., "Personalize Segment Anything Model with One Shot", ICLR 2024, section 3.2.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn


def decode_guided_masks(
    decoder: MaskDecoder,
    image_embedding: Tensor,
    image_pe: Tensor,
    sparse_prompt: Tensor,
    dense_prompt: Tensor,
    guidance: Tensor,
    target: Tensor,
) -> tuple[Tensor, Tensor]:
    """Decode the masks of one prompt: `MaskDecoder.predict_masks` with guidance.

    Args:
        decoder: SAM's mask decoder.
        image_embedding: [1, C, g, g].
        image_pe: [1, C, g, g] positional encoding.
        sparse_prompt: [1, T, C] embeddings of point prompts.
        dense_prompt: [1, C, g, g] embedding of the mask prompt.
        guidance: [g * g] in 0..1, added to the softmax of the token-to-image attention, which is
            normalised by a second softmax.
        target: [C], added to all tokens before each layer.

    Returns:
        Logits [1, 4, 4g, 4g] and predicted IoUs [1, 4].
    """
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([output_tokens[None], sparse_prompt], dim=1)
    source = image_embedding + dense_prompt
    tokens, pixels = _two_way_transformer(
        decoder.transformer, source, image_pe, tokens, guidance, target
    )
    height, width = image_embedding.shape[-2:]
    upscaled = decoder.output_upscaling(pixels.transpose(1, 2).unflatten(2, (height, width)))
    count = decoder.num_mask_tokens
    kernels = [
        mlp(tokens[:, 1 + index]) for index, mlp in enumerate(decoder.output_hypernetworks_mlps)
    ]
    masks = torch.einsum("bkc,bchw->bkhw", torch.stack(kernels, dim=1), upscaled)
    return masks[:, :count], decoder.iou_prediction_head(tokens[:, 0])


def _two_way_transformer(
    transformer: nn.Module,
    image: Tensor,
    image_pe: Tensor,
    tokens: Tensor,
    guidance: Tensor,
    target: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run SAM's two-way transformer; tokens [1, T, C] and pixels [1, g * g, C]."""
    pixels, pixel_pe = (x.flatten(2).transpose(1, 2) for x in (image, image_pe))
    # The target joins the tokens' positional encoding as well, once for all layers.
    token_pe = tokens + target
    queries = tokens
    for layer in transformer.layers:
        queries, pixels = _two_way_layer(
            layer, queries + target, pixels, token_pe, pixel_pe, guidance
        )
    q = queries + token_pe + target
    attended = transformer.final_attn_token_to_image(q=q, k=pixels + pixel_pe, v=pixels)
    return transformer.norm_final_attn(queries + attended), pixels


def _two_way_layer(
    layer: TwoWayAttentionBlock,
    queries: Tensor,
    pixels: Tensor,
    token_pe: Tensor,
    pixel_pe: Tensor,
    guidance: Tensor,
) -> tuple[Tensor, Tensor]:
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        q = queries + token_pe
        queries = queries + layer.self_attn(q=q, k=q, v=queries)
    queries = layer.norm1(queries)
    keys = pixels + pixel_pe
    attended = _guided_attention(
        layer.cross_attn_token_to_image, queries + token_pe, keys, pixels, guidance
    )
    queries = layer.norm2(queries + attended)
    queries = layer.norm3(queries + layer.mlp(queries))
    attended = layer.cross_attn_image_to_token(q=keys, k=queries + token_pe, v=queries)
    return queries, layer.norm4(pixels + attended)


def _guided_attention(
    attention: Attention, q: Tensor, k: Tensor, v: Tensor, guidance: Tensor
) -> Tensor:
    """Apply an attention layer whose weights are biased by guidance and normalised again."""
    q, k, v = (
        x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for x in (attention.q_proj(q), attention.k_proj(k), attention.v_proj(v))
    )
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    weights = (weights + guidance).softmax(-1)
    output: Tensor = attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return output
