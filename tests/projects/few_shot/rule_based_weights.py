"""Weights computed from tensor names, so that two programs can use the same ones.

The published programs of PerSAM and Matcher were run with them on a CPU; subsampled results are
stored in `data/`, as the project's README describes.
"""

from __future__ import annotations

import zlib
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

# SAM's predicted IoUs and logits are brought into the range of trained ones, so that the published
# thresholds keep some masks and drop others.
QUALITY_BIAS, QUALITY_STD, LOGIT_SCALE = 0.88, 0.03, 150.0


def rule_based_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """Compute a tensor from its name and shape."""
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("iou_prediction_head.layers.2.bias"):
        made = QUALITY_BIAS + QUALITY_STD * normal
    elif name.endswith("iou_prediction_head.layers.2.weight"):
        made = 10 * QUALITY_STD * normal / np.sqrt(shape[1])
    elif "output_hypernetworks_mlps" in name and name.endswith("layers.2.weight"):
        made = LOGIT_SCALE * normal / np.sqrt(shape[1])
    elif name.endswith("gamma") or (name.endswith("weight") and len(shape) == 1):
        made = 1 + 0.1 * np.abs(normal)
    elif "embed" in name or name.endswith(("token", "tokens.weight", "token.weight")):
        made = normal if len(shape) < 4 or shape[1] > shape[2] else 0.5 * normal
    elif name.endswith("gaussian_matrix"):
        made = normal
    elif len(shape) < 2:
        made = 0.1 * normal
    else:
        made = normal / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(made.astype(np.float32))


def initialize_by_rule(model: nn.Module) -> nn.Module:
    """Fill every tensor of a model by `rule_based_tensor`, in place."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(rule_based_tensor(name, tuple(value.shape)))
    return model.eval()


def build_sam(parts, side: int, patch: int, width: int = 32) -> nn.Module:
    """Build a small SAM from the classes of a module `parts`."""
    grid = (side // patch, side // patch)
    encoder = parts.ImageEncoderViT(
        img_size=side,
        patch_size=patch,
        embed_dim=width,
        depth=1,
        num_heads=2,
        out_chans=width,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=8,
        global_attn_indexes=(),
    )
    decoder = parts.MaskDecoder(
        num_multimask_outputs=3,
        transformer=parts.TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=64, num_heads=4),
        transformer_dim=width,
        iou_head_depth=3,
        iou_head_hidden_dim=width,
    )
    prompts = parts.PromptEncoder(
        embed_dim=width, image_embedding_size=grid, input_image_size=(side, side), mask_in_chans=16
    )
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    return initialize_by_rule(parts.Sam(encoder, prompts, decoder, mean, std))


def rule_based_sam(side: int, patch: int):
    """Build a small SAM in hipie's wrapper."""
    import segment_anything.modeling as parts

    from hipie.modeling.sam.predictor import Sam

    return Sam(build_sam(parts, side, patch))


def rule_based_dino():
    """Build a ViT of timm for squares of 112 pixels, two blocks of width 32."""
    from hipie_fewshot.modeling.dino import Dino

    dino = Dino.from_source("random:tiny", size=112)
    initialize_by_rule(dino.model)
    return dino


def make_image(seed: int, height: int, width: int) -> np.ndarray:
    """Draw squares of colour with a little noise: [H, W, 3] uint8."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3))
    large = np.kron(colours, np.ones((10, 10, 1), int))[:height, :width]
    return (large + rng.integers(-20, 21, large.shape)).clip(0, 255).astype(np.uint8)


def ellipse_mask(seed: int, height: int, width: int) -> np.ndarray:
    """Draw an ellipse at a random position: [H, W] bool."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    middle = rng.uniform(0.35, 0.65, 2) * (height, width)
    radii = rng.uniform(0.2, 0.3, 2) * (height, width)
    return ((y - middle[0]) / radii[0]) ** 2 + ((x - middle[1]) / radii[1]) ** 2 < 1
