"""HIPIE's model worked the published way: what the benchmark of speed and memory compares with.

The same weights and the same answers, but deformable attention by grid-sample, captions padded to
the fixed length and read again for every image, pixels projected in the early fusion,
encoder layers over all tokens at once, boxes of all proposals, class logits of every layer, masks
of things by grouped convolutions, and every query's mask at full size before anything is merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hipie.modeling.heads.dynamic_mask_head
import hipie.modeling.meta_arch.postprocess
import hipie.modeling.transformer_decoder.layers
import hipie.ops.module
from hipie.modeling.fusion.bidirectional_attention import HIDDEN, LIMIT, BidirectionalFusion
from hipie.modeling.heads.dynamic_mask_head import DynamicMaskHead, aligned_upsample, pixel_centres
from hipie.modeling.meta_arch.hipie import HIPIE
from hipie.modeling.postprocessing.nms_topk import class_aware_nms, topk_query_class_pairs
from hipie.modeling.postprocessing.score_calibration import instance_scores, panoptic_scores
from hipie.modeling.postprocessing.token_to_class import (
    mask_stuff_classes,
    mask_thing_classes,
    pool_token_logits,
)
from hipie.modeling.postprocessing.universal_inference import InferenceSettings
from hipie.modeling.text_encoder.bert import BertTextEncoder
from hipie.ops.grid_sample import ms_deform_attn_grid_sample
from hipie.structures import TextFeatures

WINDOW = 512
ALL_AT_ONCE = 2**40


@contextmanager
def published_way(model: HIPIE, max_tokens: int = WINDOW) -> Iterator[None]:
    """While this is open, `model` works the published way.

    Args:
        max_tokens: what every caption is padded to; whole windows of 512.
    """
    encoder, fusion, propose = model.text_encoder, model.things.fusion, model.things._propose
    with (
        mock.patch.object(hipie.ops.module, "ms_deform_attn", _grid_sample),
        mock.patch.object(encoder, "forward", lambda said: _padded(encoder, said, max_tokens)),
        mock.patch.object(fusion, "forward", lambda *given: _projected(fusion, *given)),
        mock.patch.object(hipie.modeling.transformer_decoder.layers, "TOKENS_AT_ONCE", ALL_AT_ONCE),
        mock.patch.object(hipie.modeling.heads.dynamic_mask_head, "QUERIES_AT_ONCE", ALL_AT_ONCE),
        mock.patch.object(DynamicMaskHead, "_convolve", _grouped),
        mock.patch.object(model.things, "_propose", lambda *given: propose(*given[:2], True)),
        mock.patch.object(model.things, "forward", _every_layer(model.things)),
        mock.patch.object(model.stuff, "forward", _every_layer(model.stuff)),
        mock.patch.object(
            hipie.modeling.meta_arch.postprocess, "universal_inference", _everything_at_full_size
        ),
    ):
        yield


def _every_layer(branch: nn.Module) -> Callable[..., Any]:
    """The branch's forward, which then also scores the words after every layer."""
    forward = branch.forward

    def run(*given: Any, **named: Any) -> Any:
        found = forward(*given, **named)
        list(found.layers)
        return found

    return run


def _grouped(head: DynamicMaskHead, features: Tensor, numbers: Tensor, centres: Tensor) -> Tensor:
    """Every query's inputs are written out, and its layers are a group of a convolution."""
    n, (height, width) = len(numbers), features.shape[-2:]
    weights, biases = (numbers.split(head.sizes, dim=1)[part : part + 3] for part in (0, 3))
    relative = centres[:, :, None] - pixel_centres(height, width, features.device)
    shown = features.flatten(1).expand(n, -1, -1)
    x = torch.cat([relative, shown], dim=1).view(1, -1, height, width)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        kernel = weight.reshape(bias.numel(), -1, 1, 1)
        x = F.conv2d(x, kernel, bias.flatten(), groups=n)
        x = x.relu() if layer < 2 else x
    return aligned_upsample(x.view(n, 1, height, width))[:, 0]


