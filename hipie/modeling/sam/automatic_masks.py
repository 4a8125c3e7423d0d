"""Automatic mask generation: SAM's masks of a whole image without prompts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from segment_anything import SamAutomaticMaskGenerator
from torch import Tensor

from hipie.modeling.sam.predictor import Sam, SamImage


def automatic_masks(
    sam: Sam, image: npt.NDArray[np.uint8], encoded: SamImage | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Predict masks from a grid of points, filtered by quality, stability and overlap.

    Args:
        sam: the model.
        image: [H, W, 3] uint8 RGB.
        encoded: the image encoded by `sam`, if it already is.
        options: of `segment_anything.SamAutomaticMaskGenerator`, such as `points_per_side`
            (32), `pred_iou_thresh` (0.88), `stability_score_thresh` (0.95), `box_nms_thresh` (0.7).

    Returns:
        Masks [N, H, W] bool and their predicted IoU [N], in decreasing order.
    """
    encoded = encoded or sam.encode(image)
    generator = mask_generator(sam, **options)
    if generator.crop_n_layers == 0:
        generator.predictor = _EncodedPredictor(encoded)
    records = generator.generate(np.ascontiguousarray(image))
    records.sort(key=lambda record: -record["predicted_iou"])
    if not records:
        return torch.zeros(0, *encoded.size, dtype=torch.bool), torch.zeros(0)
    masks = torch.from_numpy(np.stack([record["segmentation"] for record in records]))
    return masks, torch.tensor([record["predicted_iou"] for record in records])


def mask_generator(sam: Sam, **options: Any) -> SamAutomaticMaskGenerator:
    """Build a generator of automatic masks, which predicts by any SAM.

    Args:
        sam: the model.
        options: see `automatic_masks`.
    """
    model = SimpleNamespace(image_encoder=SimpleNamespace(img_size=sam.image_size))
    generator = SamAutomaticMaskGenerator(model, **options)
    generator.predictor = sam.predictor()
    return generator


class _EncodedPredictor:
    """A predictor that uses an encoded image where the generator sets the image."""

    def __init__(self, encoded: SamImage) -> None:
        self._predictor = encoded.predictor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    def set_image(self, image: npt.NDArray[np.uint8], image_format: str = "RGB") -> None:
        """Keep the encoded image."""

    def reset_image(self) -> None:
        """Keep the encoded image."""
