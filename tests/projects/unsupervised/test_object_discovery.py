"""Class-agnostic AP and CorLoc, the detector of one class, and rounds of self-training."""

from __future__ import annotations

import json
from argparse import Namespace

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from hipie.data.annotation_maps import panoptic_ids, read_panoptic_map
from hipie.errors import InputError, MissingFileError
from hipie.evaluation import build_evaluator
from hipie_unsupervised.__main__ import evaluate, main, merge
from hipie_unsupervised.evaluation.object_discovery import ObjectDiscoveryEvaluator, corloc
from hipie_unsupervised.self_training import merge_annotations

DATASET = "picturebook_val_panoptic"
FILE = "dino_nano_picturebook.yaml"


def rle(mask):
    encoded = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def box_mask(x, y, width, height, size=(40, 60)):
    mask = np.zeros(size, bool)
    mask[y : y + height, x : x + width] = True
    return mask


@pytest.fixture
def things(tiny_cfg):
    """Records of the data set with the masks of their things."""
    from detectron2.data import MetadataCatalog

    count = len(MetadataCatalog.get(DATASET).thing_classes)
    found = []
    for record in DatasetCatalog.get(DATASET):
        ids = panoptic_ids(read_panoptic_map(record["pan_seg_file_name"]))
        masks = [
            ids == segment["id"]
            for segment in record["segments_info"]
            if segment["category_id"] < count
        ]
        found.append((record, masks))
    return found


def predictions(masks, classes=0):
    masks = np.stack(masks)
    instances = Instances(masks.shape[1:])
    tensors = torch.from_numpy(masks)
    instances.pred_masks = tensors
    boxes = [mask_util.toBbox(rle(mask)) for mask in masks]
    instances.pred_boxes = Boxes([[x, y, x + w, y + h] for x, y, w, h in boxes])
    instances.scores = torch.linspace(0.9, 0.5, len(masks))
    instances.pred_classes = torch.full((len(masks),), classes)
    return {"instances": instances}


def test_right_masks_of_any_class_have_full_scores(things):
    evaluator = ObjectDiscoveryEvaluator(DATASET)
    for record, masks in things:
        evaluator.process([record], [predictions(masks, classes=5)])
    results = evaluator.evaluate()
    for task in ("segm", "bbox"):
        assert results[task]["AP"] == pytest.approx(100, abs=1)
        assert results[task]["CorLoc"] == 100


def test_shifted_masks_and_missing_images_lower_the_scores(things):
    evaluator = ObjectDiscoveryEvaluator(DATASET)
    record, masks = things[0]
    evaluator.process([record], [predictions(masks)])
    for record, masks in things[1:]:
        evaluator.process([record], [predictions([np.roll(m, 60, 1) for m in masks])])
    results = evaluator.evaluate()
    assert results["segm"]["CorLoc"] == pytest.approx(100 / len(things))
    assert 0 < results["segm"]["AP"] < 60


