"""`python -m hipie.ops.check`: a short test of correctness and speed on this machine.

Prints one line a case: the largest relative error of output and gradients against the reference in
float64, and milliseconds forward, and forward and backward, of the operator and of grid sampling.
The exit status is 1 where an error is too large or no kernel is built.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .explanation import build_command, explain
from .grid_sample import ms_deform_attn_grid_sample
from .library import PACKAGE
from .operator import ms_deform_attn
from .reference import ms_deform_attn_reference

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Operator = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
SMALL = ((7, 9), (4, 5), (2, 2))
IMAGE = ((60, 80), (30, 40), (15, 20))  # an image of 480 x 640 at strides 8, 16 and 32
# Largest relative error that is allowed, by dtype.
BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Case:
    """Sizes of one call; `queries` None means one query a token."""

    name: str
    levels: tuple[tuple[int, int], ...]
    queries: int | None = None
    width: int = 32


SPEED_CASES = (Case("encoder 480 x 640", IMAGE), Case("decoder, 300 queries", IMAGE, 300))


def random_inputs(case: Case, dtype: torch.dtype, device: str) -> Inputs:
    """Draw the five arguments of the operator; some locations are outside of the maps."""
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor(case.levels)
    areas = shapes.prod(1)
    tokens = int(areas.sum())
    places = (1, case.queries or tokens, 8, len(case.levels), 4)
    value = torch.randn((1, tokens, 8, case.width), generator=generator)
    locations = torch.rand((*places, 2), generator=generator) * 1.2 - 0.1
    weights = torch.rand(places, generator=generator).flatten(3).softmax(-1).view(places)
    sampling = torch.float32 if dtype == torch.bfloat16 else dtype
    return (
        value.to(device, dtype),
        shapes.to(device),
        (areas.cumsum(0) - areas).to(device),
        locations.to(device, sampling),
        weights.to(device, sampling),
    )


def _outcome(operator: Operator, inputs: Inputs) -> list[Tensor | None]:
    """Output, and the gradients of value, locations and weights of its sum over channels."""
    value, shapes, starts, locations, weights = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    output = operator(leaves[0], shapes, starts, leaves[1], leaves[2])
    output.backward(torch.ones_like(output))
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def largest_error(operator: Operator, dtype: torch.dtype, device: str = "cpu") -> float:
    """Return the largest relative error of output and gradients, in norm, against float64."""
    inputs = random_inputs(Case("small", SMALL, 50, 16), dtype, device)
    value, shapes, starts, locations, weights = inputs
    exact = (value.double(), shapes, starts, locations.double(), weights.double())
    outcomes, expected = _outcome(operator, inputs), _outcome(ms_deform_attn_reference, exact)
    errors = []
    for ours, theirs in zip(outcomes, expected, strict=True):
        if ours is None or theirs is None:
            return float("nan")
        errors.append(float((ours.double() - theirs).norm() / theirs.norm()))
    return max(errors)


def _grid_sample(
    value: Tensor, shapes: Tensor, _: Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    return ms_deform_attn_grid_sample(value, shapes, locations, weights)


def milliseconds(
    calls: dict[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, float]:
    """Return the median time of every call; they run alternately, after one run of each."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def _speed_line(case: Case, repeats: int, device: str) -> str:
    inputs = random_inputs(case, torch.float32, device)
    with torch.no_grad():
        forward = milliseconds(
            {"ours": lambda: ms_deform_attn(*inputs), "grid": lambda: _grid_sample(*inputs)},
            repeats,
            device,
        )
    both = milliseconds(
        {
            "ours": lambda: _outcome(ms_deform_attn, inputs),
            "grid": lambda: _outcome(_grid_sample, inputs),
        },
        repeats,
        device,
    )
    cells = [
        f"{taken['ours']:9.2f} {taken['grid']:9.2f} {taken['grid'] / taken['ours']:6.1f}x"
        for taken in (forward, both)
    ]
    return f"{case.name:<22} {'   '.join(cells)}"


def report(device: str, repeats: int) -> tuple[list[str], bool]:
    """Run the test on a device.

    Args:
        device: "cpu" or "cuda".
        repeats: number of timed runs of each call; 0 measures no time.

    Returns:
        The lines to print, and whether a kernel runs and every error is within its bound.
    """
    explanation = explain(torch.empty((1, 1, 1, 1), device=device))
    lines = [str(explanation), "", f"{'dtype':<22} {'largest error':>14} {'allowed':>9}"]
    passed = explanation.mend is None
    for dtype, bound in BOUNDS.items():
        error = largest_error(ms_deform_attn, dtype, device)
        good = error <= bound  # false for NaN
        passed = passed and good
        verdict = "ok" if good else "WRONG"
        lines.append(f"{dtype!s:<22} {error:14.1e} {bound:9.0e}  {verdict}")
    if repeats:
        title = f"{'operator':>9} {'grid':>9} {'faster':>7}"
        lines += [
            "",
            f"milliseconds on {device}, {torch.get_num_threads()} threads, float32, 8 heads of 32",
            f"{'':<22} {'forward':<29}forward and backward",
            f"{'':<22} {title}   {title}",
        ]
        lines += [_speed_line(case, repeats, device) for case in SPEED_CASES]
    return lines, passed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Returns:
        0 if a kernel runs and every error is within its bound, else 1.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {PACKAGE}.check",
        description="Test correctness and speed of the operator on this machine.",
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each call; 0: none")
    options = parser.parse_args(arguments)
    if options.repeats < 0:
        parser.error("--repeats is at least 0")
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    passed = True
    for device in devices:
        lines, good = report(device, options.repeats)
        passed = passed and good
        print("\n".join(lines))
    print("passed" if passed else f"FAILED; the build command is `{build_command(devices[-1])}`")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
