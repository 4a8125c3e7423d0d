"""Forms in which other projects write multi-scale deformable attention, served by the operator.

A form is recognised by the exact names of the parameters, not by the name or version of a package.
Before a function or layer is served it is tried on a small input (:func:`difference`), so that
another computation under the same signature is left alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .library import cpu_problem, cuda_problem
from .operator import ms_deform_attn
from .reference import ms_deform_attn_reference

# A location far outside of every map: the kernels skip it.
OUTSIDE = -10.0

# Height and width of every level: [L, 2] or L pairs.
Levels = Tensor | Sequence[Sequence[int]]


class Switch:
    """Whether served functions use the operator; off, they call what they replaced."""

    def __init__(self) -> None:
        self.on = True


@dataclass(frozen=True)
class Form:
    """One way to write the computation.

    Attributes:
        title: what it is, for summaries.
        parameters: names of all parameters, in order.
        serve: makes the replacement of a function of this form.
        arguments: arguments of this form for a small problem.
    """

    title: str
    parameters: tuple[str, ...]
    serve: Callable[[Callable[..., Any], Switch], Callable[..., Any]]
    arguments: Callable[[Problem], tuple[Any, ...]]


@dataclass(frozen=True)
class Problem:
    """A small input of the operator, with a different number of points on every level.

    Attributes:
        value: [B, S, M, D].
        levels: height and width of every level.
        points: points of every level, which add up to R.
        locations: [B, Q, M, R, 2].
        weights: [B, Q, M, R].
    """

    value: Tensor
    levels: list[tuple[int, int]]
    points: list[int]
    locations: Tensor
    weights: Tensor

    @classmethod
    def random(cls, points: list[int]) -> Problem:
        """Draw a problem of two levels in float64; some locations are outside of the maps."""
        generator = torch.Generator().manual_seed(0)
        levels, total = [(3, 4), (2, 1)], sum(points)
        draw = functools.partial(torch.rand, generator=generator, dtype=torch.float64, device="cpu")
        return cls(
            draw((2, 14, 2, 3)),
            levels,
            points,
            draw((2, 5, 2, total, 2)) * 1.6 - 0.3,
            draw((2, 5, 2, total)),
        )

    @property
    def tables(self) -> tuple[Tensor, Tensor]:
        """`spatial_shapes` and `level_start_index`."""
        return level_tables(self.levels, self.value)

    @property
    def expected(self) -> Tensor:
        """The result of the reference, [B, Q, M * D]."""
        return ms_deform_attn_reference(self.value, *self.tables, *self.sampled)

    @property
    def sampled(self) -> tuple[Tensor, Tensor]:
        """Locations [B, Q, M, L, P, 2] and weights [B, Q, M, L, P]."""
        return rectangular(self.locations, self.weights, self.points)


def level_tables(levels: Levels, value: Tensor) -> tuple[Tensor, Tensor]:
    """Make `spatial_shapes` [L, 2] and `level_start_index` [L], int64, on the device of `value`."""
    if isinstance(levels, Tensor):
        shapes = levels.to(device=value.device, dtype=torch.int64)
    else:
        pairs = [list(level) for level in levels]
        shapes = torch.tensor(pairs, dtype=torch.int64, device=value.device)
    areas = shapes.prod(1)
    return shapes, areas.cumsum(0) - areas


def rectangular(locations: Tensor, weights: Tensor, points: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Give every level the same number of points, by points outside of the map with weight zero.

    Args:
        locations: [B, Q, M, R, 2], the points of the levels one after another.
        weights: [B, Q, M, R].
        points: number of points of each of L levels, which add up to R.

    Returns:
        Locations [B, Q, M, L, P, 2] and weights [B, Q, M, L, P], P the largest number of points.
    """
    most = max(points)
    if min(points) == most:
        size = (len(points), most)
        return locations.unflatten(3, size), weights.unflatten(3, size)
    padded_locations = [
        F.pad(part, (0, 0, 0, most - part.shape[3]), value=OUTSIDE)
        for part in locations.split(list(points), dim=3)
    ]
    padded_weights = [
        F.pad(part, (0, most - part.shape[3])) for part in weights.split(list(points), dim=3)
    ]
    return torch.stack(padded_locations, dim=3), torch.stack(padded_weights, dim=3)


def _is_served(value: Tensor, locations: Tensor, weights: Tensor) -> bool:
    """Whether a kernel computes these tensors as the form does, which takes one dtype only."""
    problem = {"cpu": cpu_problem, "cuda": cuda_problem}.get(value.device.type, "no kernel")
    if problem is not None or not value.device == locations.device == weights.device:
        return False
    if torch.is_autocast_enabled(value.device.type):
        return all(tensor.is_floating_point() for tensor in (value, locations, weights))
    return value.dtype == locations.dtype == weights.dtype and value.is_floating_point()


