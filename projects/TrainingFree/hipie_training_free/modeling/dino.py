"""DINO's vision transformers of timm: features and class attention of the last block."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from hipie.checkpoint.load import check_exact_state, load_exact_weights
from hipie.checkpoint.read import read_state
from hipie.errors import HipieError, cause_of, printable
from hipie.modeling.backbone.timm_checkpoint import create_with_published_weights
from hipie.modeling.model_folder import find_weights, read_model_config, require_sizes
from hipie.modeling.open_vocabulary.error import unknown_name
from hipie_training_free.error import TrainingFreeError

RANDOM = "random:"
TINY = "tiny"
CONFIG = "config.json"
# Arguments of a folder's configuration that are read: the shapes of a ViT.
MODEL_ARGUMENTS = frozenset(
    {
        "img_size",
        "patch_size",
        "embed_dim",
        "depth",
        "num_heads",
        "mlp_ratio",
        "qkv_bias",
        "qk_norm",
        "init_values",
        "class_token",
        "global_pool",
        "pos_embed",
        "no_embed_class",
        "reg_tokens",
        "pre_norm",
        "fc_norm",
        "num_classes",
        "in_chans",
        "dynamic_img_size",
    }
)
CLASSIFIER = ("head.", "fc_norm.")


@dataclass(frozen=True)
class DinoFeatures:
    """Features of one image with P patches.

    Attributes:
        queries, keys, values: [P, C] of the last block, concatenated heads.
        tokens: [P, C] after the last block and its norm.
        attention: [heads, P] of the class token in the last block; its attention to itself and to
            registers is left out, so that rows sum to less than 1.
        grid: (h, w), number of patches in height and width.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    tokens: Tensor
    attention: Tensor
    grid: tuple[int, int]


