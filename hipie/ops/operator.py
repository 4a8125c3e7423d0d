"""Multi-scale deformable attention as one operator of PyTorch, ``hipie::ms_deform_attn``.

The compiled libraries register kernels for the CPU and CUDA. This module registers the rest: fake
tensors, autograd, autocast, vmap, and the reference form where no kernel was built.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

import torch
from torch import Tensor

from .checks import check_arguments, check_levels
from .grid_sample import ms_deform_attn_grid_sample
from .library import PACKAGE, REPORT, cpu_problem, cuda_problem, library
from .reference import ms_deform_attn_reference
from .reference_backward import ms_deform_attn_reference_backward

# Gradients of value, sampling locations and attention weights.
Gradients = tuple[Tensor, Tensor, Tensor]


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Weighted bilinear samples of several maps (Zhu et al., Deformable DETR, equation 3).

    Computes the same as :func:`~hipie.ops.ms_deform_attn_reference`, by kernels for the CPU and
    CUDA. Differentiable once. Under autocast `value` is cast to its dtype, locations and weights
    to float32. Under ``torch.onnx.export`` it becomes standard GridSample.

    Args:
        value: [B, S, M, D], S tokens of L maps one after another, M heads of width D.
        spatial_shapes: [L, 2] int64 (height, width).
        level_start_index: [L] int64, the first token of every map.
        sampling_locations: [B, Q, M, L, P, 2] (x, y) in 0..1; zero outside. In the dtype
            of ``value``, or float32 where that is bfloat16 or float16.
        attention_weights: [B, Q, M, L, P], in the dtype of ``sampling_locations``.

    Returns:
        [B, Q, M * D] in the dtype of ``value``.

    Raises:
        ValueError: an argument does not fit; it names the argument and both shapes.
    """
    arguments = (value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    if torch.onnx.is_in_onnx_export():
        return ms_deform_attn_grid_sample(
            value, spatial_shapes, sampling_locations, attention_weights
        )
    return torch.ops.hipie.ms_deform_attn(*arguments)


def _fake(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    check_arguments(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    batch, _, heads, width = value.shape
    return value.new_empty((batch, sampling_locations.shape[1], heads * width))


def _fake_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    locations: Tensor,
    weights: Tensor,
) -> Gradients:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(value, memory_format=contiguous),
        torch.empty_like(locations, memory_format=contiguous),
        torch.empty_like(weights, memory_format=contiguous),
    )


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    grad_value, grad_locations, grad_weights = torch.ops.hipie.ms_deform_attn_backward(
        grad_output, *ctx.saved_tensors
    )
    return grad_value, None, None, grad_locations, grad_weights


def _double_backward(ctx: Any, *_: Tensor) -> NoReturn:
    raise RuntimeError(
        "hipie::ms_deform_attn can be differentiated once only; for second derivatives "
        f"use {PACKAGE}.ms_deform_attn_reference"
    )


def _autocast(device: str) -> Callable[..., Tensor]:
    """Make the operator's kernel for autocast on a device."""

    def run(
        value: Tensor,
        spatial_shapes: Tensor,
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
    ) -> Tensor:
        dtype = torch.get_autocast_dtype(device)
        exact = torch.float64 if value.dtype == torch.float64 else torch.float32
        with torch.autocast(device, enabled=False):
            return torch.ops.hipie.ms_deform_attn(
                value if exact == torch.float64 else value.to(dtype),
                spatial_shapes,
                level_start_index,
                sampling_locations.to(exact),
                attention_weights.to(exact),
            )

    return run


@cache
def _warn_once(device: str) -> None:
    """Warn that no kernel runs on this kind of device, at the first call only."""
    problem = {"cpu": cpu_problem, "cuda": cuda_problem}.get(device, "there is none")
    warnings.warn(
        f"{PACKAGE} runs in plain PyTorch on {device}, many times slower than its kernel: "
        f"{problem}. `{REPORT}` prints the command that builds it.",
        stacklevel=2,
    )


def _plain(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    arguments = (value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
    check_arguments(*arguments)
    check_levels(value, spatial_shapes, level_start_index)
    _warn_once(value.device.type)
    return ms_deform_attn_reference(*arguments).contiguous()


def _plain_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    locations: Tensor,
    weights: Tensor,
) -> Gradients:
    arguments = (value, spatial_shapes, level_start_index, locations, weights)
    check_arguments(*arguments)
    check_levels(value, spatial_shapes, level_start_index)
    return ms_deform_attn_reference_backward(grad_output, *arguments)


def _fold(size: int, tensor: Tensor, dim: int | None) -> Tensor:
    """Fold the mapped dimension into the batch: [...] -> [size * B, ...]."""
    if dim is None:
        tensor = tensor.expand(size, *tensor.shape)
    else:
        tensor = tensor.movedim(dim, 0)
    return tensor.flatten(0, 1)


def _unfold(size: int, tensor: Tensor) -> Tensor:
    return tensor.unflatten(0, (size, tensor.shape[0] // size))


def _vmap_over(operator: str, level_tables: slice) -> Callable[..., tuple[Any, Any]]:
    """Make the batching rule of an operator.

    Args:
        operator: its name.
        level_tables: the positions of `spatial_shapes` and `level_start_index` among its arguments.
    """

    def run(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor) -> tuple[Any, Any]:
        if any(dim is not None for dim in in_dims[level_tables]):
            raise ValueError(
                "vmap over spatial_shapes or level_start_index: all examples must share the levels"
            )
        size = info.batch_size
        folded = [_fold(size, tensor, dim) for tensor, dim in zip(tensors, in_dims, strict=True)]
        folded[level_tables] = tensors[level_tables]
        result = getattr(torch.ops.hipie, operator)(*folded)
        if isinstance(result, Tensor):
            return _unfold(size, result), 0
        return tuple(_unfold(size, part) for part in result), (0,) * len(result)

    return run


def _register() -> None:
    forward, backward = "hipie::ms_deform_attn", "hipie::ms_deform_attn_backward"
    torch.library.register_fake(forward, _fake, lib=library)
    torch.library.register_fake(backward, _fake_backward, lib=library)
    torch.library.register_autograd(forward, _backward, setup_context=_setup_context, lib=library)
    torch.library.register_autograd(backward, _double_backward, lib=library)
    torch.library.register_vmap(forward, _vmap_over("ms_deform_attn", slice(1, 3)), lib=library)
    torch.library.register_vmap(
        backward, _vmap_over("ms_deform_attn_backward", slice(2, 4)), lib=library
    )
    library.impl("ms_deform_attn", _autocast("cpu"), "AutocastCPU")
    library.impl("ms_deform_attn", _autocast("cuda"), "AutocastCUDA")
    library.impl("ms_deform_attn", _plain, "CompositeExplicitAutograd")
    library.impl("ms_deform_attn_backward", _plain_backward, "CompositeExplicitAutograd")


_register()
