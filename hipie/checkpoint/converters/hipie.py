"""The layout of the checkpoints that HIPIE's authors published.

One row a family of tensors: their names, our names. What has no place is left out for a reason
that stands beside it.
"""

from __future__ import annotations

import re

import torch

from hipie.checkpoint.converters.conversion import (
    CheckpointConverter,
    Rename,
    State,
    rename_by_table,
)
from hipie.checkpoint.error import CheckpointError

_THING = r"detr\.detr\.transformer\."
_FUSION = _THING + r"encoder\.vl_layers\.0\.b_attn\."
_PIXEL = r"detr\.mask_dino\.pixel_decoder\."
_STUFF = r"detr\.mask_dino\.predictor\."


def _encoder(theirs: str, ours: str) -> list[Rename]:
    """A deformable encoder layer; `theirs` has one group, the layer's number."""
    return [
        Rename(theirs + r"\.self_attn\.(.+)", ours + r".\1.attention.\2"),
        Rename(theirs + r"\.(linear[12])\.(\w+)", ours + r".\1.feed_forward.\2.\3"),
        Rename(theirs + r"\.norm1\.(\w+)", ours + r".\1.norm.\2"),
        Rename(theirs + r"\.norm2\.(\w+)", ours + r".\1.feed_forward.norm.\2"),
    ]


def _decoder(theirs: str, ours: str) -> list[Rename]:
    """A deformable decoder layer, likewise."""
    return [
        Rename(theirs + r"\.self_attn\.(.+)", ours + r".\1.self_attention.\2"),
        Rename(theirs + r"\.cross_attn\.(.+)", ours + r".\1.cross_attention.\2"),
        Rename(theirs + r"\.(linear[12])\.(\w+)", ours + r".\1.feed_forward.\2.\3"),
        Rename(theirs + r"\.norm1\.(\w+)", ours + r".\1.norm_cross.\2"),
        Rename(theirs + r"\.norm2\.(\w+)", ours + r".\1.norm_self.\2"),
        Rename(theirs + r"\.norm3\.(\w+)", ours + r".\1.feed_forward.norm.\2"),
    ]


_FUSION_NAMES = {
    r"gamma_v": "gamma_visual",
    r"gamma_l": "gamma_text",
    r"layer_norm_v\.(\w+)": r"norm_visual.\1",
    r"layer_norm_l\.(\w+)": r"norm_text.\1",
    r"attn\.v_proj\.(\w+)": r"visual_query.\1",
    r"attn\.l_proj\.(\w+)": r"text_key.\1",
    r"attn\.values_v_proj\.(\w+)": r"visual_value.\1",
    r"attn\.values_l_proj\.(\w+)": r"text_value.\1",
    r"attn\.out_v_proj\.(\w+)": r"visual_out.\1",
    r"attn\.out_l_proj\.(\w+)": r"text_out.\1",
}
_THING_HEADS = {
    r"detr\.detr\.input_proj\.(\d)\.(\d)\.(\w+)": r"projections.levels.\1.\2.\3",
    _THING + r"level_embed": "level_embedding",
    _THING + r"decoder\.ref_point_head\.(.+)": r"decoder.reference_position.\1",
    r"detr\.detr\.bbox_embed\.([0-5])\.(.+)": r"decoder.box_heads.\1.\2",
    r"detr\.detr\.bbox_embed\.6\.(.+)": r"proposal_box.\1",
    r"detr\.detr\.class_embed\.([0-5])\.(.+)": r"class_heads.\1.\2",
    r"detr\.detr\.class_embed\.6\.body\.(\w+)": r"proposal_score.\1",
    r"detr\.detr\.iou_head\.(\d)\.(\w+)": r"iou_heads.\1.\2",
    _THING + r"enc_output\.(\w+)": r"proposal_projection.\1",
    _THING + r"enc_output_norm\.(\w+)": r"proposal_norm.\1",
    _THING + r"tgt_embed\.weight": "query_content.weight",
    _THING + r"tgt_embed_bg\.weight": "background_content.weight",
    _THING + r"bg_query_refs\.weight": "background_references.weight",
    r"detr\.resizer\.fc\.(\w+)": r"denoising_content.linear.\1",
    r"detr\.resizer\.layer_norm\.(\w+)": r"denoising_content.norm.\1",
    r"detr\.mask_head\.lay3\.(\w+)": r"mask_features.coarse.\1",
    r"detr\.mask_head\.lay4\.(\w+)": r"mask_features.middle.\1",
    r"detr\.mask_head\.jia_dcn\.(\w+)": r"mask_features.fine.\1",
    r"detr\.mask_head\.lay1\.(\w+)": r"mask_features.narrow.\1",
    r"detr\.mask_head\.lay2\.(\w+)": r"mask_features.out.\1",
    r"detr\.controller\.(.+)": r"mask_head.controller.\1",
}
_STUFF_HEADS = {
    _PIXEL + r"input_proj\.(\d)\.(\d)\.(\w+)": r"pixel_decoder.projections.levels.\1.\2.\3",
    _PIXEL + r"transformer\.level_embed": "pixel_decoder.level_embedding",
    _PIXEL + r"adapter_1\.weight": "pixel_decoder.lateral.0.weight",
    _PIXEL + r"adapter_1\.norm\.(\w+)": r"pixel_decoder.lateral.1.\1",
    _PIXEL + r"layer_1\.weight": "pixel_decoder.output.0.weight",
    _PIXEL + r"layer_1\.norm\.(\w+)": r"pixel_decoder.output.1.\1",
    _PIXEL + r"mask_features\.(.+)": r"pixel_decoder.mask_features.\1",
    _STUFF + r"enc_output\.(\w+)": r"decoder.proposal_projection.\1",
    _STUFF + r"enc_output_norm\.(\w+)": r"decoder.proposal_norm.\1",
    _STUFF + r"class_embed\.(\w+)": r"decoder.class_features.\1",
    _STUFF + r"_bbox_embed\.(.+)": r"decoder.box_head.\1",
    _STUFF + r"decoder_norm\.(\w+)": r"decoder.norm.\1",
    _STUFF + r"decoder\.ref_point_head\.(.+)": r"decoder.reference_position.\1",
    _STUFF + r"mask_embed\.(.+)": r"mask_embedding.\1",
    _STUFF + r"resizer\.fc\.(\w+)": r"denoising_content.linear.\1",
    _STUFF + r"resizer\.layer_norm\.(\w+)": r"denoising_content.norm.\1",
    r"detr\.mask_dino_cls_embed\.(\d+)\.(.+)": r"class_heads.\1.\2",
}
# Tensors that stand in the file twice: the copy's name, and the name of what it must equal.
_COPIES = {
    _THING + r"decoder\.(bbox_embed|class_embed)\.(.+)": r"detr.detr.\1.\2",
    _STUFF + r"(?:decoder\.)?bbox_embed\.\d+\.(.+)": r"detr.mask_dino.predictor._bbox_embed.\1",
    _STUFF + r"decoder\.norm\.(\w+)": r"detr.mask_dino.predictor.decoder_norm.\1",
}
_WITHOUT_PLACE = (
    r"text_encoder\.body\.model\.embeddings\.position_ids",  # counting from 0, of 2023's BERT
    _THING + r"resizer\..+",  # its result is multiplied by 0
    r"detr\.mask_dino_criterion\..+",  # buffers of the losses
    r"criterion\..+",
)

