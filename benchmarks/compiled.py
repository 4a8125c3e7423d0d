"""Compilation of a model: time, gain, agreement, and what a second process saves.

    python benchmarks/compiled.py [--config NAME] [--random] [--precision bfloat16] [--repeats 7]
                                  [--sizes 256x320 256x384] [--threads 1] [--names 20]

Two processes run one after the other with an empty cache of compiled code between them: the first
one fills it, the second one finds it. Each builds the model as it is and compiled, runs both on
noise of each size, and prints the seconds until the first result of the compiled model and then,
in turns, the CPU time of both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from detectron2.modeling import build_model

from benchmarks.hipie import image, vocabulary
from hipie import Segmenter, model_zoo
from hipie.modeling.meta_arch.base import SegmentationModel


def build(options: argparse.Namespace) -> SegmentationModel:
    """The model as it is."""
    if not options.random:
        return Segmenter.from_config(
            options.config, device="cpu", precision=options.precision
        ).model
    cfg = model_zoo.get_config(options.config)
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    model.set_precision(options.precision)
    return model


def measure(options: argparse.Namespace) -> None:
    """Measure in this process."""
    torch.set_num_threads(options.threads)
    models = {"as it is": build(options), "compiled": build(options)}
    models["compiled"].compile_inference()
    names = vocabulary(options.names)
    for size in options.sizes:
        inputs = [{**image(size), "vocabulary": names}]
        start, cpu = time.perf_counter(), time.process_time()
        raw = models["compiled"].predict_raw(inputs)
        print(
            f"{size}: first result after {time.perf_counter() - start:.1f} s, "
            f"{time.process_time() - cpu:.1f} s of CPU time in this process"
        )
        expected = models["as it is"].predict_raw(inputs)
        for branch in ("things", "stuff"):
            one, other = getattr(raw, branch), getattr(expected, branch)
            for field in ("boxes", "token_logits"):
                difference = (getattr(one, field) - getattr(other, field)).abs().max()
                print(f"  {branch}, {field}: largest difference {float(difference):.1e}")
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(options.repeats):
            for name, model in models.items():
                cpu = time.process_time()
                model.predict_raw(inputs)
                seconds[name].append(time.process_time() - cpu)
        ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
        middle = [statistics.median(values) for values in seconds.values()]
        print(
            f"  CPU seconds {middle[0]:.3f} and {middle[1]:.3f}: "
            f"{statistics.median(ratios):.2f} times as fast "
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def main() -> None:
    """Measure in two processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="nano/hipie_nano_picturebook.yaml")
    parser.add_argument("--random", action="store_true", help="random weights")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--sizes", nargs="+", default=["256x320", "256x384"])
    parser.add_argument("--names", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one-process", action="store_true", help="with the cache that there is")
    options = parser.parse_args()
    if options.one_process:
        measure(options)
        return
    with tempfile.TemporaryDirectory() as cache:
        for process in ("empty cache", "filled cache"):
            print(f"\n{process}", flush=True)
            environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
            command = [sys.executable, *sys.argv, "--one-process"]
            subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
