"""Speed, time by stage and memory of HIPIE.

Variants are measured alternately within one run, after a warm-up, as medians of several; compare
ratios. Weights are random and the image is noise: times hardly depend on the content of an image.

    python benchmarks/hipie.py stages    [--model r50|vit_h] [--size 800x1066] [--names 12 133 459]
    python benchmarks/hipie.py published [...]   against the published computation
    python benchmarks/hipie.py expressions [...]   ten expressions for one image against one
    python benchmarks/hipie.py names     [...]   time against the number of names [--plot FILE]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.hipie_stages import STAGES, timed_stages
from benchmarks.published_computation import published_computation
from hipie import model_zoo
from hipie.engine.malloc import keep_freed_memory
from hipie.modeling.meta_arch.hipie import HIPIE
from hipie.vocabularies.vocabulary import Vocabulary

COLOURS = ("red", "green", "blue", "small", "large", "old", "wooden", "striped", "wet", "broken")
VARIANTS = ("published", "published-kept", "ours")
EXPRESSIONS = [f"the {colour} dog left of the tree" for colour in COLOURS]


def build(name: str) -> HIPIE:
    """Build the full-size model with random weights."""
    cfg = model_zoo.get_config(f"universal/hipie_{name}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    return build_model(cfg).eval()


def vocabulary(count: int) -> Vocabulary:
    """Build a vocabulary of `count` names: COCO's 133 classes, then each with an adjective."""
    plain = [(category["name"], bool(category["isthing"])) for category in COCO_CATEGORIES]
    more = [(f"{colour} {name}", thing) for colour, (name, thing) in product(COLOURS, plain)]
    more += [(f"{a} {b} {name}", t) for a, b, (name, t) in product(COLOURS[:3], COLOURS[3:], plain)]
    chosen = (
        (plain + more)[:count] if count >= len(plain) else plain[:: len(plain) // count][:count]
    )
    return Vocabulary.from_names(
        things=[name for name, thing in chosen if thing],
        stuff=[name for name, thing in chosen if not thing],
    )


def image(size: str) -> dict:
    """Build an input dict with an image of noise of size "HEIGHTxWIDTH"."""
    height, width = (int(side) for side in size.split("x"))
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    return {"image": 255 * noise, "height": height, "width": width}


def medians(jobs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Measure median seconds of each job, run alternately after a warm-up each."""
    times: list[list[float]] = [[] for _ in jobs]
    for turn in range(repeats + 1):
        for job, seconds in zip(jobs, times, strict=True):
            start = time.perf_counter()
            job()
            if turn:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def stages(options: argparse.Namespace) -> None:
    """Print seconds and shares of every stage by vocabulary size, with cached text features."""
    model = build(options.model)
    print(f"{options.model} at {options.size}: seconds by stage, second image of a vocabulary")
    print(f"{'names':>6}" + "".join(f"{stage:>10}" for stage in (*STAGES, "total")))
    for count in options.names:
        item = {**image(options.size), "vocabulary": vocabulary(count)}
        model([item])
        rows = []
        for _ in range(options.repeats):
            with timed_stages(model) as stopwatch:
                model([item])
            rows.append([stopwatch.seconds[stage] for stage in STAGES])
        row = [statistics.median(column) for column in zip(*rows, strict=True)]
        total = sum(row)
        print(f"{count:>6}" + "".join(f"{seconds:>10.3f}" for seconds in (*row, total)))
        print(f"{'':>6}" + "".join(f"{seconds / total:>10.1%}" for seconds in (*row, total)))


def published(options: argparse.Namespace) -> None:
    """Compare with the published computation, one process a variant, run alternately.

    The published computation is measured with glibc's default, which returns freed memory to the
    system, and with freed memory kept, as this package's programs keep it.
    """
    for count in options.names:
        processes = {name: _start(name, count, options) for name in VARIANTS}
        times: dict[str, list[float]] = {name: [] for name in processes}
        for turn in range(options.repeats + 1):
            for name, process in processes.items():
                seconds = _request(process, "image")
                if turn:
                    times[name].append(seconds)
        seconds = {name: statistics.median(values) for name, values in times.items()}
        peaks = {name: _request(process, "peak") / 2**20 for name, process in processes.items()}
        print(f"{options.model} {options.size} {count} names")
        for name in VARIANTS:
            print(
                f"  {name:>14}: {seconds[name]:.2f} s, {seconds[name] / seconds['ours']:.2f} times "
                f"ours; {peaks[name]:.2f} GiB, ours takes {peaks['ours'] / peaks[name]:.0%}"
            )
        loaded = _request(processes["ours"], "loaded") / 2**20
        print(f"  memory of the loaded model: {loaded:.2f} GiB")
        for process in processes.values():
            process.stdin.close()
            process.wait()


def _start(variant: str, count: int, options: argparse.Namespace) -> subprocess.Popen:
    command = [*(sys.executable, __file__, "serve", "--variant", variant, "--model", options.model)]
    command += ["--size", options.size, "--names", str(count), "--threads", str(options.threads)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _request(process: subprocess.Popen, request: str) -> float:
    print(request, file=process.stdin, flush=True)
    for line in process.stdout:
        if line.startswith("result "):
            return float(line.split()[1])
    raise SystemExit(f"the measured process exited with status {process.wait()}")


def serve(options: argparse.Namespace) -> None:
    """Process of one variant for `published`: one image for every line "image" on stdin."""
    model = build(options.model)
    count = options.names[0]
    item = {**image(options.size), "vocabulary": vocabulary(count)}
    published = published_computation(model, 512 if count <= 150 else 1536)
    loaded = resident("VmRSS")
    with nullcontext() if options.variant == "ours" else published:
        for line in sys.stdin:
            request = line.strip()
            start = time.perf_counter()
            if request == "image":
                model([item])
            values = {"peak": resident("VmHWM"), "loaded": loaded}
            values["image"] = time.perf_counter() - start
            print("result", values[request], flush=True)


def resident(kind: str) -> int:
    """Return the memory of this process in KiB: current (VmRSS) or peak (VmHWM); Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1])


