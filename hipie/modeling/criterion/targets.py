"""The annotated objects of one image, as losses and denoising need them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Targets:
    """N objects of one image.

    Attributes:
        labels: [N] int64, index of the class in the vocabulary (0 for an expression).
        boxes: [N, 4] cxcywh in 0..1 of the unpadded image.
        masks: [N, H, W] bool on the padded canvas.
        is_thing: [N] bool.
        positive_map: [N, T] bool, the tokens that name the object ([N, 1] for an expression).
        image_size: (height, width) of the unpadded image in pixels.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor
    is_thing: Tensor
    positive_map: Tensor
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.labels)

    def boxes_on_canvas(self) -> Tensor:
        """[N, 4] the boxes in 0..1 of the padded canvas, as the stuff decoder counts."""
        height, width = self.image_size
        canvas_height, canvas_width = self.masks.shape[-2:]
        scale = self.boxes.new_tensor([width / canvas_width, height / canvas_height])
        return self.boxes * scale.repeat(2)
