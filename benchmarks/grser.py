"""Time and memory of GRSer by group size, and the share of the all-pairs similarities.

Weights are random and images are noise. Every group size is measured in a separate process; its
memory is the peak of the process minus its memory before the measurement.

    python benchmarks/grser.py [--sizes 1 2 4 8 16 32 64] [--heatmaps ranked pooled] [--side 192]
    python benchmarks/grser.py --config-file projects/GRSer/configs/grser_swin_b.yaml --side 480
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
CONFIGURATION = "projects/GRSer/configs/grser_nano_picturebook.yaml"
EXPRESSION = "the red kite above the house"
MB = 2**20


def build(options: argparse.Namespace, heatmaps: str) -> Any:
    """Build the model of the configuration with random weights."""
    from detectron2.modeling import build_model

    from hipie import model_zoo

    overrides = ["MODEL.GRSER.HEATMAPS", heatmaps, "MODEL.DEVICE", "cpu", *options.opts]
    cfg = model_zoo.get_config(str(Path(sys.path[0]) / options.config_file), overrides)
    torch.manual_seed(0)
    return build_model(cfg).eval()


def group_of(size: int, side: int) -> dict[str, Any]:
    """Build a group of images of noise with an expression."""
    noise = torch.rand(size, 3, side, side, generator=torch.Generator().manual_seed(size))
    images = [{"image": 255 * image, "height": side, "width": side} for image in noise]
    return {"images": images, "expression": EXPRESSION, "height": side, "width": side}


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measure one group size: median seconds of model and group modules, memory, expressions."""
    from hipie.engine.malloc import keep_freed_memory

    keep_freed_memory()
    model, group = build(options, options.heatmaps[0]), group_of(options.sizes[0], options.side)
    model([{**group, "images": group["images"][:1], "expression": "warm up"}])
    memory_before = _peak()
    timed_forward = timed(model.triphasic_head.forward)
    model.triphasic_head.forward = timed_forward
    encoded: list[int] = []
    model.text_encoder.model.register_forward_hook(
        lambda *arguments: encoded.append(len(arguments[-1].last_hidden_state))
    )
    seconds = []
    for repeat in range(options.repeats + 1):
        start = time.perf_counter()
        model([{**group, "expression": f"{EXPRESSION} {repeat}"}])
        if repeat:
            seconds.append(time.perf_counter() - start)
    return {
        "model": statistics.median(seconds),
        "pairs": statistics.median(timed_forward.seconds[1:]),
        "peak": (_peak() - memory_before) / MB,
        "expressions": sum(encoded) / (options.repeats + 1),
        "positions": float(timed_forward.positions),
    }


def timed(forward: Callable[..., Any]) -> Any:
    """Wrap a function to record the seconds of each call, and the positions of a heatmap."""

    def timed_forward(maps: torch.Tensor, *others: torch.Tensor) -> Any:
        start = time.perf_counter()
        output = forward(maps, *others)
        timed_forward.seconds.append(time.perf_counter() - start)
        timed_forward.positions = maps.shape[-2] * maps.shape[-1]
        return output

    timed_forward.seconds, timed_forward.positions = [], 0
    return timed_forward


def _peak() -> int:
    """Return the peak memory of the process in bytes; Linux reports KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(results: dict[tuple[str, int], dict[str, float]]) -> str:
    """Build a Markdown table with a row for each group size."""
    rows = [
        "| heatmaps | N | seconds | an image | all pairs | share | peak MB | N² heatmaps MB "
        "| encoded expressions |",
        "|---" * 9 + "|",
    ]
    for (heatmaps, size), result in results.items():
        squares = 4 * size**2 * result["positions"] / MB
        rows.append(
            f"| {heatmaps} | {size} | {result['model']:.3f} | {result['model'] / size:.3f} "
            f"| {result['pairs']:.4f} | {result['pairs'] / result['model']:.1%} "
            f"| {result['peak']:.0f} | {squares:.2f} | {result['expressions']:g} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Measure every size in a separate process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default=CONFIGURATION)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--heatmaps", nargs="+", default=["ranked", "pooled"])
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.single:
        print(json.dumps(measure(options)))
        return
    results = {}
    for heatmaps in options.heatmaps:
        for size in options.sizes:
            arguments = ["--config-file", options.config_file, "--side", str(options.side)]
            arguments += ["--sizes", str(size), "--heatmaps", heatmaps, "--single"]
            arguments += ["--repeats", str(options.repeats), "--threads", str(options.threads)]
            command = [sys.executable, __file__, *arguments, "--opts", *options.opts]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results[heatmaps, size] = json.loads(output.splitlines()[-1])
    print(f"{options.config_file}, images of {options.side}x{options.side}")
    print(table(results))


if __name__ == "__main__":
    main()
