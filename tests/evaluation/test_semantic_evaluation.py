"""mIoU and accuracies of label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from hipie.data.datasets.catalog import register_dataset
from hipie.errors import InputError
from hipie.evaluation import ResultsTable
from hipie.evaluation.semantic_evaluation import SemanticEvaluator

NAMES = ["sky", "sea", "sand", "rock"]
SIZE = (20, 30)


def register(folder: Path, labels: np.ndarray, **metadata: object) -> dict:
    Image.new("RGB", SIZE[::-1]).save(folder / "image.png")
    Image.fromarray(labels.astype(np.uint8)).save(folder / "labels.png")
    record = {
        "file_name": str(folder / "image.png"),
        "sem_seg_file_name": str(folder / "labels.png"),
    }
    register_dataset("beach", lambda: [record], **{"stuff_classes": NAMES, **metadata})
    return DatasetCatalog.get("beach")[0]


def evaluate(record: dict, predicted: np.ndarray) -> dict:
    evaluator = SemanticEvaluator("beach", distributed=False)
    evaluator.reset()
    scores = torch.from_numpy(np.eye(len(NAMES))[predicted]).permute(2, 0, 1)
    evaluator.process([record], [{"sem_seg": scores}])
    return evaluator.evaluate()["sem_seg"]


@pytest.mark.parametrize("ignored", [0, 3, 255])
def test_means_come_first_and_leave_out_ignored_pixels(tmp_path: Path, ignored: int) -> None:
    rng = np.random.default_rng(ignored)
    classes = [i for i in range(len(NAMES)) if i != ignored]
    labels, predicted = rng.choice([*classes, ignored], SIZE), rng.integers(0, 4, SIZE)
    predicted[:10] = np.where(labels[:10] < 4, labels[:10], 0)
    record = register(tmp_path, labels, ignore_label=ignored)
    scores = evaluate(record, predicted)
    assert list(scores)[:4] == ["mIoU", "fwIoU", "mACC", "pACC"]

    counted = labels != ignored
    truth, prediction = labels[counted], predicted[counted]
    ious, accuracies, shares = [], [], []
    for index in classes:
        true, said = truth == index, prediction == index
        ious.append((true & said).sum() / (true | said).sum())
        accuracies.append((true & said).sum() / true.sum())
        shares.append(true.mean())
    assert scores["mIoU"] == pytest.approx(100 * np.mean(ious))
    assert scores["fwIoU"] == pytest.approx(100 * np.dot(ious, shares))
    assert scores["mACC"] == pytest.approx(100 * np.mean(accuracies))
    assert scores["pACC"] == pytest.approx(100 * (truth == prediction).mean())

    table = ResultsTable()
    table.add("beach", {"sem_seg": scores}, None)
    assert all(f"{name} " in table.text() for name in ("mIoU", "fwIoU", "mACC", "pACC"))


def test_values_beyond_the_classes_name_the_map(tmp_path: Path) -> None:
    record = register(tmp_path, np.full(SIZE, 4))
    with pytest.raises(InputError, match=r"labels\.png: .* the value 4, but .* has 4 classes"):
        evaluate(record, np.zeros(SIZE, int))
