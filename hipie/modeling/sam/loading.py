"""Loading of Segment Anything models with weights from a file, or with random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import nn

from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.load import check_exact_state
from hipie.checkpoint.read import read_state, unwrap_names
from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown_name
from hipie.modeling.sam.efficient_sam import EfficientSam
from hipie.modeling.sam.sam2 import build_sam2
from hipie.modeling.sam.types import (
    PIXEL_MEAN,
    PIXEL_STD,
    SAM_TYPES,
    build_random,
    sam_type_of,
)

RANDOM_PREFIX = "random:"
TINY = "tiny"
MODEL_TYPES = ("vit_b", "vit_l", "vit_h")


def load_sam(model: str, weights: str = "") -> Any:
    """Load a SAM in evaluation mode; code in files is not executed.

    Args:
        model: a name of `hipie.modeling.sam.types.SAM_TYPES`: "vit_b", "vit_l" or "vit_h" of SAM,
            "mobile_sam", "edge_sam", "efficient_sam_ti", "sam2_hiera_tiny", ...; "" = the file
            tells it; `random:vit_b` for random weights, or `random:tiny`, `random:tiny_sam2` and
            `random:tiny_efficient_sam` for small networks (images of 128 pixels) for tests.
        weights: the file that its authors publish for it, or of SAM 2 that of transformers; "" for
            random ones.

    Returns:
        `segment_anything.modeling.Sam`, or a `StretchedSam`.

    Raises:
        OpenVocabularyError: for an unknown type, with similar ones, or missing weights.
        CheckpointError: for a file that cannot be read or belongs to another model.
    """
    if model.startswith(RANDOM_PREFIX):
        name = model.removeprefix(RANDOM_PREFIX)
        builders = dict(_TINY_TYPES)
        builders.update({key: kind.build for key, kind in SAM_TYPES.items()})
        _require_type(name, tuple(builders))
        return build_random(builders[name])
    if model:
        _require_type(model, tuple(SAM_TYPES))
    if not weights:
        raise OpenVocabularyError(
            f"SAM {model} needs the file of weights that its authors publish (sam_{model}_*.pth); "
            f"hipie models download sam-{model.replace('_', '-')} downloads and names it"
            if model in MODEL_TYPES
            else f"SAM {model} needs the file of weights that its authors publish"
        )
    state = unwrap_names(read_state(weights)["model"])
    file_type = sam_type_of(state)
    if not model and file_type not in SAM_TYPES:
        reason = (
            f"are weights of {file_type}, which is not read" if file_type else "are of no known SAM"
        )
        raise CheckpointError(f"{weights}: these {reason}")
    if file_type and model and file_type != model:
        raise CheckpointError(
            f"{weights}: these are weights of {file_type}, and the type is {model}"
        )
    kind = SAM_TYPES[model or file_type]
    sam, state = kind.build(), kind.convert(state)
    check_exact_state(sam.state_dict(), state, weights, f"SAM {model or file_type}")
    sam.load_state_dict(state)
    return sam.eval()


def _require_type(name: str, types: tuple[str, ...]) -> None:
    if name not in types:
        raise unknown_name("SAM model", name, types)


def _build_tiny(side: int = 128, patch: int = 16, width: int = 32) -> Sam:
    grid = (side // patch, side // patch)
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=side,
            patch_size=patch,
            embed_dim=width,
            depth=2,
            num_heads=2,
            out_chans=width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=4,
            global_attn_indexes=(1,),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=width,
            image_embedding_size=grid,
            input_image_size=(side, side),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=64, num_heads=4),
            transformer_dim=width,
            iou_head_depth=3,
            iou_head_hidden_dim=width,
        ),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )


_TINY_TYPES: dict[str, Callable[[], Any]] = {
    TINY: _build_tiny,
    "tiny_sam2": partial(
        build_sam2,
        side=128,
        width=16,
        heads=1,
        depths=(1, 1, 2, 1),
        attend=(3,),
        windows=(8, 4, 4, 2),
        channels=64,
    ),
    "tiny_efficient_sam": partial(EfficientSam, width=32, heads=2, side=128, depth=2),
}
