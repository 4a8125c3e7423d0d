"""One of two processes that share a batch: `two_processes.py RANK FILE OUTPUT`.

Writes the gradients of its losses with respect to the leaves of the whole batch, and, before it
meets the other, those of the whole batch in one process.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from conftest import Batch, Output, build_batch

from hipie.modeling.criterion import point_sampling as mask_points
from hipie.modeling.criterion import stuff_criterion
from hipie.modeling.criterion.predictions import LayerPrediction
from hipie.modeling.criterion.stuff_criterion import StuffCriterion
from hipie.modeling.criterion.thing_criterion import ThingCriterion

KINDS = [[True, False, True], [True], [False], []]


def share(layer: LayerPrediction, first: int, last: int) -> LayerPrediction:
    """The same prediction for some of its images."""

    def masks(image: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        level = layer.token_logits[image + first, query].mean(dim=1)
        return level[:, None, None].expand(-1, 16, 24)

    def point_masks(image: int, points: torch.Tensor) -> torch.Tensor:
        return layer.token_logits[image + first].mean(dim=1, keepdim=True).expand(-1, len(points))

    return LayerPrediction(
        token_logits=layer.token_logits[first:last],
        boxes=layer.boxes[first:last],
        iou_logits=layer.iou_logits[first:last],
        masks=masks,
        point_masks=point_masks,
    )


def share_of(batch: Batch, first: int, last: int) -> tuple[Output, list, torch.Tensor]:
    """What the criteria are given of images `first` to `last`."""
    whole = batch.output
    targets = batch.targets[first:last]
    for target in targets:
        target.masks = torch.ones_like(target.masks)
    output = Output(
        layers=[share(layer, first, last) for layer in whole.layers],
        proposals=share(whole.proposals, first, last),
        num_background=whole.num_background,
        denoising=[share(layer, first, last) for layer in whole.denoising],
        denoising_layout=whole.denoising_layout,
    )
    return output, targets, batch.text_mask[first:last]


def gradients(rank: int, world: int, average: bool) -> list[torch.Tensor]:
    """Gradients of a process's share, things then stuff."""
    found = []
    images = len(KINDS) // world
    for criterion, tokens in (
        (ThingCriterion(16, average_normalizers=average), 1),
        (StuffCriterion(16), 9),
    ):
        batch = build_batch(KINDS, proposal_tokens=tokens, background=0, negatives=False)
        given = share_of(batch, rank * images, (rank + 1) * images)
        sum(criterion(*given).values()).backward()
        for leaf in batch.leaves:
            found.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
    return found


class SamePoints:
    """PyTorch with one random number, since draws depend on how many images a process has."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def rand(self, *size: int, device: torch.device | None = None) -> torch.Tensor:
        """Always 0.4."""
        return torch.full(size, 0.4, device=device)


def main() -> None:
    """Join the others, and write what came out."""
    rank, meeting, output = sys.argv[1:]
    torch.set_num_threads(1)
    mask_points.torch = stuff_criterion.torch = SamePoints()
    found = {"whole": gradients(0, 1, average=False)}
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=int(rank),
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    for name in ("average", "published"):
        found[name] = gradients(int(rank), 2, average=name == "average")
    torch.save(found, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
