"""Segment Anything by type with weights from a file, or with random ones."""

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

from hipie.checkpoint.exact import load_exact_weights
from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown_name

RANDOM = "random:"
TINY = "tiny"
TYPES = tuple(name for name in sam_model_registry if name != "default")
# What SAM's authors subtract and divide by.
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def load_sam(model: str, weights: str = "") -> Sam:
    """A SAM in evaluation mode.

    Args:
        model: "vit_b", "vit_l" or "vit_h"; `random:vit_b` for random weights, or `random:tiny`
            for a small network (images of 128 pixels) that tests can afford.
        weights: the file that its authors publish for it; "" for random ones.

    Raises:
        OpenVocabularyError: for an unknown type, with near ones; for missing weights, or a file
            that cannot be read or is another model's. Files are read without running what is in
            them.
    """
    if model.startswith(RANDOM):
        name = model.removeprefix(RANDOM)
        _require_type(name, (TINY, *TYPES))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return (_tiny() if name == TINY else sam_model_registry[name]()).eval()
    _require_type(model, TYPES)
    if not weights:
        raise OpenVocabularyError(
            f"SAM {model} needs the file of weights that its authors publish (sam_{model}_*.pth)"
        )
    built = sam_model_registry[model]()
    load_exact_weights(built, weights, f"SAM {model}")
    return built.eval()


def _require_type(name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise unknown_name("SAM model", name, known)


def _tiny(side: int = 128, patch: int = 16, width: int = 32) -> Sam:
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
        pixel_mean=MEAN,
        pixel_std=STD,
    )
