"""AdamW with learning rates by parameter name and clipping of the full gradient."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.meta_arch.base import SegmentationModel

logger = logging.getLogger(__name__)


def learning_rate_multipliers(cfg: CfgNode) -> list[tuple[str, float]]:
    """Return (substring of a parameter's name, multiple of the base rate); the first match counts.

    The early fusion of text and image features has no pre-trained weights and the full rate.
    """
    return [
        ("backbone", cfg.SOLVER.BACKBONE_MULTIPLIER),
        ("image_encoder", cfg.SOLVER.BACKBONE_MULTIPLIER),
        ("sampling_offsets", cfg.SOLVER.SAMPLING_OFFSETS_MULTIPLIER),
        ("reference_points", cfg.SOLVER.SAMPLING_OFFSETS_MULTIPLIER),
        ("text_encoder", cfg.SOLVER.TEXT_ENCODER_MULTIPLIER),
    ]


def parameter_groups(
    model: nn.Module, base_lr: float, multipliers: Iterable[tuple[str, float]]
) -> list[dict[str, Any]]:
    """Group trainable parameters by learning rate and weight decay, in order of first appearance.

    A shared parameter counts once, under its first name.

    Args:
        model: any; a `SegmentationModel` may exempt parameters from weight decay.
        base_lr: learning rate of parameters that no multiplier matches.
        multipliers: see `learning_rate_multipliers`.

    Returns:
        Dicts with `params`, `lr`, and `weight_decay` 0 for exempt parameters.
    """
    multipliers = list(multipliers)
    exempt: set[str] = set()
    if isinstance(model, SegmentationModel):
        exempt = model.parameters_without_weight_decay()
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            multiplier = next((factor for part, factor in multipliers if part in name), 1.0)
            groups.setdefault((base_lr * multiplier, name in exempt), []).append(parameter)
    return [
        {"params": parameters, "lr": lr, **({"weight_decay": 0.0} if without_decay else {})}
        for (lr, without_decay), parameters in groups.items()
    ]


class ClippedAdamW(torch.optim.AdamW):
    """AdamW that scales all gradients so that their joint norm is at most `max_norm`.

    `step` clips unless `clip_gradients` did so since the last step, and skips a step whose
    gradients are not finite. A trainer that needs the norm calls `clip_gradients` and decides
    itself.

    Args:
        groups: parameter groups.
        max_norm: bound of the joint norm; None = no clipping.
        options: further arguments of `torch.optim.AdamW`.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, max_norm: float | None, **options: Any
    ) -> None:
        super().__init__(groups, **options)
        self.max_norm = max_norm
        self._is_clipped = False

    def clip_gradients(self) -> Tensor:
        """Clip the gradients.

        Returns:
            The joint norm before clipping, a scalar: nan or infinite if a gradient is not finite.
        """
        self._is_clipped = True
        return clip_gradients(self, self.max_norm)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Clip the gradients and take a step, unless they are not finite."""
        if not self._is_clipped and not bool(torch.isfinite(norm := self.clip_gradients())):
            logger.warning("Skipped a step: the norm of the gradients is %s.", float(norm))
            self._is_clipped = False
            return None
        self._is_clipped = False
        return super().step(closure)


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float | None) -> Tensor:
    """Scale the gradients of an optimizer's parameters so that their joint norm is bounded.

    Args:
        optimizer: any.
        max_norm: bound of the joint norm; None = the gradients stay.

    Returns:
        The joint norm before clipping, a scalar: nan or infinite if a gradient is not finite.
    """
    parameters = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    if not parameters:
        return torch.zeros(())
    return nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> ClippedAdamW:
    """Build the optimizer of `cfg.SOLVER`.

    Args:
        cfg: reads SOLVER.{OPTIMIZER, BASE_LR, *_MULTIPLIER, WEIGHT_DECAY, MAX_GRAD_NORM}.
        model: its trainable parameters are optimised.

    Raises:
        ValueError: for another optimizer than AdamW, or for Detectron2's clipping of single
            parameters.
    """
    if cfg.SOLVER.OPTIMIZER != "ADAMW":
        raise InputError(f"SOLVER.OPTIMIZER is {cfg.SOLVER.OPTIMIZER!r}; only ADAMW is supported")
    if cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
        raise InputError(
            "SOLVER.CLIP_GRADIENTS.ENABLED is True; the full gradient is clipped by "
            "SOLVER.MAX_GRAD_NORM, and single parameters are not"
        )
    return ClippedAdamW(
        parameter_groups(model, cfg.SOLVER.BASE_LR, learning_rate_multipliers(cfg)),
        max_norm=cfg.SOLVER.MAX_GRAD_NORM or None,
        lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
    )