def _compute(value: Tensor, levels: Levels, locations: Tensor, weights: Tensor) -> Tensor:
    """Call the operator; under autocast in float32, as grid sampling is."""
    shapes, starts = level_tables(levels, value)
    device = value.device.type
    if not torch.is_autocast_enabled(device):
        return ms_deform_attn(value, shapes, starts, locations, weights)
    wide = torch.float64 if value.dtype == torch.float64 else torch.float32
    with torch.autocast(device, enabled=False):
        return ms_deform_attn(value.to(wide), shapes, starts, locations.to(wide), weights.to(wide))


def _serve_function(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    @functools.wraps(original)
    def served(
        value: Tensor,
        value_spatial_shapes: Levels,
        sampling_locations: Tensor,
        attention_weights: Tensor,
    ) -> Any:
        if not switch.on or not _is_served(value, sampling_locations, attention_weights):
            return original(value, value_spatial_shapes, sampling_locations, attention_weights)
        return _compute(value, value_spatial_shapes, sampling_locations, attention_weights)

    return served


def _serve_points_per_level(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    @functools.wraps(original)
    def served(
        value: Tensor,
        value_spatial_shapes: Levels,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        num_points_list: Sequence[int],
        method: str = "default",
    ) -> Any:
        if (
            not switch.on
            or method != "default"  # "discrete" takes the nearest pixel
            or not _is_served(value, sampling_locations, attention_weights)
        ):
            return original(
                value,
                value_spatial_shapes,
                sampling_locations,
                attention_weights,
                num_points_list,
                method,
            )
        sampled = rectangular(sampling_locations, attention_weights, num_points_list)
        return _compute(value, value_spatial_shapes, *sampled)

    return served


def _serve_layer(original: Callable[..., Any], switch: Switch) -> Callable[..., Any]:
    @functools.wraps(original)
    def forward(
        self: Any,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Any:
        if not switch.on or not _is_served(value, sampling_locations, attention_weights):
            return original(
                self,
                value,
                value_spatial_shapes,
                value_spatial_shapes_list,
                level_start_index,
                sampling_locations,
                attention_weights,
                im2col_step,
            )
        levels: Levels = value_spatial_shapes if value.is_cuda else value_spatial_shapes_list
        return _compute(value, levels, sampling_locations, attention_weights)

    return forward


def _layer_arguments(problem: Problem) -> tuple[Any, ...]:
    shapes, starts = problem.tables
    return (None, problem.value, shapes, problem.levels, starts, *problem.sampled, 64)


FUNCTION = Form(
    "function",
    ("value", "value_spatial_shapes", "sampling_locations", "attention_weights"),
    _serve_function,
    lambda problem: (problem.value, problem.levels, *problem.sampled),
)
POINTS_PER_LEVEL = Form(
    "function with points per level",
    (*FUNCTION.parameters, "num_points_list", "method"),
    _serve_points_per_level,
    lambda problem: (
        problem.value,
        problem.levels,
        problem.locations,
        problem.weights,
        problem.points,
    ),
)
LAYER = Form(
    "kernel layer",
    (
        "self",
        "value",
        "value_spatial_shapes",
        "value_spatial_shapes_list",
        "level_start_index",
        "sampling_locations",
        "attention_weights",
        "im2col_step",
    ),
    _serve_layer,
    _layer_arguments,
)
FORMS = {form.parameters: form for form in (FUNCTION, POINTS_PER_LEVEL, LAYER)}
_MARKS = {"value", "sampling_locations", "attention_weights"}
_VARIADIC = 0x04 | 0x08  # *args, **kwargs


def form_of(parameters: tuple[str, ...]) -> Form | None:
    """Return the form of a function with these parameters, or None."""
    return FORMS.get(parameters)


def resembles(parameters: tuple[str, ...]) -> bool:
    """Whether these are parameters of deformable attention in a form that is not known."""
    return parameters not in FORMS and _MARKS.issubset(parameters)


def parameters_of(function: FunctionType) -> tuple[str, ...]:
    """Return the names of all parameters of a function; variadic ones as ``*``."""
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return (*names, "*") if code.co_flags & _VARIADIC else names


def difference(form: Form, original: Callable[..., Any]) -> str | None:
    """Try a function on small inputs, and return how it differs from its form, or None."""
    for points in ([2, 2], [1, 3]) if form is POINTS_PER_LEVEL else ([2, 2],):
        problem = Problem.random(points)
        try:
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                result = original(*form.arguments(problem))
        except Exception as error:  # noqa: BLE001  (it is foreign code)
            return f"a trial call raises {type(error).__name__}"
        expected = problem.expected
        if not isinstance(result, Tensor) or result.shape != expected.shape:
            return "a trial call returns something else than deformable attention"
        if not torch.allclose(result.to(expected), expected, rtol=1e-5, atol=1e-6):
            return "a trial call returns other numbers than deformable attention"
    return None
