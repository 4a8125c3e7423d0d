"""All objects of a batch one after another, so that losses index instead of looping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .targets import Targets


@dataclass
class ObjectTable:
    """M objects of B pictures, in order.

    Attributes:
        boxes: [M, 4] cxcywh, float32, in the coordinates of the branch.
        is_thing: [M] bool.
        positive_map: [M, T] bool.
        masks: [M, H, W] bool.
        starts: where the objects of each picture begin, B + 1 numbers.
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
            targets: one a picture, at least one.
            on_canvas: boxes of the padded canvas instead of the unpadded picture.

        Raises:
            ValueError: if a box of an object is not finite.
        """
        boxes = [t.boxes_on_canvas() if on_canvas else t.boxes for t in targets]
        starts = [0]
        for i, picture_boxes in enumerate(boxes):
            if not bool(torch.isfinite(picture_boxes).all()):
                raise ValueError(f"an annotated box of picture {i} of the batch is not finite")
            starts.append(starts[-1] + len(picture_boxes))
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
    def num_pictures(self) -> int:
        """B."""
        return len(self.starts) - 1

    def rows(self, picture: int) -> slice:
        """The rows of one picture's objects."""
        return slice(self.starts[picture], self.starts[picture + 1])
