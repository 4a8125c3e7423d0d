"""AdamW with the published learning rates, and gradients clipped by their norm as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from hipie.modeling.meta_arch.base import SegmentationModel

logger = logging.getLogger(__name__)


def rate_rules(cfg: CfgNode) -> list[tuple[str, float]]:
    """(part of a parameter's name, multiple of the base rate); the first that fits holds.

    The early fusion between words and pixels is built anew and learns at the full rate.
    """
    return [
        ("backbone", cfg.SOLVER.BACKBONE_MULTIPLIER),
        ("image_encoder", cfg.SOLVER.BACKBONE_MULTIPLIER),
        ("sampling_offsets", cfg.SOLVER.SAMPLING_OFFSETS_MULTIPLIER),
        ("reference_points", cfg.SOLVER.SAMPLING_OFFSETS_MULTIPLIER),
        ("text_encoder", cfg.SOLVER.TEXT_ENCODER_MULTIPLIER),
    ]


def parameter_groups(
    model: nn.Module, base_rate: float, rules: Iterable[tuple[str, float]]
) -> list[dict[str, Any]]:
    """One group a learning rate, in order of first appearance.

    Frozen parameters are left out; a shared one counts once, under its first name. A model with a
    method `parameters_without_weight_decay() -> names` (timm's convention) has groups without decay as well.

    Returns:
        Dicts with `params` and `lr`, and `weight_decay` 0 where there shall be none.
    """
    rules = list(rules)
    undecayed = (
        model.parameters_without_weight_decay() if isinstance(model, SegmentationModel) else set()
    )
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            multiple = next((factor for part, factor in rules if part in name), 1.0)
            key = base_rate * multiple, name in undecayed
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": rate, **({"weight_decay": 0.0} if still else {})}
        for (rate, still), parameters in groups.items()
    ]


class ClippedAdamW(torch.optim.AdamW):
    """AdamW that first scales all gradients so that their common norm is at most `max_norm`.

    A step whose gradients are not finite is left out, counted in `skipped_steps`, and reported;
    in several processes the averaged gradients are the same everywhere, and so is the decision.

    Args:
        groups: parameter groups.
        max_norm: bound of the norm; None: no clipping.
        rates: further arguments of `torch.optim.AdamW`.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, max_norm: float | None, **rates: Any
    ) -> None:
        super().__init__(groups, **rates)
        self.max_norm = max_norm
        self.skipped_steps = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Clip, and take a step if there is a direction to take it in."""
        parameters = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
        bound = float("inf") if self.max_norm is None else self.max_norm
        norm = nn.utils.clip_grad_norm_(parameters, bound) if parameters else torch.zeros(())
        if not bool(torch.isfinite(norm)):
            self.skipped_steps += 1
            logger.warning(
                "Left out a step: the norm of the gradients is %s (left out so far: %d).",
                float(norm),
                self.skipped_steps,
            )
            return None
        return super().step(closure)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> ClippedAdamW:
    """The optimiser of `cfg.SOLVER`: BASE_LR, the *_MULTIPLIER keys, WEIGHT_DECAY, CLIP_GRADIENTS.

    The schedule is Detectron2's `build_lr_scheduler`.

    Raises:
        ValueError: if the configuration asks for something else than AdamW, or for clipping other
            than of the whole gradient.
    """
    if cfg.SOLVER.OPTIMIZER != "ADAMW":
        raise ValueError(f"SOLVER.OPTIMIZER is {cfg.SOLVER.OPTIMIZER!r}; only ADAMW is known")
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE != "full_model":
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; only full_model is known"
        )
    return ClippedAdamW(
        parameter_groups(model, cfg.SOLVER.BASE_LR, rate_rules(cfg)),
        max_norm=clip.CLIP_VALUE if clip.ENABLED else None,
        lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
    )
