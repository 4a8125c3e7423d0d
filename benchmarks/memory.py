"""Memory of data set lists and evaluators with several processes, in MiB over all processes.

    python benchmarks/memory.py [--records 1000000] [--ranks 1 2 4] [--output FOLDER]

For every number of processes (gloo, one machine), three sections measure two implementations:

- list: records with an object and an expression each, read once and shared (`read_records`),
  against a serialized list of Detectron2 (`DatasetFromList`) in every process. Every page of the
  records is touched.
- counts: as many mask overlaps of expressions, divided among the processes, as sums of integers
  (`OverlapCounts`, `sum_integers`), against one tuple each, gathered by pickling.
- instances: as many predicted instances with masks, divided among the processes, as arrays
  (`InstancePredictions`), against one dict each, gathered by pickling.

"held" is what the processes keep afterwards: the growth of their proportional set sizes (a page
that n processes map counts 1/n in each), which add up to the memory of the machine. "peak" is the
largest growth of the resident set of any process (the first one reads the list, and gathers), at
which shared pages count fully. Both need Linux. Exit status 1: the implementations disagree.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import DatasetFromList
from detectron2.utils import comm

# As a program, this folder is the first place of imports, and it has a module named hipie.
sys.path[0] = str(Path(__file__).parents[1])
from hipie.data.datasets.catalog import register_dataset
from hipie.data.record_list import read_records
from hipie.evaluation.distributed import sum_integers
from hipie.evaluation.instance_predictions import InstancePredictions
from hipie.evaluation.metrics.expression_iou import MaskOverlap, OverlapCounts, referring_scores

MIB = 1024 * 1024
NAME = "generated"
SECTIONS = ("list", "counts", "instances")


def make_records(count: int) -> list[dict[str, Any]]:
    """Generate records as of `load_refcoco`, of one object and one expression each."""
    return [
        {
            "file_name": f"/data/coco/train2014/COCO_train2014_{number:012}.jpg",
            "height": 480,
            "width": 640,
            "image_id": number,
            "annotations": [
                {
                    "id": number,
                    "bbox": [number % 600 + 0.5, 20.25, 30.0, 40.75],
                    "category_id": number % 80,
                    "iscrowd": 0,
                    "segmentation": {"size": [480, 640], "counts": b"%062d" % number},
                }
            ],
            "expressions": [
                {"expression": f"the red one, number {number}", "sent_id": number, "ref_id": number}
                | {"targets": [0]}
            ],
        }
        for number in range(count)
    ]


def make_overlaps(first: int, last: int) -> Iterator[MaskOverlap]:
    """Generate mask overlaps by number."""
    for number in range(first, last):
        union = 1_000 + number * 7_919 % 50_000
        yield MaskOverlap(union * (number * 31 % 101) // 100, union + 10, union // 2)


def make_instances(number: int) -> list[dict[str, Any]]:
    """Generate 100 predictions of an image in COCO's format."""
    return [
        {
            "image_id": number,
            "category_id": index % 80,
            "bbox": [float(index), 2.5, 30.0 + number % 7, 40.0],
            "score": 1 / (1 + index + number),
            "segmentation": {"size": [480, 640], "counts": "Z" * 150 + str(index)},
        }
        for index in range(100)
    ]


class Memory:
    """Growth of this process's memory, in bytes."""

    def __init__(self) -> None:
        self._start, self._resident = proportional(), resident()
        self._highest, self._stop = self._resident, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._highest = max(self._highest, resident())
            time.sleep(0.005)

    def growth(self) -> tuple[int, int]:
        """Return what is held now, and the peak since the start."""
        self._stop.set()
        self._thread.join()
        dist.barrier()
        held = proportional() - self._start
        dist.barrier()
        return held, self._highest - self._resident


