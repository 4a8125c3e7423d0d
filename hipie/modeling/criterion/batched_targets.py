"""All objects of a batch one after another, so that losses index instead of looping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hipie.modeling.criterion.targets import Targets


@dataclass
class ObjectTable:
    """M objects of B images, in order.

    Attributes:
        boxes: [M, 4] cxcywh, float32, in the coordinates of the branch.
        is_thing: [M] bool.
        positive_map: [M, T] bool.
        masks: [M, H, W] bool.
        starts: where the objects of each image begin, B + 1 numbers.
    """

    boxes: Tensor
    is_thing: Tensor
    positive_map: Tensor
    masks: Tensor
    starts: list[int]

    @classmethod
    def gather(cls, targets: Sequence[Targets], *, on_canvas: bool = False) -> ObjectTable:
        """The table of a batch.

        Args:
            targets: one an image, at least one.
            on_canvas: boxes of the padded canvas instead of the unpadded image.

        Raises:
            ValueError: if a box of an object is not finite.
        """
        boxes = [t.boxes_on_canvas() if on_canvas else t.boxes for t in targets]
        starts = [0]
        for i, image_boxes in enumerate(boxes):
            if not bool(torch.isfinite(image_boxes).all()):
                raise ValueError(f"an annotated box of image {i} of the batch is not finite")
            starts.append(starts[-1] + len(image_boxes))
        return cls(
            boxes=torch.cat(boxes).float(),
            is_thing=torch.cat([t.is_thing for t in targets]),
            positive_map=torch.cat([t.positive_map for t in targets]),
            masks=torch.cat([t.masks for t in targets]),
            starts=starts,
        )

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def num_images(self) -> int:
        """B."""
        return len(self.starts) - 1

    def rows(self, image: int) -> slice:
        """The rows of one image's objects."""
        return slice(self.starts[image], self.starts[image + 1])
