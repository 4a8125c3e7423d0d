"""What evaluators request of a model, and that they read it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.evaluation import DatasetEvaluator
from PIL import Image

from hipie.config import add_hipie_config
from hipie.data.datasets.catalog import register_dataset
from hipie.evaluation import build_evaluator
from hipie.evaluation.requests import RequestingEvaluators, RequestingLoader
from hipie.structures import SemanticLabels


@pytest.fixture
def cfg() -> CfgNode:
    node = get_cfg()
    add_hipie_config(node)
    return node


def test_inputs_request_what_the_evaluator_reads() -> None:
    batches = [[{"image": 1}, {"image": 2, "results": ("instances",)}], [{"image": 3}]]
    loader = RequestingLoader(batches, RequestingEvaluators([], ["panoptic_seg"]))
    assert len(loader) == 2
    requested = [item["results"] for batch in loader for item in batch]
    assert requested == [("panoptic_seg",), ("instances",), ("panoptic_seg",)]
    assert "results" not in batches[0][0]
    assert list(RequestingLoader(batches, DatasetEvaluator())) == batches


@pytest.mark.usefixtures("drawn_book")
@pytest.mark.parametrize("off", [None, "INSTANCE_ON", "SEMANTIC_ON", "PANOPTIC_ON"])
def test_disabled_results_are_not_requested(cfg: CfgNode, off: str | None) -> None:
    if off is not None:
        cfg.MODEL.HIPIE.TEST[off] = False
    evaluator = build_evaluator(cfg, "picturebook_val_panoptic", None)
    keys = {
        "INSTANCE_ON": "instances",
        "SEMANTIC_ON": "sem_seg_labels",
        "PANOPTIC_ON": "panoptic_seg",
    }
    assert evaluator.requested_results == tuple(key for on, key in keys.items() if on != off)


@pytest.mark.parametrize("kind", ["sem_seg", "parts"])
def test_labels_give_the_results_of_all_scores(cfg: CfgNode, tmp_path, kind: str) -> None:
    rng = np.random.default_rng(0)
    Image.new("RGB", (30, 20)).save(tmp_path / "image.png")
    Image.fromarray(rng.integers(0, 4, (20, 30), np.uint8)).save(tmp_path / "labels.png")
    record = {"file_name": str(tmp_path / "image.png")}
    for key in ("sem_seg_file_name", "part_seg_file_name"):
        record[key] = str(tmp_path / "labels.png")
    names = ["sky", "sea", "sand", "rock"]
    register_dataset(
        "shore", lambda: [record], stuff_classes=names, evaluator_type=kind, ignore_label=255
    )
    scores = torch.from_numpy(rng.random((4, 20, 30)))
    best, labels = scores.max(0)

    def evaluate(output: dict) -> dict:
        evaluator = build_evaluator(cfg, "shore", None)
        assert evaluator.requested_results == ("sem_seg_labels",)
        evaluator.reset()
        evaluator.process([record], [output])
        return evaluator.evaluate()

    expected = evaluate({"sem_seg": scores})
    of_labels = evaluate({"sem_seg_labels": SemanticLabels(labels, best, scores.sum(0))})
    np.testing.assert_equal(of_labels, expected)
    assert 0 < next(iter(expected.values()))["mIoU"] < 50
