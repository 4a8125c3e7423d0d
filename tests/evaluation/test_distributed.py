"""Evaluation by one, two and three processes gives the same numbers, to the last bit.

The processes are real ones, joined by gloo. They evaluate shards of different lengths, and a data
set with fewer images than processes.
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.data import MetadataCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from PIL import Image
from torch.utils.data import DataLoader

from hipie.data.datasets.catalog import register_dataset
from hipie.data.datasets.panoptic_parts import PartClass
from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie.evaluation import (
    ClassAgnosticRecall,
    CoSaliencyEvaluator,
    GeneralizedReferringEvaluator,
    GroupReferringEvaluator,
    LVISInstanceEvaluator,
    PartEvaluator,
    PartPQEvaluator,
    ReferringEvaluator,
    RefZOMEvaluator,
    SemanticEvaluator,
)
from hipie.evaluation.coco_evaluation import COCOInstanceEvaluator
from hipie.evaluation.distributed import gather_arrays, gather_file, gather_sum, sum_integers
from tests.evaluation.referring_sets import random_set

IMAGES = 7
PROCESSES = (2, 3)
NAMES = ["cow", "road", "sky"]
PARTS = [PartClass("cow", (3,), True, {1: 1, 2: 2}), PartClass("road", (7,), False)]
EVALUATORS: dict[str, Callable[[str, str], DatasetEvaluator]] = {
    "refer": lambda name, folder: ReferringEvaluator(name, resized_to=20),
    "grefer": lambda name, folder: GeneralizedReferringEvaluator(name),
    "refzom": lambda name, folder: RefZOMEvaluator(name),
    "group": lambda name, folder: GroupReferringEvaluator(name),
    "cosaliency": lambda name, folder: CoSaliencyEvaluator(name),
    "parts": lambda name, folder: PartEvaluator(name),
    "part_pq": lambda name, folder: PartPQEvaluator(name),
    "sem_seg": lambda name, folder: SemanticEvaluator(name, folder),
    "unseen": lambda name, folder: ClassAgnosticRecall(name),
    "coco": lambda name, folder: COCOInstanceEvaluator(name),
    "lvis": lambda name, folder: LVISInstanceEvaluator(name),
}


def draw_set(folder: Path, *, write: bool) -> tuple[list[dict], list[dict]]:
    """Draw records and outputs that every evaluator takes, and write the files they name."""
    records, outputs, _ = random_set(11, IMAGES)
    rng = np.random.default_rng(0)
    annotations: list[dict] = []
    for number, (record, output) in enumerate(zip(records, outputs, strict=True)):
        size = record["height"], record["width"]
        uids = rng.choice([7, 3_001, 300_101, 300_102, 300_201], size)
        uids[: size[0] // 2] = 7
        files = {
            "pan_part_file_name": (uids.astype(np.int32), "tif"),
            "part_seg_file_name": (rng.integers(0, 4, size, dtype=np.uint8), "parts.png"),
            "sem_seg_file_name": (rng.integers(0, 3, size, dtype=np.uint8), "classes.png"),
            "saliency_file_name": ((rng.random(size) < 0.3).astype(np.uint8) * 255, "mask.png"),
        }
        for key, (pixels, ending) in files.items():
            record[key] = str(folder / f"{number}.{ending}")
            if write:
                Image.fromarray(pixels).save(record[key])
        for expression in record["expressions"]:
            expression["kind"] = f"kind {rng.integers(0, 9)}"
        for annotation in record["annotations"]:
            rle = annotation["segmentation"]
            annotation |= {"category_id": int(rng.integers(3)), "iscrowd": 0}
            annotation["bbox"] = mask_util.toBbox(rle).tolist()
            area = float(mask_util.area(rle))
            text = {"size": list(rle["size"]), "counts": rle["counts"].decode()}
            annotations.append(
                {**annotation, "segmentation": text, "area": area, "image_id": number}
            )
            annotations[-1]["id"] = len(annotations)
        ids = (uids != 7).astype(int) + 1
        info = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 0}]
        output["panoptic_seg"] = np.where(rng.random(size) < 0.1, 0, ids), info
        output["part_seg"] = rng.integers(0, 3, size)
        output["sem_seg"] = torch.from_numpy(rng.random((3, *size)))
        output["instances"] = draw_instances(record, rng)
    images = [
        {"id": r["image_id"], "file_name": r["file_name"], "height": r["height"]}
        | {"width": r["width"], "neg_category_ids": [], "not_exhaustive_category_ids": []}
        for r in records
    ]
    classes = [{"id": i, "name": n, "frequency": "rcf"[i]} for i, n in enumerate(NAMES)]
    if write:
        content = {"images": images, "annotations": annotations, "categories": classes}
        (folder / "instances.json").write_text(json.dumps(content))
    return records, outputs


def draw_instances(record: dict, rng: np.random.Generator) -> Instances:
    """Draw predictions that overlap with the objects of a record."""
    truth = np.array([mask_util.decode(a["segmentation"]) for a in record["annotations"]], bool)
    masks = np.concatenate([truth, rng.random(truth.shape) < 0.5])
    instances = Instances(masks.shape[1:])
    instances.pred_masks = torch.from_numpy(masks)
    instances.pred_boxes = Boxes(torch.from_numpy(rng.random((len(masks), 4)) * 9).sort(1)[0])
    instances.pred_classes = torch.from_numpy(rng.integers(0, 3, len(masks)))
    instances.scores = torch.from_numpy(rng.random(len(masks))).float()
    return instances


class Stored(torch.nn.Module):
    """Model that returns a given output for every image."""

    def __init__(self, outputs: list[dict]) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        return [self.outputs[item["image_id"]] for item in batched_inputs]


def evaluate(folder: Path) -> dict[str, Any]:
    """Evaluate the images of this process, of the whole data set and of its first two images."""
    records, outputs = draw_set(folder, write=False)
    results: dict[str, Any] = {}
    for count in (IMAGES, 2):
        name = f"drawn_{count}"
        register_dataset(
            name,
            records[:count].copy,
            thing_classes=NAMES,
            stuff_classes=NAMES,
            unseen_classes=NAMES[:2],
            part_pq_classes=PARTS,
            ignore_label=255,
            json_file=str(folder / "instances.json"),
        )
        loader = DataLoader(
            records[:count], 1, sampler=InferenceSampler(count), collate_fn=lambda items: items
        )
        for kind, build in EVALUATORS.items():
            output_folder = folder / f"{count} images by {comm.get_world_size()}"
            output_folder.mkdir(exist_ok=True)
            evaluator = build(name, str(output_folder))
            is_map = kind == "cosaliency"
            given = [{**o, "sem_seg": o["sem_seg"][:1]} if is_map else o for o in outputs]
            scores = inference_on_dataset(Stored(given), loader, evaluator)
            if comm.is_main_process():
                results[f"{kind} {count}"] = scores
            else:
                assert not scores
    return results


def read_once(folder: Path) -> dict[str, Any]:
    """Read a data set whose reader notes its process and sets metadata, and a broken one."""
    rank, processes = comm.get_rank(), comm.get_world_size()

    def load() -> list[dict]:
        (folder / f"read by {rank} of {processes}").touch()
        MetadataCatalog.get("noted").set(colours=["red"])
        return [{"image_id": 4, "file_name": "a"}, {"image_id": 2, "file_name": "b"}]

    def fail() -> list[dict]:
        raise InputError("b.json: entry 3 has no id")

    register_dataset("noted", load)
    register_dataset("broken", fail)
    records = read_records("noted")
    with pytest.raises(InputError, match=r"b\.json: entry 3 has no id"):
        read_records("broken")
    return {"records": list(records), "colours": MetadataCatalog.get("noted").get("colours")}


def gather(folder: Path) -> dict[str, Any]:
    """Gather what differs from process to process, with nothing in the last one."""
    rank = comm.get_rank()
    is_last = rank == comm.get_world_size() - 1
    own = {} if is_last else {f"rank {rank}": [3**rank, -1], "all": [2**170 + rank]}
    rows = 0 if is_last else rank + 1
    chunks: list[bytes] = []
    with open(folder / f"file of {rank}", "wb+") as file:
        file.write(b"" if is_last else bytes([rank]) * 20_000_000)
        gather_file(file, chunks.append, True)
    arrays = [np.full((rows, 2), rank, np.float32), np.arange(rows)]
    return {
        "integers": sum_integers(own, True),
        "sum": gather_sum(np.array([rank, 1]), True),
        "arrays": gather_arrays(arrays, True),
        "bytes": b"".join(chunks),
    }


def work(rank: int, folder: str, ports: tuple[int, ...]) -> None:
    for processes, port in zip(PROCESSES, ports, strict=True):
        if rank >= processes:
            continue
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
        comm._LOCAL_PROCESS_GROUP = None
        comm.create_local_process_group.cache_clear()
        comm._get_global_gloo_group.cache_clear()
        comm.create_local_process_group(processes)
        place = Path(folder)
        results = {task.__name__: task(place) for task in (read_once, gather, evaluate)}
        torch.save(results, place / f"{rank} of {processes}.pt")
        dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all tasks on two and three processes."""
    path = tmp_path_factory.mktemp("processes")
    draw_set(path, write=True)
    mp.spawn(work, (str(path), tuple(free_port() for _ in PROCESSES)), nprocs=max(PROCESSES))
    return path