RULES: tuple[Rename, ...] = (
    *(Rename(theirs, None) for theirs in (*_COPIES, *_WITHOUT_PLACE)),
    Rename(r"text_encoder\.body\.model\.(.+)", r"text_encoder.model.\1"),
    Rename(r"detr\.detr\.backbone\.0\.backbone\.fpn1\.0\.(\w+)", r"backbone.finer.\1"),
    Rename(r"detr\.detr\.backbone\.0\.backbone\.(.+)", r"backbone.\1"),
    *(Rename(_FUSION + theirs, f"things.fusion.{ours}") for theirs, ours in _FUSION_NAMES.items()),
    *_encoder(_THING + r"encoder\.layers\.(\d+)", "things.encoder"),
    *_decoder(_THING + r"decoder\.layers\.(\d+)", "things.decoder.layers"),
    *(Rename(theirs, f"things.{ours}") for theirs, ours in _THING_HEADS.items()),
    *_encoder(_PIXEL + r"transformer\.encoder\.layers\.(\d+)", "stuff.pixel_decoder.encoder"),
    *_decoder(_STUFF + r"decoder\.layers\.(\d+)", "stuff.decoder.layers"),
    *(Rename(theirs, f"stuff.{ours}") for theirs, ours in _STUFF_HEADS.items()),
)


def _shares_hipies_names(names: set[str]) -> bool:
    return any(name.startswith("detr.detr.transformer.") for name in names)


def _has_stuff(names: set[str]) -> bool:
    return any(name.startswith("detr.mask_dino.") for name in names)


def _is_hipie(names: set[str]) -> bool:
    return _shares_hipies_names(names) and _has_stuff(names)


def _is_uninext(names: set[str]) -> bool:
    return _shares_hipies_names(names) and not _has_stuff(names)


def _convert_uninext(state: State) -> tuple[State, list[str]]:
    """What coincides with HIPIE; the rest (heads for tracking) has no place here."""
    ours, dropped = _convert(state)
    strangers = [name for name in ours if name.startswith(("detr.", "text_encoder.body."))]
    return {k: v for k, v in ours.items() if k not in strangers}, dropped + strangers


def _convert(state: State) -> tuple[State, list[str]]:
    _require_equal_copies(state)
    return rename_by_table(RULES)(state)


def _require_equal_copies(state: State) -> None:
    """Tensors that are stored twice must agree, or one of the two would be lost.

    Raises:
        CheckpointError: naming a copy that differs.
    """
    patterns = [(re.compile(theirs), original) for theirs, original in _COPIES.items()]
    for name, copy in state.items():
        for pattern, original in patterns:
            match = pattern.fullmatch(name)
            if match and not torch.equal(copy, state.get(match.expand(original), copy)):
                raise CheckpointError(
                    f'"{name}" differs from "{match.expand(original)}", which it must equal'
                )


OFFICIAL_HIPIE = CheckpointConverter("official HIPIE", _is_hipie, _convert)
# The model HIPIE grew from: its things, backbone and words under the same names, and no stuff.
UNINEXT = CheckpointConverter("UNINEXT", _is_uninext, _convert_uninext, complete=False)
