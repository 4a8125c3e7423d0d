"""Converters of the checkpoints that the authors of HIPIE and UNINEXT published.

One rule per family of tensors: the authors' names and the names here. Tensors without a counterpart
are left out, each for a reason that a comment gives.
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


def _encoder(pattern: str, replacement: str) -> list[Rename]:
    """Rules of a deformable encoder layer; `pattern` has one group, the layer's number."""
    return [
        Rename(pattern + r"\.self_attn\.(.+)", replacement + r".\1.attention.\2"),
        Rename(pattern + r"\.(linear[12])\.(\w+)", replacement + r".\1.feed_forward.\2.\3"),
        Rename(pattern + r"\.norm1\.(\w+)", replacement + r".\1.norm.\2"),
        Rename(pattern + r"\.norm2\.(\w+)", replacement + r".\1.feed_forward.norm.\2"),
    ]


def _decoder(pattern: str, replacement: str) -> list[Rename]:
    """Rules of a deformable decoder layer, likewise."""
    return [
        Rename(pattern + r"\.self_attn\.(.+)", replacement + r".\1.self_attention.\2"),
        Rename(pattern + r"\.cross_attn\.(.+)", replacement + r".\1.cross_attention.\2"),
        Rename(pattern + r"\.(linear[12])\.(\w+)", replacement + r".\1.feed_forward.\2.\3"),
        Rename(pattern + r"\.norm1\.(\w+)", replacement + r".\1.norm_cross.\2"),
        Rename(pattern + r"\.norm2\.(\w+)", replacement + r".\1.norm_self.\2"),
        Rename(pattern + r"\.norm3\.(\w+)", replacement + r".\1.feed_forward.norm.\2"),
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
# Tensors that are stored twice: pattern of the copy's name, and the name of the original.
_COPIES = {
    _THING + r"decoder\.(bbox_embed|class_embed)\.(.+)": r"detr.detr.\1.\2",
    _STUFF + r"(?:decoder\.)?bbox_embed\.\d+\.(.+)": r"detr.mask_dino.predictor._bbox_embed.\1",
    _STUFF + r"decoder\.norm\.(\w+)": r"detr.mask_dino.predictor.decoder_norm.\1",
}
_WITHOUT_COUNTERPART = (
    r"text_encoder\.body\.model\.embeddings\.position_ids",  # counting from 0, of 2023's BERT
    _THING + r"resizer\..+",  # its result is multiplied by 0
    r"detr\.mask_dino_criterion\..+",  # buffers of the losses
    r"criterion\..+",
)

RULES: tuple[Rename, ...] = (
    *(Rename(pattern, None) for pattern in (*_COPIES, *_WITHOUT_COUNTERPART)),
    Rename(r"text_encoder\.body\.model\.(.+)", r"text_encoder.model.\1"),
    Rename(r"detr\.detr\.backbone\.0\.backbone\.fpn1\.0\.(\w+)", r"backbone.finer.\1"),
    Rename(r"detr\.detr\.backbone\.0\.backbone\.(.+)", r"backbone.\1"),
    *(
        Rename(_FUSION + pattern, f"things.fusion.{replacement}")
        for pattern, replacement in _FUSION_NAMES.items()
    ),
    *_encoder(_THING + r"encoder\.layers\.(\d+)", "things.encoder"),
    *_decoder(_THING + r"decoder\.layers\.(\d+)", "things.decoder.layers"),
    *(Rename(pattern, f"things.{replacement}") for pattern, replacement in _THING_HEADS.items()),
    *_encoder(_PIXEL + r"transformer\.encoder\.layers\.(\d+)", "stuff.pixel_decoder.encoder"),
    *_decoder(_STUFF + r"decoder\.layers\.(\d+)", "stuff.decoder.layers"),
    *(Rename(pattern, f"stuff.{replacement}") for pattern, replacement in _STUFF_HEADS.items()),
)


def _has_uninext_names(names: set[str]) -> bool:
    return any(name.startswith("detr.detr.transformer.") for name in names)


def _has_stuff(names: set[str]) -> bool:
    return any(name.startswith("detr.mask_dino.") for name in names)


def _is_hipie(names: set[str]) -> bool:
    return _has_uninext_names(names) and _has_stuff(names)


def _is_uninext(names: set[str]) -> bool:
    return _has_uninext_names(names) and not _has_stuff(names)


def _convert_uninext(state: State) -> tuple[State, list[str]]:
    """Convert the tensors that HIPIE has as well; the rest (heads for tracking) is left out."""
    replacement, dropped = _convert(state)
    unknown = [name for name in replacement if name.startswith(("detr.", "text_encoder.body."))]
    return {k: v for k, v in replacement.items() if k not in unknown}, dropped + unknown


def _convert(state: State) -> tuple[State, list[str]]:
    _require_equal_copies(state)
    return rename_by_table(RULES)(state)


def _require_equal_copies(state: State) -> None:
    """Check that tensors that are stored twice are equal.

    Raises:
        CheckpointError: naming a copy that differs.
    """
    patterns = [(re.compile(pattern), original) for pattern, original in _COPIES.items()]
    for name, copy in state.items():
        for pattern, original in patterns:
            match = pattern.fullmatch(name)
            if match and not torch.equal(copy, state.get(match.expand(original), copy)):
                raise CheckpointError(
                    f'"{name}" differs from "{match.expand(original)}", which it must equal'
                )


OFFICIAL_HIPIE = CheckpointConverter("official HIPIE", _is_hipie, _convert)
# HIPIE is derived from UNINEXT, which has the same names but no stuff branch.
UNINEXT = CheckpointConverter("UNINEXT", _is_uninext, _convert_uninext, complete=False)
