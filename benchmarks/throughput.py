"""Images a second of a run, against a loop that reads, segments and writes one image after another.

Seconds of processors (CPU), of all processes of a way together, hardly depend on what else the
machine does; images a second do.

Pages of the picture book are written as JPEG files of one size. With each number of threads the
loop, a run in one process (reading and writing overlap with the model), and, from two threads on,
a run of as many processes with one thread each take turns. Starting the processes is not counted,
and printed. Shares of the loop's time say what limits it.

    python benchmarks/throughput.py [--model nano|r50] [--threads 1 2] [--images N] [--repeats N]
        [--config-file FILE] [--weights FILE] [--random-weights] [--output FOLDER] [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from detectron2.modeling import build_model
from PIL import Image

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from hipie import Segmenter, model_zoo
from hipie.batch_inference import RunFolder, WorkerPool, find_inputs, run
from hipie.batch_inference.formats import build_formats
from hipie.config.loading import check
from hipie.data.image_io import read_image
from hipie.data.picturebook import STUFF, THINGS, PictureBook
from hipie.engine.malloc import keep_freed_memory
from hipie.evaluation import write_results
from hipie.segmentation import Segmentation

MODELS = {"nano": "nano/hipie_nano_picturebook.yaml", "r50": "universal/hipie_r50.yaml"}
SIZE = (640, 480)
SHARES = ("read", "model", "write")


def build_call(
    config_file: str, weights: str | None, random_weights: bool, options: Sequence[str]
) -> tuple[Callable[[Any], Segmentation], dict[str, Any]]:
    """Build a model and its call on an image, in any process; random weights have a fixed seed."""
    if random_weights:
        cfg = model_zoo.get_config(config_file, options)
        cfg.MODEL.DEVICE = "cpu"
        check(cfg)
        torch.manual_seed(0)
        segmenter = Segmenter(build_model(cfg), cfg)
    else:
        segmenter = Segmenter.from_config(config_file, weights, "cpu", options)
    keep_freed_memory()
    things, stuff = [thing.name for thing in THINGS], [entry.name for entry in STUFF]
    return lambda image: segmenter.segment(image, things, stuff), {}


def write_images(folder: Path, count: int) -> list[Path]:
    """Write pages of the picture book as JPEG files."""
    book = PictureBook(2026, "val")
    files = [folder / f"{number}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        Image.fromarray(book.page(number).image).resize(SIZE).save(file, quality=95)
    return files


def run_loop(
    files: Sequence[Path], folder: Path, segment: Callable[[Any], Segmentation]
) -> dict[str, float]:
    """Read, segment and write images in turn, and return the seconds of each step."""
    seconds = dict.fromkeys(SHARES, 0.0)
    for file in files:
        start = time.perf_counter()
        image = read_image(file)
        read = time.perf_counter()
        result = segment(image)
        computed = time.perf_counter()
        result.save(folder / f"{file.stem}.json")
        result.save(folder / f"{file.stem}.png", file.stem)
        steps = (read - start, computed - read, time.perf_counter() - computed)
        for name, duration in zip(SHARES, steps, strict=True):
            seconds[name] += duration
    return seconds


def run_folder(files: Sequence[Path], folder: Path, segment: Any) -> None:
    """Do the same as a run, in this process or in those of a pool."""
    inputs = find_inputs([str(file) for file in files])
    with RunFolder(folder, {"program": "benchmark"}) as opened:
        summary = run(inputs, opened, build_formats(["json", "overlay"]), segment)
    if summary.done != len(files):
        raise SystemExit(f"{summary.failed} of {len(files)} images have failed")


def cpu_seconds() -> float:
    """Return the seconds of processors of this process and those that it has started."""
    total = time.process_time()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure(args: argparse.Namespace, threads: int, root: Path) -> dict[str, Any]:
    """Measure the ways of work with a number of threads, which alternate.

    Returns:
        `images_a_second` and `cpu_seconds_an_image` (medians) by way, `shares` of the loop's
        time, and `start_seconds` of the processes.
    """
    files = write_images(root, args.images)
    build = partial(
        build_call, args.config_file, args.weights, args.random_weights, tuple(args.options)
    )
    torch.set_num_threads(threads)
    segment, _ = build()
    segment(read_image(files[0]))
    shares = dict.fromkeys(SHARES, 0.0)

    def loop(folder: Path) -> None:
        for name, seconds in run_loop(files, folder, segment).items():
            shares[name] += seconds

    ways: dict[str, Callable[[Path], None]] = {
        "loop": loop,
        "run, 1 process": lambda folder: run_folder(files, folder, segment),
    }
    start = time.perf_counter()
    pool = WorkerPool(threads, build, threads=1) if threads > 1 else None
    try:
        if pool is not None:
            # The first images wait for all processes.
            run_folder(files, root / "start", pool)
            ways[f"run, {threads} processes"] = lambda folder: run_folder(files, folder, pool)
        start_seconds = time.perf_counter() - start
        times: dict[str, list[float]] = {name: [] for name in ways}
        used: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(args.repeats):
            for number, (name, way) in enumerate(ways.items()):
                folder = root / f"{turn}_{number}"
                start, cpu_start = time.perf_counter(), cpu_seconds()
                way(folder)
                times[name].append(time.perf_counter() - start)
                used[name].append(cpu_seconds() - cpu_start)
    finally:
        if pool is not None:
            pool.close()
    total = sum(shares.values())
    return {
        "images_a_second": {
            name: args.images / statistics.median(values) for name, values in times.items()
        },
        "cpu_seconds_an_image": {
            name: statistics.median(values) / args.images for name, values in used.items()
        },
        "shares": {name: seconds / total for name, seconds in shares.items()},
        "start_seconds": start_seconds if pool is not None else 0.0,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the program and return the written results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="nano", help="r50 has random weights")
    parser.add_argument("--config-file", metavar="FILE", help="another model")
    parser.add_argument("--weights", metavar="FILE", help="default: the configuration's weights")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/throughput"))
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", default=[])
    args = parser.parse_args(arguments)
    if args.config_file is None:
        args.config_file, args.random_weights = MODELS[args.model], args.model == "r50"
    results: dict[str, Any] = {}
    print(f"{args.config_file}, {args.images} images of {SIZE[0]}x{SIZE[1]}, {args.repeats} turns")
    print("| threads | way | images a second | times the loop | CPU seconds an image |")
    print("|---|---|---|---|---|")
    for threads in args.threads:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(args, threads, Path(folder))
        results[str(threads)] = measured
        rates = measured["images_a_second"]
        for way, rate in rates.items():
            cpu = measured["cpu_seconds_an_image"][way]
            ratio = rate / rates["loop"]
            print(f"| {threads} | {way} | {rate:.2f} | {ratio:.2f} | {cpu:.2f} |", flush=True)
        shares = ", ".join(f"{name} {100 * x:.0f} %" for name, x in measured["shares"].items())
        print(f"{threads} thread(s): the loop's time is {shares}", end="")
        print(f"; processes start in {measured['start_seconds']:.0f} s")
    results = {"throughput": results}
    print(f"written to {write_results(results, args.output)}")
    return results


if __name__ == "__main__":
    main()