def proportional() -> int:
    """Return the proportional set size of this process after returning freed memory."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _field("/proc/self/smaps_rollup", "Pss:")


def resident() -> int:
    """Return the resident set size of this process."""
    return _field("/proc/self/status", "VmRSS:")


def _field(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{path} has no {name}")


def shared_list(count: int) -> tuple[Any, Any]:
    """Read the list once; return it and a sample of its records."""
    records = read_records(NAME)
    return records, _sample(records)


def own_list(count: int) -> tuple[Any, Any]:
    """Read the list in this process; return it and a sample of its records."""
    for turn in range(comm.get_world_size()):  # one after another: the list itself is large
        if turn == comm.get_rank():
            records = DatasetFromList(make_records(count), copy=False)
        dist.barrier()
    return records, _sample(records)


def _sample(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Touch every page of a list, and return 20 of its records."""
    for position in range(0, len(records), 8):
        records[position]
    return [records[position] for position in range(0, len(records), max(1, len(records) // 20))]


def summed_counts(count: int) -> tuple[Any, Any]:
    """Sum the overlaps of this process; return the state and the scores of all."""
    counts = OverlapCounts()
    for overlap in make_overlaps(*_share(count)):
        counts.add(overlap)
    sums = sum_integers({"all": counts.integers()}, True)
    return counts, sums and OverlapCounts(sums["all"]).referring_scores()


def listed_counts(count: int) -> tuple[Any, Any]:
    """Keep the overlaps of this process; return them and the scores of all."""
    overlaps = [(None, overlap, None) for overlap in make_overlaps(*_share(count))]
    gathered = comm.gather(overlaps, dst=0)
    if not gathered:
        return overlaps, None
    return overlaps, referring_scores(overlap for part in gathered for _, overlap, _ in part)


def instance_arrays(count: int) -> tuple[Any, Any]:
    """Keep instances as arrays; return them and those of all."""
    predictions = InstancePredictions()
    for number in range(*_share(count // 100)):
        predictions.add(number, make_instances(number))
    gathered = predictions.gather(True)
    return predictions, gathered


def instance_dicts(count: int) -> tuple[Any, Any]:
    """Keep instances as dicts; return them and those of all."""
    predictions = [
        {"image_id": number, "instances": make_instances(number)}
        for number in range(*_share(count // 100))
    ]
    gathered = comm.gather(predictions, dst=0)
    return predictions, [image for part in gathered for image in part] if gathered else None


def _share(count: int) -> tuple[int, int]:
    rank, ranks = comm.get_rank(), comm.get_world_size()
    return count * rank // ranks, count * (rank + 1) // ranks


IMPLEMENTATIONS: dict[str, tuple[Callable[[int], tuple[Any, Any]], ...]] = {
    "list": (shared_list, own_list),
    "counts": (summed_counts, listed_counts),
    "instances": (instance_arrays, instance_dicts),
}


def work(
    rank: int, ranks: int, port: int, count: int, section: str, which: int, output: str
) -> None:
    """Measure one implementation of a section in one of several processes."""
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=ranks)
    comm.create_local_process_group(ranks)
    register_dataset(NAME, lambda: make_records(count))
    comm.all_gather(np.zeros(1))  # what the first message allocates is not counted
    memory = Memory()
    state, outcome = IMPLEMENTATIONS[section][which](count)
    digest = hashlib.sha256(repr(outcome).encode()).hexdigest()
    del outcome
    held, peak = memory.growth()
    figures = {"held": sum(comm.all_gather(held)), "peak": max(comm.all_gather(peak))}
    del state
    if rank == 0:
        Path(output).write_text(json.dumps({**figures, "digest": digest}))
    dist.destroy_process_group()


def measure(section: str, ranks: int, count: int, folder: Path) -> dict[str, Any]:
    """Measure both implementations of a section, each in new processes."""
    figures: dict[str, Any] = {}
    for which, name in enumerate(("ours", "baseline")):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        path = folder / f"{section}_{ranks}_{name}.json"
        # Forked, since all of them have imported the same.
        mp.start_processes(
            work, (ranks, port, count, section, which, str(path)), ranks, start_method="fork"
        )
        figures[name] = json.loads(path.read_text())
    figures["equal"] = figures["ours"].pop("digest") == figures["baseline"].pop("digest")
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Print the memory of every section, and write it to results.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/memory"))
    args = parser.parse_args(arguments)
    args.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for section in args.only:
        for ranks in args.ranks:
            figures = measure(section, ranks, args.records, args.output)
            results[f"{section}, {ranks}"] = figures
            texts = [
                f"{figures[name]['held'] / MIB:.0f} MiB (peak {figures[name]['peak'] / MIB:.0f})"
                for name in ("ours", "baseline")
            ]
            print(f"{section}, {ranks} processes: {texts[0]} against {texts[1]}", flush=True)
    (args.output / "results.json").write_text(json.dumps(results, indent=1))
    return 0 if all(figures["equal"] for figures in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
