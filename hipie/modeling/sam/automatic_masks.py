"""SAM's masks of everything in an image, without any prompt."""

from __future__ import annotations

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from hipie.modeling.sam.predictor import Sam, SamImage


def automatic_masks(
    sam: Sam, image: np.ndarray, picture: SamImage | None = None, **options: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks from a grid of points, without doubtful and double ones.

    Args:
        sam: the model.
        image: [H, W, 3] uint8 RGB.
        image: the same image where it was encoded before; it is not encoded again.
        options: of `segment_anything.SamAutomaticMaskGenerator`, such as `points_per_side`
            (32), `pred_iou_thresh` (0.88), `stability_score_thresh` (0.95), `box_nms_thresh` (0.7).

    Returns:
        masks [N, H, W] bool and SAM's estimates of their quality [N], best first.
    """
    picture = picture or sam.encode(image)
    generator = SamAutomaticMaskGenerator(sam.model, **options)
    if generator.crop_n_layers == 0:
        generator.predictor = _Encoded(sam.model, picture)
    found = generator.generate(np.ascontiguousarray(image))
    found.sort(key=lambda one: -one["predicted_iou"])
    if not found:
        return torch.zeros(0, *picture.size, dtype=torch.bool), torch.zeros(0)
    masks = torch.from_numpy(np.stack([one["segmentation"] for one in found]))
    return masks, torch.tensor([one["predicted_iou"] for one in found])


class _Encoded(SamPredictor):
    """A predictor whose image was encoded already; the generator sets and resets it."""

    def __init__(self, model: torch.nn.Module, picture: SamImage) -> None:
        self._image = picture
        super().__init__(model)

    def set_image(self, image: np.ndarray, image_format: str = "RGB") -> None:
        self.features = self._image.features
        self.original_size, self.input_size = self._image.size, self._image.input_size
        self.is_image_set = True
