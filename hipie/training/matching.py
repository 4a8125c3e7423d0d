"""Which query answers for which object."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .object_table import ObjectTable
from .predictions import DenoisingLayout


@dataclass
class Matching:
    """n pairs of a query and an object, picture by picture.

    Attributes:
        picture: [n] index of the picture.
        query: [n] index of the query in its picture.
        row: [n] row of the object in the `ObjectTable`.
    """

    picture: Tensor
    query: Tensor
    row: Tensor

    @classmethod
    def join(cls, pairs: list[tuple[Tensor, Tensor]]) -> Matching:
        """From (queries, rows) of every picture in order."""
        picture = [torch.full_like(query, i) for i, (query, _) in enumerate(pairs)]
        return cls(
            torch.cat(picture),
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
    for picture in range(table.num_pictures):
        rows = table.rows(picture)
        place = torch.arange(rows.stop - rows.start, device=device)
        query = (first + place).flatten()
        pairs.append((query, (rows.start + place).repeat(layout.num_groups)))
    return Matching.join(pairs)
