"""CPU time of a decoder's value projections: one a layer, or one for all layers.

    python benchmarks/value_projections.py [--tokens 17821] [--width 256] [--layers 6] [--repeats 7]

All layers of a decoder read the same memory [S, C]. Their weights side by side make one product of
it, whose result the layers then share as parts [S, C] of [S, layers * C], or as copies. Random
weights, one thread, in turns; the times are CPU times. The operator that samples the values needs
them contiguous, so the form with copies is the one that could be used.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def forms(
    memory: Tensor, weights: list[Tensor], biases: list[Tensor]
) -> dict[str, Callable[[], list[Tensor]]]:
    """Computations of the values of all layers, by name."""
    weight, bias = torch.cat(weights), torch.cat(biases)
    width = len(biases[0])

    def separate() -> list[Tensor]:
        return [F.linear(memory, w, b) for w, b in zip(weights, biases, strict=True)]

    def fused() -> list[Tensor]:
        return list(F.linear(memory, weight, bias).split(width, dim=1))

    return {
        "one a layer": separate,
        "one for all, parts": fused,
        "one for all, copies": lambda: [values.contiguous() for values in fused()],
    }


def measure(options: argparse.Namespace, dtype: torch.dtype) -> dict[str, list[float]]:
    """CPU milliseconds of every form, `options.repeats` of each."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    width = options.width
    computations = forms(
        random(options.tokens, width),
        [random(width, width) / width**0.5 for _ in range(options.layers)],
        [random(width) for _ in range(options.layers)],
    )
    reference = computations["one a layer"]()
    for compute in computations.values():
        for values, expected in zip(compute(), reference, strict=True):
            torch.testing.assert_close(values, expected, rtol=2e-2, atol=2e-2)
    times: dict[str, list[float]] = {name: [] for name in computations}
    for _ in range(options.repeats):
        for name, compute in computations.items():
            start = time.process_time()
            compute()
            times[name].append(1000 * (time.process_time() - start))
    return times


def main() -> None:
    """Print a table row a number type and form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=17821)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| type | form | CPU ms, median (lowest, highest) | times as fast |\n|---|---|---|---|")
    for name, dtype in DTYPES.items():
        times = measure(options, dtype)
        first = times["one a layer"]
        for form, values in times.items():
            ratio = statistics.median(a / b for a, b in zip(first, values, strict=True))
            spread = f"{statistics.median(values):.1f} ({min(values):.1f}, {max(values):.1f})"
            print(f"| {name} | {form} | {spread} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
