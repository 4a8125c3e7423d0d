"""The extension module ``MultiScaleDeformableAttention`` that other projects import.

Deformable DETR, Mask2Former, MaskDINO and many others compile an extension of that name. After
``import hipie.ops.drop_in`` their ``import MultiScaleDeformableAttention`` finds this module, and
their own code runs on the operator of this package, on the CPU too.
"""

from __future__ import annotations

import sys
from types import ModuleType

import torch
from torch import Tensor

import hipie.ops.operator  # noqa: F401  (registers the operator)

NAME = "MultiScaleDeformableAttention"


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
            grad_output,
            value,
            spatial_shapes,
            level_start_index,
            sampling_locations,
            attention_weights,
        )
    )


def install() -> ModuleType:
    """Put the module into ``sys.modules``, in place of one that was imported before."""
    module = ModuleType(NAME, __doc__)
    for function in (ms_deform_attn_forward, ms_deform_attn_backward):
        setattr(module, function.__name__, function)
    sys.modules[NAME] = module
    return module


install()
