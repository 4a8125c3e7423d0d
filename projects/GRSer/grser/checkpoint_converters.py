"""Converters of LAVT's published weights, Swin's ImageNet weights and GRSer's earlier names."""

from __future__ import annotations

from hipie.checkpoint.converters.conversion import CheckpointConverter, Rename, rename_by_table
from hipie.checkpoint.converters.swin import is_released_swin

_ENCODER = "lavt.encoder."
_FUSION = {
    r"vis_project\.0": "visual",
    r"image_lang_att\.f_query\.0": "query",
    r"image_lang_att\.f_key\.0": "key",
    r"image_lang_att\.f_value\.0": "value",
    r"image_lang_att\.W\.0": "out",
    r"project_mm\.0": "joined",
}
# The levels of LAVT's decoder count down from 4, each with two convolutions and two norms.
_DECODER = {
    rf"{kind}{step}_{level}": f"levels.{4 - level}.{3 * (step - 1) + index}"
    for level in (4, 3, 2)
    for step in (1, 2)
    for index, kind in enumerate(("conv", "bn"))
}


def _backbone_rules(prefix: str) -> list[Rename]:
    """Rules of Swin's tensors under a prefix."""
    return [
        Rename(prefix + r".+\.(relative_position_index|attn_mask)", None),  # computed from shapes
        Rename(prefix + r"patch_embed\.(.+)", _ENCODER + r"backbone.embed.\1"),
        Rename(prefix + r"layers\.(\d)\.blocks\.(.+)", _ENCODER + r"backbone.stages.\1.\2"),
        Rename(prefix + r"layers\.(\d)\.downsample\.(.+)", _ENCODER + r"backbone.merges.\1.\2"),
    ]


LAVT_RULES: tuple[Rename, ...] = (
    *_backbone_rules(r"backbone\."),
    *(
        Rename(
            rf"backbone\.layers\.(\d)\.fusion\.{official}\.(\w+)",
            _ENCODER + rf"fusions.\1.{name}.\2",
        )
        for official, name in _FUSION.items()
    ),
    Rename(r"backbone\.layers\.(\d)\.res_gate\.(.+)", _ENCODER + r"gates.\1.\2"),
    Rename(r"backbone\.norm(\d)\.(\w+)", _ENCODER + r"norms.\1.\2"),
    *(
        Rename(rf"classifier\.{official}\.(\w+)", rf"lavt.decoder.{name}.\1")
        for official, name in _DECODER.items()
    ),
    Rename(r"classifier\.conv1_1\.(\w+)", r"lavt.decoder.classes.\1"),
    Rename(r"text_encoder\.pooler\..+", None),  # unused
    Rename(r"text_encoder\.embeddings\.position_ids", None),  # 0, 1, 2, ...
    Rename(r"text_encoder\.((?:embeddings|encoder)\..+)", r"text_encoder.model.\1"),
)
# Names in checkpoints of GRSer before its modules were renamed.
EARLIER_RULES: tuple[Rename, ...] = (
    Rename(r"head\.words\.(.+)", r"triphasic_head.text_projection.\1"),
    Rename(r"head\.narrow\.(.+)", r"triphasic_head.output_projection.\1"),
    Rename(r"comparison\.picture\.(.+)", r"rejection_head.visual_projection.\1"),
    Rename(r"comparison\.sentence\.(.+)", r"rejection_head.text_projection.\1"),
)
SWIN_RULES: tuple[Rename, ...] = (
    *_backbone_rules(""),
    Rename(r"(head|norm)\.(weight|bias)", None),  # ImageNet classifier
)


def _is_lavt(names: set[str]) -> bool:
    return any(name.startswith("backbone.layers.0.fusion.") for name in names)


def _has_earlier_names(names: set[str]) -> bool:
    return any(name.startswith(("head.narrow.", "comparison.picture.")) for name in names)


OFFICIAL_LAVT = CheckpointConverter(
    "official LAVT", _is_lavt, rename_by_table(LAVT_RULES), complete=False
)
RELEASED_SWIN = CheckpointConverter(
    "released Swin", is_released_swin, rename_by_table(SWIN_RULES), complete=False
)
NAMES_BEFORE_RENAMING = CheckpointConverter(
    "GRSer before renaming", _has_earlier_names, rename_by_table(EARLIER_RULES)
)
