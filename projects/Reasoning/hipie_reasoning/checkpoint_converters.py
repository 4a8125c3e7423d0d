"""Converter of the checkpoints of the authors of LISA and GSVA.

Both codes have the same names: a LLaVA in its first layout, SAM below `visual_model`, and the
projection below `text_hidden_fcs`. Trainings are stored with adapters of peft before each name and
in the linear layers; published models are stored without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from hipie.checkpoint.converters.conversion import (
    CheckpointConverter,
    Rename,
    State,
    rename_by_table,
)
from hipie.checkpoint.error import CheckpointError

LANGUAGE_MODEL = "language_model.model."
# `--lora_alpha` of both trainings; a file does not have it.
LORA_ALPHA = 16.0
# Wrappers of peft and transformers, of which readers of files may have removed some.
_WRAPPERS = re.compile(r"^(?:base_model\.)?(?:model\.)*")
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_DECODER = f"{LANGUAGE_MODEL}model."
_PROJECTOR = f"{_DECODER}multi_modal_projector."

RULES: tuple[Rename, ...] = (
    Rename(r".+\.position_ids", None),  # 0, 1, 2, ...
    Rename(r".+\.rotary_emb\.inv_freq", None),  # of the configuration
    Rename(r"visual_model\.pixel_(mean|std)", None),
    Rename(r"visual_model\.(.+)", r"mask_decoder.sam.\1"),
    Rename(r"text_hidden_fcs\.0\.([02])\.(weight|bias)", r"prompt_projection.\1.\2"),
    Rename(r"lm_head\.weight", f"{LANGUAGE_MODEL}lm_head.weight"),
    Rename(r"(embed_tokens|layers|norm)\.(.+)", rf"{_DECODER}language_model.\1.\2"),
    # The inner name is that of transformers before version 5.
    Rename(r"vision_tower\.vision_tower\.(?:vision_model\.)?(.+)", rf"{_DECODER}vision_tower.\1"),
    Rename(r"mm_projector\.(?:0\.)?(weight|bias)", rf"{_PROJECTOR}linear_1.\1"),
    Rename(r"mm_projector\.2\.(weight|bias)", rf"{_PROJECTOR}linear_2.\1"),
)
_rename = rename_by_table(RULES)


def _is_official(names: set[str]) -> bool:
    return any("text_hidden_fcs.0." in name for name in names)


def convert_llava(state: State) -> tuple[State, list[str]]:
    """Convert tensors of LLaVA, LISA or GSVA, with the adapters merged.

    A projector of one linear layer gets a second one, the identity; LLaVA of transformers with the
    activation "linear" between the two computes the same.

    Args:
        state: tensors by the authors' names.

    Returns:
        The tensors by the names of `ReasoningSeg`, and the names of those left out.

    Raises:
        CheckpointError: naming an adapter without its other matrix or its layer.
    """
    plain = {_WRAPPERS.sub("", name, count=1): value for name, value in state.items()}
    if len(plain) < len(state):
        raise CheckpointError("two tensors of the file have the same name but for peft's prefix")
    converted, dropped = _rename(_merge_adapters(plain))
    weight = converted.get(f"{_PROJECTOR}linear_1.weight")
    if weight is not None and f"{_PROJECTOR}linear_2.weight" not in converted:
        width = len(weight)
        converted[f"{_PROJECTOR}linear_2.weight"] = torch.eye(width, dtype=weight.dtype)
        converted[f"{_PROJECTOR}linear_2.bias"] = torch.zeros(width, dtype=weight.dtype)
    return converted, dropped


def _merge_adapters(state: Mapping[str, torch.Tensor]) -> State:
    """Add the scaled products of low-rank matrices to the weights of their layers."""
    merged: State = {}
    adapters: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in state.items():
        match = _LORA.fullmatch(name)
        if match:
            adapters.setdefault(match[1], {})[match[2]] = value
        else:
            merged[name.replace(".base_layer.", ".")] = value
    for layer, matrices in adapters.items():
        weight = merged.get(f"{layer}.weight")
        if weight is None or len(matrices) < 2:
            raise CheckpointError(f'the adapter "{layer}" lacks a matrix or the layer\'s weight')
        down, up = matrices["A"].float(), matrices["B"].float()
        product = LORA_ALPHA / len(down) * (up @ down)
        merged[f"{layer}.weight"] = (weight.float() + product).to(weight.dtype)
    return merged


OFFICIAL_LISA = CheckpointConverter("official LISA or GSVA", _is_official, convert_llava)
