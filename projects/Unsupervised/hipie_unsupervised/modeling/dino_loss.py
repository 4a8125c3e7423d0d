"""DINO's loss, temperatures and momentum (Caron et al., ICCV 2021, section 3.1 and algorithm 1)."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn


class DINOLoss(nn.Module):
    """Cross entropy of the student's views against the teacher's views of the same images.

    The teacher's outputs are centred by a moving mean, which keeps one dimension from dominating,
    and sharpened by a low temperature, which keeps them from becoming uniform.

    Args:
        out_dim: K, number of outputs.
        student_temperature: of the student's softmax.
        center_momentum: share of the old centre at every update.
    """

    def __init__(
        self, out_dim: int, student_temperature: float = 0.1, center_momentum: float = 0.9
    ) -> None:
        super().__init__()
        self.student_temperature = student_temperature
        self.center_momentum = center_momentum
        self.center: Tensor
        self.register_buffer("center", torch.zeros(1, out_dim))

    def forward(self, student: Tensor, teacher: Tensor, teacher_temperature: float) -> Tensor:
        """Compute the mean loss over all pairs of different views, and update the centre.

        Args:
            student: [V, B, K] outputs of V views; the first ones are the teacher's views.
            teacher: [T, B, K] outputs of T <= V views.
            teacher_temperature: of the teacher's softmax.

        Returns:
            Scalar.
        """
        with torch.autocast(student.device.type, enabled=False):
            targets = ((teacher.float() - self.center) / teacher_temperature).softmax(-1).detach()
            log_probabilities = (student.float() / self.student_temperature).log_softmax(-1)
            losses = -torch.einsum("tbk,vbk->tv", targets, log_probabilities) / student.shape[1]
        other = ~torch.eye(*losses.shape, dtype=torch.bool, device=losses.device)
        loss = losses[other].mean()
        self.update_center(teacher)
        return loss

    @torch.no_grad()
    def update_center(self, teacher: Tensor) -> None:
        """Move the centre towards the mean of the outputs [T, B, K] in all processes."""
        mean = teacher.float().flatten(0, 1).mean(0, keepdim=True)
        if comm.get_world_size() > 1:
            dist.all_reduce(mean)
            mean = mean / comm.get_world_size()
        self.center.lerp_(mean, 1 - self.center_momentum)


def teacher_temperature(iteration: int, first: float, last: float, warmup: int) -> float:
    """Temperature of the teacher's softmax: linear from `first` to `last`, then constant.

    Args:
        iteration: number of the iteration, from 0.
        first: at iteration 0.
        last: from iteration `warmup` - 1 on.
        warmup: number of iterations with a change.
    """
    if iteration >= warmup - 1:
        return last
    return first + (last - first) * iteration / (warmup - 1)


def teacher_momentum(iteration: int, first: float, iterations: int) -> float:
    """Share of the teacher's old weights: half a cosine from `first` to 1.

    Args:
        iteration: number of the iteration, from 0.
        first: at iteration 0.
        iterations: of the whole training.
    """
    progress = min(iteration / iterations, 1.0)
    return 1 + 0.5 * (first - 1) * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Replace the teacher's parameters by momentum * teacher + (1 - momentum) * student."""
    for target, source in zip(teacher.parameters(), student.parameters(), strict=True):
        target.lerp_(source.detach().to(target.dtype), 1 - momentum)
