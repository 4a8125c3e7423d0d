"""Which query answers for which object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hipie.modeling.criterion.batched_targets import ObjectTable
from hipie.modeling.criterion.predictions import DenoisingLayout


@dataclass
class Matching:
    """n pairs of a query and an object, image by image.

    Attributes:
        image: [n] index of the image.
        query: [n] index of the query in its image.
        row: [n] row of the object in the `ObjectTable`.
    """

    image: Tensor
    query: Tensor
    row: Tensor

    @classmethod
    def join(cls, pairs: list[tuple[Tensor, Tensor]]) -> Matching:
        """From (queries, rows) of every image in order."""
        image = [torch.full_like(query, i) for i, (query, _) in enumerate(pairs)]
        return cls(
            torch.cat(image),
            torch.cat([query for query, _ in pairs]),
            torch.cat([row for _, row in pairs]),
        )

    def __len__(self) -> int:
        return len(self.query)


def denoising_matching(layout: DenoisingLayout, table: ObjectTable) -> Matching:
    """The pairs that are known beforehand: each noised copy answers for its own object."""
    device = table.boxes.device
    first = torch.arange(layout.num_groups, device=device)[:, None] * layout.group_size
    pairs = []
    for image in range(table.num_images):
        rows = table.rows(image)
        place = torch.arange(rows.stop - rows.start, device=device)
        query = (first + place).flatten()
        pairs.append((query, (rows.start + place).repeat(layout.num_groups)))
    return Matching.join(pairs)
