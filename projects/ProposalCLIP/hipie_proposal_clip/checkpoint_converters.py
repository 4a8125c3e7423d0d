"""Converters of the checkpoints that the authors of FC-CLIP and OVSeg published."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from hipie.checkpoint.converters.conversion import (
    CheckpointConverter,
    Rename,
    State,
    rename_by_table,
)

_PIXEL = r"sem_seg_head\.pixel_decoder\."
_PREDICTOR = r"sem_seg_head\.predictor\."
_LAYER = r"generator.layers."
_ENCODER_LAYER = _PIXEL + r"transformer\.encoder\.layers\.(\d+)\."
# The released pixel decoder has its levels from coarse to fine, this one from fine to coarse.
_LEVELS = 3
_NUM_HEADS = 8
_FC_CLIP_MARK = "sem_seg_head.predictor._mask_pooling_proj.0.weight"
_OVSEG_MARK = "clip_adapter.non_object_embedding"

RULES: tuple[Rename, ...] = (
    Rename(r"criterion\..+", None),  # weights of the classes in the loss
    Rename(r"backbone\.clip_model\.(.+)", r"clip_network.\1"),
    Rename(r"void_embedding\.weight", "in_vocabulary_head.void_embedding"),
    Rename(_PREDICTOR + r"_mask_pooling_proj\.0\.(\w+)", r"in_vocabulary_head.pool_norm.\1"),
    Rename(_PREDICTOR + r"_mask_pooling_proj\.1\.(\w+)", r"in_vocabulary_head.pool_projection.\1"),
    Rename(_PREDICTOR + r"class_embed\.(.+)", r"in_vocabulary_head.class_embedding.\1"),
    Rename(_PREDICTOR + r"logit_scale", "in_vocabulary_head.logit_scale"),
    Rename(_PREDICTOR + r"mask_embed\.(.+)", r"generator.mask_embedding.\1"),
    Rename(_PREDICTOR + r"decoder_norm\.(\w+)", r"generator.norm.\1"),
    Rename(_PREDICTOR + r"query_feat\.weight", "generator.query_content.weight"),
    Rename(_PREDICTOR + r"query_embed\.weight", "generator.query_position.weight"),
    Rename(_PREDICTOR + r"level_embed\.weight", "generator.level_embedding.weight"),
    Rename(
        _PREDICTOR + r"transformer_self_attention_layers\.(\d+)\.self_attn\.(.+)",
        _LAYER + r"\1.self_attention.\2",
    ),
    Rename(
        _PREDICTOR + r"transformer_self_attention_layers\.(\d+)\.norm\.(\w+)",
        _LAYER + r"\1.norm_self.\2",
    ),
    Rename(
        _PREDICTOR + r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.(.+)",
        _LAYER + r"\1.cross_attention.\2",
    ),
    Rename(
        _PREDICTOR + r"transformer_cross_attention_layers\.(\d+)\.norm\.(\w+)",
        _LAYER + r"\1.norm_cross.\2",
    ),
    Rename(_PREDICTOR + r"transformer_ffn_layers\.(\d+)\.(.+)", _LAYER + r"\1.feed_forward.\2"),
    *(
        Rename(
            _PIXEL + rf"input_proj\.{index}\.(\d)\.(\w+)",
            rf"generator.pixel_decoder.projections.levels.{_LEVELS - 1 - index}.\1.\2",
        )
        for index in range(_LEVELS)
    ),
    Rename(_PIXEL + r"transformer\.level_embed", "generator.pixel_decoder.level_embedding"),
    Rename(_ENCODER_LAYER + r"self_attn\.(.+)", r"generator.pixel_decoder.encoder.\1.attention.\2"),
    Rename(
        _ENCODER_LAYER + r"(linear[12])\.(\w+)",
        r"generator.pixel_decoder.encoder.\1.feed_forward.\2.\3",
    ),
    Rename(_ENCODER_LAYER + r"norm1\.(\w+)", r"generator.pixel_decoder.encoder.\1.norm.\2"),
    Rename(
        _ENCODER_LAYER + r"norm2\.(\w+)", r"generator.pixel_decoder.encoder.\1.feed_forward.norm.\2"
    ),
    Rename(_PIXEL + r"adapter_1\.weight", "generator.pixel_decoder.lateral.0.weight"),
    Rename(_PIXEL + r"adapter_1\.norm\.(\w+)", r"generator.pixel_decoder.lateral.1.\1"),
    Rename(_PIXEL + r"layer_1\.weight", "generator.pixel_decoder.output.0.weight"),
    Rename(_PIXEL + r"layer_1\.norm\.(\w+)", r"generator.pixel_decoder.output.1.\1"),
    Rename(_PIXEL + r"mask_features\.(\w+)", r"generator.pixel_decoder.mask_features.0.\1"),
)
_rename = rename_by_table(RULES)
_SAMPLING = re.compile(
    r"generator\.pixel_decoder\.encoder\.\d+\.attention\."
    r"(sampling_offsets|attention_weights)\.(weight|bias)"
)


def _convert_fc_clip(state: State) -> tuple[State, list[str]]:
    """Rename the tensors, and reverse the order of levels in the pixel decoder."""
    renamed, dropped = _rename(state)
    for name, tensor in renamed.items():
        match = _SAMPLING.fullmatch(name)
        if match:
            renamed[name] = _reverse_levels(tensor, 2 if match[1] == "sampling_offsets" else 1)
        elif name == "generator.pixel_decoder.level_embedding":
            renamed[name] = tensor.flip(0)
    return renamed, dropped


def _reverse_levels(tensor: Tensor, coordinates: int) -> Tensor:
    """Reverse the levels of the rows [heads, levels, points, coordinates] of a tensor."""
    rows = tensor.unflatten(0, (_NUM_HEADS, _LEVELS, -1, coordinates))
    return rows.flip(1).flatten(0, 3)


OVSEG_RULES: tuple[Rename, ...] = (
    Rename(r"clip_adapter\.clip_model\.visual\.mask_embedding", "mask_prompts.tokens"),
    Rename(r"clip_adapter\.clip_model\.(input_resolution|context_length|vocab_size)", None),
    Rename(r"clip_adapter\.clip_model\.(.+)", r"clip_network.\1"),
    # Normalisation of crops, and the embedding of no object of a decoder that is not used here.
    Rename(r"clip_adapter\.(pixel_mean|pixel_std|non_object_embedding)", None),
    # MaskFormer with a Swin backbone, which proposes the masks of the released model.
    Rename(r"(backbone|sem_seg_head|criterion)\..+", None),
)


def _is_ovseg(names: set[str]) -> bool:
    return _OVSEG_MARK in names


def _convert_ovseg(state: State) -> tuple[State, list[str]]:
    """Take the tuned CLIP and its mask prompts; tensors of half precision become float32."""
    renamed, dropped = rename_by_table(OVSEG_RULES)(state)
    return {
        name: tensor.float() if tensor.dtype == torch.float16 else tensor
        for name, tensor in renamed.items()
    }, dropped


FC_CLIP = CheckpointConverter("FC-CLIP", lambda names: _FC_CLIP_MARK in names, _convert_fc_clip)
OVSEG = CheckpointConverter("OVSeg", _is_ovseg, _convert_ovseg, complete=False)