def load(folder: Path, rank: int, processes: int, task: str) -> Any:
    return torch.load(folder / f"{rank} of {processes}.pt", weights_only=False)[task]


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    return evaluate(folder)


@pytest.mark.parametrize("count", [IMAGES, 2])
@pytest.mark.parametrize("kind", EVALUATORS)
def test_scores_do_not_depend_on_the_number_of_processes(
    folder: Path, alone: dict[str, Any], kind: str, count: int
) -> None:
    expected = alone[f"{kind} {count}"]
    values = [value for task in expected.values() for value in task.values()]
    assert sum(math.isfinite(value) for value in values) > 2
    for processes in PROCESSES:
        scores = load(folder, 0, processes, "evaluate")[f"{kind} {count}"]
        np.testing.assert_equal(scores, expected)
        assert load(folder, processes - 1, processes, "evaluate") == {}


def test_semantic_predictions_are_written_in_order(folder: Path, alone: dict[str, Any]) -> None:
    texts = [
        (folder / f"{IMAGES} images by {count}" / "sem_seg_predictions.json").read_text()
        for count in (1, *PROCESSES)
    ]
    assert texts[0] == texts[1] == texts[2]
    files = [entry["file_name"] for entry in json.loads(texts[0])]
    assert list(dict.fromkeys(files)) == [f"{number}.jpg" for number in range(IMAGES)]


