"""Argument checks of the operator, for where no compiled kernel makes them."""

from __future__ import annotations

import torch
from torch import Tensor

REDUCED = (torch.float16, torch.bfloat16)


def check_arguments(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> None:
    """Check ranks, shapes, dtypes and devices, not values.

    Args:
        value: [B, S, M, D].
        spatial_shapes: [L, 2].
        level_start_index: [L].
        sampling_locations: [B, Q, M, L, P, 2].
        attention_weights: [B, Q, M, L, P].

    Raises:
        ValueError: naming the argument that does not fit, and both shapes.
    """
    _check_shapes(
        tuple(value.shape),
        tuple(spatial_shapes.shape),
        tuple(level_start_index.shape),
        tuple(sampling_locations.shape),
        tuple(attention_weights.shape),
    )
    allowed = {value.dtype} | ({torch.float32} if value.dtype in REDUCED else set())
    if not value.dtype.is_floating_point:
        raise ValueError(f"value must be of a floating-point dtype, and is {value.dtype}")
    if sampling_locations.dtype not in allowed:
        raise ValueError(
            f"sampling_locations must have the dtype of value, {value.dtype}"
            f"{', or float32' if value.dtype in REDUCED else ''}, and is {sampling_locations.dtype}"
        )
    if attention_weights.dtype != sampling_locations.dtype:
        raise ValueError(
            f"attention_weights must have the dtype of sampling_locations, "
            f"{sampling_locations.dtype}, and is {attention_weights.dtype}"
        )
    devices = [tensor.device for tensor in (value, sampling_locations, attention_weights)]
    if len(set(devices)) > 1:
        raise ValueError(
            "value, sampling_locations and attention_weights must be on one device, and are on "
            + ", ".join(map(str, devices))
        )


Shape = tuple[int, ...]


def _check_shapes(
    value: Shape, shapes: Shape, starts: Shape, locations: Shape, weights: Shape
) -> None:
    """Check the five shapes against each other."""
    if len(value) != 4:
        raise ValueError(f"value must be [B, S, M, D], and has shape {value}")
    if len(shapes) != 2 or shapes[1] != 2:
        raise ValueError(f"spatial_shapes must be [L, 2], and has shape {shapes}")
    if starts != shapes[:1]:
        raise ValueError(
            f"level_start_index must be [L] with the L of spatial_shapes {shapes}, "
            f"and has shape {starts}"
        )
    if len(locations) != 6 or locations[5] != 2:
        raise ValueError(
            f"sampling_locations must be [B, Q, M, L, P, 2], and has shape {locations}"
        )
    if locations[0] != value[0] or locations[2] != value[2]:
        raise ValueError(
            f"sampling_locations {locations} and value {value} differ in images "
            f"(dimension 0 of both) or heads (dimension 2 of both)"
        )
    if locations[3] != shapes[0]:
        raise ValueError(
            f"sampling_locations {locations} has {locations[3]} levels in dimension 3, "
            f"and spatial_shapes {shapes} has {shapes[0]}"
        )
    if weights != locations[:5]:
        raise ValueError(
            f"attention_weights {weights} must have the shape of sampling_locations "
            f"{locations} without its last dimension"
        )


def check_levels(value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor) -> None:
    """Check the values of the level tables.

    Args:
        value: [B, S, M, D].
        spatial_shapes: [L, 2] (height, width).
        level_start_index: [L], the first token of every level.

    Raises:
        ValueError: a level is not within the value, or the areas do not add up to it.
    """
    tokens = value.shape[1]
    area = 0
    for level, (rows, columns) in enumerate(spatial_shapes.tolist()):
        start = int(level_start_index[level])
        if min(rows, columns, start) < 0 or start + rows * columns > tokens:
            raise ValueError(
                f"spatial_shapes and level_start_index: level {level} of {rows} x {columns} tokens "
                f"from token {start} does not lie within value's {tokens} tokens"
            )
        area += rows * columns
    if area != tokens:
        raise ValueError(
            f"the areas of spatial_shapes add up to {area}, and value has {tokens} tokens"
        )
