"""What postprocessing of one image by HIPIE costs: operators, waiting for the device, time, memory.

    python benchmarks/postprocessing.py
    python benchmarks/postprocessing.py --chunks 4 16 32 64 256 --sections published
    python benchmarks/postprocessing.py --sections memory --size 800 1333 --classes 1203

Three sections:

- nano: a page of the picture book with the embedded weights.
- published: random predictions of as many queries as the published models have, 900 for things and
  300 for stuff, with 128 classes and 9 parts.
- memory: growth of the peak memory of a process that computes the semantic map of these queries,
  with the scores of all classes and with labels only. Needs Linux.

Operators are counted twice: on the CPU, where masks are processed in many chunks, and on a device
that is simulated on the CPU (`tests/simulated_device.py`), with the number of times that the host
waits for it. Time is CPU time of this process, one thread, the median of calls that alternate
between the sizes of `--chunks`.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

# Programs of this folder have the names of packages.
sys.path[0] = str(Path(__file__).parents[1])

QUERIES = {"things": 900, "stuff": 300}
PARTS_OF = {0: 3, 2: 3, 4: 3}
RESULTS = {
    "all": ("instances", "sem_seg", "panoptic_seg"),
    "instances": ("instances",),
    "panoptic": ("panoptic_seg",),
    "scores": ("sem_seg",),
    "labels": ("sem_seg_labels",),
}
MIB = 2**20


class CountedOperators(TorchDispatchMode):
    """Counts every operator, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def random_queries(
    number: int, size: tuple[int, int], num_classes: int, *, things: bool, width: int = 256
) -> Any:
    """Predictions of a decoder, of which twenty queries have one class of high probability."""
    from hipie.modeling.heads.dynamic_mask_head import DynamicMaskHead
    from hipie.modeling.heads.mask_embedding_head import MaskEmbeddingHead
    from hipie.structures import ImageQueries, LayerOutput

    generator = torch.Generator().manual_seed(number)
    height, width_8 = -(-size[0] // 32) * 4, -(-size[1] // 32) * 4
    logits = torch.randn(1, number, num_classes, generator=generator) - 7
    certain = torch.arange(20) * (number // 20)
    logits[0, certain, torch.randint(num_classes, (20,), generator=generator)] = 5.0
    layer = LayerOutput(
        boxes=torch.rand(1, number, 4, generator=generator) * 0.5 + 0.2,
        logits=logits,
        mask_embeddings=torch.randn(1, number, width, generator=generator),
        mask_centers=torch.rand(1, number, 2, generator=generator) * min(size),
        iou_logits=torch.randn(1, number, 1, generator=generator) if things else None,
    )
    if not things:
        features = torch.randn(width, 2 * height, 2 * width_8, generator=generator)
        return ImageQueries(layer, MaskEmbeddingHead(), (features,))
    torch.manual_seed(0)
    features = torch.randn(8, height, width_8, generator=generator)
    return ImageQueries(layer, DynamicMaskHead(width), (features,))


def published_case(
    size: tuple[int, int], num_classes: int
) -> tuple[list[Any], Callable[[list[Any], str], Any]]:
    """Random predictions, and a function that computes the results of them or of a copy."""
    from hipie.modeling.postprocessing.part_panoptic import part_owners
    from hipie.modeling.postprocessing.universal_inference import (
        InferenceSettings,
        universal_inference,
    )

    names = [f"class {k}" for k in range(num_classes)]
    wholes: list[str | None] = [None] * num_classes
    for whole, count in PARTS_OF.items():
        wholes += [names[whole]] * count
    names += [f"part {k}" for k in range(len(wholes) - num_classes)]
    is_thing = [k < num_classes * 3 // 5 or k >= num_classes for k in range(len(names))]
    queries = [
        random_queries(number, size, len(names), things=kind == "things")
        for kind, number in QUERIES.items()
    ]

    def compute(queries: list[Any], results: str) -> Any:
        requested = RESULTS[results]
        settings = InferenceSettings(
            instance_on="instances" in requested,
            semantic_on="sem_seg" in requested or "sem_seg_labels" in requested,
            semantic_labels_only="sem_seg_labels" in requested,
            panoptic_on="panoptic_seg" in requested,
            overlap_threshold=0.02,
        )
        return universal_inference(
            *queries,
            token_spans=[(k,) for k in range(len(names))],
            is_thing=is_thing,
            input_size=size,
            output_size=size,
            settings=settings,
            owners=part_owners(names, wholes),
        )

    return queries, compute


def nano_case() -> tuple[list[Any], Callable[[list[Any], str], Any]]:
    """The embedded weights on a page of the picture book; see `published_case`."""
    from hipie import Segmenter
    from hipie.data.picturebook.book import PictureBook
    from hipie.vocabularies.vocabulary import Vocabulary

    vocabulary = Vocabulary.from_names(
        things=("tree", "dog", "house", "car", "person"),
        stuff=("sky", "grass", "road", "water"),
        parts={"house": ("roof", "door", "window"), "car": ("wheel",), "person": ("head", "arm")},
    )
    model = Segmenter.from_config("nano/hipie_nano_picturebook.yaml", device="cpu").model
    page = PictureBook(split="val").page(7).image
    item = {
        "image": torch.from_numpy(page.transpose(2, 0, 1).copy()),
        "height": page.shape[0],
        "width": page.shape[1],
        "vocabulary": vocabulary,
    }

    def compute(queries: list[Any], results: str) -> Any:
        model, output = queries
        return model.postprocess([{**item, "results": RESULTS[results]}], output, [None])

    return [model, model.decode([item])], compute


def on_device(value: Any) -> Any:
    """The same tensors on the simulated device; modules are moved in place."""
    from tests.simulated_device import DeviceTensor, to_device

    if isinstance(value, torch.Tensor):
        return DeviceTensor(value)
    if isinstance(value, nn.Module):
        return to_device(value)
    if isinstance(value, (tuple, list)):
        return type(value)(on_device(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{item.name: on_device(getattr(value, item.name)) for item in fields(value)}
        )
    return value


def measure(
    title: str,
    queries: list[Any],
    compute: Callable[[list[Any], str], Any],
    chunks: list[int],
    repeats: int,
    where: bool = False,
) -> None:
    """Print a line for every kind of results and size of chunks."""
    from hipie.modeling import chunking
    from tests.simulated_device import SimulatedDevice

    operators, seconds = {}, {}
    for results in RESULTS:
        for repeat in range(repeats + 1):
            for mib in chunks:
                with mock.patch.object(chunking, "CPU_MASK_BYTES", mib * MIB):
                    if repeat == 0:
                        with CountedOperators() as counted:
                            compute(queries, results)
                        operators[results, mib] = counted.count
                        continue
                    start = time.process_time()
                    compute(queries, results)
                    seconds.setdefault((results, mib), []).append(time.process_time() - start)
    moved = on_device(queries)
    print(f"\n{title}")
    print("| results | MiB a chunk | s on a CPU | operators | on a device | waits |")
    print("|---|---|---|---|---|---|")
    for results in RESULTS:
        with SimulatedDevice() as device:
            compute(moved, results)
        on_a_device = f"{device.operators.total()} | {device.waits.total()}"
        for mib in chunks:
            time_ = f"{median(seconds[results, mib]):.3f}" if repeats else "-"
            print(f"| {results} | {mib} | {time_} | {operators[results, mib]} | {on_a_device} |")
        if where:
            print(device.report())
    sys.stdout.flush()


def peak_mib() -> int:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def print_growth(results: str, size: tuple[int, int], num_classes: int) -> None:
    """Print the growth of the peak memory by one semantic map, in MiB."""
    queries, compute = published_case(size, num_classes - sum(PARTS_OF.values()))
    before = peak_mib()
    compute(queries, results)
    print(peak_mib() - before)


def measure_memory(size: tuple[int, int], num_classes: int) -> None:
    """Print the growth of the peak memory with scores and with labels, in fresh processes."""
    print(
        f"\nsemantic map of {num_classes} classes, {size[0]} x {size[1]}, {sum(QUERIES.values())}"
    )
    print("| results | MiB |\n|---|---|")
    for results in ("scores", "labels"):
        command = [sys.executable, "-W", "ignore", __file__, "--growth", results]
        command += ["--size", *map(str, size), "--classes", str(num_classes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"| {results} | {int(done.stdout.split()[-1])} |", flush=True)


def main() -> None:
    """Print one table a section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sections = ("nano", "published", "memory")
    parser.add_argument("--sections", nargs="+", choices=sections, default=sections)
    parser.add_argument("--chunks", type=int, nargs="+", help="MiB of masks; default: as usual")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls")
    parser.add_argument("--size", type=int, nargs=2, help="of the image; default 480 640")
    parser.add_argument("--classes", type=int, help="default 128, for memory 1203")
    parser.add_argument("--where", action="store_true", help="print where the host waits")
    parser.add_argument("--growth", choices=RESULTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from hipie.modeling import chunking

    chunks = arguments.chunks or [chunking.CPU_MASK_BYTES // MIB]
    timed = (chunks, arguments.repeats, arguments.where)
    with torch.no_grad():
        if arguments.growth:
            print_growth(arguments.growth, tuple(arguments.size), arguments.classes)
            return
        if "nano" in arguments.sections:
            measure("nano, a page of 441 x 640", *nano_case(), *timed)
        if "published" in arguments.sections:
            size, classes = tuple(arguments.size or (480, 640)), arguments.classes or 128
            title = f"900 and 300 queries, {classes} classes and 9 parts, {size[0]} x {size[1]}"
            measure(title, *published_case(size, classes), *timed)
    if "memory" in arguments.sections:
        measure_memory(tuple(arguments.size or (800, 1333)), arguments.classes or 1203)


if __name__ == "__main__":
    main()
