"""Exported models against PyTorch: agreement of the results, and CPU time.

    python benchmarks/exported.py [--model NAME] [--names N] [--repeats N] [IMAGE ...]
    python benchmarks/exported.py --random universal/hipie_r50.yaml --names 133 --repeats 5

Exports the model with its class names to ONNX, and to OpenVINO where that is installed, into a
temporary folder, and runs both on the images (by default the packaged photographs), from the pixels
to the panoptic segments. `network` is the part without postprocessing. The class names are those
that the model was trained with, or N of COCO's. `--random` builds a configuration with random
weights, whose segments mean nothing. All on `--threads` threads, in turns; the times are CPU times.

The agreement with PyTorch in float32 is that of the outputs of the network (largest absolute
differences; masks as probabilities) and the share of pixels with the same class.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
# benchmarks/hipie.py must not shadow the package hipie; examples/ is no package.
sys.path[0] = str(ROOT)
sys.path.append(str(ROOT / "examples"))
from detectron2.modeling import build_model
from run_onnx import segment

from benchmarks.hipie import vocabulary
from hipie import Segmenter, Vocabulary, model_zoo
from hipie.export.formats import export_model
from hipie.export.network import OUTPUT_NAMES, ExportedNetwork
from hipie.export.traceable import ExportRequest

PHOTOGRAPHS = ROOT / "hipie/examples/photographs"
PRECISIONS = {"OpenVINO": "f32", "OpenVINO, bfloat16": "bf16"}


class Session:
    """The methods of an onnxruntime session that `run_onnx.segment` calls, for any function."""

    def __init__(self, function: Callable[..., list[np.ndarray]], description: str) -> None:
        self._function = function
        self._meta = SimpleNamespace(custom_metadata_map={"hipie": description})
        self.outputs: list[np.ndarray] = []
        self.seconds = 0.0

    def get_modelmeta(self) -> Any:
        """The description of the model."""
        return self._meta

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Outputs of the network, which are kept with the CPU time that they took."""
        start = time.process_time()
        self.outputs = self._function(inputs)
        self.seconds = time.process_time() - start
        return self.outputs


def sessions(
    segmenter: Segmenter, names: Vocabulary, folder: Path, threads: int
) -> dict[str, Session]:
    """The exported network in PyTorch and in the runtimes that are installed, by name."""
    import onnxruntime

    model, cfg = segmenter.model, segmenter.cfg
    start = time.process_time()
    (file,) = export_model(model, cfg, ExportRequest(names), folder / "model.onnx", "onnx")
    size = file.stat().st_size / 2**20
    print(f"ONNX: written in {time.process_time() - start:.0f} s of CPU time, {size:.0f} MiB")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options)
    text = session.get_modelmeta().custom_metadata_map["hipie"]
    network = ExportedNetwork(model, names).eval()

    def in_pytorch(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        tensors = [torch.from_numpy(inputs[name]) for name in ("image", "size")]
        with torch.inference_mode():
            return [output.numpy() for output in network(*tensors)]

    found = {
        "PyTorch, float32": Session(in_pytorch, text),
        "onnxruntime": Session(lambda inputs: session.run(None, inputs), text),
    }
    if find_spec("openvino"):
        import openvino

        converted = openvino.convert_model(str(file))
        for name, precision in PRECISIONS.items():
            settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision}
            found[name] = Session(
                _in_openvino(openvino.Core().compile_model(converted, "CPU", settings)), text
            )
    return found


def _in_openvino(compiled: Any) -> Callable[..., list[np.ndarray]]:
    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        results = compiled(inputs)
        return [results[name] for name in OUTPUT_NAMES]

    return run


def class_map(segments: list[dict[str, Any]], size: tuple[int, int]) -> np.ndarray:
    """Class of every pixel [H, W]; -1 without segment."""
    classes = np.full(size, -1)
    for entry in segments:
        classes[entry["mask"]] = entry["category_id"]
    return classes


def differences(outputs: list[np.ndarray], expected: list[np.ndarray]) -> list[float]:
    """Largest absolute differences of the outputs of a network; masks as probabilities."""
    one, other = list(outputs), list(expected)
    one[-1], other[-1] = (1 / (1 + np.exp(-np.clip(o[-1], -80, 80))) for o in (one, other))
    return [float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True)]


