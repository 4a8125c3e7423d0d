"""Time of several calls on one image, with and without shared image features.

Measures, alternately within one run, ten `refer` calls that encode the image each, ten calls after
`set_image`, one call with ten expressions, and `segment` with and without parts.
Prints medians in milliseconds and ratios, and the number of runs of the backbone.

    python benchmarks/encode_once.py [--config-file FILE] [--weights FILE] [--repeats N]
        [--threads N] [--cpu-time] [--image FILE] [--output FOLDER]

Use CPU time on a machine with other load.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from hipie import Segmenter
from hipie.data.image_io import read_image
from hipie.data.picturebook import STUFF, THINGS, PictureBook
from hipie.engine.malloc import keep_freed_memory
from hipie.evaluation import write_results

EXPRESSIONS = (
    "the red car",
    "the blue car",
    "the largest tree",
    "the small dog",
    "the dog left of the tree",
    "the yellow house",
    "the person on the right",
    "the green balloon",
    "the striped umbrella",
    "the cat behind the chair",
)
PARTS = {thing.name: [part.name for part in thing.parts] for thing in THINGS if thing.parts}


def measured_calls(segmenter: Segmenter, image: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Build the calls that are compared, by name.

    Args:
        segmenter: a model with the tasks universal, parts and referring.
        image: [H, W, 3] uint8 RGB.
    """
    things, stuff = [thing.name for thing in THINGS], [entry.name for entry in STUFF]

    def refer_on_set_image(expressions: Sequence[str]) -> None:
        segmenter.set_image(image)
        for expression in expressions:
            segmenter.refer(expressions=expression)
        segmenter.reset_image()

    def segment_on_set_image() -> None:
        segmenter.set_image(image)
        segmenter.segment(things=things, stuff=stuff)
        segmenter.segment(things=things, stuff=stuff, parts=PARTS)
        segmenter.reset_image()

    return {
        "one refer call": lambda: segmenter.refer(image, EXPRESSIONS[0]),
        "ten refer calls": lambda: [segmenter.refer(image, text) for text in EXPRESSIONS],
        "set_image, ten refer calls": lambda: refer_on_set_image(EXPRESSIONS),
        "one refer call with ten expressions": lambda: segmenter.refer(image, EXPRESSIONS),
        "segment": lambda: segmenter.segment(image, things, stuff),
        "segment with parts": lambda: segmenter.segment(image, things, stuff, PARTS),
        "set_image, segment, segment with parts": segment_on_set_image,
    }


def backbone_runs(segmenter: Segmenter, call: Callable[[], Any]) -> int:
    """Count the runs of the backbone in a call."""
    runs: list[int] = []
    hook = segmenter.model.backbone.register_forward_hook(lambda *_: runs.append(1))
    try:
        call()
    finally:
        hook.remove()
    return len(runs)


def median_times(
    calls: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Measure median milliseconds of calls, run alternately; `clock` returns seconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(1000 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the program and return the written results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="nano/hipie_nano_picturebook.yaml")
    parser.add_argument("--weights", metavar="FILE", help="default: the configuration's weights")
    parser.add_argument("--image", metavar="FILE", help="default: a page of the picture book")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time of all threads")
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/encode_once"))
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", default=[])
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    segmenter = Segmenter.from_config(args.config_file, args.weights, "cpu", args.options)
    image = read_image(args.image) if args.image else PictureBook(2026, "val").page(2).image
    calls = measured_calls(segmenter, image)
    runs = {name: backbone_runs(segmenter, call) for name, call in calls.items()}
    clock = time.process_time if args.cpu_time else time.perf_counter
    times = median_times(calls, args.repeats, clock)
    references = {name: "segment" if "segment" in name else "one refer call" for name in calls}
    height, width = image.shape[:2]
    kind = "CPU ms" if args.cpu_time else "ms"
    print(f"medians of {args.repeats} turns, {args.threads} thread(s), image of {width}x{height}")
    print(f"| call | runs of the backbone | {kind} | times one call |\n|---|---|---|---|")
    for name, milliseconds in times.items():
        ratio = milliseconds / times[references[name]]
        print(f"| {name} | {runs[name]} | {milliseconds:.0f} | {ratio:.2f} |")
    results = {
        "encode_once": {
            name: {"backbone_runs": runs[name], "milliseconds": times[name]} for name in calls
        }
    }
    print(f"written to {write_results(results, args.output)}")
    return results


if __name__ == "__main__":
    main()
