"""DINO's vision transformers, from timm: features of the last block and where its class looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from hipie.checkpoint.exact import load_exact_weights
from hipie.modeling.open_vocabulary.error import unknown_name
from hipie_training_free.error import TrainingFreeError

RANDOM = "random:"
TINY = "tiny"
CONFIG = "config.json"


@dataclass(frozen=True)
class DinoFeatures:
    """One image inside the transformer; P patches, `grid` of them down and across.

    Attributes:
        queries, keys, values: [P, C] of the last block, heads side by side.
        tokens: [P, C] after the last block and its norm.
        attention: [heads, P] of the class token in the last block; what it gives to itself and to
            registers is left out, so that a row's sum is below 1.
        grid: (h, w).
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    tokens: Tensor
    attention: Tensor
    grid: tuple[int, int]


class Dino:
    """A frozen transformer; it is no `nn.Module`, so that no checkpoint contains it.

    Args:
        network: a `VisionTransformer` of timm with a class token and dynamic image sizes.
    """

    def __init__(self, network: VisionTransformer) -> None:
        self.network = network.eval().requires_grad_(False)
        settings = getattr(network, "pretrained_cfg", None) or {}
        self._mean = settings.get("mean", timm.data.IMAGENET_DEFAULT_MEAN)
        self._std = settings.get("std", timm.data.IMAGENET_DEFAULT_STD)

    @classmethod
    def from_source(cls, model: str, weights: str = "") -> Dino:
        """See `load_dino`."""
        return cls(load_dino(model, weights))

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.network.patch_embed.patch_size[0]

    @torch.no_grad()
    def see(self, image: Tensor, size: tuple[int, int] | None = None) -> DinoFeatures:
        """Run one image.

        Args:
            image: [3, H, W] RGB in 0..1.
            size: (height, width) it is resized to; by default its own, each side up to the next
                multiple of the patch.
        """
        patch = self.patch_size
        size = size or tuple(-(-side // patch) * patch for side in image.shape[-2:])
        pixels = F.interpolate(image[None].float(), size=size, mode="bilinear")
        mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (self._mean, self._std))
        return last_block(self.network, (pixels - mean) / std)


def last_block(network: VisionTransformer, pixels: Tensor) -> DinoFeatures:
    """What the last block asks, answers and says of one image [1, 3, H, W], normalised."""
    x = network.patch_embed(pixels)
    grid = tuple(x.shape[1:3])
    x = network.norm_pre(network.patch_drop(network._pos_embed(x)))
    for block in network.blocks[:-1]:
        x = block(x)
    block, first = network.blocks[-1], network.num_prefix_tokens
    attention = block.attn
    parts = attention.qkv(block.norm1(x))[0].unflatten(-1, (3, attention.num_heads, -1))
    queries, keys, values = parts.unbind(1)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    looks = torch.einsum("hd,nhd->hn", queries[0] * attention.scale, keys).softmax(-1)
    return DinoFeatures(
        queries[first:].flatten(1),
        keys[first:].flatten(1),
        values[first:].flatten(1),
        network.norm(block(x))[0, first:],
        looks[:, first:],
        grid,
    )


def load_dino(model: str, weights: str = "") -> VisionTransformer:
    """A transformer in evaluation mode.

    Args:
        model: a ViT of timm by name ("vit_small_patch16_224.dino",
            "vit_base_patch14_reg4_dinov2.lvd142m"), a folder as timm's `save_for_hf` writes it,
            `random:NAME`, or `random:tiny` for a small one that tests can afford.
        weights: a file; "" fetches what timm knows under the name.

    Raises:
        TrainingFreeError: for an unknown name, with near ones; for weights that cannot be fetched
            or read, or a model that is no ViT with a class token.
    """
    if model.startswith(RANDOM):
        return _random(model.removeprefix(RANDOM))
    if Path(model).expanduser().is_dir():
        folder = Path(model).expanduser()
        if not (folder / CONFIG).is_file():
            raise TrainingFreeError(f"{folder} holds no {CONFIG}, so it is no model of timm")
        model = f"local-dir:{folder}"
    else:
        require_name(model)
    try:
        built = timm.create_model(
            model, pretrained=not weights, num_classes=0, dynamic_img_size=True
        )
    except TypeError as error:
        raise _no_transformer(model) from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise TrainingFreeError(
            f"{model}: its weights could not be loaded ({reason[0] if reason else 'no reason'})"
        ) from error
    if weights:
        load_exact_weights(built, weights, model)
    return _checked(built, model)


def _random(name: str) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == TINY:
            shape = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}
            return VisionTransformer(**shape, num_classes=0, dynamic_img_size=True).eval()
        require_name(name)
        try:
            built = timm.create_model(name, num_classes=0, dynamic_img_size=True)
        except TypeError as error:
            raise _no_transformer(name) from error
        return _checked(built, name)


def require_name(name: str) -> None:
    """Refuse a name that timm does not know, without loading anything; see `load_dino`."""
    if not timm.is_model(name.split(".")[0]):
        known = timm.list_models("vit*", pretrained=True) + [TINY]
        raise unknown_name("DINO model", name, known, "nor a folder of that name")


def _checked(built: torch.nn.Module, name: str) -> VisionTransformer:
    if not isinstance(built, VisionTransformer) or not built.has_class_token:
        raise _no_transformer(name)
    return built.eval()


def _no_transformer(name: str) -> TrainingFreeError:
    return TrainingFreeError(f"{name} is no vision transformer with a class token")
