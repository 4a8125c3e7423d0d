"""Evaluators of the registered data sets on ground truth as predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import NoOpTransform
from detectron2.structures import Boxes, Instances

from hipie.config import add_hipie_config
from hipie.data.dataset_mappers.annotations import masks_to_instances, panoptic_masks
from hipie.data.datasets.catalog import register_dataset
from hipie.data.image_io import read_label_map
from hipie.evaluation import build_evaluator
from hipie.evaluation.metrics.expression_iou import target_rles

pytestmark = pytest.mark.usefixtures("drawn_book")


@pytest.fixture
def cfg() -> CfgNode:
    node = get_cfg()
    add_hipie_config(node)
    return node


def perfect_panoptic(record: dict, classes: int, things: int) -> dict:
    """Make the outputs of a model without errors for a panoptic record."""
    colours = read_label_map(record["pan_seg_file_name"])
    truth = masks_to_instances(*panoptic_masks(colours, record["segments_info"], NoOpTransform()))
    masks, labels = truth.gt_masks.tensor, truth.gt_classes
    chosen = labels < things
    scores = Instances(truth.image_size)
    scores.pred_masks, scores.pred_classes = masks[chosen], labels[chosen]
    scores.pred_boxes = Boxes(truth.gt_boxes.tensor[chosen])
    scores.scores = torch.ones(int(chosen.sum()))
    semantic = torch.zeros(classes, *truth.image_size)
    panoptic = torch.zeros(truth.image_size, dtype=torch.int32)
    segments = []
    for i, (mask, label) in enumerate(zip(masks, labels.tolist(), strict=True)):
        semantic[label][mask] = 1
        panoptic[mask] = i + 1
        segments.append({"id": i + 1, "isthing": label < things, "category_id": label})
    return {"instances": scores, "sem_seg": semantic, "panoptic_seg": (panoptic, segments)}


def run(cfg: CfgNode, name: str, folder: Path, predict) -> dict:
    evaluator = build_evaluator(cfg, name, str(folder))
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        evaluator.process([record], [predict(record)])
    return evaluator.evaluate()


def test_panoptic_ground_truth_has_full_score(cfg: CfgNode, tmp_path: Path) -> None:
    meta = MetadataCatalog.get("picturebook_val_panoptic")
    things, classes = len(meta.thing_classes), len(meta.stuff_classes)
    results = run(
        cfg,
        "picturebook_val_panoptic",
        tmp_path,
        lambda record: perfect_panoptic(record, classes, things),
    )
    assert results["panoptic_seg"]["PQ"] == pytest.approx(100)
    assert results["sem_seg"]["mIoU"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100)


def test_only_enabled_tasks_are_evaluated(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.MODEL.HIPIE.TEST.INSTANCE_ON = False
    cfg.MODEL.HIPIE.TEST.PANOPTIC_ON = False
    meta = MetadataCatalog.get("picturebook_val_panoptic")
    things, classes = len(meta.thing_classes), len(meta.stuff_classes)
    results = run(
        cfg,
        "picturebook_val_panoptic",
        tmp_path,
        lambda record: {"sem_seg": perfect_panoptic(record, classes, things)["sem_seg"]},
    )
    assert set(results) == {"sem_seg"}


def test_unseen_ground_truth_has_full_score(cfg: CfgNode, tmp_path: Path) -> None:
    meta = MetadataCatalog.get("picturebook_unseen_panoptic")
    things, classes = len(meta.thing_classes), len(meta.stuff_classes)
    results = run(
        cfg,
        "picturebook_unseen_panoptic",
        tmp_path,
        lambda record: perfect_panoptic(record, classes, things),
    )
    shown = any(
        meta.thing_classes[s["category_id"]] in meta.unseen_classes
        for record in DatasetCatalog.get("picturebook_unseen_panoptic")
        for s in record["segments_info"]
        if s["isthing"]
    )
    assert set(results) == {"unseen"} and shown
    assert results["unseen"]["AR@100"] == pytest.approx(100)
    assert results["unseen"]["naming"] == pytest.approx(100)


@pytest.mark.parametrize(("split", "key"), [("val", "parts"), ("unseen", "parts_unseen")])
def test_part_ground_truth_has_full_score(
    cfg: CfgNode, tmp_path: Path, split: str, key: str
) -> None:
    name = f"picturebook_{split}_parts"
    classes = len(MetadataCatalog.get(name).stuff_classes)

    def predict(record: dict) -> dict:
        labels = read_label_map(record["part_seg_file_name"]).astype(np.int64)
        return {"sem_seg": torch.from_numpy(np.eye(classes + 1)[labels]).permute(2, 0, 1)[1:]}

    results = run(cfg, name, tmp_path, predict)
    assert results[key]["mIoU"] == pytest.approx(100)
    assert results[key]["mIoU_parts"] == pytest.approx(100)


def perfect_expressions(record: dict) -> dict:
    predictions = []
    for rle in target_rles(record):
        instances = Instances((record["height"], record["width"]))
        instances.pred_masks = torch.from_numpy(mask_util.decode(rle)).bool()[None]
        predictions.append(instances)
    return {"referring": predictions}


def test_expression_ground_truth_has_full_score(cfg: CfgNode, tmp_path: Path) -> None:
    results = run(cfg, "picturebook_val_refer", tmp_path, perfect_expressions)
    assert results["refer"]["oIoU"] == 100 and results["refer"]["P@0.9"] == 100
    unseen = run(cfg, "picturebook_unseen_refer", tmp_path, perfect_expressions)["refer_unseen"]
    groups = {name for name in unseen if name.startswith("oIoU-unseen_")}
    assert groups == {"oIoU-unseen_class", "oIoU-unseen_pair"}
    assert all(unseen[name] == 100 for name in groups)
    general = run(cfg, "picturebook_val_grefer", tmp_path, perfect_expressions)["grefer"]
    assert general["gIoU"] == 100 and general["N-acc"] == 100


def test_unknown_type_is_refused(cfg: CfgNode) -> None:
    register_dataset("hand_made_mystery", list, evaluator_type="mystery")
    with pytest.raises(ValueError, match='hand_made_mystery has the evaluator_type "mystery"'):
        build_evaluator(cfg, "hand_made_mystery")
