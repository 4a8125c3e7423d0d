"""One CLIP model: features of images, of masks in them, and of names."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.modeling.open_vocabulary.clip_loading import load_clip
from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie.modeling.open_vocabulary.mask_crops import mask_crops
from hipie.modeling.open_vocabulary.masked_attention_pooling import (
    EncodedImage,
    encode,
    has_class_token,
    patches_under,
)
from hipie.modeling.open_vocabulary.prompt_templates import templates
from hipie.modeling.open_vocabulary.text_encoding import encode_texts

TEXTS_AT_ONCE = 256
CROPS_AT_ONCE = 32
# So many lists of names are kept whole; single names are kept always.
LISTS_KEPT = 8
# CLIP's training never let the scale of its cosines grow beyond this.
MOST_SCALE = 100.0
SAY_AFTER = 2000

_log = logging.getLogger(__name__)


class Clip:
    """A model of `open_clip`, frozen; it is no `nn.Module`, so that no checkpoint contains it.

    It moves to where its inputs are. All features are of unit length unless said otherwise.

    Args:
        model: with `encode_image`, `encode_text`, `visual` and `logit_scale`, in evaluation mode.
        tokenizer: texts -> ids [n, context].
    """

    def __init__(self, model: nn.Module, tokenizer: Callable[..., Any]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._phrases: dict[tuple[str, ...], dict[str, Tensor]] = {}
        self._lists: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()

    @classmethod
    def from_source(cls, model: str, weights: str = "") -> Clip:
        """By name, from a folder or a file, or with random weights: see `load_clip`."""
        return cls(*load_clip(model, weights))

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        return self.model.visual

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of images in training."""
        size = self.visual.image_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch; of ViTs only."""
        return tuple(self.visual.patch_size)

    @property
    def one_pass(self) -> bool:
        """Whether masks are seen inside the tower; otherwise each mask is cropped out."""
        return has_class_token(self.visual)

    @property
    def logit_scale(self) -> Tensor:
        """What cosines are multiplied by, at most 100."""
        return self.model.logit_scale.exp().clamp(max=MOST_SCALE).reshape(())

    def prepare(
        self, images: Tensor, size: tuple[int, int] | None = None, mode: str = "bilinear"
    ) -> Tensor:
        """Resize images without keeping their shape, and normalise them for this model.

        Args:
            images: [B, 3, H, W] RGB in 0..1.
            size: (height, width); by default what the model was trained with.
            mode: "bilinear" (HIPIE's) or "bicubic", neither with antialiasing.

        Raises:
            OpenVocabularyError: if these are no images.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[-2:]:
            raise OpenVocabularyError(
                f"CLIP takes images [B, 3, H, W], and these are {list(images.shape)}"
            )
        self._follow(images)
        resized = F.interpolate(
            images.float(), size=size or self.image_size, mode=mode, align_corners=False
        )
        mean = resized.new_tensor(self.visual.image_mean).view(3, 1, 1)
        std = resized.new_tensor(self.visual.image_std).view(3, 1, 1)
        return (resized - mean) / std

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """[B, D] of images [B, 3, H, W], RGB in 0..1."""
        return F.normalize(self.model.encode_image(self.prepare(images)).float(), dim=-1)

    @torch.no_grad()
    def encode(self, image: Tensor, size: tuple[int, int] | None = None) -> EncodedImage:
        """Run one image [3, H, W] (RGB in 0..1) through the ViT; masks and patches come after.

        Raises:
            OpenVocabularyError: if the image tower is not a ViT with a class token.
        """
        self.require_one_pass()
        return encode(self.visual, self.prepare(image[None], size)[0])

    def require_one_pass(self) -> None:
        """Refuse a model whose image tower cannot look at many masks at once.

        Raises:
            OpenVocabularyError: if it is not a ViT with a class token.
        """
        if not self.one_pass:
            raise OpenVocabularyError(
                f"a {type(self.visual).__name__} has no class token that could look at masks; "
                "take a ViT of open_clip"
            )

    @torch.no_grad()
    def mask_features(self, image: Tensor, masks: Tensor) -> Tensor:
        """Features of what binary masks show.

        Inside a ViT with a class token all masks are seen in one pass; with any other tower each
        mask is cropped out, the rest of its box grey.

        Args:
            image: [3, H, W] RGB in 0..1.
            masks: [N, H, W] bool; N may be 0.

        Returns:
            [N, D]; each depends on its own mask alone.

        Raises:
            OpenVocabularyError: if the masks are not the image's size, or one is empty.
        """
        require_masks(masks, tuple(image.shape[-2:]))
        if not len(masks):
            return image.new_zeros(0, self.width)
        if self.one_pass:
            picture = self.encode(image)
            shown = patches_under(masks.to(image.device), picture.grid)
            return F.normalize(picture.mask_features(shown).float(), dim=-1)
        return torch.cat(
            [
                self.image_features(crops)
                for crops in mask_crops(image, masks, self.image_size, CROPS_AT_ONCE)
            ]
        )

    @property
    def width(self) -> int:
        """D, the length of a feature."""
        return self.visual.output_dim if self.one_pass else self.text_features(["a"]).shape[1]

    def text_features(self, names: Sequence[str], chosen: str | Sequence[str] = "one") -> Tensor:
        """Features of names: each in every template, normalised, averaged, normalised again.

        The same name is encoded once in a model's life, whatever list it stands in.

        Args:
            names: N of them.
            chosen: see `hipie.modeling.open_vocabulary.prompt_templates.templates`.

        Returns:
            [N, D].

        Raises:
            OpenVocabularyError: if there is no name, or one is empty.
        """
        expressions = templates(chosen)
        key = (expressions, *names)
        if key not in self._lists:
            self._lists[key] = torch.stack(self._named(names, expressions))
            while len(self._lists) > LISTS_KEPT:
                self._lists.popitem(last=False)
        self._lists.move_to_end(key)
        if self._lists[key].device != self.device:
            self._lists[key] = self._lists[key].to(self.device)
        return self._lists[key]

    def _named(self, names: Sequence[str], expressions: tuple[str, ...]) -> list[Tensor]:
        if not names:
            raise OpenVocabularyError("CLIP needs at least one name")
        for name in names:
            if not name.strip():
                raise OpenVocabularyError("an empty string is no name that CLIP could read")
        known = self._phrases.setdefault(expressions, {})
        new = [name for name in dict.fromkeys(names) if name not in known]
        for number, part in enumerate(_pieces(new, max(1, TEXTS_AT_ONCE // len(expressions)))):
            if number * TEXTS_AT_ONCE % SAY_AFTER < TEXTS_AT_ONCE and len(new) > SAY_AFTER:
                _log.info("CLIP has read %d of %d names", len(known), len(names))
            found = self._encode([s.replace("{}", name) for name in part for s in expressions])
            means = F.normalize(found.unflatten(0, (len(part), len(expressions))).mean(1), dim=-1)
            known.update(zip(part, means, strict=True))
        return [known[name].to(self.device) for name in names]

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> Tensor:
        """[n, D] of unit length."""
        parts = [
            encode_texts(self.model, self.tokenizer(part).to(self.device)).float()
            for part in _pieces(texts, TEXTS_AT_ONCE)
        ]
        return F.normalize(torch.cat(parts), dim=-1)

    def _follow(self, tensor: Tensor) -> None:
        if self.device != tensor.device:
            self.model.to(tensor.device)


def require_masks(masks: Tensor, size: tuple[int, int]) -> None:
    """Refuse masks that show nothing of an image.

    Args:
        masks: [N, H, W].
        size: (height, width) of the image.

    Raises:
        OpenVocabularyError: if they are not of its size, or one of them is empty.
    """
    if masks.ndim != 3 or tuple(masks.shape[-2:]) != tuple(size):
        raise OpenVocabularyError(
            f"the masks are {list(masks.shape)}, and the image needs [N, {size[0]}, {size[1]}]"
        )
    empty = (~masks.bool().flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise OpenVocabularyError(f"mask {empty[0]} is empty, so there is nothing to look at")


def _pieces(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
