"""Converter of the ImageNet weights that the authors of Swin released, and of timm's copies.

Source: github.com/microsoft/Swin-Transformer; Detectron2's Swin transformer has the same names.
"""

from __future__ import annotations

import re

from hipie.checkpoint.converters.conversion import CheckpointConverter, State

# Computed from shapes; and the classifier.
_LEFT_OUT = re.compile(r".+\.attn_mask|head\..+|norm\.(?:weight|bias)")
_MERGING = re.compile(r"layers\.(\d)\.downsample\.(.+)")


def is_released_swin(names: set[str]) -> bool:
    """Whether these are the tensors of a Swin transformer, without a prefix."""
    return {"patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight"} <= names


def _convert(state: State) -> tuple[State, list[str]]:
    # A stage ends with the merging of patches; in timm the next one begins with it.
    is_timm = "layers.3.downsample.norm.weight" in state
    renamed: State = {}
    dropped: list[str] = []
    for name, tensor in state.items():
        if _LEFT_OUT.fullmatch(name):
            dropped.append(name)
            continue
        merging = _MERGING.fullmatch(name)
        if is_timm and merging:
            name = f"layers.{int(merging[1]) - 1}.downsample.{merging[2]}"
        renamed[f"backbone.{name}"] = tensor
    return renamed, dropped


RELEASED_SWIN = CheckpointConverter("released Swin", is_released_swin, _convert, complete=False)
