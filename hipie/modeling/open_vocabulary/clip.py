"""CLIP: features of images, of masks, and of class names."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.logs import get_logger
from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie.modeling.open_vocabulary.masked_attention_pooling import (
    EncodedImage,
    encode,
    has_class_token,
    patches_of_masks,
)
from hipie.modeling.open_vocabulary.prompt_templates import prompt_templates

TEXT_BATCH_SIZE = 256
CROP_BATCH_SIZE = 32
# Feature cache: single names, and stacked lists of names.
MAX_CACHED_NAMES = 32768
MAX_CACHED_LISTS = 8
# CLIP's training clips the scale of its cosines at this value.
MAX_LOGIT_SCALE = 100.0
CROP_BACKGROUND = 0.5
PROGRESS_INTERVAL = 2000

_logger = get_logger(__name__)


class Clip:
    """A frozen model of `open_clip`; not an `nn.Module`, so that checkpoints do not include it.

    The model moves to the device of its inputs. Features have unit length unless stated otherwise.

    Args:
        model: with `encode_image`, `encode_text`, `visual` and `logit_scale`.
        tokenizer: texts -> ids [n, context].
    """

    def __init__(self, model: nn.Module, tokenizer: Callable[..., Any]) -> None:
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._name_features: OrderedDict[tuple[tuple[str, ...], str], Tensor] = OrderedDict()
        self._list_features: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()

    @classmethod
    def from_source(cls, model: str, weights: str = "") -> Clip:
        """Load a model by name, from a folder or a file, or with random weights (`load_clip`)."""
        from hipie.modeling.open_vocabulary.clip_loading import load_clip

        return cls(*load_clip(model, weights))

    @property
    def visual(self) -> Any:
        """Image encoder, an `nn.Module`."""
        return self.model.visual

    @property
    def device(self) -> torch.device:
        """Current device of the model."""
        return next(self.model.parameters()).device

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of images in training."""
        size = self.visual.image_size
        if isinstance(size, int):
            return size, size
        height, width = size
        return height, width

    @property
    def patch_size(self) -> tuple[int, int]:
        """(height, width) of a patch; of ViTs only."""
        height, width = self.visual.patch_size
        return height, width

    @property
    def supports_mask_pooling(self) -> bool:
        """Whether masks are pooled inside the image encoder; otherwise each mask is cropped."""
        return has_class_token(self.visual)

    @property
    def logit_scale(self) -> Tensor:
        """Scale of the cosines, at most 100."""
        return self.model.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE).reshape(())

    @property
    def width(self) -> int:
        """D, the length of a feature."""
        if self.supports_mask_pooling:
            return self.visual.output_dim
        return self.text_features(["a"]).shape[1]

    def prepare(
        self, images: Tensor, size: tuple[int, int] | None = None, mode: str = "bilinear"
    ) -> Tensor:
        """Resize images without keeping their aspect ratio, and normalize them.

        Args:
            images: [B, 3, H, W] RGB in 0..1.
            size: (height, width); by default that of training.
            mode: "bilinear" (as HIPIE) or "bicubic", neither with antialiasing.

        Raises:
            OpenVocabularyError: for another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[-2:]:
            raise OpenVocabularyError(
                f"CLIP takes images [B, 3, H, W], and these are {list(images.shape)}"
            )
        if self.device != images.device:
            self.model.to(images.device)
        resized = F.interpolate(
            images.float(), size=size or self.image_size, mode=mode, align_corners=False
        )
        mean = resized.new_tensor(self.visual.image_mean).view(3, 1, 1)
        std = resized.new_tensor(self.visual.image_std).view(3, 1, 1)
        return (resized - mean) / std

    @torch.no_grad()
    def image_features(self, images: Tensor) -> Tensor:
        """[B, D] features of images [B, 3, H, W], RGB in 0..1."""
        return F.normalize(self.model.encode_image(self.prepare(images)).float(), dim=-1)

    @torch.no_grad()
    def encode(self, image: Tensor, size: tuple[int, int] | None = None) -> EncodedImage:
        """Encode one image [3, H, W] (RGB in 0..1) with the ViT, for mask and patch features.

        Raises:
            OpenVocabularyError: if the image encoder is not a ViT with a class token.
        """
        self.require_mask_pooling()
        return encode(self.visual, self.prepare(image[None], size)[0])

    def require_mask_pooling(self) -> None:
        """Check that the image encoder can pool masks.

        Raises:
            OpenVocabularyError: if it is not a ViT with a class token.
        """
        if not self.supports_mask_pooling:
            raise OpenVocabularyError(
                f"a {type(self.visual).__name__} has no class token for masked attention pooling; "
                "use a ViT of open_clip"
            )

    @torch.no_grad()
    def mask_features(self, image: Tensor, masks: Tensor) -> Tensor:
        """Compute the features of binary masks.

        A ViT with a class token encodes the image once for all masks; with any other image encoder
        each mask is cropped, with a grey background.

        Args:
            image: [3, H, W] RGB in 0..1.
            masks: [N, H, W] bool; N may be 0.

        Returns:
            [N, D]; a feature does not depend on the other masks.

        Raises:
            OpenVocabularyError: if a mask is of another size or empty.
        """
        require_masks(masks, (image.shape[-2], image.shape[-1]))
        if not len(masks):
            return image.new_zeros(0, self.width)
        if self.supports_mask_pooling:
            encoded = self.encode(image)
            patch_masks = patches_of_masks(masks.to(image.device), encoded.grid)
            return F.normalize(encoded.mask_features(patch_masks).float(), dim=-1)
        return torch.cat(
            [
                self.image_features(crops)
                for crops in mask_crops(image, masks, self.image_size, CROP_BATCH_SIZE)
            ]
        )

    def text_features(self, names: Sequence[str], templates: str | Sequence[str] = "one") -> Tensor:
        """Compute the features of class names: the normalized mean over prompt templates.

        Features of single names are cached, so a name of several lists is encoded once.

        Args:
            names: N class names.
            templates: see `hipie.modeling.open_vocabulary.prompt_templates.prompt_templates`.

        Returns:
            [N, D].

        Raises:
            OpenVocabularyError: if there is no name, or one is empty.
        """
        resolved = prompt_templates(templates)
        key = (resolved, *names)
        features = self._list_features.pop(key, None)
        if features is None:
            features = torch.stack(self._encode_names(names, resolved))
        elif features.device != self.device:
            features = features.to(self.device)
        self._list_features[key] = features
        if len(self._list_features) > MAX_CACHED_LISTS:
            self._list_features.popitem(last=False)
        return features

    def clear_text_cache(self) -> None:
        """Forget the features of all texts; to be called after the model's weights change."""
        self._name_features.clear()
        self._list_features.clear()

    def _encode_names(self, names: Sequence[str], templates: tuple[str, ...]) -> list[Tensor]:
        if not names:
            raise OpenVocabularyError("CLIP needs at least one class name")
        for name in names:
            if not name.strip():
                raise OpenVocabularyError("an empty string is not a class name for CLIP")
        features = {
            name: self._name_features[templates, name]
            for name in names
            if (templates, name) in self._name_features
        }
        missing = list(dict.fromkeys(name for name in names if name not in features))
        encoded = 0
        for batch in _batches(missing, max(1, TEXT_BATCH_SIZE // len(templates))):
            prompts = [template.replace("{}", name) for name in batch for template in templates]
            by_name = self._encode_prompts(prompts).unflatten(0, (len(batch), len(templates)))
            features.update(zip(batch, F.normalize(by_name.mean(1), dim=-1), strict=True))
            if len(missing) > PROGRESS_INTERVAL and (
                encoded // PROGRESS_INTERVAL < (encoded + len(batch)) // PROGRESS_INTERVAL
            ):
                _logger.info("encoded %d of %d class names", encoded + len(batch), len(missing))
            encoded += len(batch)
        for name in missing:
            self._name_features[templates, name] = features[name]
        while len(self._name_features) > MAX_CACHED_NAMES:
            self._name_features.popitem(last=False)
        return [features[name].to(self.device) for name in names]

    @torch.no_grad()
    def _encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """[n, D] of unit length."""
        parts = [
            encode_texts(self.model, self.tokenizer(batch).to(self.device)).float()
            for batch in _batches(prompts, TEXT_BATCH_SIZE)
        ]
        return F.normalize(torch.cat(parts), dim=-1)


def encode_texts(model: Any, ids: Tensor) -> Tensor:
    """Compute `model.encode_text(ids)` without the padding behind short texts.

    A text has 77 positions, a prompt uses about ten. With causal attention and the feature taken
    at the end token, later positions have no influence and are cut off.

    Args:
        model: of open_clip; other text encoders than causal ones are called unchanged.
        ids: [n, context] with zeros behind the end token, which has the largest id.

    Returns:
        [n, D], not normalized.
    """
    if not has_own_text_encoder(model):
        return model.encode_text(ids)
    length = int(ids.argmax(-1).max()) + 1
    return encode_text_tokens(model, ids[:, :length])[1]


def encode_text_tokens(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the features of the tokens of texts, and of whole texts.

    Args:
        model: a CLIP of open_clip with causal text encoder, see `has_own_text_encoder`.
        ids: [n, T] with the end token, which has the largest id.

    Returns:
        Tokens [n, T, C] after the last norm, and [n, D] the projected feature of the end token, not
        normalized.
    """
    length = ids.shape[1]
    tokens = model.token_embedding(ids) + model.positional_embedding[:length]
    tokens = model.transformer(tokens, attn_mask=model.attn_mask[:length, :length])
    tokens = model.ln_final(tokens)
    return tokens, pool_text(model, tokens, ids)


def pool_text(model: Any, tokens: Tensor, ids: Tensor) -> Tensor:
    """Project the feature of the end token: tokens [n, T, C], ids [n, T] -> [n, D]."""
    index = ids.argmax(-1)[:, None, None].expand(-1, 1, tokens.shape[-1])
    pooled = tokens.gather(1, index)[:, 0]
    if model.text_projection is None:
        return pooled
    if isinstance(model.text_projection, nn.Linear):
        return model.text_projection(pooled)
    return pooled @ model.text_projection


def has_own_text_encoder(model: Any) -> bool:
    """Whether a model of open_clip has CLIP's causal text encoder, pooled at the end token."""
    import open_clip

    is_causal = type(model) is open_clip.CLIP and model.attn_mask is not None
    return is_causal and model.text_pool_type == "argmax"


def mask_crops(
    image: Tensor, masks: Tensor, size: tuple[int, int], batch_size: int
) -> Iterator[Tensor]:
    """Crop the box of every mask, grey outside the mask, and resize it.

    Args:
        image: [3, H, W] in 0..1.
        masks: [N, H, W] bool, none of them empty.
        size: (height, width) of a crop.
        batch_size: crops in a batch.

    Yields:
        [at most batch_size, 3, *size].
    """
    for start in range(0, len(masks), batch_size):
        crops = []
        for mask in masks[start : start + batch_size].to(image.device):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            crop = torch.where(mask[box], image[:, box[0], box[1]], CROP_BACKGROUND)
            crops.append(F.interpolate(crop[None], size=size, mode="bilinear")[0])
        yield torch.stack(crops)


def require_masks(masks: Tensor, size: tuple[int, int]) -> None:
    """Check the size of masks and that none is empty.

    Args:
        masks: [N, H, W].
        size: (height, width) of the image.

    Raises:
        OpenVocabularyError: if a mask is of another size or empty.
    """
    if masks.ndim != 3 or tuple(masks.shape[-2:]) != tuple(size):
        raise OpenVocabularyError(
            f"the masks are {list(masks.shape)}, and the image needs [N, {size[0]}, {size[1]}]"
        )
    empty = (~masks.bool().flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise OpenVocabularyError(f"mask {empty[0]} is empty")


def _batches(items: Sequence[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
