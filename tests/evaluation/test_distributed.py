"""Evaluation by two processes against one."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.structures import Instances
from detectron2.utils import comm
from PIL import Image

from hipie.data.datasets.catalog import register_dataset
from hipie.evaluation import PartEvaluator, ReferringEvaluator
from hipie.evaluation.distributed import gather_lists, gather_sum

SIZE = (6, 8)
NAMES = ["head", "tail", "sky"]


def draw_records(folder: Path) -> tuple[list[dict], list[dict]]:
    """Draw four images with an expression and a part map each, and predictions for them."""
    rng = np.random.default_rng(0)
    records, outputs = [], []
    for number in range(4):
        target = rng.random(SIZE) < 0.5
        scores = Instances(SIZE)
        scores.pred_masks = torch.from_numpy(rng.random((1, *SIZE)) < 0.5)
        records.append(
            {
                "file_name": f"{number}.jpg",
                "image_id": number,
                "height": SIZE[0],
                "width": SIZE[1],
                "annotations": [
                    {"segmentation": mask_util.encode(np.asfortranarray(target, "u1"))}
                ],
                "expressions": [{"expression": "it", "targets": [0]}],
                "part_seg_file_name": str(folder / f"{number}.png"),
            }
        )
        outputs.append({"referring": [scores], "sem_seg": torch.from_numpy(rng.random((3, *SIZE)))})
    return records, outputs


def evaluate(folder: Path, rank: int, processes: int) -> dict:
    records, outputs = draw_records(folder)
    register_dataset("hand_made_shared", lambda: records, stuff_classes=NAMES)
    results: dict = {}
    for kind in (ReferringEvaluator, PartEvaluator):
        evaluator = kind("hand_made_shared", distributed=processes > 1)
        evaluator.reset()
        evaluator.process(records[rank::processes], outputs[rank::processes])
        results.update(evaluator.evaluate() or {})
    return results


def work(rank: int, folder: str, port: int) -> None:
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    torch.save(evaluate(Path(folder), rank, 2), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for number in range(4):
        labels = rng.integers(0, 4, SIZE, dtype=np.uint8)
        Image.fromarray(labels).save(tmp_path / f"{number}.png")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (str(tmp_path), port), nprocs=2)
    shared = torch.load(tmp_path / "0.pt", weights_only=False)
    assert torch.load(tmp_path / "1.pt", weights_only=False) == {}
    alone = evaluate(tmp_path, 0, 1)
    for task in ("refer", "parts"):
        np.testing.assert_equal(shared[task], alone[task])
    assert shared["refer"]["expressions"] == 4


def test_single_process_returns_its_items() -> None:
    items, counts = [1, 2], np.ones(3)
    assert gather_lists(items, False) is items and gather_lists(items, True) == items
    assert gather_sum(counts, False) is counts and (gather_sum(counts, True) == counts).all()
