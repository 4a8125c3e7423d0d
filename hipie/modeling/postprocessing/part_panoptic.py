"""Parts inside the segments of a panoptic map.

Where a vocabulary has a class and its parts, a pixel is asked twice: what it belongs to (a segment
of the class), and which part of that it shows. So parts are no segments of their own, as in
part-aware panoptic segmentation (de Geus et al., CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PartOwners = Sequence[int | None]


def part_owners(names: Sequence[str], wholes: Sequence[str | None]) -> list[int | None]:
    """Whose part every class is.

    Args:
        names: K names of the classes.
        wholes: K names of what they are parts of; of parts of parts the name of that part.

    Returns:
        K positions of the class that a class is part of in the end (its whole's whole, ...), None
        for what is no part, or part of a class that is not among the names.
    """
    place = {name: i for i, name in enumerate(names)}
    owners: list[int | None] = []
    for name in names:
        seen, whole = {name}, wholes[place[name]]
        while whole in place and wholes[place[whole]] and whole not in seen:
            seen.add(whole)
            whole = wholes[place[whole]]
        known = whole in place and not wholes[place[whole]]
        owners.append(place[whole] if known else None)
    return owners


def suppress_part_queries(scores: Tensor, owners: PartOwners) -> Tensor:
    """Class scores in which queries that show a part are sure of nothing.

    Args:
        scores: [N, K].
        owners: see `part_owners`.
    """
    if not any(owner is not None for owner in owners):
        return scores
    is_part = torch.tensor([owner is not None for owner in owners], device=scores.device)
    return scores.masked_fill(is_part[scores.argmax(-1)][:, None], 0.0)


def part_segmentation(
    segments: Tensor, info: Sequence[dict[str, Any]], scores: Tensor, owners: PartOwners
) -> Tensor:
    """The part of its class that every pixel of a panoptic map shows.

    Args:
        segments: [H, W], the panoptic map.
        info: its segments, with `id` and `category_id`.
        scores: [K, H, W] semantic scores.
        owners: see `part_owners`.

    Returns:
        [H, W] int32: n where the n-th class (from 1) that belongs to the segment's class scores
        highest among those; 0 where there is no segment, or its class has no parts.
    """
    shown = torch.zeros_like(segments, dtype=torch.int32)
    for one in info:
        columns = [k for k, owner in enumerate(owners) if owner == one["category_id"]]
        if columns:
            rows, across = (segments == one["id"]).nonzero(as_tuple=True)
            chosen = torch.tensor(columns, device=scores.device)[:, None]
            shown[rows, across] = scores[chosen, rows, across].argmax(0).int() + 1
    return shown
