"""Evaluation by one, two and eight processes gives the same numbers, to the last bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hipie.data.datasets.catalog import register_dataset
from hipie.data.datasets.panoptic_parts import PartClass
from hipie.evaluation import (
    CoSaliencyEvaluator,
    GeneralizedReferringEvaluator,
    GroupReferringEvaluator,
    PartEvaluator,
    PartPQEvaluator,
    ReferringEvaluator,
    RefZOMEvaluator,
    distributed,
)
from tests.evaluation.referring_sets import random_set

IMAGES = 24
CLASSES = [PartClass("cow", (3,), True, {1: 1, 2: 2}), PartClass("road", (7,), False)]


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[list[dict], list[dict]]:
    """Draw records and outputs that every evaluator takes."""
    records, outputs, _ = random_set(11, IMAGES)
    rng = np.random.default_rng(0)
    for number, (record, output) in enumerate(zip(records, outputs, strict=True)):
        size = record["height"], record["width"]
        labels = rng.choice([7, 3_001, 300_101, 300_102, 300_201], size)
        labels[: size[0] // 2] = 7
        folder = tmp_path / str(number)
        folder.mkdir()
        Image.fromarray(labels.astype(np.int32), mode="I").save(folder / "uids.tif")
        Image.fromarray(rng.integers(0, 4, size, dtype=np.uint8)).save(folder / "parts.png")
        mask = (rng.random(size) < 0.3).astype(np.uint8) * 255
        Image.fromarray(mask).save(folder / "mask.png")
        record["pan_part_file_name"] = str(folder / "uids.tif")
        record["part_seg_file_name"] = str(folder / "parts.png")
        record["saliency_file_name"] = str(folder / "mask.png")
        ids = (labels != 7).astype(int) + 1
        info = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 0}]
        output["panoptic_seg"] = np.where(rng.random(size) < 0.1, 0, ids), info
        output["part_seg"] = rng.integers(0, 3, size)
    return records, outputs


def maps(outputs: list[dict], records: list[dict], channels: int) -> list[dict]:
    import torch

    rng = np.random.default_rng(1)
    return [
        {**output, "sem_seg": torch.from_numpy(rng.random((channels, one["height"], one["width"])))}
        for output, one in zip(outputs, records, strict=True)
    ]


KINDS = {
    "refer": (ReferringEvaluator, 0),
    "grefer": (GeneralizedReferringEvaluator, 0),
    "refzom": (RefZOMEvaluator, 0),
    "group": (GroupReferringEvaluator, 0),
    "cosaliency": (CoSaliencyEvaluator, 1),
    "parts": (PartEvaluator, 3),
    "part_pq": (PartPQEvaluator, 0),
}


@pytest.mark.parametrize("name", KINDS)
def test_scores_do_not_depend_on_the_number_of_processes(
    name: str, dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, outputs = dataset
    kind, channels = KINDS[name]
    if channels:
        outputs = maps(outputs, records, channels)
    register_dataset(
        "hand_made_shards",
        lambda: records,
        stuff_classes=["a", "b", "c"],
        part_pq_classes=CLASSES,
    )

    def evaluate(shards: int) -> dict[str, float]:
        evaluators = [kind("hand_made_shards", distributed=True) for _ in range(shards)]
        for rank, evaluator in enumerate(evaluators):
            for number in range(rank, IMAGES, shards):
                evaluator.process([records[number]], [outputs[number]])
        # What each process would send, by the evaluator's own call to the distributed.
        sent: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(distributed.comm, "synchronize", lambda: None)
            patch.setattr(distributed.comm, "gather", lambda items, dst: sent.append(items))
            patch.setattr(distributed.comm, "is_main_process", lambda: False)
            patch.setattr(distributed.np, "sum", lambda parts, axis: parts)
            assert all(evaluator.evaluate() is None for evaluator in evaluators)
        assert len(sent) == shards
        with monkeypatch.context() as patch:
            patch.setattr(distributed.comm, "synchronize", lambda: None)
            patch.setattr(distributed.comm, "gather", lambda items, dst: sent)
            return dict(evaluators[0].evaluate()[name])

    alone = evaluate(1)
    assert sum(math.isfinite(value) for value in alone.values()) > 2
    for shards in (2, 8):
        scores = evaluate(shards)
        np.testing.assert_equal(scores, alone)
        assert [float(v).hex() for v in scores.values()] == [float(v).hex() for v in alone.values()]
