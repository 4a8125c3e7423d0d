"""Layouts of published weights: LAVT's own, and Swin's as released after ImageNet."""

from __future__ import annotations

from hipie.checkpoint.converters.conversion import CheckpointConverter, Rename, rename_by_table

_ENCODER = "lavt.encoder."
_FUSION = {
    r"vis_project\.0": "visual",
    r"image_lang_att\.f_query\.0": "query",
    r"image_lang_att\.f_key\.0": "key",
    r"image_lang_att\.f_value\.0": "value",
    r"image_lang_att\.W\.0": "out",
    r"project_mm\.0": "joined",
}
# Their levels count down from 4, each with two convolutions and two norms.
_DECODER = {
    rf"{kind}{step}_{level}": f"levels.{4 - level}.{3 * (step - 1) + place}"
    for level in (4, 3, 2)
    for step in (1, 2)
    for place, kind in enumerate(("conv", "bn"))
}


def _trunk(start: str) -> list[Rename]:
    """Swin's own tensors under a prefix."""
    return [
        Rename(start + r".+\.(relative_position_index|attn_mask)", None),  # follow from shapes
        Rename(start + r"patch_embed\.(.+)", _ENCODER + r"backbone.embed.\1"),
        Rename(start + r"layers\.(\d)\.blocks\.(.+)", _ENCODER + r"backbone.stages.\1.\2"),
        Rename(start + r"layers\.(\d)\.downsample\.(.+)", _ENCODER + r"backbone.merges.\1.\2"),
    ]


LAVT_RULES: tuple[Rename, ...] = (
    *_trunk(r"backbone\."),
    *(
        Rename(
            rf"backbone\.layers\.(\d)\.fusion\.{theirs}\.(\w+)", _ENCODER + rf"fusions.\1.{ours}.\2"
        )
        for theirs, ours in _FUSION.items()
    ),
    Rename(r"backbone\.layers\.(\d)\.res_gate\.(.+)", _ENCODER + r"gates.\1.\2"),
    Rename(r"backbone\.norm(\d)\.(\w+)", _ENCODER + r"norms.\1.\2"),
    *(
        Rename(rf"classifier\.{theirs}\.(\w+)", rf"lavt.decoder.{ours}.\1")
        for theirs, ours in _DECODER.items()
    ),
    Rename(r"classifier\.conv1_1\.(\w+)", r"lavt.decoder.classes.\1"),
    Rename(r"text_encoder\.pooler\..+", None),  # nothing asks for it
    Rename(r"text_encoder\.embeddings\.position_ids", None),  # counting from 0
    Rename(r"text_encoder\.((?:embeddings|encoder)\..+)", r"text_encoder.model.\1"),
)
SWIN_RULES: tuple[Rename, ...] = (
    *_trunk(""),
    Rename(r"(head|norm)\.(weight|bias)", None),  # of ImageNet's classes
)


def _is_lavt(names: set[str]) -> bool:
    return any(name.startswith("backbone.layers.0.fusion.") for name in names)


def _is_swin(names: set[str]) -> bool:
    return {"patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight"} <= names


OFFICIAL_LAVT = CheckpointConverter(
    "official LAVT", _is_lavt, rename_by_table(LAVT_RULES), complete=False
)
RELEASED_SWIN = CheckpointConverter(
    "released Swin", _is_swin, rename_by_table(SWIN_RULES), complete=False
)