class Dino:
    """Frozen vision transformer; not an `nn.Module`, so that checkpoints do not contain it.

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
        """Load a network; see `load_dino`."""
        return cls(load_dino(model, weights))

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.network.patch_embed.patch_size[0]

    @torch.no_grad()
    def extract_features(self, image: Tensor, size: tuple[int, int] | None = None) -> DinoFeatures:
        """Compute the features of one image.

        Args:
            image: [3, H, W] RGB in 0..1.
            size: (height, width) that it is resized to; by default its own size, each side
                rounded up to a multiple of the patch size.
        """
        patch = self.patch_size
        size = size or tuple(-(-side // patch) * patch for side in image.shape[-2:])
        pixels = F.interpolate(image[None].float(), size=size, mode="bilinear")
        mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (self._mean, self._std))
        return last_block_features(self.network, (pixels - mean) / std)


def last_block_features(network: VisionTransformer, pixels: Tensor) -> DinoFeatures:
    """Compute the features of one normalised image [1, 3, H, W] in the last block."""
    x = network.patch_embed(pixels)
    grid = tuple(x.shape[1:3])
    x = network.norm_pre(network.patch_drop(network._pos_embed(x)))
    for block in network.blocks[:-1]:
        x = block(x)
    block, first = network.blocks[-1], network.num_prefix_tokens
    attention = block.attn
    projections = attention.qkv(block.norm1(x))[0].unflatten(-1, (3, attention.num_heads, -1))
    queries, keys, values = projections.unbind(1)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    class_attention = torch.einsum("hd,nhd->hn", queries[0] * attention.scale, keys).softmax(-1)
    return DinoFeatures(
        queries[first:].flatten(1),
        keys[first:].flatten(1),
        values[first:].flatten(1),
        network.norm(block(x))[0, first:],
        class_attention[:, first:],
        grid,
    )


def load_dino(model: str, weights: str = "") -> VisionTransformer:
    """Load a vision transformer in evaluation mode.

    Args:
        model: a ViT of timm by name ("vit_small_patch16_224.dino",
            "vit_base_patch14_reg4_dinov2.lvd142m"), a folder as timm's `save_for_hf` writes it,
            `random:NAME` for random weights, or `random:tiny` for a small one.
        weights: a file; "" downloads timm's weights.

    Raises:
        TrainingFreeError: for an unknown name, with similar ones; for weights that cannot be
            downloaded or read, or a model that is no ViT with a class token.
    """
    if model.startswith(RANDOM):
        return _random_network(model.removeprefix(RANDOM))
    if os.path.isdir(os.path.expanduser(model)):
        return _load_folder(Path(model).expanduser(), weights)
    check_model_name(model)
    try:
        build = timm.create_model if weights else create_with_published_weights
        network = build(model, num_classes=0, dynamic_img_size=True)
    except TypeError as error:
        raise _not_a_vit_error(model) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise TrainingFreeError(
            f"{model}: its weights could not be loaded ({cause_of(error)})"
        ) from error
    if weights:
        load_exact_weights(network, weights, model)
    return _check_network(network, model)


def _load_folder(folder: Path, weights: str) -> VisionTransformer:
    """Build the network that a folder describes, and load its weights or another file."""
    if not (folder / CONFIG).is_file():
        raise TrainingFreeError(f"{folder} has no {CONFIG}, so it is not a model of timm")
    try:
        config = read_model_config(folder / CONFIG)
        require_sizes(config, str(folder / CONFIG))
        architecture, arguments = config.get("architecture"), config.get("model_args") or {}
        if not isinstance(architecture, str) or not timm.is_model(architecture):
            raise TrainingFreeError(f"{folder / CONFIG} names no architecture of timm")
        if not isinstance(arguments, dict):
            raise TrainingFreeError(f"{folder / CONFIG}: its model_args are no object in JSON")
        for key in arguments.keys() - MODEL_ARGUMENTS:
            raise TrainingFreeError(
                f"{folder / CONFIG}: the argument {printable(key)} of model_args is not read"
            )
        arguments = {**arguments, "num_classes": 0, "dynamic_img_size": True}
        network = _check_network(
            timm.create_model(architecture, pretrained=False, **arguments), str(folder)
        )
        file = weights or find_weights(folder)
        state = {
            key: value
            for key, value in read_state(file)["model"].items()
            if not key.startswith(CLASSIFIER)
        }
        state = checkpoint_filter_fn(state, network)
        check_exact_state(network.state_dict(), state, file, architecture)
        network.load_state_dict(state)
    except HipieError:
        raise
    except (TypeError, AttributeError, AssertionError, ArithmeticError) as error:
        raise _not_a_vit_error(str(folder)) from error
    except (OSError, RuntimeError, ValueError, LookupError, MemoryError) as error:
        raise TrainingFreeError(
            f"{folder}: its weights could not be loaded ({cause_of(error)})"
        ) from error
    return network


def _random_network(name: str) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == TINY:
            shape = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 4}
            return VisionTransformer(**shape, num_classes=0, dynamic_img_size=True).eval()
        check_model_name(name)
        try:
            network = timm.create_model(name, num_classes=0, dynamic_img_size=True)
        except TypeError as error:
            raise _not_a_vit_error(name) from error
        return _check_network(network, name)


def check_model_name(name: str) -> None:
    """Check that timm has a model of this name, without loading it.

    Raises:
        ValueError: for an unknown name, with similar ones.
    """
    if not timm.is_model(name.split(".")[0]):
        known = timm.list_models("vit*", pretrained=True) + [TINY]
        raise unknown_name("DINO model", name, known, "nor a folder of that name")


def _check_network(network: torch.nn.Module, name: str) -> VisionTransformer:
    if not isinstance(network, VisionTransformer) or not network.has_class_token:
        raise _not_a_vit_error(name)
    return network.eval()


def _not_a_vit_error(name: str) -> TrainingFreeError:
    return TrainingFreeError(f"{name} is no vision transformer with a class token")