def expressions(options: argparse.Namespace) -> None:
    """Compare ten expressions for one image with one, in one call and with encoded images."""
    model = build(options.model)
    item = image(options.size)
    features = model.encode_images([item], stuff=False)
    single, ten, encode, encoded = medians(
        [
            lambda: model([{**item, "expressions": EXPRESSIONS[:1]}]),
            lambda: model([{**item, "expressions": EXPRESSIONS}]),
            lambda: model.encode_images([item], stuff=False),
            lambda: model.inference([{**item, "expressions": EXPRESSIONS[:1]}], features),
        ],
        options.repeats,
    )
    print(
        f"{options.model} {options.size}: one expression {single:.2f} s; ten at once {ten:.2f} s, "
        f"{ten / single:.2f} times; ten calls with encoded images {encode + 10 * encoded:.2f} s, "
        f"{(encode + 10 * encoded) / (10 * single):.2f} of ten calls without"
    )


def names(options: argparse.Namespace) -> None:
    """Print seconds of the first and of later images of a vocabulary of 10 to 2,000 names."""
    model = build(options.model)
    rows = []
    for count in (10, 20, 50, 100, 200, 500, 1000, 2000):
        classes = vocabulary(count)
        item = {**image(options.size), "vocabulary": classes}
        start = time.perf_counter()
        model([item])
        first = time.perf_counter() - start
        (later,) = medians([lambda item=item: model([item])], options.repeats)
        rows.append((len(classes), first, later))
        print(f"{len(classes):>5} names: first image {first:.2f} s, later ones {later:.2f} s")
    if options.plot:
        _plot(rows, options.plot, f"{options.model}, {options.size}, {options.threads} threads")


def _plot(rows: list[tuple[int, float, float]], path: str, title: str) -> None:
    import matplotlib.pyplot as plt

    counts, first, later = zip(*rows, strict=True)
    figure, axes = plt.subplots(figsize=(6, 4))
    axes.plot(counts, first, "o--", label="first image of a vocabulary")
    axes.plot(counts, later, "o-", label="later images")
    axes.set(xscale="log", xlabel="class names", ylabel="seconds an image", title=title, ylim=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """Run the benchmark that the command line names."""
    requests = {
        function.__name__: function for function in (stages, published, serve, expressions, names)
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("request", choices=requests)
    parser.add_argument("--model", default="r50", choices=["r50", "vit_h"])
    parser.add_argument("--size", default="800x1066", metavar="HxW")
    parser.add_argument("--names", type=int, nargs="+", default=[133])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variant", choices=VARIANTS, default="ours")
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.variant != "published":
        keep_freed_memory()
    kind = torch.backends.cpu.get_cpu_capability()
    print(f"{options.threads} threads, PyTorch {torch.__version__}, {kind}")
    with torch.no_grad():
        requests[options.request](options)


if __name__ == "__main__":
    main()
