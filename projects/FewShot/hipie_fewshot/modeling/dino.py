"""Dense image features of timm's vision transformers, such as DINOv2."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from hipie.checkpoint import read_state
from hipie.errors import cause_of
from hipie.modeling.backbone.timm_checkpoint import create_with_published_weights
from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown_name

RANDOM_PREFIX = "random:"
TINY = "tiny"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Embedding of masked patches in the authors' files, used in their training only.
MASK_TOKEN = "mask_token"


class Dino:
    """Frozen vision transformer without its head.

    Args:
        model: ViT whose patch size divides the side of its input.
    """

    def __init__(self, model: VisionTransformer) -> None:
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def from_source(cls, name: str, weights: str = "", size: int = 518) -> Dino:
        """Build a model by timm's name and load its weights.

        Args:
            name: a ViT such as "vit_large_patch14_dinov2"; `random:NAME` for random weights, or
                `random:tiny` for a small network with random weights.
            weights: checkpoint file, timm's or the authors'; "" downloads timm's.
            size: side of the square input in pixels; a multiple of the patch size.

        Raises:
            OpenVocabularyError: for an unknown name, with similar ones; a size that the patch size
                does not divide; weights that cannot be downloaded or belong to another model.
        """
        random = name.startswith(RANDOM_PREFIX)
        name = name.removeprefix(RANDOM_PREFIX)
        if random and name == TINY:
            model = _build_tiny(size)
        else:
            model = _build_timm(name, size, pretrained=not random and not weights)
        patch = model.patch_embed.patch_size[0]
        if size % patch:
            raise OpenVocabularyError(
                f"the size {size} is not a multiple of {name}'s patch of {patch}"
            )
        if weights and not random:
            _load_weights(model, name, weights)
        return cls(model)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.patch_embed.patch_size[0])

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return int(self.model.patch_embed.img_size[0])

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def extract_features(self, images: Tensor) -> Tensor:
        """Compute the patch features after the last block, before the final norm.

        Args:
            images: [B, 3, S, S] RGB in 0..1, S = `image_size`.

        Returns:
            [B, g * g, C] in row-major order, g = S / `patch_size`.
        """
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        features: Tensor = self.model.forward_intermediates(
            (images - mean) / std,
            indices=[len(self.model.blocks) - 1],
            norm=False,
            output_fmt="NLC",
            intermediates_only=True,
        )[0]
        return features


def _build_tiny(size: int) -> VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return VisionTransformer(
            img_size=size,
            patch_size=14,
            embed_dim=32,
            depth=2,
            num_heads=2,
            init_values=1.0,
            num_classes=0,
        )


def _build_timm(name: str, size: int, pretrained: bool) -> VisionTransformer:
    if not timm.is_model(name) or not name.startswith("vit_"):
        raise unknown_name(
            "ViT of timm", name, timm.list_models(["vit_*"]), "as vit_small_patch14_dinov2"
        )
    options: dict[str, Any] = {"img_size": size, "num_classes": 0}
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    try:
        return create_with_published_weights(name, **options)
    except (OSError, RuntimeError, ValueError) as error:
        cause = cause_of(error)
        raise OpenVocabularyError(
            f"the weights of {name} could not be loaded ({cause}); pass a file of weights"
        ) from error


def _load_weights(model: VisionTransformer, name: str, weights: str) -> None:
    state = {key: value for key, value in read_state(weights)["model"].items() if key != MASK_TOKEN}
    if not {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= state.keys():
        raise OpenVocabularyError(f"{weights}: the file has no weights of {name}")
    try:
        model.load_state_dict(checkpoint_filter_fn(state, model))
    except (RuntimeError, KeyError) as error:
        cause = cause_of(error)
        raise OpenVocabularyError(
            f"{weights}: the file has no weights of {name} ({cause})"
        ) from error
