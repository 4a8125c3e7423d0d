"""How fast is HIPIE, where does the time go, and how much memory does it take?

Everything is measured in turns within one run, after a warm-up, medians of several; ratios are what
counts. Weights are random, the image is noise: times do not depend on what is seen, but for how
many queries survive.

    python benchmarks/hipie.py stages    [--model r50|vit_h] [--size 800x1066] [--names 12 133 459]
    python benchmarks/hipie.py published [...]   against the published way of working
    python benchmarks/hipie.py expressions [...]   ten expressions on one image against one
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

# This file's own name must not hide the package's.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.hipie_stages import STAGES, watched
from benchmarks.published_way import published_way
from hipie import model_zoo
from hipie.engine.malloc import keep_freed_memory
from hipie.modeling.meta_arch.hipie import HIPIE
from hipie.vocabularies.vocabulary import Vocabulary

COLOURS = ("red", "green", "blue", "small", "large", "old", "wooden", "striped", "wet", "broken")
WAYS = ("published", "published-kept", "ours")
EXPRESSIONS = [f"the {colour} dog left of the tree" for colour in COLOURS]


def build(name: str) -> HIPIE:
    """The full-size model with random weights."""
    cfg = model_zoo.get_config(f"universal/hipie_{name}.yaml")
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    return build_model(cfg).eval()


def vocabulary(count: int) -> Vocabulary:
    """COCO's 133 classes, then each with an adjective, as many as asked for."""
    plain = [(one["name"], bool(one["isthing"])) for one in COCO_CATEGORIES]
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
    """Noise of "HEIGHTxWIDTH", with that size for results."""
    height, width = (int(side) for side in size.split("x"))
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    return {"image": 255 * noise, "height": height, "width": width}


def medians(jobs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each job, run in turns after one warm-up each."""
    times: list[list[float]] = [[] for _ in jobs]
    for turn in range(repeats + 1):
        for job, seconds in zip(jobs, times, strict=True):
            start = time.perf_counter()
            job()
            if turn:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def stages(options: argparse.Namespace) -> None:
    """A row a vocabulary: seconds and shares of every stage, the vocabulary being known."""
    model = build(options.model)
    print(f"{options.model} at {options.size}: seconds by stage, second image of a vocabulary")
    print(f"{'names':>6}" + "".join(f"{stage:>10}" for stage in (*STAGES, "whole")))
    for count in options.names:
        item = {**image(options.size), "vocabulary": vocabulary(count)}
        model([item])
        rows = []
        for _ in range(options.repeats):
            with watched(model) as watch:
                model([item])
            rows.append([watch.seconds[stage] for stage in STAGES])
        row = [statistics.median(column) for column in zip(*rows, strict=True)]
        whole = sum(row)
        print(f"{count:>6}" + "".join(f"{seconds:>10.3f}" for seconds in (*row, whole)))
        print(f"{'':>6}" + "".join(f"{seconds / whole:>10.1%}" for seconds in (*row, whole)))


def published(options: argparse.Namespace) -> None:
    """Processes that take turns, one for each way, as a user would have one or the other.

    The published way is measured twice: as it comes, where the C library gives freed memory back to
    the system, and with freed memory kept, as this package's programs keep it.
    """
    for count in options.names:
        ways = {way: _started(way, count, options) for way in WAYS}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(options.repeats + 1):
            for way, process in ways.items():
                seconds = _asked(process, "picture")
                if turn:
                    times[way].append(seconds)
        seconds = {way: statistics.median(every) for way, every in times.items()}
        peaks = {way: _asked(process, "peak") / 2**20 for way, process in ways.items()}
        print(f"{options.model} {options.size} {count} names")
        for way in WAYS:
            print(
                f"  {way:>14}: {seconds[way]:.2f} s, {seconds[way] / seconds['ours']:.2f} times "
                f"ours; {peaks[way]:.2f} GiB, of which ours takes {peaks['ours'] / peaks[way]:.0%}"
            )
        loaded = _asked(ways["ours"], "loaded") / 2**20
        print(f"  of the memory the loaded model takes {loaded:.2f} GiB")
        for process in ways.values():
            process.stdin.close()
            process.wait()


def _started(way: str, count: int, options: argparse.Namespace) -> subprocess.Popen:
    command = [*(sys.executable, __file__, "turns", "--way", way, "--model", options.model)]
    command += ["--size", options.size, "--names", str(count), "--threads", str(options.threads)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _asked(process: subprocess.Popen, question: str) -> float:
    print(question, file=process.stdin, flush=True)
    for line in process.stdout:
        if line.startswith("answer "):
            return float(line.split()[1])
    raise SystemExit(f"a process that was measured ended with status {process.wait()}")


def turns(options: argparse.Namespace) -> None:
    """One way of working, an image whenever a line "image" comes in; for `published`."""
    model = build(options.model)
    count = options.names[0]
    item = {**image(options.size), "vocabulary": vocabulary(count)}
    there = published_way(model, 512 if count <= 150 else 1536)
    loaded = resident("VmRSS")
    with nullcontext() if options.way == "ours" else there:
        for line in sys.stdin:
            question = line.strip()
            start = time.perf_counter()
            if question == "picture":
                model([item])
            answers = {"peak": resident("VmHWM"), "loaded": loaded}
            answers["picture"] = time.perf_counter() - start
            print("answer", answers[question], flush=True)


def resident(kind: str) -> int:
    """Kilobytes of this process in memory: now (VmRSS) or at most so far (VmHWM); Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1])


def expressions(options: argparse.Namespace) -> None:
    """Ten expressions about one image against one."""
    model = build(options.model)
    item = image(options.size)
    one, ten = medians(
        [
            lambda: model([{**item, "expressions": EXPRESSIONS[:1]}]),
            lambda: model([{**item, "expressions": EXPRESSIONS}]),
        ],
        options.repeats,
    )
    print(
        f"{options.model} {options.size}: one sentence {one:.2f} s, ten {ten:.2f} s, "
        f"{ten / one:.2f} times"
    )


def names(options: argparse.Namespace) -> None:
    """Seconds of the first and of later images of a vocabulary, from 10 to 2,000 names."""
    model = build(options.model)
    rows = []
    for count in (10, 20, 50, 100, 200, 500, 1000, 2000):
        words = vocabulary(count)
        item = {**image(options.size), "vocabulary": words}
        start = time.perf_counter()
        model([item])
        first = time.perf_counter() - start
        (later,) = medians([lambda item=item: model([item])], options.repeats)
        rows.append((len(words), first, later))
        print(f"{len(words):>5} names: first image {first:.2f} s, later ones {later:.2f} s")
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
    """Read the command line and measure."""
    questions = {one.__name__: one for one in (stages, published, turns, expressions, names)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=questions)
    parser.add_argument("--model", default="r50", choices=["r50", "vit_h"])
    parser.add_argument("--size", default="800x1066", metavar="HxW")
    parser.add_argument("--names", type=int, nargs="+", default=[133])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, default="ours")
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.way != "published":
        keep_freed_memory()
    kind = torch.backends.cpu.get_cpu_capability()
    print(f"{options.threads} threads, PyTorch {torch.__version__}, {kind}")
    with torch.no_grad():
        questions[options.question](options)


if __name__ == "__main__":
    main()
