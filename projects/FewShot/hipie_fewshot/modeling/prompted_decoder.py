"""SAM's mask decoder with PerSAM's two hints: where to look, and what to look for."""

from __future__ import annotations

import math

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn


def guided_masks(
    decoder: MaskDecoder,
    embedding: Tensor,
    places: Tensor,
    sparse: Tensor,
    dense: Tensor,
    where: Tensor,
    what: Tensor,
) -> tuple[Tensor, Tensor]:
    """Masks of one prompt: `MaskDecoder.predict_masks` with guidance.

    Args:
        decoder: of SAM.
        embedding: [1, C, g, g] the image.
        places: [1, C, g, g] position codes.
        sparse: [1, T, C] points.
        dense: [1, C, g, g] the mask prompt.
        where: [g * g] 0..1, added to what tokens attend to, after the softmax, and brought
            to sum 1 by another softmax.
        what: [C], added to all tokens before each layer.

    Returns:
        Logits [1, 4, 4g, 4g] and estimated IoUs [1, 4].
    """
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own[None], sparse], dim=1)
    tokens, seen = _two_ways(decoder.transformer, embedding + dense, places, tokens, where, what)
    height, width = embedding.shape[-2:]
    finer = decoder.output_upscaling(seen.transpose(1, 2).unflatten(2, (height, width)))
    count = decoder.num_mask_tokens
    kernels = [
        network(tokens[:, 1 + number])
        for number, network in enumerate(decoder.output_hypernetworks_mlps)
    ]
    masks = torch.einsum("bkc,bchw->bkhw", torch.stack(kernels, dim=1), finer)
    return masks[:, :count], decoder.iou_prediction_head(tokens[:, 0])


def _two_ways(
    transformer: nn.Module,
    image: Tensor,
    places: Tensor,
    tokens: Tensor,
    where: Tensor,
    what: Tensor,
) -> tuple[Tensor, Tensor]:
    """Tokens and pixels after they have looked at each other: [1, T, C] and [1, g * g, C]."""
    pixels, pixel_codes = (one.flatten(2).transpose(1, 2) for one in (image, places))
    # The hint joins the tokens' own codes as well, once and for all layers.
    codes = tokens + what
    queries = tokens
    for layer in transformer.layers:
        queries, pixels = _layer(layer, queries + what, pixels, codes, pixel_codes, where)
    asked = queries + codes + what
    found = transformer.final_attn_token_to_image(q=asked, k=pixels + pixel_codes, v=pixels)
    return transformer.norm_final_attn(queries + found), pixels


def _layer(
    layer: TwoWayAttentionBlock,
    queries: Tensor,
    pixels: Tensor,
    codes: Tensor,
    pixel_codes: Tensor,
    where: Tensor,
) -> tuple[Tensor, Tensor]:
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        coded = queries + codes
        queries = queries + layer.self_attn(q=coded, k=coded, v=queries)
    queries = layer.norm1(queries)
    keys = pixels + pixel_codes
    looked = _guided(layer.cross_attn_token_to_image, queries + codes, keys, pixels, where)
    queries = layer.norm2(queries + looked)
    queries = layer.norm3(queries + layer.mlp(queries))
    answered = layer.cross_attn_image_to_token(q=keys, k=queries + codes, v=queries)
    return queries, layer.norm4(pixels + answered)


def _guided(attention: Attention, q: Tensor, k: Tensor, v: Tensor, where: Tensor) -> Tensor:
    """An attention whose weights are pulled to certain places."""
    q, k, v = (
        one.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for one in (attention.q_proj(q), attention.k_proj(k), attention.v_proj(v))
    )
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    weights = (weights + where).softmax(-1)
    return attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
