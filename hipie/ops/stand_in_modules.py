"""Compiled extension modules of other projects, replaced or stood in for by the operator.

The projects compile a module for CUDA and cannot be imported, or warn, where it is missing. A
stand-in has its two functions; every other name raises an error when it is called.
"""

from __future__ import annotations

import importlib.machinery
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import operator as registered_operator  # noqa: F401
from .library import PACKAGE, cpu_problem, cuda_problem

DEFORMABLE_DETR = "MultiScaleDeformableAttention"
FORWARD, BACKWARD = "ms_deform_attn_forward", "ms_deform_attn_backward"
MMCV = "mmcv._ext"
# Names of the extension modules; the first is that of many descendants of Deformable DETR too.
NAMES = (DEFORMABLE_DETR, "groundingdino._C", "detrex._C", MMCV)


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Compute multi-scale deformable attention.

    Args:
        value: [B, S, M, D].
        spatial_shapes: [L, 2] int64 (height, width).
        level_start_index: [L] int64.
        sampling_locations: [B, Q, M, L, P, 2].
        attention_weights: [B, Q, M, L, P].
        im2col_step: ignored. The original processes that many images at a time, and the batch size
            has to be a multiple of it.

    Returns:
        [B, Q, M * D].
    """
    with torch.autocast(value.device.type, enabled=False):
        return torch.ops.hipie.ms_deform_attn(
            value, spatial_shapes, level_start_index, sampling_locations, attention_weights
        )


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    im2col_step: int,
) -> list[Tensor]:
    """Compute the gradients of multi-scale deformable attention.

    Args:
        value: [B, S, M, D].
        spatial_shapes: [L, 2] int64 (height, width).
        level_start_index: [L] int64.
        sampling_locations: [B, Q, M, L, P, 2].
        attention_weights: [B, Q, M, L, P].
        grad_output: [B, Q, M * D].
        im2col_step: ignored.

    Returns:
        Gradients of `value`, `sampling_locations` and `attention_weights`.
    """
    return list(
        torch.ops.hipie.ms_deform_attn_backward(
            grad_output.to(value.dtype),
            value,
            spatial_shapes,
            level_start_index,
            sampling_locations,
            attention_weights,
        )
    )


def _backward_in_place(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the gradients into the three tensors given, mmcv's convention."""
    gradients = ms_deform_attn_backward(
        value,
        spatial_shapes,
        level_start_index,
        sampling_locations,
        attention_weights,
        grad_output,
        im2col_step,
    )
    targets = (grad_value, grad_sampling_loc, grad_attn_weight)
    for target, gradient in zip(targets, gradients, strict=True):
        target.copy_(gradient)


def functions(name: str) -> dict[str, Callable[..., Any]]:
    """Return the functions of the extension module `name`, on the operator."""
    backward = _backward_in_place if name == MMCV else ms_deform_attn_backward
    return {FORWARD: ms_deform_attn_forward, BACKWARD: backward}


def dispatch(ours: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function that calls `ours` on devices with a kernel, else `original`."""

    def run(value: Tensor, *arguments: Any, **named: Any) -> Any:
        problem = {"cpu": cpu_problem, "cuda": cuda_problem}.get(value.device.type, "no kernel")
        return (ours if problem is None else original)(value, *arguments, **named)

    return run


class StandIn(ModuleType):
    """A stand-in for a compiled extension module that is not installed."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("__") or self.__name__ == DEFORMABLE_DETR:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        extension = self.__name__

        def missing(*_: Any, **__: Any) -> NoReturn:
            raise NotImplementedError(
                f"{extension}.{name} is not part of {PACKAGE}.patch, which stands in for "
                f"{extension} with {FORWARD} and {BACKWARD} only; install the compiled package"
            )

        return missing


class StandInLoader:
    """Loader of stand-ins."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Create the module."""
        return StandIn(spec.name, f"Stand-in for a compiled extension, by {PACKAGE}.patch.")

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its functions."""
        for name, function in functions(module.__name__).items():
            setattr(module, name, function)
