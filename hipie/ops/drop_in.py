"""The module ``MultiScaleDeformableAttention``, as other people's code imports it.

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
    """The output [B, Q, M * D]; arguments as for :func:`hipie.ops.ms_deform_attn`.

    ``im2col_step``, the images that the original handles at a time, has no meaning here: any
    number of images is handled at once and none has to divide by it.
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
    """The gradients of value, locations and weights, in this order; [B, Q, M * D] comes in."""
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
    """Put the module into ``sys.modules``, in the place of one that was imported before."""
    module = ModuleType(NAME, __doc__)
    module.ms_deform_attn_forward = ms_deform_attn_forward
    module.ms_deform_attn_backward = ms_deform_attn_backward
    sys.modules[NAME] = module
    return module


install()
