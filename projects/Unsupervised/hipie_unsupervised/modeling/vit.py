"""Vision transformers of timm that are trained from random weights, and their backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from hipie.checkpoint.load import load_exact_weights
from hipie.errors import InputError, cause_of

# Keys of MODEL.UNSUPERVISED.VIT, and the arguments of timm that they set.
ARGUMENTS = {
    "IMAGE_SIZE": "img_size",
    "PATCH_SIZE": "patch_size",
    "EMBED_DIM": "embed_dim",
    "DEPTH": "depth",
    "NUM_HEADS": "num_heads",
}
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def vit_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Arguments of timm that the keys of `MODEL.UNSUPERVISED.VIT` set; keys of 0 set none."""
    node = cfg.MODEL.UNSUPERVISED.VIT
    return {argument: node[key] for key, argument in ARGUMENTS.items() if node[key]}


def build_vit(name: str, arguments: dict[str, Any]) -> VisionTransformer:
    """Build a vision transformer without a head and with random weights.

    Args:
        name: of timm.
        arguments: of its constructor, where they are not those of the name.

    Raises:
        InputError: naming the key, for an unknown name, another kind of network or sizes that do
            not fit.
    """
    key = "MODEL.UNSUPERVISED.VIT"
    if not timm.is_model(name):
        raise InputError(f"{key}.NAME: timm {timm.__version__} has no model {name!r}")
    try:
        network = timm.create_model(
            name, pretrained=False, num_classes=0, dynamic_img_size=True, **arguments
        )
    except (AssertionError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"{key}: {name} cannot be built ({cause_of(error)})") from error
    if not isinstance(network, VisionTransformer) or not network.has_class_token:
        raise InputError(f"{key}.NAME: {name} is no vision transformer with a class token")
    return network


def export_vit(network: VisionTransformer, name: str, arguments: dict[str, Any], to: Path) -> None:
    """Write a folder that timm and `MODEL.TRAINING_FREE.DINO.MODEL` read.

    Args:
        network: whose weights are written.
        name: of timm.
        arguments: with which it was built.
        to: the folder, which is made.
    """
    to.mkdir(parents=True, exist_ok=True)
    config = {"architecture": name, "num_classes": 0, "model_args": arguments}
    (to / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    save_file(state, to / WEIGHTS_FILE, metadata={"format": "pt"})


class ViTTokens(Backbone):
    """Patch tokens and keys of the last block of a vision transformer.

    Outputs: `tokens`, [B, C, h, w] after the final norm, and `keys`, [B, C, h, w] of the last
    block's attention before the normalisation of a head.

    Args:
        name: of timm.
        arguments: see `build_vit`.
        weights: file with a state dict of the network; "" = random.
    """

    @configurable
    def __init__(
        self, name: str, arguments: dict[str, Any] | None = None, weights: str = ""
    ) -> None:
        super().__init__()
        self.has_pretrained_weights = bool(weights)
        self.network = build_vit(name, arguments or {})
        if weights:
            load_exact_weights(self.network, weights, name)

    @classmethod
    def from_config(cls, cfg: CfgNode, _input_shape: ShapeSpec | None = None) -> dict[str, Any]:
        """Constructor arguments from `MODEL.UNSUPERVISED.VIT`."""
        node = cfg.MODEL.UNSUPERVISED.VIT
        return {"name": node.NAME, "arguments": vit_arguments(cfg), "weights": node.WEIGHTS}

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.network.patch_embed.patch_size[0])

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the outputs of normalised images [B, 3, H, W]; see the class."""
        return patch_features(self.network, pixels)

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of the outputs."""
        shape = ShapeSpec(channels=self.network.embed_dim, stride=self.patch_size)
        return {"tokens": shape, "keys": shape}

    @property
    def size_divisibility(self) -> int:
        """Divisor of the sides of padded images."""
        return self.patch_size


@BACKBONE_REGISTRY.register()
def build_vit_tokens_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ViTTokens:
    """Build the backbone of `MODEL.UNSUPERVISED.VIT`."""
    return ViTTokens(cfg, input_shape)


def patch_features(network: VisionTransformer, pixels: Tensor) -> dict[str, Tensor]:
    """Compute tokens, keys and class attention of the last block.

    Args:
        network: with a class token and dynamic image sizes.
        pixels: [B, 3, H, W] normalised.

    Returns:
        `tokens` and `keys`, [B, C, h, w], and `attention`, [B, heads, h, w] of the class token,
        whose sum over the patches is below 1, since it attends to itself as well.
    """
    x = network.patch_embed(pixels)
    height, width = x.shape[1:3]
    x = network.norm_pre(network.patch_drop(network._pos_embed(x)))
    blocks: list[Any] = [*network.blocks]
    for block in blocks[:-1]:
        x = block(x)
    block, first = blocks[-1], network.num_prefix_tokens
    attention = block.attn
    projected = attention.qkv(block.norm1(x)).unflatten(-1, (3, attention.num_heads, -1))
    queries, keys = attention.q_norm(projected[:, :, 0]), attention.k_norm(projected[:, :, 1])
    scores = torch.einsum("bhd,bnhd->bhn", queries[:, 0] * attention.scale, keys)
    tokens = network.norm(block(x))[:, first:]
    grid = (int(height), int(width))
    return {
        "tokens": tokens.transpose(1, 2).unflatten(2, grid),
        "keys": keys[:, first:].flatten(2).transpose(1, 2).unflatten(2, grid),
        "attention": scores.softmax(-1)[:, :, first:].unflatten(2, grid),
    }
