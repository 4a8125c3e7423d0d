"""Parts of the segments of a panoptic map.

In a vocabulary with wholes and their parts, a pixel has two labels: the segment it belongs to and
the part of that segment's class. Parts are therefore not segments of their own, as in part-aware
panoptic segmentation (de Geus et al., CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hipie.modeling.device_transfer import to_device

PartOwners = Sequence[int | None]


def part_owners(names: Sequence[str], wholes: Sequence[str | None]) -> list[int | None]:
    """Find the root whole of every class.

    Args:
        names: K class names.
        wholes: K names of the classes they are parts of; for a part of a part that part's name.

    Returns:
        K indices of the class at the end of the chain of wholes; None for classes that are not
        parts, or whose root whole is not among the names.
    """
    index_of = {name: index for index, name in enumerate(names)}
    owners: list[int | None] = []
    for name in names:
        visited, index = {index_of[name]}, _index_of_whole(index_of, wholes[index_of[name]])
        while index is not None and wholes[index] and index not in visited:
            visited.add(index)
            index = _index_of_whole(index_of, wholes[index])
        owners.append(None if index is None or wholes[index] else index)
    return owners


def _index_of_whole(index_of: dict[str, int], whole: str | None) -> int | None:
    return None if whole is None else index_of.get(whole)


def suppress_part_queries(scores: Tensor, owners: PartOwners) -> Tensor:
    """Set the scores of queries whose best class is a part to 0.

    Args:
        scores: [N, K].
        owners: see `part_owners`.
    """
    if not any(owner is not None for owner in owners):
        return scores
    is_part = to_device(torch.tensor([owner is not None for owner in owners]), scores.device)
    return scores.masked_fill(is_part[scores.argmax(-1)][:, None], 0.0)


def part_segmentation(
    panoptic_map: Tensor, segments: Sequence[dict[str, Any]], scores: Tensor, owners: PartOwners
) -> Tensor:
    """Classify every pixel of a panoptic map into the parts of its segment's class.

    Args:
        panoptic_map: [H, W] segment ids.
        segments: segments of the map, with `id` and `category_id`.
        scores: [K, H, W] semantic scores.
        owners: see `part_owners`.

    Returns:
        [H, W] int32: n where the n-th class (from 1) that belongs to the segment's class has the
        highest score among those; 0 without a segment, or where its class has no parts.
    """
    used = {segment["category_id"] for segment in segments}
    return parts_of_segments(panoptic_map, segments, best_parts(scores, owners, used))


def best_parts(
    scores: Tensor, owners: PartOwners, wholes: Collection[int] | None = None
) -> dict[int, Tensor]:
    """Best part of every pixel among the parts of one whole, for several wholes.

    Args:
        scores: [K, H, W] semantic scores.
        owners: see `part_owners`.
        wholes: classes of which the parts are compared; None = all that have parts.

    Returns:
        For each such class [H, W] int32, n for its n-th part (from 1).
    """
    parts_of: dict[int, list[int]] = {}
    for part, owner in enumerate(owners):
        if owner is not None and (wholes is None or owner in wholes):
            parts_of.setdefault(owner, []).append(part)
    return {
        whole: scores[to_device(torch.tensor(parts), scores.device)].argmax(0).int() + 1
        for whole, parts in parts_of.items()
    }


def parts_of_segments(
    panoptic_map: Tensor, segments: Sequence[dict[str, Any]], best: Mapping[int, Tensor]
) -> Tensor:
    """Part of every pixel of a panoptic map, see `part_segmentation`.

    Args:
        panoptic_map: [H, W] segment ids.
        segments: segments of the map, with `id` and `category_id`.
        best: see `best_parts`.
    """
    part_map = torch.zeros_like(panoptic_map, dtype=torch.int32)
    category_of = [-1] * (1 + max((segment["id"] for segment in segments), default=0))
    for segment in segments:
        category_of[segment["id"]] = segment["category_id"]
    present = best.keys() & set(category_of)
    if not present:
        return part_map
    table = to_device(torch.tensor(category_of), panoptic_map.device)
    categories = table[panoptic_map.long()]
    for whole in sorted(present):
        part_map = torch.where(categories == whole, best[whole], part_map)
    return part_map
