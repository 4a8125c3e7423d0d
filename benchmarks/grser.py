"""What a group costs GRSer as it grows: time, the share of the all-pairs part, memory, expressions.

Weights are random and images are noise. Every group size runs in a process of its own, so that
the peak of its memory is its own: the process's peak, less what it held before the group was asked.

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

# This file's own name must not hide the package's.
sys.path[0] = str(Path(__file__).parents[1])
CONFIGURATION = "projects/GRSer/configs/grser_nano_picturebook.yaml"
EXPRESSION = "the red kite above the house"
MB = 2**20


def build(options: argparse.Namespace, heatmaps: str) -> Any:
    """The configuration's model with random weights."""
    from detectron2.modeling import build_model

    from hipie import model_zoo

    asked = ["MODEL.GRSER.HEATMAPS", heatmaps, "MODEL.DEVICE", "cpu", *options.opts]
    cfg = model_zoo.get_config(str(Path(sys.path[0]) / options.config_file), asked)
    torch.manual_seed(0)
    return build_model(cfg).eval()


def group_of(size: int, side: int) -> dict[str, Any]:
    """Noise, and an expression that no other group has, so that its features are not remembered."""
    noise = torch.rand(size, 3, side, side, generator=torch.Generator().manual_seed(size))
    images = [{"image": 255 * one, "height": side, "width": side} for one in noise]
    return {"images": images, "expression": EXPRESSION, "height": side, "width": side}


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One group size: median seconds of the whole and of the group's modules, peak, expressions."""
    from hipie.engine.malloc import keep_freed_memory

    keep_freed_memory()
    model, group = build(options, options.heatmaps[0]), group_of(options.sizes[0], options.side)
    model([{**group, "images": group["images"][:1], "expression": "warm up"}])
    held = _peak()
    watched = timed(model.triphasic_head.forward)
    model.triphasic_head.forward = watched
    rows: list[int] = []
    model.text_encoder.model.register_forward_hook(
        lambda *seen: rows.append(len(seen[-1].last_hidden_state))
    )
    whole = []
    for turn in range(options.repeats + 1):
        start = time.perf_counter()
        model([{**group, "expression": f"{EXPRESSION} {turn}"}])
        if turn:
            whole.append(time.perf_counter() - start)
    pairs = watched.seconds[1:]
    return {
        "whole": statistics.median(whole),
        "pairs": statistics.median(pairs),
        "peak": (_peak() - held) / MB,
        "sentences": sum(rows) / (options.repeats + 1),
        "places": float(watched.places),
    }


def timed(forward: Callable[..., Any]) -> Any:
    """A function that also keeps the seconds of each call, and the places of a heatmap."""

    def watched(maps: torch.Tensor, *others: torch.Tensor) -> Any:
        start = time.perf_counter()
        found = forward(maps, *others)
        watched.seconds.append(time.perf_counter() - start)
        watched.places = maps.shape[-2] * maps.shape[-1]
        return found

    watched.seconds, watched.places = [], 0
    return watched


def _peak() -> int:
    """Bytes; Linux counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(found: dict[tuple[str, int], dict[str, float]]) -> str:
    """A row a group size, in Markdown."""
    rows = [
        "| heatmaps | N | seconds | an image | all pairs | share | peak MB | N² heatmaps MB "
        "| encoded expressions |",
        "|---" * 9 + "|",
    ]
    for (heatmaps, size), one in found.items():
        squares = 4 * size**2 * one["places"] / MB
        rows.append(
            f"| {heatmaps} | {size} | {one['whole']:.3f} | {one['whole'] / size:.3f} "
            f"| {one['pairs']:.4f} | {one['pairs'] / one['whole']:.1%} | {one['peak']:.0f} "
            f"| {squares:.2f} | {one['sentences']:g} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Measure every size in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default=CONFIGURATION)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--heatmaps", nargs="+", default=["ranked", "pooled"])
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure(options)))
        return
    found = {}
    for heatmaps in options.heatmaps:
        for size in options.sizes:
            words = ["--config-file", options.config_file, "--side", str(options.side)]
            words += ["--sizes", str(size), "--heatmaps", heatmaps, "--one"]
            words += ["--repeats", str(options.repeats), "--threads", str(options.threads)]
            command = [sys.executable, __file__, *words, "--opts", *options.opts]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[heatmaps, size] = json.loads(said.splitlines()[-1])
    print(f"{options.config_file}, images of {options.side}x{options.side}")
    print(table(found))


if __name__ == "__main__":
    main()
