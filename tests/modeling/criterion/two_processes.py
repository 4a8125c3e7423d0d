"""One of two processes that share a batch: `two_processes.py RANK FILE OUTPUT`.

Writes the gradients of its losses with respect to the leaves of the full batch, and, before it
joins the other process, those of the full batch in one process.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from hipie.modeling.criterion import point_sampling
from hipie.modeling.criterion.stuff_criterion import StuffCriterion
from hipie.modeling.criterion.thing_criterion import ThingCriterion
from hipie.modeling.matcher import hungarian
from hipie.structures import LayerOutput
from tests.decoder_outputs import MASK_SIZE, Batch, build_batch

KINDS = [[True, False, True], [True], [False], []]


def share_of_layer(layer: LayerOutput, first: int, last: int) -> LayerOutput:
    """Predictions for some of the images, with constant masks."""
    level = layer.logits.mean(dim=2, keepdim=True)
    masks = level.expand(-1, -1, MASK_SIZE[0] * MASK_SIZE[1])
    return replace(layer, mask_embeddings=masks).select_images(torch.arange(first, last))


def share_of_batch(batch: Batch, first: int, last: int) -> Batch:
    """Predictions and ground truth of images `first` to `last`."""
    batch.replace_layers(lambda layer: share_of_layer(layer, first, last))
    batch.targets = [
        replace(target, masks=torch.ones_like(target.masks)) for target in batch.targets[first:last]
    ]
    batch.text_mask = batch.text_mask[first:last]
    return batch


def gradients(rank: int, world: int, average: bool) -> list[torch.Tensor]:
    """Gradients of a process's share, things then stuff."""
    computed = []
    images = len(KINDS) // world
    for criterion, tokens in (
        (ThingCriterion(16, average_normalizers=average), 1),
        (StuffCriterion(16), 9),
    ):
        batch = build_batch(KINDS, proposal_tokens=tokens, negatives=False)
        share = share_of_batch(batch, rank * images, (rank + 1) * images)
        sum(share.run(criterion).values()).backward()
        for leaf in batch.leaves:
            computed.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
    return computed


def losses_with_unequal_denoising(rank: int) -> dict[str, torch.Tensor]:
    """Losses of things where the second process has no denoising queries."""
    batch = build_batch([[True, False]], groups=0 if rank else 2)
    losses = batch.run(ThingCriterion(16, average_normalizers=True))
    return {name: value.detach() for name, value in losses.items()}


class SamePoints:
    """PyTorch with a constant random number, since draws depend on the images of a process."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def rand(self, *size: int, device: torch.device | None = None) -> torch.Tensor:
        """Always 0.4."""
        return torch.full(size, 0.4, device=device)


def main() -> None:
    """Join the other process and write the gradients."""
    rank, rendezvous, output = sys.argv[1:]
    torch.set_num_threads(1)
    point_sampling.torch = hungarian.torch = SamePoints()
    computed = {"single": gradients(0, 1, average=False)}
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=int(rank),
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    for name in ("average", "published"):
        computed[name] = gradients(int(rank), 2, average=name == "average")
    computed["unequal"] = losses_with_unequal_denoising(int(rank))
    torch.save(computed, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
