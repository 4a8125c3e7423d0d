"""Types of Segment Anything models, and how a file of weights tells its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from hipie.checkpoint.converters.conversion import Rename, rename_by_table
from hipie.modeling.sam import efficient_sam, sam2
from hipie.modeling.sam.efficient_sam import EFFICIENT_SAM_RULES, EfficientSam
from hipie.modeling.sam.sam2 import SAM2_RULES, TRANSFORMERS_SAM2_RULES, build_sam2, join_shared
from hipie.modeling.sam.small_encoders import (
    CHANNELS,
    EDGE_SAM_RULES,
    MOBILE_SAM_RULES,
    RepViTEncoder,
    TinyViTEncoder,
)

PIXEL_MEAN, PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
State = dict[str, Tensor]
# Tensors that only files of one kind have, by kind.
_SAM2_AUTHORS = "image_encoder.trunk.patch_embed.proj.weight"
_SAM2_TRANSFORMERS = "vision_encoder.backbone.patch_embed.projection.weight"
_MOBILE, _EDGE = "image_encoder.patch_embed.seq.0.c.weight", "image_encoder.features.0.0.c.weight"
_EFFICIENT = "prompt_encoder.bbox_top_left_embeddings.weight"
_PLAIN, _POSITIONS = "image_encoder.patch_embed.proj.weight", "image_encoder.pos_embed"
_SAM1_TRANSFORMERS = "vision_encoder.patch_embed.projection.weight"
_SAM1_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
_EFFICIENT_WIDTHS = {192: "efficient_sam_ti", 384: "efficient_sam_s"}
# Number of blocks of the image encoder.
_SAM2_DEPTHS = {sum(size["depths"]): name for name, size in sam2.SIZES.items()}
OTHER_LAYOUT = "SAM in the layout of transformers"


@dataclass(frozen=True)
class SamType:
    """A type of Segment Anything model.

    Attributes:
        build: builds it with random weights.
        convert: maps the tensors of a file to its own names.
    """

    build: Callable[[], Any]
    convert: Callable[[State], State] = dict


def _renamed(rules: Sequence[Rename]) -> Callable[[State], State]:
    rename = rename_by_table(rules)
    return lambda state: rename(state)[0]


def _convert_sam2(state: State) -> State:
    rules = SAM2_RULES if _SAM2_AUTHORS in state else TRANSFORMERS_SAM2_RULES
    return join_shared(state, rename_by_table(rules)(state)[0])


def _with_encoder(build_encoder: Callable[[], nn.Module], side: int = 1024) -> Sam:
    """SAM with another image encoder of the same output."""
    grid = (side // 16, side // 16)
    return Sam(
        image_encoder=build_encoder(),
        prompt_encoder=PromptEncoder(
            embed_dim=CHANNELS,
            image_embedding_size=grid,
            input_image_size=(side, side),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=CHANNELS, mlp_dim=2048, num_heads=8
            ),
            transformer_dim=CHANNELS,
            iou_head_depth=3,
            iou_head_hidden_dim=CHANNELS,
        ),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )


SAM_TYPES: dict[str, SamType] = {
    **{name: SamType(sam_model_registry[name]) for name in ("vit_b", "vit_l", "vit_h")},
    "mobile_sam": SamType(partial(_with_encoder, TinyViTEncoder), _renamed(MOBILE_SAM_RULES)),
    "edge_sam": SamType(partial(_with_encoder, RepViTEncoder), _renamed(EDGE_SAM_RULES)),
    **{
        name: SamType(partial(EfficientSam, **size), _renamed(EFFICIENT_SAM_RULES))
        for name, size in efficient_sam.SIZES.items()
    },
    **{name: SamType(partial(build_sam2, name), _convert_sam2) for name in sam2.SIZES},
}


def sam_type_of(state: Mapping[str, Tensor]) -> str:
    """Tell the type of a Segment Anything model by the names and shapes of its tensors.

    Returns:
        A name of `SAM_TYPES`; a description of a layout that is not read; "" for another model.
    """
    if _SAM2_AUTHORS in state:
        return _SAM2_DEPTHS.get(_blocks(state, "image_encoder.trunk.blocks."), "")
    if _SAM2_TRANSFORMERS in state:
        return _SAM2_DEPTHS.get(_blocks(state, "vision_encoder.backbone.blocks."), "")
    if _MOBILE in state:
        return "mobile_sam"
    if _EDGE in state:
        return "edge_sam"
    if _SAM1_TRANSFORMERS in state:
        return OTHER_LAYOUT
    if _PLAIN not in state or _POSITIONS not in state:
        return ""
    width = state[_POSITIONS].shape[-1]
    return (_EFFICIENT_WIDTHS if _EFFICIENT in state else _SAM1_WIDTHS).get(width, "")


def _blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    numbers = [name[len(prefix) :].partition(".")[0] for name in state if name.startswith(prefix)]
    return max((int(number) for number in numbers if number.isdigit()), default=-1) + 1


def build_random(build: Callable[[], Any]) -> Any:
    """Build a network with the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()