def test_corloc_counts_the_best_prediction_of_images_with_objects():
    objects = [
        {"image_id": 1, "bbox": [0, 0, 10, 10], "segmentation": rle(box_mask(0, 0, 10, 10))},
        {"image_id": 1, "bbox": [20, 20, 10, 10], "segmentation": rle(box_mask(20, 20, 10, 10))},
        {"image_id": 2, "bbox": [0, 0, 10, 10], "segmentation": rle(box_mask(0, 0, 10, 10))},
        {"image_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ]
    half = box_mask(20, 20, 10, 10)
    half[20:26, 20:30] = False
    found = {
        1: {"bbox": [20, 20, 10, 10], "segmentation": rle(half)},
        2: {"bbox": [0, 6, 10, 10], "segmentation": rle(box_mask(0, 6, 10, 10))},
        3: {"bbox": [0, 0, 9, 9]},
    }
    sizes = dict.fromkeys((1, 2, 3), (40, 60))
    assert corloc(objects, found, sizes, "bbox") == 50
    assert corloc(objects, found, sizes, "segm") == 0
    assert np.isnan(corloc([], found, sizes, "bbox"))


def test_program_evaluates_a_file_of_masks(things, tiny_cfg, tmp_path, capsys):
    import os

    root = os.path.dirname(things[0][0]["file_name"])
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    for number, (record, masks) in enumerate(things, 1):
        name = os.path.relpath(record["file_name"], root)
        content["images"].append({"id": number, "file_name": name})
        content["annotations"] += [{"image_id": number, "segmentation": rle(m)} for m in masks]
    file = tmp_path / "masks.json"
    file.write_text(json.dumps(content))
    keys = ("ROOT", "TRAIN_PAGES", "VAL_PAGES", "UNSEEN_PAGES")
    options = [str(v) for key in keys for v in (f"PICTUREBOOK.{key}", tiny_cfg.PICTUREBOOK[key])]
    arguments = ["evaluate", "--masks", str(file), "--image-root", root, "--dataset", DATASET]
    assert main([*arguments, *options]) == 0
    printed = capsys.readouterr().out
    assert "segm: CorLoc 100.00, AP 100.00" in printed
    content["images"] = content["images"][:-1]
    file.write_text(json.dumps(content))
    missing = f"has {len(things) - 1} of the {len(things)} images"
    parsed = Namespace(
        masks=str(file), image_root=root, dataset=DATASET, config_file=FILE, opts=options
    )
    with pytest.raises(InputError, match=missing):
        evaluate(parsed)


def test_a_missing_file_is_an_error(tmp_path):
    names = {"annotations": "no.json", "predictions": "p.json", "output": str(tmp_path / "o")}
    with pytest.raises(MissingFileError, match="no.json: there is no such file"):
        merge(Namespace(**names))


def test_confident_predictions_replace_what_they_overlap(tmp_path):
    first, second = box_mask(0, 0, 10, 10), box_mask(30, 20, 10, 10)
    annotations = {
        "images": [{"id": 7, "height": 40, "width": 60}, {"id": 8, "height": 40, "width": 60}],
        "annotations": [
            {"id": 1, "image_id": 7, "segmentation": rle(first)},
            {"id": 2, "image_id": 7, "segmentation": rle(second)},
            {"id": 3, "image_id": 8, "segmentation": rle(first)},
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
    larger = box_mask(0, 0, 12, 10)
    found = [
        {"image_id": 7, "score": 0.9, "segmentation": rle(larger)},
        {"image_id": 7, "score": 0.6, "segmentation": rle(box_mask(15, 0, 5, 5))},
        {"image_id": 9, "score": 0.9, "segmentation": rle(first)},
    ]
    for name, content in (("a", annotations), ("p", found)):
        (tmp_path / name).write_text(json.dumps(content))
    names = [str(tmp_path / name) for name in "apo"]
    arguments = ("--annotations", names[0], "--predictions", names[1], "--output", names[2])
    assert main(["merge", *arguments]) == 0
    merged = json.loads((tmp_path / "o").read_text())
    assert merged == json.loads(json.dumps(merge_annotations(annotations, found)))
    kept = [(entry["image_id"], entry["area"]) for entry in merged["annotations"]]
    assert kept == [(7, 120), (7, 100), (8, 100)]
    assert [entry["id"] for entry in merged["annotations"]] == [1, 2, 3]
    assert merged["annotations"][0]["bbox"] == [0, 0, 12, 10]
    everything = merge_annotations(annotations, found, threshold=0.5, max_iou=0.9)
    assert len(everything["annotations"]) == 5


def test_cutler_learns_and_predicts_one_class(tiny_cfg):
    cfg = tiny_cfg
    cfg.MODEL.META_ARCHITECTURE = "CutLER"
    cfg.MODEL.HIPIE.LOSS.THING_CRITERION = "DropLossThingCriterion"
    cfg.MODEL.HIPIE.LOSS.STUFF_CRITERION = "DropLossStuffCriterion"
    model = build_model(cfg)
    evaluator = build_evaluator(cfg, DATASET)
    assert isinstance(evaluator, ObjectDiscoveryEvaluator)
    image = torch.randint(0, 255, (3, 64, 80))
    (output,) = model.eval()([{"image": image, "results": ("instances",)}])
    assert set(output["instances"].pred_classes.tolist()) == {0}
    from hipie.data.build import build_train_loader

    batch = next(iter(build_train_loader(cfg)))
    losses = model.train()(batch)
    assert type(model.thing_criterion).__name__ == "DropLossThingCriterion"
    assert torch.isfinite(sum(losses.values()))
