"""Optimizers with learning rates by parameter name and clipping of the full gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import torch
from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _NormBase

from hipie.errors import InputError
from hipie.logs import get_logger
from hipie.modeling.meta_arch.base import SegmentationModel

logger = get_logger(__name__)

OPTIMIZER_REGISTRY = Registry("OPTIMIZER")
"""Functions of the configuration that return a class of optimizers and arguments of its own.

`SOLVER.OPTIMIZER` names one, in any case. Learning rate and weight decay are common to all.
"""

NORM_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


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
    model: nn.Module,
    base_lr: float,
    multipliers: Iterable[tuple[str, float]],
    *,
    weight_decay_norm: float | None = None,
    weight_decay_bias: float | None = None,
    bias_lr_factor: float = 1.0,
) -> list[dict[str, Any]]:
    """Group trainable parameters by learning rate and weight decay, in order of first appearance.

    A shared parameter counts once, under its first name.

    Args:
        model: any; a `SegmentationModel` may exempt parameters from weight decay.
        base_lr: learning rate of parameters that no multiplier matches.
        multipliers: see `learning_rate_multipliers`.
        weight_decay_norm: of the parameters of normalization layers; None = that of the optimizer.
        weight_decay_bias: of all parameters named `bias`, likewise.
        bias_lr_factor: multiplies the learning rate of those.

    Returns:
        Dicts with `params`, `lr`, and `weight_decay` where it is not that of the optimizer.
    """
    multipliers = list(multipliers)
    exempt: set[str] = set()
    if isinstance(model, SegmentationModel):
        exempt = model.parameters_without_weight_decay()
    groups: dict[tuple[float, float | None], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        module_name, _, last = name.rpartition(".")
        lr = base_lr * next((factor for part, factor in multipliers if part in name), 1.0)
        decay = None
        if isinstance(model.get_submodule(module_name), NORM_LAYERS):
            decay = weight_decay_norm
        if last == "bias":
            lr *= bias_lr_factor
            decay = decay if weight_decay_bias is None else weight_decay_bias
        if name in exempt:
            decay = 0.0
        groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": lr, **({} if decay is None else {"weight_decay": decay})}
        for (lr, decay), parameters in groups.items()
    ]


class GradientClipping(torch.optim.Optimizer):
    """Base class of optimizers that clip gradients; see `with_clipping`.

    `step` clips unless `clip_gradients` did so since the last step, and skips a step whose
    gradients are not finite. A trainer that needs the norm calls `clip_gradients` and decides
    itself.

    Args:
        groups: parameter groups.
        max_norm: bound of the joint norm of all gradients; None = no bound.
        clip_parameter: clips the gradient of one parameter, before the joint norm; None = does not.
        options: further arguments of the optimizer.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        max_norm: float | None = None,
        clip_parameter: Callable[[nn.Parameter], object] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(groups, **options)
        self.max_norm = max_norm
        self._clip_parameter = clip_parameter
        self._is_clipped = False

    def clip_gradients(self) -> Tensor:
        """Clip the gradients.

        Returns:
            The joint norm before clipping, a scalar: nan or infinite if a gradient is not finite.
        """
        self._is_clipped = True
        if self._clip_parameter is None:
            return clip_gradients(self, self.max_norm)
        norm = clip_gradients(self, None)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._clip_parameter(parameter)
        if self.max_norm is not None:
            clip_gradients(self, self.max_norm)
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Clip the gradients and take a step, unless they are not finite."""
        if not self._is_clipped and not bool(torch.isfinite(norm := self.clip_gradients())):
            logger.warning("Skipped a step: the norm of the gradients is %s.", float(norm))
            self._is_clipped = False
            return None
        self._is_clipped = False
        return super().step(closure)


@cache
def with_clipping(optimizer: type[torch.optim.Optimizer]) -> type[GradientClipping]:
    """Return a subclass of a class of optimizers that clips gradients."""
    return type(f"Clipped{optimizer.__name__}", (GradientClipping, optimizer), {})


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
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):  # of the shares of all processes
        norm = norm.full_tensor()
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def adamw(cfg: CfgNode) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """AdamW with PyTorch's betas."""
    return torch.optim.AdamW, {}


def sgd(cfg: CfgNode) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Stochastic gradient descent with SOLVER.{MOMENTUM, NESTEROV}."""
    return torch.optim.SGD, {"momentum": cfg.SOLVER.MOMENTUM, "nesterov": cfg.SOLVER.NESTEROV}


OPTIMIZER_REGISTRY.register(adamw)
OPTIMIZER_REGISTRY.register(sgd)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> GradientClipping:
    """Build the optimizer of `cfg.SOLVER`, whose keys have Detectron2's meaning.

    Args:
        cfg: reads SOLVER.{OPTIMIZER, BASE_LR, *_MULTIPLIER, BIAS_LR_FACTOR, WEIGHT_DECAY*,
            MOMENTUM, NESTEROV, CLIP_GRADIENTS, MAX_GRAD_NORM}.
        model: its trainable parameters are optimised.

    Raises:
        InputError: if the optimizer is not registered, the type of clipping is unknown, or no
            parameter is trainable.
    """
    solver = cfg.SOLVER
    name = solver.OPTIMIZER.lower()
    if name not in OPTIMIZER_REGISTRY:
        names = " or ".join(registered.upper() for registered, _ in OPTIMIZER_REGISTRY)
        raise InputError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; it has to be {names}")
    optimizer, options = OPTIMIZER_REGISTRY.get(name)(cfg)
    own = model.learning_rate_multipliers() if isinstance(model, SegmentationModel) else []
    groups = parameter_groups(
        model,
        solver.BASE_LR,
        [*own, *learning_rate_multipliers(cfg)],
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
    )
    if not groups:
        raise InputError("every parameter of the model is frozen, so there is nothing to train")
    return with_clipping(optimizer)(
        groups,
        max_norm=solver.MAX_GRAD_NORM or None,
        clip_parameter=parameter_clipping(cfg),
        lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        **options,
    )


def parameter_clipping(cfg: CfgNode) -> Callable[[nn.Parameter], object] | None:
    """Return the clipping of single gradients by SOLVER.CLIP_GRADIENTS; None if it is off.

    Raises:
        InputError: for a type other than "value" and "norm".
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return None
    if clip.CLIP_TYPE == "value":
        return partial(nn.utils.clip_grad_value_, clip_value=clip.CLIP_VALUE)
    if clip.CLIP_TYPE == "norm":
        return partial(nn.utils.clip_grad_norm_, max_norm=clip.CLIP_VALUE, norm_type=clip.NORM_TYPE)
    raise InputError(
        f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; it has to be value or norm, each "
        "of a single parameter; SOLVER.MAX_GRAD_NORM clips the full gradient"
    )
