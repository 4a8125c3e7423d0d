"""Captions of images by a model of transformers, such as BLIP-2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hipie.errors import cause_of
from hipie_training_free.error import TrainingFreeError

Captioner = Callable[[Sequence[Tensor]], list[str]]
MAX_NEW_TOKENS = 30
IMAGES_PER_FORWARD = 8


def load_captioner(source: str) -> Captioner:
    """Load a model that describes images.

    Args:
        source: a folder or a name on the Hugging Face hub, "Salesforce/blip2-opt-2.7b".

    Returns:
        Images [3, H, W], RGB in 0..1 -> one caption each, by greedy search.

    Raises:
        TrainingFreeError: if there is no such model, or it does not describe images.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        processor: Any = AutoProcessor.from_pretrained(source, trust_remote_code=False)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            source, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise TrainingFreeError(
            f"MODEL.TRAINING_FREE.TAS.CAPTIONER: {source} could not be loaded ({cause_of(error)})"
        ) from error
    model.eval().requires_grad_(False)

    @torch.no_grad()
    def caption(images: Sequence[Tensor]) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(images), IMAGES_PER_FORWARD):
            batch = [_to_pillow(image) for image in images[start : start + IMAGES_PER_FORWARD]]
            inputs = processor(images=batch, return_tensors="pt").to(images[0].device)
            model.to(images[0].device)
            ids = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
            decoded = processor.batch_decode(ids, skip_special_tokens=True)
            texts += [text.strip() for text in decoded]
        return texts

    return caption


def _to_pillow(image: Tensor) -> Image.Image:
    pixels = (255 * image.clamp(0, 1)).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(pixels))