def build(options: argparse.Namespace) -> dict[str, Segmenter]:
    """The model in float32, and in bfloat16, by name."""
    found = {}
    for precision in ("float32", "bfloat16"):
        if options.random:
            cfg = model_zoo.get_config(options.random)
            cfg.MODEL.DEVICE = "cpu"
            torch.manual_seed(0)
            segmenter = Segmenter(build_model(cfg), cfg)
            segmenter.model.set_precision(precision)
        else:
            segmenter = Segmenter.from_pretrained(options.model, "cpu", precision=precision)
        found[precision] = segmenter
    return found


def measure(options: argparse.Namespace) -> None:
    """Print both tables."""
    images = [np.array(Image.open(file).convert("RGB")) for file in options.images]
    models = build(options)
    names = models["float32"].vocabulary
    if options.names or names is None:
        names = vocabulary(options.names or 133)
    things = [entry.name for entry in names.classes if entry.kind == "thing"]
    stuff = [entry.name for entry in names.classes if entry.kind == "stuff"]
    with tempfile.TemporaryDirectory() as folder:
        runtimes = sessions(models["float32"], names, Path(folder), options.threads)
        seconds: dict[str, list[float]] = {}
        network: dict[str, list[float]] = {name: [] for name in runtimes}
        worst: dict[str, list[list[float]]] = {name: [] for name in runtimes}
        same: dict[str, list[float]] = {name: [] for name in runtimes}
        for turn in range(options.repeats + 1):  # the first one warms up
            for image in images:
                maps = {}
                for name, session in runtimes.items():
                    start = time.process_time()
                    segments = segment(session, image)
                    seconds.setdefault(name, []).append(time.process_time() - start)
                    network[name].append(session.seconds)
                    maps[name] = class_map(segments, image.shape[:2])
                for precision, segmenter in models.items():
                    start = time.process_time()
                    segmenter.segment(image, things, stuff)
                    label = f"Segmenter, {precision}"
                    seconds.setdefault(label, []).append(time.process_time() - start)
                if turn == 0:
                    first, *others = runtimes
                    for name in others:
                        outputs = runtimes[name].outputs, runtimes[first].outputs
                        worst[name].append(differences(*outputs))
                        same[name].append(float(np.mean(maps[name] == maps[first])))
    print(f"{options.random or options.model}, {len(names)} names, {len(images)} images\n")
    _print(len(images), seconds, network, worst, same)


def _print(
    count: int,
    seconds: dict[str, list[float]],
    network: dict[str, list[float]],
    worst: dict[str, list[list[float]]],
    same: dict[str, list[float]],
) -> None:
    print("| against PyTorch | boxes | scores | scores of the map | masks | pixels, % (lowest) |")
    print("|---|---|---|---|---|---|")
    for name, values in worst.items():
        if values:
            largest = " | ".join(f"{value:.1e}" for value in np.max(values, 0))
            pixels = f"{100 * np.mean(same[name]):.3f} ({100 * min(same[name]):.3f})"
            print(f"| {name} | {largest} | {pixels} |")
    reference = seconds["Segmenter, float32"][count:]
    print("\n| runs in | network, CPU s | to segments, CPU s (quartiles) | times as fast |")
    print("|---|---|---|---|")
    for name, values in seconds.items():
        values = values[count:]
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        ratio = statistics.median(a / b for a, b in zip(reference, values, strict=True))
        inner = f"{np.median(network[name][count:]):.3f}" if name in network else ""
        print(f"| {name} | {inner} | {middle:.3f} ({low:.3f}, {high:.3f}) | {ratio:.2f} |")


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", type=Path)
    parser.add_argument("--model", default="hipie-nano-photos")
    parser.add_argument("--random", default="", metavar="CONFIG", help="random weights")
    parser.add_argument("--names", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.images = options.images or sorted(PHOTOGRAPHS.glob("*.jpg"))
    torch.set_num_threads(options.threads)
    measure(options)


if __name__ == "__main__":
    main()
