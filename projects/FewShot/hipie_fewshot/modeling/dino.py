"""Dense features of images by a vision transformer of timm, DINOv2 above all."""

from __future__ import annotations

import timm
import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown
from hipie.modeling.open_vocabulary.weights import read_weights

RANDOM = "random:"
TINY = "tiny"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of official files; it stands for patches that training hides.
UNUSED = "mask_token"


class Dino:
    """A ViT without its head, frozen.

    Args:
        model: with patches that divide the side of its images.
    """

    def __init__(self, model: VisionTransformer) -> None:
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def from_source(cls, name: str, weights: str = "", size: int = 518) -> Dino:
        """A model by timm's name.

        Args:
            name: a ViT such as "vit_large_patch14_dinov2"; `random:NAME` for random weights, or
                `random:tiny` for a small one that tests can afford.
            weights: a file, timm's or the authors'; "" fetches timm's own.
            size: side of the square images; a multiple of the patch.

        Raises:
            OpenVocabularyError: for an unknown name, with near ones; a size that does not divide;
                weights that cannot be had or are another model's. Nothing in a file is run.
        """
        random = name.startswith(RANDOM)
        name = name.removeprefix(RANDOM)
        model = _tiny(size) if random and name == TINY else _named(name, size, not random, weights)
        patch = model.patch_embed.patch_size[0]
        if size % patch:
            raise OpenVocabularyError(
                f"the size {size} is no multiple of {name}'s patch of {patch}"
            )
        if weights and not random:
            _load(model, name, weights)
        return cls(model)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return self.model.patch_embed.patch_size[0]

    @property
    def size(self) -> int:
        """Side of the square that images are squashed to."""
        return self.model.patch_embed.img_size[0]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def patches(self, images: Tensor) -> Tensor:
        """Features of patches after the last block, before the last norm.

        Args:
            images: [B, 3, S, S] RGB in 0..1, S = `size`.

        Returns:
            [B, g * g, C], row by row.
        """
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (MEAN, STD))
        last = len(self.model.blocks) - 1
        return self.model.forward_intermediates(
            (images - mean) / std,
            indices=[last],
            norm=False,
            output_fmt="NLC",
            intermediates_only=True,
        )[0]


def _tiny(size: int) -> VisionTransformer:
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


def _named(name: str, size: int, fetch: bool, weights: str) -> VisionTransformer:
    if not timm.is_model(name) or not name.startswith("vit_"):
        raise unknown(
            "ViT of timm", name, timm.list_models(["vit_*"]), "as vit_small_patch14_dinov2"
        )
    settings = {"img_size": size, "num_classes": 0}
    if not fetch or weights:
        return timm.create_model(name, pretrained=False, **settings)
    try:
        return timm.create_model(name, pretrained=True, **settings)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise OpenVocabularyError(
            f"the weights of {name} could not be fetched ({reason}); name a file of them"
        ) from error


def _load(model: VisionTransformer, name: str, weights: str) -> None:
    stored = {key: value for key, value in read_weights(weights).items() if key != UNUSED}
    if not {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= stored.keys():
        raise OpenVocabularyError(f"{weights}: these are no weights of a {name}")
    try:
        model.load_state_dict(checkpoint_filter_fn(stored, model))
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise OpenVocabularyError(
            f"{weights}: these are no weights of a {name} ({reason})"
        ) from error
