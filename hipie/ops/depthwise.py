"""Depthwise convolution whose weight gradient a CPU computes by a kernel of its own.

PyTorch's takes 6 to 100 times as long in bfloat16, and as much as a third of a training step of an
EfficientNet; the forward pass and the gradient of the input are PyTorch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .library import cpu_problem

KERNEL_SIZES = (3, 5, 7)
STRIDES = (1, 2)


def depthwise_conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
) -> Tensor:
    """Convolve every channel with a kernel of its own; `torch.nn.functional.conv2d` with C groups.

    Under autocast the arguments are cast to its dtype. Differentiable once.

    Args:
        input: [B, C, H, W], float32 or bfloat16 where `has_fast_gradient` is True.
        weight: [C, 1, K, K].
        bias: [C] or None.
        stride: of both sides.
        padding: of every side, with zeros.

    Returns:
        [B, C, H', W'] with H' = (H + 2 padding - K) // stride + 1.
    """
    if torch.is_autocast_enabled(input.device.type):
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight = input.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if not has_fast_gradient(input, weight, stride):
        return functional.conv2d(input, weight, bias, stride, padding, groups=len(weight))
    with torch.autocast(input.device.type, enabled=False):
        output: Tensor = _DepthwiseConv2d.apply(input, weight, bias, stride, padding)
    return output


def has_fast_gradient(input: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether the kernel computes the weight gradient of these arguments."""
    return (
        weight.requires_grad
        and torch.is_grad_enabled()
        and input.device.type == "cpu"
        and input.dtype == weight.dtype
        and input.dtype in (torch.float32, torch.bfloat16)
        and weight.shape[1] == 1
        and weight.shape[2] == weight.shape[3]
        and weight.shape[2] in KERNEL_SIZES
        and stride in STRIDES
        and cpu_problem is None
        and not torch.compiler.is_compiling()
    )


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(input, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        for_input = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_input = torch.ops.aten.convolution_backward(
                grad_output,
                input,
                weight,
                None,
                [stride, stride],
                [padding, padding],
                [1, 1],
                False,
                [0, 0],
                len(weight),
                [True, False, False],
            )[0]
        if ctx.needs_input_grad[1]:
            for_weight = torch.ops.hipie.depthwise_weight_gradient(
                grad_output, input, weight.shape[2], stride, padding
            ).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            for_bias = grad_output.sum((0, 2, 3))
        return for_input, for_weight, for_bias, None, None
