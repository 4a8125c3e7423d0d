"""Converters of the authors' checkpoints of CRIS, ETRIS and ZegCLIP."""

from __future__ import annotations

from hipie.checkpoint.converters.conversion import CheckpointConverter, Rename, rename_by_table

_DECODER_LAYER = {
    "self_attn_norm": "norm_self_out",
    "cross_attn_norm": "norm_cross_out",
    "self_attn": "self_attention",
    "multihead_attn": "cross_attention",
    r"ffn\.0": "linear_in",
    r"ffn\.3": "norm_hidden",
    r"ffn\.4": "linear_out",
    "norm1": "norm_self",
    "norm2": "norm_cross",
    "norm3": "norm_mlp",
}
_PROJECTOR = {r"vis\.1": "first", r"vis\.3": "second", r"vis\.4": "last", "txt": "kernel"}
_AGGREGATION = {
    "aggr": "aggregate.merge",
    r"coordconv\.0\.conv1": "aggregate.coordinates.conv",
    r"coordconv\.1": "aggregate.smooth",
}
# Modules that CRIS and ETRIS have in common.
_SHARED = (
    Rename(r"backbone\.visual\.attnpool\.connect\.(.+)", r"pooling.shortcut.\1"),
    *(
        Rename(rf"decoder\.layers\.(\d+)\.{old}\.(.+)", rf"decoder.layers.\1.{new}.\2")
        for old, new in _DECODER_LAYER.items()
    ),
    *(Rename(rf"proj\.{old}\.(.+)", rf"projector.{new}.\1") for old, new in _PROJECTOR.items()),
    *(Rename(rf"neck\.{old}\.(.+)", rf"neck.{new}.\1") for old, new in _AGGREGATION.items()),
)
_CRIS_NECK = {
    "txt_proj": "text",
    "f1_v_proj": "project_coarse",
    r"norm_layer\.0": "norm",
    "f2_v_proj": "project_middle",
    "f2_cat": "merge_middle",
    "f3_v_proj": "project_fine",
    "f3_cat": "merge_fine",
    "f4_proj5": "refine_coarse",
    "f4_proj4": "refine_middle",
    "f4_proj3": "refine_fine",
}
_ETRIS_NECK = {
    "txt_proj": "text",
    r"fusion3\.multihead_attn": "gates.0.attention",
    r"fusion4\.multihead_attn": "gates.1.attention",
    r"fusion5\.multihead_attn": "gates.2.attention",
    "f3_proj": "projections.0",
    "f4_proj": "projections.1",
    "f5_proj": "projections.2",
}
_INTERACTION = {
    "multihead_attn": "attention",
    "self_attn": "self_attention",
    "linear1": "linear_in",
    "linear2": "linear_out",
    "norm1": "norm_self",
    "norm2": "norm_cross",
    "norm3": "norm_mlp",
}
_BRIDGE = {
    "zoom_in": "image_in",
    "zoom_out": "image_out",
    "linear1": "text_in",
    "linear2": "text_out",
}
_SIDES = {"v": "image", "t": "text"}
_ZEGCLIP_LAYER = {
    r"multihead_attn\.q": "query",
    r"multihead_attn\.k": "key",
    r"multihead_attn\.v": "value",
    r"multihead_attn\.proj": "out",
    "linear1": "linear_in",
    "linear2": "linear_out",
    "norm2": "norm_attention",
    "norm3": "norm_mlp",
}

CRIS_RULES = (
    *_SHARED,
    *(Rename(rf"neck\.{old}\.(.+)", rf"neck.{new}.\1") for old, new in _CRIS_NECK.items()),
)
ETRIS_RULES = (
    *_SHARED,
    *(Rename(rf"neck\.{old}\.(.+)", rf"neck.{new}.\1") for old, new in _ETRIS_NECK.items()),
    *(
        Rename(
            rf"bridger\.fusion_{side}\.(\d)\.{old}\.(.+)", rf"bridges.\1.{name}_attention.{new}.\2"
        )
        for side, name in _SIDES.items()
        for old, new in _INTERACTION.items()
    ),
    # The first bridge has no norm, so that those of the file are one behind.
    *(
        Rename(rf"bridger\.ln_{side}\.{index}\.(.+)", rf"bridges.{index + 1}.{name}_norm.\1")
        for side, name in _SIDES.items()
        for index in range(2)
    ),
    *(
        Rename(rf"bridger\.{old}\.(\d)\.(.+)", rf"bridges.\1.{new}.\2")
        for old, new in _BRIDGE.items()
    ),
)
ZEGCLIP_RULES = (
    Rename(r"backbone\.prompt_embeddings", "image_tuning.prompts.first"),
    Rename(r"backbone\.deep_prompt_embeddings", "image_tuning.prompts.deep"),
    Rename(r"backbone\.prompt_proj\.(.+)", r"image_tuning.prompts.projection.\1"),
    Rename(r"backbone\.prompt_norm\.(.+)", r"image_tuning.prompts.norm.\1"),
    # CLIP's own table, resized once; here it is resized to the grid of an image.
    Rename(r"backbone\.positional_embedding", None),
    Rename(r"backbone\.(.+)", r"backbone.visual.\1"),
    Rename(r"text_encoder\.(.+)", r"backbone.\1"),
    Rename(r"decode_head\.q_proj\.(.+)", r"decoder.query.\1"),
    # Unused: a decoder layer of PyTorch without its self-attention, and a buffer of the loss.
    Rename(r"decode_head\.decoder_1\.layers\.\d+\.(self_attn|norm1)\..+", None),
    Rename(r"decode_head\.loss_decode\..+", None),
    *(
        Rename(
            rf"decode_head\.decoder_1\.layers\.(\d+)\.{old}\.(.+)", rf"decoder.layers.\1.{new}.\2"
        )
        for old, new in _ZEGCLIP_LAYER.items()
    ),
)

OFFICIAL_CRIS = CheckpointConverter(
    "official CRIS",
    lambda names: "neck.f1_v_proj.0.weight" in names,
    rename_by_table(CRIS_RULES),
)
OFFICIAL_ETRIS = CheckpointConverter(
    "official ETRIS",
    lambda names: any(name.startswith("bridger.") for name in names),
    rename_by_table(ETRIS_RULES),
)
OFFICIAL_ZEGCLIP = CheckpointConverter(
    "official ZegCLIP",
    lambda names: "decode_head.q_proj.weight" in names,
    rename_by_table(ZEGCLIP_RULES),
    complete=False,
)