def test_a_data_set_is_read_once_a_machine(folder: Path) -> None:
    for processes in PROCESSES:
        assert len(list(folder.glob(f"read by * of {processes}"))) == 1
        for rank in range(processes):
            results = load(folder, rank, processes, "read_once")
            assert [record["image_id"] for record in results["records"]] == [4, 2]
            assert results["colours"] == ["red"]


def test_gathering_with_a_process_that_has_nothing(folder: Path) -> None:
    results = load(folder, 0, 3, "gather")
    assert results["integers"] == {"rank 0": [1, -1], "rank 1": [3, -1], "all": [2**171 + 1]}
    assert results["sum"].tolist() == [3, 3]
    rows, numbers = results["arrays"]
    assert rows.tolist() == [[0, 0], [1, 1], [1, 1]] and rows.dtype == np.float32
    assert numbers.tolist() == [0, 0, 1]
    assert results["bytes"] == bytes(20_000_000) + b"\1" * 20_000_000
    assert load(folder, 2, 3, "gather") == dict.fromkeys(("integers", "sum", "arrays"), None) | {
        "bytes": b""
    }


def test_a_single_process_returns_its_own() -> None:
    counts = np.ones(3)
    assert gather_sum(counts, False) is counts and gather_sum(counts, True) is counts
    assert gather_arrays([counts], True)[0] is counts
    assert sum_integers({"a": [1]}, True) == {"a": [1]}
