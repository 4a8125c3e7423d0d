"""Speed and memory of multi-scale deformable attention, against grid sampling.

Compares the native kernel with the grid-sample implementation that other packages use on the CPU,
alternately within one run, and prints medians and their ratios. Sampling locations are within about
two pixels of the reference point on every level, as in a trained encoder.

    python benchmarks/ms_deform_attn.py [--threads N] [--repeats N] [--shapes encoder decoder ...]
    python benchmarks/ms_deform_attn.py --peers [--clock cpu]
    python benchmarks/ms_deform_attn.py --plot docs/ms_deform_attn_cost.png

`--peers` compares with those of PEERS that are installed, in float32: transformers, mmcv-lite
2.2.0, torch-ms-deform-attn 0.1.1 (C++), and deformops 3.0.1 (Python 3.12 and later; its PyTorch
form, as its other ones need a GPU). Columns: median milliseconds forward, and forward and backward;
both divided by hipie's; peak extra memory of both, in units of the output; relative difference of
the outputs.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
import hipie.ops
from hipie.ops import explain, ms_deform_attn
from hipie.ops.grid_sample import ms_deform_attn_grid_sample

COCO = ((100, 134), (50, 67), (25, 34), (13, 17))


@dataclass(frozen=True)
class Shape:
    """Sizes of one call; `queries` None means one query per token."""

    levels: tuple[tuple[int, int], ...]
    queries: int | None = None
    heads: int = 8
    width: int = 32
    points: int = 4
    batch: int = 1


SHAPES = {
    "encoder": Shape(COCO),
    "decoder": Shape(COCO, queries=900),
    "injector": Shape(((128, 128), (64, 64), (32, 32)), queries=64 * 64, heads=12),
    "nano": Shape(((32, 32), (16, 16), (8, 8), (4, 4)), width=16, batch=4),
    "toy": Shape(((8, 8), (4, 4), (2, 2), (1, 1))),
}


def arguments(shape: Shape) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Build the tensors of one call, in float32."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor(shape.levels)
    areas = sizes.prod(1)
    if shape.queries is None:
        reference = torch.cat([_centres(*level) for level in shape.levels])
    else:
        reference = torch.rand((shape.queries, 2), generator=generator)
    place = (shape.batch, len(reference), shape.heads, len(shape.levels), shape.points)
    offsets = 2 * torch.randn((*place, 2), generator=generator)
    locations = reference[None, :, None, None, None] + offsets / sizes.flip(1)[:, None].float()
    weights = torch.rand(place, generator=generator).flatten(3).softmax(-1).view(place)
    value = torch.randn(
        (shape.batch, int(areas.sum()), shape.heads, shape.width), generator=generator
    )
    return value, sizes, areas.cumsum(0) - areas, locations, weights


def _centres(rows: int, columns: int) -> Tensor:
    y, x = torch.meshgrid(
        (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij"
    )
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def grid_sample_form(value, shapes, starts, locations, weights) -> Tensor:
    """Compute the operator by grid sampling, with the operator's arguments."""
    return ms_deform_attn_grid_sample(value, shapes, locations, weights)


def backward_of(operator: Callable, inputs: tuple) -> Callable[[], None]:
    """Build a call that runs an operator forward and backward."""
    value, shapes, starts, locations, weights = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    batch, _, heads, width = value.shape
    gradient = torch.ones((batch, locations.shape[1], heads * width), dtype=value.dtype)

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        operator(leaves[0], shapes, starts, *leaves[1:]).backward(gradient)

    return run


def transformers_form() -> Callable[..., Tensor]:
    """Return the function of transformers' Mask2Former."""
    module = importlib.import_module("transformers.models.mask2former.modeling_mask2former")
    function = module.multi_scale_deformable_attention
    return lambda value, shapes, starts, *rest: function(value, shapes.tolist(), *rest)


def mmcv_form() -> Callable[..., Tensor]:
    """Return the function that mmcv's layer calls on the CPU."""
    with hipie.ops.patch("mmcv"):  # stands in for the extension that mmcv-lite lacks
        module = importlib.import_module("mmcv.ops.multi_scale_deform_attn")
    function = module.multi_scale_deformable_attn_pytorch
    return lambda value, shapes, starts, *rest: function(value, shapes, *rest)


def torch_ms_deform_attn_form() -> Callable[..., Tensor]:
    """Return the C++ operator of torch-ms-deform-attn."""
    return importlib.import_module("torch_ms_deform_attn").ms_deform_attn


def deformops_form() -> Callable[..., Tensor]:
    """Return the PyTorch implementation of deformops."""
    registry = importlib.import_module("deformops.registry")
    return lambda *inputs: registry.msda(*inputs, backend=registry.Backend.EAGER)


