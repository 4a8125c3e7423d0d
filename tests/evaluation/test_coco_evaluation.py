"""AP on annotation files with faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hipie.data.datasets import register_coco
from hipie.data.datasets.catalog import register_dataset
from hipie.errors import InputError
from hipie.evaluation.coco_evaluation import COCOInstanceEvaluator, PanopticInstanceEvaluator
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


def write(folder: Path, annotations: list[dict]) -> None:
    (folder / "images").mkdir()
    Image.new("RGB", (60, 50)).save(folder / "images" / "a.jpg")
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 50, "width": 60}],
        "categories": [{"id": 4, "name": "cup"}, {"id": 9, "name": "jug"}],
        "annotations": [{"id": i, "image_id": 7, **a} for i, a in enumerate(annotations)],
    }
    (folder / "a.json").write_text(json.dumps(content))
    register_coco("faulty", folder / "a.json", folder / "images")


def output() -> dict:
    instances = Instances((50, 60))
    masks = torch.zeros(1, 50, 60, dtype=torch.bool)
    masks[0, 10:30, 10:30] = True
    instances.pred_masks = masks
    instances.pred_boxes = Boxes(torch.tensor([[10.0, 10, 30, 30]]))
    instances.scores, instances.pred_classes = torch.ones(1), torch.tensor([1])
    return {"instances": instances}


def evaluate(folder: Path | None) -> dict:
    evaluator = COCOInstanceEvaluator("faulty", folder and str(folder))
    evaluator.reset()
    evaluator.process(DatasetCatalog.get("faulty"), [output()])
    return evaluator.evaluate()


def test_faulty_annotations_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            {"category_id": 9, "segmentation": SQUARE, "bbox": [10, 10, 20, 20]},
            {"category_id": 9, "segmentation": [], "bbox": [0, 0, 0, 0]},
            {"category_id": 4, "segmentation": [[1, 1, 2, 2]], "bbox": [0, 0, 5, 5]},
            {"category_id": 4, "segmentation": [], "bbox": [100, 100, 5, 5]},
        ],
    )
    results = evaluate(tmp_path / "out")
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP-jug"] == pytest.approx(100)


def test_boxes_without_masks(tmp_path: Path) -> None:
    write(tmp_path, [{"category_id": 9, "bbox": [10, 10, 20, 20]}])
    results = evaluate(None)
    assert set(results) == {"bbox"} and results["bbox"]["AP"] == pytest.approx(100)


def test_missed_object_lowers_the_ap(tmp_path: Path) -> None:
    other = [[40, 10, 55, 10, 55, 30, 40, 30]]
    write(
        tmp_path,
        [
            {"category_id": 9, "segmentation": SQUARE},
            {"category_id": 9, "segmentation": other},
        ],
    )
    assert evaluate(None)["segm"]["AP"] == pytest.approx(50, abs=1.5)


def test_ap50_of_a_class_is_that_of_pycocotools(tmp_path: Path) -> None:
    """The jug is predicted with IoU 0.6, a second jug and the cup are missed."""
    taller = [[10, 10, 30, 10, 30, 43, 10, 43]]
    write(
        tmp_path,
        [
            {"id": 1, "category_id": 9, "segmentation": taller, "bbox": [10, 10, 20, 33]},
            {"id": 2, "category_id": 9, "segmentation": taller, "bbox": [40, 10, 20, 33]},
            {"id": 3, "category_id": 4, "segmentation": SQUARE, "bbox": [10, 10, 20, 20]},
        ],
    )
    content = json.loads((tmp_path / "a.json").read_text())
    content["annotations"] = [{**a, "iscrowd": 0, "area": 660} for a in content["annotations"]]
    content["annotations"][1]["segmentation"] = [[40, 10, 60, 10, 60, 43, 40, 43]]
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "output").mkdir()
    scores = evaluate(tmp_path / "output")["segm"]
    truth = COCO(str(tmp_path / "a.json"))
    predictions = truth.loadRes(str(tmp_path / "output" / "coco_instances_results.json"))
    for name, category in (("cup", 4), ("jug", 9)):
        expected = COCOeval(truth, predictions, "segm")
        expected.params.catIds = [category]
        expected.evaluate()
        expected.accumulate()
        expected.summarize()
        assert scores[f"AP50-{name}"] == pytest.approx(100 * expected.stats[1])
    assert scores["AP50-jug"] > 1.5 * scores["AP-jug"] > 0


def register_records(count: int = 4, **changes: object) -> list[dict]:
    """Register records in Detectron2's form with a square in each of `count` images."""
    records = [
        {
            "file_name": f"{number}.png",
            "image_id": number,
            "height": 50,
            "width": 60,
            "annotations": [
                {
                    "bbox": [10, 10, 20, 20],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": SQUARE,
                }
            ],
        }
        for number in range(count)
    ]
    register_dataset("squares", lambda: records, thing_classes=["cup", "jug"], **changes)
    return records


