"""HIPIE with the computation of the published program, the baseline of the benchmark.

Weights and results are the same, but deformable attention uses grid-sample, captions are padded to
a fixed length and encoded again for every image, image tokens are projected in the early fusion,
encoder layers process all tokens together, boxes of all proposals and class logits of every layer
are computed, masks of things use grouped convolutions, and every query's mask is upsampled to full
size before the maps are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

import hipie.modeling.heads.dynamic_mask_head
import hipie.modeling.meta_arch.postprocess
import hipie.modeling.transformer_decoder.layers
import hipie.ops.module
from hipie.modeling.fusion.bidirectional_attention import (
    MASKED_SCORE,
    SCORE_LIMIT,
    BidirectionalFusion,
)
from hipie.modeling.heads.dynamic_mask_head import DynamicMaskHead, pixel_centers
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
from hipie.modeling.transformer_decoder.maskdino_decoder import StuffBranch
from hipie.ops.grid_sample import ms_deform_attn_grid_sample
from hipie.structures import DecoderOutput, ImageQueries, Size, TextFeatures

WINDOW = 512
UNLIMITED = 2**40


@contextmanager
def published_computation(model: HIPIE, max_tokens: int = WINDOW) -> Iterator[None]:
    """Patch `model` so that it computes as the published program does.

    Args:
        model: the model.
        max_tokens: length that every caption is padded to, a multiple of 512.
    """
    encoder, things, stuff = model.text_encoder, model.things, model.stuff
    fusion, propose, forward = things.fusion, things._propose, things.forward
    with (
        mock.patch.object(hipie.ops.module, "ms_deform_attn", _grid_sample),
        mock.patch.object(
            encoder, "forward", lambda captions: _padded(encoder, captions, max_tokens)
        ),
        mock.patch.object(fusion, "forward", lambda *inputs: _projected(fusion, *inputs)),
        mock.patch.object(hipie.modeling.transformer_decoder.layers, "TOKENS_PER_CHUNK", UNLIMITED),
        mock.patch.object(hipie.modeling.heads.dynamic_mask_head, "QUERIES_PER_CHUNK", UNLIMITED),
        mock.patch.object(DynamicMaskHead, "_convolve", _grouped),
        mock.patch.object(things, "_propose", partial(_propose_all, propose)),
        mock.patch.object(things, "forward", partial(forward, all_layers=True)),
        mock.patch.object(stuff, "decode", partial(_decode_all_layers, stuff)),
        mock.patch.object(stuff, "classify", partial(_classify_all_layers, stuff)),
        mock.patch.object(
            hipie.modeling.meta_arch.postprocess, "universal_inference", _inference_at_full_size
        ),
    ):
        yield


def _decode_all_layers(stuff: StuffBranch, features: Sequence[Tensor]) -> DecoderOutput:
    """Run `StuffBranch.decode` with the embeddings of every layer and of the proposals."""
    levels, mask_features = stuff.pixel_decoder(features)
    topk, content, box_logits = stuff.decoder.propose(levels)
    references = box_logits.sigmoid()
    queries, boxes = stuff.decoder(content, references, levels, None)
    states = [
        stuff._describe(i, *state) for i, state in enumerate(zip(queries, boxes, strict=True))
    ]
    return DecoderOutput(
        layers=tuple(states),
        mask_features=mask_features.unbind(0),
        references=references,
        proposal_index=topk,
        proposals=stuff._embed(stuff.decoder.norm(content), references),
    )


def _classify_all_layers(stuff: StuffBranch, output: DecoderOutput, text: Tensor) -> DecoderOutput:
    """Run `StuffBranch.classify` for every layer and the proposals."""
    heads = [*stuff.class_heads[:-2], stuff.class_heads[-1]]
    layers = [
        stuff._classify(layer, head, text) for layer, head in zip(output.layers, heads, strict=True)
    ]
    proposals = stuff._classify(output.proposals, stuff.class_heads[-2], text)
    return replace(output, layers=tuple(layers), proposals=proposals)


def _grouped(
    head: DynamicMaskHead, features: Tensor, parameters: Tensor, centers: Tensor
) -> Tensor:
    """Compute the dynamic mask head by grouped convolutions, one group per query."""
    n, (height, width) = len(parameters), features.shape[-2:]
    weights, biases = (parameters.split(head.sizes, dim=1)[part : part + 3] for part in (0, 3))
    relative = centers[:, :, None] - pixel_centers(height, width, head.stride, features.device)
    repeated = features.flatten(1).expand(n, -1, -1)
    x = torch.cat([relative, repeated], dim=1).view(1, -1, height, width)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        kernel = weight.reshape(bias.numel(), -1, 1, 1)
        x = F.conv2d(x, kernel, bias.flatten(), groups=n)
        x = x.relu() if layer < 2 else x
    return x.view(n, 1, height, width)


def _grid_sample(
    value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    return ms_deform_attn_grid_sample(value, shapes, locations, weights)


def _padded(encoder: BertTextEncoder, captions: Sequence[Any], max_tokens: int) -> TextFeatures:
    """Encode captions in windows that are padded to full length."""
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
    """Compute the fusion with projections of all image tokens."""
    visual, text = fusion.norm_visual(visual), fusion.norm_text(text)

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(2, (fusion.num_heads, -1)).transpose(1, 2)

    query = heads(fusion.visual_query(visual) * fusion.scale)
    key = heads(fusion.text_key(text))
    scores = (query @ key.transpose(2, 3)).clamp(-SCORE_LIMIT, SCORE_LIMIT)
    transposed = scores.transpose(2, 3)
    transposed = (
        (transposed - transposed.amax(3, keepdim=True)).clamp(-SCORE_LIMIT, SCORE_LIMIT).softmax(3)
    )
    bias = text_mask.float()
    scores = (scores + bias.masked_fill(~text_mask, MASKED_SCORE)[:, None, None]).softmax(3)
    from_text = (scores @ heads(fusion.text_value(text))).transpose(1, 2).flatten(2)
    from_image = (transposed @ heads(fusion.visual_value(visual))).transpose(1, 2).flatten(2)
    return (
        visual + fusion.gamma_visual * fusion.visual_out(from_text),
        text + fusion.gamma_text * fusion.text_out(from_image),
    )


def _inference_at_full_size(
    things: ImageQueries,
    stuff: ImageQueries,
    *,
    token_spans: Sequence[Sequence[int]],
    is_thing: Sequence[bool],
    input_size: Size,
    output_size: Size,
    settings: InferenceSettings,
    clip_scores: None = None,
    pixel_scores: None = None,
    owners: Any = None,
    enforce_consistency: Any = None,
) -> dict[str, Any]:
    """Compute outputs from the masks of all queries at full size."""
    thing_masks = things.masks(torch.arange(things.layer.boxes.shape[1]))
    stuff_masks = stuff.masks(torch.arange(stuff.layer.boxes.shape[1]))
    pooling = settings.token_pooling
    logits = pool_token_logits(things.layer.logits[0], token_spans, pooling)
    logits = mask_stuff_classes(logits, is_thing)
    scores = instance_scores(logits, things.layer.iou_logits[0])
    keep = class_aware_nms(scores, things.layer.boxes[0], settings.nms_threshold)
    rows, _, _ = topk_query_class_pairs(scores[keep], settings.detections_per_image, is_thing)
    instances = _upsample(thing_masks[keep[rows]], input_size, output_size) > 0
    stuff_logits = pool_token_logits(stuff.layer.logits[0], token_spans, pooling)
    all_logits = torch.cat([logits[keep], mask_thing_classes(stuff_logits, is_thing)])
    masks = _upsample(
        torch.cat([thing_masks[keep], stuff_masks]), input_size, output_size
    ).sigmoid()
    map_scores = panoptic_scores(all_logits, settings.temperature)
    semantic = torch.einsum("qc,qhw->chw", map_scores, masks)
    best, labels = map_scores.max(-1)
    candidates = best > settings.object_mask_threshold
    winner = None
    if candidates.any():
        winner = (best[candidates, None, None] * masks[candidates]).argmax(0)
    return {"sem_seg": semantic, "winner": winner, "labels": labels, "instances": instances}


def _propose_all(propose: Callable[..., Any], *inputs: Any, **_options: Any) -> Any:
    return propose(*inputs, all_boxes=True)


def _upsample(small: Tensor, input_size: Size, output_size: Size) -> Tensor:
    full = F.interpolate(small[None], scale_factor=4, mode="bilinear")
    full = full[:, :, : input_size[0], : input_size[1]]
    return F.interpolate(full, size=output_size, mode="bilinear")[0]