def _grid_sample(
    value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    return ms_deform_attn_grid_sample(value, shapes, locations, weights)


def _padded(encoder: BertTextEncoder, captions: Sequence[Any], max_tokens: int) -> TextFeatures:
    """Features of captions read in full windows, whatever they hold."""
    exact = BertTextEncoder.forward(encoder, captions)
    windows = max(1, -(-max_tokens // WINDOW))
    ids = exact.input_ids.new_zeros(len(captions) * windows, WINDOW)
    mask = torch.ones_like(ids)
    encoder.model(input_ids=ids, attention_mask=mask)
    missing = max_tokens - exact.hidden.shape[1]
    return TextFeatures(
        F.pad(exact.hidden, (0, 0, 0, missing)),
        F.pad(exact.mask, (0, missing)),
        F.pad(exact.input_ids, (0, missing)),
        exact.token_spans,
    )


def _projected(
    fusion: BidirectionalFusion, visual: Tensor, text: Tensor, text_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The fusion as its formula stands: projections run over all pixels."""
    visual, text = fusion.norm_visual(visual), fusion.norm_text(text)

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(2, (fusion.num_heads, -1)).transpose(1, 2)

    query = heads(fusion.visual_query(visual) * fusion.scale)
    key = heads(fusion.text_key(text))
    scores = (query @ key.transpose(2, 3)).clamp(-LIMIT, LIMIT)
    turned = scores.transpose(2, 3)
    turned = (turned - turned.amax(3, keepdim=True)).clamp(-LIMIT, LIMIT).softmax(3)
    hidden = text_mask.float()
    scores = (scores + hidden.masked_fill(~text_mask, HIDDEN)[:, None, None]).softmax(3)
    seen = (scores @ heads(fusion.text_value(text))).transpose(1, 2).flatten(2)
    read = (turned @ heads(fusion.visual_value(visual))).transpose(1, 2).flatten(2)
    return (
        visual + fusion.gamma_visual * fusion.visual_out(seen),
        text + fusion.gamma_text * fusion.text_out(read),
    )


def _everything_at_full_size(
    things: Any,
    stuff: Any,
    *,
    image: int,
    background_queries: int,
    token_spans: Sequence[Sequence[int]],
    is_thing: Sequence[bool],
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    settings: InferenceSettings,
    clip_scores: None = None,
    owners: Any = None,
) -> dict[str, Any]:
    """Masks of all queries first; then scores, and maps by one product over all of them."""
    count = things.token_logits.shape[1] - background_queries
    every = torch.arange(count)
    row = torch.full_like(every, image)
    thing_masks = things.masks(row, every + background_queries)
    stuff_count = stuff.token_logits.shape[1]
    stuff_masks = stuff.masks(torch.full((stuff_count,), image), torch.arange(stuff_count))
    tokens = things.token_logits[image, background_queries:]
    logits = mask_stuff_classes(
        pool_token_logits(tokens, token_spans, settings.token_pooling), is_thing
    )
    scores = instance_scores(logits, things.iou_logits[image, background_queries:])
    kept = class_aware_nms(scores, things.boxes[image, background_queries:], settings.nms_threshold)
    chosen, _, _ = topk_query_class_pairs(scores[kept], settings.detections_per_image, is_thing)
    instances = _full(thing_masks[kept[chosen]], input_size, output_size) > 0
    other = pool_token_logits(stuff.token_logits[image], token_spans, settings.token_pooling)
    merged = torch.cat([logits[kept], mask_thing_classes(other, is_thing)])
    masks = _full(torch.cat([thing_masks[kept], stuff_masks]), input_size, output_size).sigmoid()
    shares = panoptic_scores(merged, settings.temperature)
    semantic = torch.einsum("qc,qhw->chw", shares, masks)
    best, labels = shares.max(-1)
    wanted = best > settings.object_mask_threshold
    winner = None
    if wanted.any():
        winner = (best[wanted, None, None] * masks[wanted]).argmax(0)
    return {"sem_seg": semantic, "winner": winner, "labels": labels, "instances": instances}


def _full(small: Tensor, input_size: tuple[int, int], output_size: tuple[int, int]) -> Tensor:
    full = F.interpolate(small[None], scale_factor=4, mode="bilinear")
    full = full[:, :, : input_size[0], : input_size[1]]
    return F.interpolate(full, size=output_size, mode="bilinear")[0]