def evaluate_records(folder: Path | None = None) -> dict:
    evaluator = COCOInstanceEvaluator("squares", folder and str(folder))
    evaluator.reset()
    for record in DatasetCatalog.get("squares"):
        evaluator.process([record], [output()])
    return evaluator.evaluate()


def test_records_without_a_file_and_with_ids_of_several_types(tmp_path: Path) -> None:
    records = register_records()
    for record, image_id in zip(records, (0, "0", "street", 17), strict=True):
        record["image_id"] = image_id
    tmp_path.joinpath("out").mkdir()
    results = evaluate_records(tmp_path / "out")
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert [result["image_id"] for result in written] == [0, "0", "street", 17]
    assert {result["category_id"] for result in written} == {1}


def test_predictions_are_written_with_the_category_ids_of_the_file(tmp_path: Path) -> None:
    register_records(thing_dataset_id_to_contiguous_id={40: 0, 90: 1})
    tmp_path.joinpath("out").mkdir()
    assert evaluate_records(tmp_path / "out")["segm"]["AP"] == pytest.approx(100)
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {result["category_id"] for result in written} == {90}


def test_object_with_a_box_only_keeps_the_ap_of_masks() -> None:
    records = register_records()
    del records[0]["annotations"][0]["segmentation"]
    results = evaluate_records()
    assert set(results) == {"bbox", "segm"}
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)
    # Masks on the box of an object without one are not wrong; elsewhere they are.
    records[0]["annotations"][0]["bbox"] = [40, 30, 10, 10]
    results = evaluate_records()
    assert results["segm"]["AP"] < 99 and results["bbox"]["AP"] < 99


def test_areas_are_counted_from_the_mask() -> None:
    records = register_records()
    for record, area in zip(records, (None, "12", True, 400), strict=True):
        record["annotations"][0]["area"] = area
    truth = COCOInstanceEvaluator("squares").ground_truth()
    assert [a["area"] for a in truth.annotations] == [400] * 4
    assert evaluate_records()["segm"]["APs"] == pytest.approx(100)


def test_panoptic_segments_are_the_truth_without_an_instance_file(tmp_path: Path) -> None:
    colours = np.zeros((50, 60, 3), np.uint8)
    colours[..., 0] = 5
    colours[10:30, 10:30, 0] = 9
    Image.fromarray(colours).save(tmp_path / "map.png")
    record = {
        "file_name": "a.png",
        "image_id": 3,
        "height": 50,
        "width": 60,
        "pan_seg_file_name": str(tmp_path / "map.png"),
        "segments_info": [
            {"id": 5, "category_id": 0},
            {"id": 9, "category_id": 1, "iscrowd": 0},
            {"id": 11, "category_id": 1},
        ],
    }
    names = ["wall", "jug"]
    kinds = zip(names, ("stuff", "thing"), strict=True)
    vocabulary = Vocabulary([VocabularyClass(name, kind) for name, kind in kinds])
    # The second as Detectron2's own metadata of panoptic sets, whose lists have all names.
    for metadata in (
        {"vocabulary": vocabulary},
        {
            "thing_classes": names,
            "stuff_classes": names,
            "thing_dataset_id_to_contiguous_id": {8: 1},
            "stuff_dataset_id_to_contiguous_id": {6: 0, 8: 1},
        },
    ):
        register_dataset("room", lambda: [record], **metadata)
        evaluator = PanopticInstanceEvaluator("room")
        evaluator.reset()
        evaluator.process([record], [output()])
        results = evaluator.evaluate()
        assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)
        truth = evaluator.ground_truth()
        assert [a["area"] for a in truth.annotations] == [400]


def test_instance_file_of_a_panoptic_set_is_read_when_the_evaluator_is_built(
    tmp_path: Path,
) -> None:
    write(tmp_path, [{"category_id": 9, "segmentation": SQUARE, "area": None}])
    record = {
        "file_name": str(tmp_path / "images" / "a.jpg"),
        "image_id": 7,
        "height": 50,
        "width": 60,
        "pan_seg_file_name": "map.png",
        "segments_info": [{"id": 5, "category_id": 0}, {"id": 9, "category_id": 1}],
    }

    def build(**changes: object) -> PanopticInstanceEvaluator:
        register_dataset(
            "room",
            lambda: [{**record, **changes}],
            vocabulary=Vocabulary.from_names(things=["cup", "jug"]),
            thing_dataset_id_to_contiguous_id={4: 0, 9: 1},
            json_file=str(tmp_path / "a.json"),
        )
        return PanopticInstanceEvaluator("room")

    evaluator = build()
    evaluator.reset()
    evaluator.process([record], [output()])
    assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)
    with pytest.raises(InputError, match=r"a\.json: no image has the id of an image of .* room"):
        build(image_id="street")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json: this is not a JSON file"):
        build()