PEERS = {
    "transformers": transformers_form,
    "mmcv-lite": mmcv_form,
    "torch-ms-deform-attn": torch_ms_deform_attn_form,
    "deformops": deformops_form,
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def installed_peers() -> dict[str, Callable[..., Tensor]]:
    """Return the implementations of PEERS that can be imported; print why others cannot."""
    operators: dict[str, Callable[..., Tensor]] = {}
    for name, load in PEERS.items():
        try:
            operators[name] = load()
        except (ImportError, SyntaxError, OSError) as error:
            print(f"{name} is not measured: {str(error).splitlines()[0]}")
    return operators


def measure_peers(
    operators: dict[str, Callable[..., Tensor]],
    name: str,
    threads: int,
    repeats: int,
    clock: Callable[[], float],
) -> None:
    """Print a line for every implementation at one shape."""
    torch.set_num_threads(threads)
    inputs = arguments(SHAPES[name])
    with torch.no_grad():
        calls = {key: lambda call=call: call(*inputs) for key, call in operators.items()}
        outputs = {key: call() for key, call in calls.items()}
        forward = medians(calls, repeats, clock)
        size = outputs["hipie"].numel() * outputs["hipie"].element_size()
        extra = {key: extra_memory(call, size, warm=False) for key, call in calls.items()}
    calls = {key: backward_of(call, inputs) for key, call in operators.items()}
    both = medians(calls, repeats, clock)
    extra_both = {key: extra_memory(call, size, warm=False) for key, call in calls.items()}
    largest = float(outputs["hipie"].abs().max())
    for key in operators:
        difference = float((outputs[key] - outputs["hipie"]).abs().max()) / largest
        memory = [
            "" if extra[key] is None else f"{values[key]:.1f}" for values in (extra, extra_both)
        ]
        print(
            f"| {name} | {threads} | {key} | {forward[key]:.2f} | {both[key]:.2f} "
            f"| {forward[key] / forward['hipie']:.1f} | {both[key] / both['hipie']:.1f} "
            f"| {' | '.join(memory)} | {difference:.0e} |",
            flush=True,
        )


def medians(
    calls: dict[str, Callable], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Measure median milliseconds of every call, run alternately."""
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def measure(shape: Shape, repeats: int) -> dict[str, dict[str, float]]:
    """Measure milliseconds by pass and implementation."""
    exact = arguments(shape)
    reduced = (exact[0].bfloat16(), *exact[1:])
    with torch.no_grad():
        forward = medians(
            {
                "grid-sample": lambda: grid_sample_form(*exact),
                "float32": lambda: ms_deform_attn(*exact),
                "bfloat16": lambda: ms_deform_attn(*reduced),
            },
            repeats,
        )
    both = medians(
        {
            "grid-sample": backward_of(grid_sample_form, exact),
            "float32": backward_of(ms_deform_attn, exact),
            "bfloat16": backward_of(ms_deform_attn, reduced),
        },
        repeats,
    )
    return {"forward": forward, "forward and backward": both}


def extra_memory(call: Callable[[], object], size: int, warm: bool = True) -> float | None:
    """Measure the peak memory that a call adds, in units of its output's bytes (Linux only)."""
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        return None

    def kilobytes(key: str) -> int:
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key))

    if warm:
        call()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory must not count as used
    reset.write_text("5")
    before = kilobytes("VmRSS")
    call()
    return 1024 * (kilobytes("VmHWM") - before) / size


def plot(file: str, repeats: int) -> None:
    """Draw the kernel's time against queries and against points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    queries, points = [1000, 2000, 4000, 8000, 12000, 16000], [1, 2, 4, 6, 8, 12]
    sweeps = [
        ("queries", queries, [Shape(COCO, queries=number) for number in queries]),
        ("points a level", points, [Shape(COCO, queries=4000, points=n) for n in points]),
    ]
    for axis, (name, numbers, shapes) in zip(axes, sweeps, strict=True):
        taken = [measure_kernel(shape, repeats) for shape in shapes]
        for index, label in enumerate(("forward", "forward and backward")):
            axis.plot(numbers, [pair[index] for pair in taken], "o-", label=label)
        axis.set(xlabel=name, ylabel="milliseconds", xlim=(0, None), ylim=(0, None))
        axis.legend(frameon=False)
        print(name, numbers, [[round(time, 2) for time in pair] for pair in taken])
    figure.savefig(file, dpi=80)


def measure_kernel(shape: Shape, repeats: int) -> tuple[float, float]:
    """Measure milliseconds of the kernel in float32: forward, and forward and backward."""
    exact = arguments(shape)
    with torch.no_grad():
        forward = medians({"": lambda: ms_deform_attn(*exact)}, repeats)[""]
    return forward, medians({"": backward_of(ms_deform_attn, exact)}, repeats)[""]


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--peers", action="store_true", help="compare with other packages")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="clock of --peers; cpu on a busy machine"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw cost against queries and points")
    options = parser.parse_args()
    torch.set_num_threads(options.threads[0])
    if options.plot:
        plot(options.plot, options.repeats)
        return
    print(f"{explain().implementation}, torch {torch.__version__}")
    if options.peers:
        operators = {"hipie": ms_deform_attn, **installed_peers()}
        columns = "shape threads implementation forward both times times memory memory difference"
        print(f"| {columns.replace(' ', ' | ')} |")
        print("|---" * 10 + "|")
        for threads in options.threads:
            for name in options.shapes:
                measure_peers(operators, name, threads, options.repeats, CLOCKS[options.clock])
        return
    for threads in options.threads:
        compare(options, threads)


def compare(options: argparse.Namespace, threads: int) -> None:
    """Print the tables of one number of threads."""
    torch.set_num_threads(threads)
    print(f"{threads} threads")
    print("| shape | pass | grid-sample ms | float32 ms | bfloat16 ms | float32 is | bfloat16 is |")
    print("|---|---|---|---|---|---|---|")
    for name in options.shapes:
        for part, taken in measure(SHAPES[name], options.repeats).items():
            form, exact, reduced = taken.values()
            print(
                f"| {name} | {part} | {form:.2f} | {exact:.2f} | {reduced:.2f} "
                f"| {form / exact:.1f} times faster | {form / reduced:.1f} times faster |",
                flush=True,
            )
    inputs = arguments(SHAPES["encoder"])
    with torch.no_grad():
        for name, operator in (("grid-sample", grid_sample_form), ("float32", ms_deform_attn)):
            size = inputs[0].numel() * inputs[0].element_size()  # of the output, as of the value
            extra = extra_memory(lambda operator=operator: operator(*inputs), size)
            if extra is not None:
                print(f"peak extra memory at the encoder shape, {name}: {extra:.2f} outputs")


if __name__ == "__main__":
    main()
