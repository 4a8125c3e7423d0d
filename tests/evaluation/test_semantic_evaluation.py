"""mIoU and accuracies of label maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from hipie.data.datasets.catalog import register_dataset
from hipie.errors import InputError
from hipie.evaluation import ResultsTable
from hipie.evaluation.semantic_evaluation import SemanticEvaluator, class_table

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


def test_background_is_a_class_of_pixels_with_low_scores(tmp_path: Path) -> None:
    """Against counts of every threshold; classes of the outputs are those without background."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, SIZE)
    labels[labels == 4] = 255
    record = register(tmp_path, labels, background_class="sea")
    named = np.array([0, 2, 3])
    scores = rng.random((3, *SIZE)).astype(np.float32)

    def mean_iou(threshold: float) -> float:
        predicted = named[scores.argmax(0)]
        predicted[scores.max(0) < threshold] = 1
        counted = labels != 255
        ious = []
        for index in range(4):
            true, said = (labels == index) & counted, (predicted == index) & counted
            ious.append((true & said).sum() / (true | said).sum())
        return 100 * float(np.mean(ious))

    evaluator = SemanticEvaluator(
        "beach", str(tmp_path / "out"), distributed=False, background_threshold=0.6
    )
    for _ in range(2):
        evaluator.reset()
        evaluator.process([record], [{"sem_seg": torch.from_numpy(scores)}])
        results = evaluator.evaluate()["sem_seg"]
        assert results["mIoU"] == pytest.approx(mean_iou(0.6))
    curve = json.loads((tmp_path / "out" / "background_thresholds.json").read_text())
    assert len(curve) > 20
    for entry in curve:
        assert entry["mIoU"] == pytest.approx(mean_iou(entry["threshold"]))
    best = max(curve, key=lambda entry: entry["mIoU"])
    assert results["background_threshold"] == 0.6
    assert results["best_background_threshold"] == best["threshold"]
    assert results["mIoU_best_background_threshold"] == best["mIoU"]


@pytest.mark.parametrize(("name", "names"), [("ground", NAMES), ("sky", ["sky"])])
def test_background_class_is_one_of_several(tmp_path: Path, name: str, names: list[str]) -> None:
    register(tmp_path, np.zeros(SIZE), background_class=name, stuff_classes=names)
    with pytest.raises(InputError, match=rf"beach: its background_class .* '{name}' is not"):
        SemanticEvaluator("beach", distributed=False)


def test_scores_of_classes_are_logged_as_a_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = np.zeros(SIZE, int)
    labels[:10] = 1
    with caplog.at_level("INFO"):
        evaluate(register(tmp_path, labels), labels)
    (record,) = caplog.records
    lines = record.getMessage().splitlines()
    assert lines[0] == "Scores of the 4 classes of beach in percent:"
    assert lines[1].split("  ")[0] == "class" and lines[1].endswith("accuracy")
    assert [line.split()[0] for line in lines[3:]] == NAMES
    assert [line.split()[-1] for line in lines[3:]] == ["100.00", "100.00", "-", "-"]
    table = class_table(["a-b", "c"], {"IoU-a-b": 12.4, "IoU-c": float("nan"), "ACC-c": 50.0})
    assert [line.split() for line in table.splitlines()[2:]] == [
        ["a-b", "12.40", "-"],
        ["c", "-", "50.00"],
    ]


def test_harmonic_mean_of_seen_and_unseen_classes(tmp_path: Path) -> None:
    """Sky and sea have an IoU of 1/2, sand of 1, and rock has no pixel."""
    labels = np.array([[0, 1, 1, 2, 2, 2]])
    predicted = np.array([[0, 0, 1, 2, 2, 2]])
    record = register(tmp_path, labels.repeat(5, 0))
    evaluator = SemanticEvaluator("beach", distributed=False, unseen_classes=["sand", "rock"])
    evaluator.reset()
    scores = torch.from_numpy(np.eye(4)[predicted.repeat(5, 0)]).permute(2, 0, 1)
    evaluator.process([record], [{"sem_seg": scores}])
    results = evaluator.evaluate()["sem_seg"]
    assert results["mIoU-seen"] == pytest.approx(100 * (1 / 2 + 1 / 2) / 2)
    assert results["mIoU-unseen"] == pytest.approx(100)
    assert results["hIoU"] == pytest.approx(100 * 2 * 0.5 / 1.5)
    assert "hIoU" not in evaluate(record, predicted.repeat(5, 0))
