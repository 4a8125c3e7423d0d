"""Loading of Segment Anything models with weights from a file, or with random weights."""

from __future__ import annotations

from functools import partial

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch import nn

from hipie.checkpoint.load import load_exact_weights
from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown_name

RANDOM_PREFIX = "random:"
TINY = "tiny"
MODEL_TYPES = tuple(name for name in sam_model_registry if name != "default")
PIXEL_MEAN, PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def load_sam(model: str, weights: str = "") -> Sam:
    """Load a SAM in evaluation mode; code in files is not executed.

    Args:
        model: "vit_b", "vit_l" or "vit_h"; `random:vit_b` for random weights, or `random:tiny`
            for a small network (images of 128 pixels) for tests.
        weights: the file that its authors publish for it; "" for random ones.

    Raises:
        OpenVocabularyError: for an unknown type, with similar ones, or missing weights.
        CheckpointError: for a file that cannot be read or belongs to another model.
    """
    if model.startswith(RANDOM_PREFIX):
        name = model.removeprefix(RANDOM_PREFIX)
        _require_type(name, (TINY, *MODEL_TYPES))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return (_build_tiny() if name == TINY else sam_model_registry[name]()).eval()
    _require_type(model, MODEL_TYPES)
    if not weights:
        raise OpenVocabularyError(
            f"SAM {model} needs the file of weights that its authors publish (sam_{model}_*.pth); "
            f"hipie models download sam-{model.replace('_', '-')} downloads and names it"
        )
    sam = sam_model_registry[model]()
    load_exact_weights(sam, weights, f"SAM {model}")
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
