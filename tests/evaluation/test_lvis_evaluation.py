"""LVIS's federated AP: planted cases, an independent implementation, and properties."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_lvis_instances
from detectron2.structures import Boxes, Instances

from hipie.config import add_hipie_config
from hipie.data.datasets import load_lvis, register_public_datasets
from hipie.data.datasets.catalog import register_dataset
from hipie.data.io.missing_images import accept_missing_images
from hipie.evaluation import build_evaluator
from hipie.evaluation.lvis_evaluation import (
    LVISInstanceEvaluator,
    best_per_class,
    best_per_image,
    lvis_metrics,
)
from hipie.vocabularies import Vocabulary

pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")

NAME, SIZE = "planted_lvis", (240, 320)
RARE, COMMON, FREQUENT = 3, 5, 9
CATEGORIES = [
    {"id": RARE, "name": "rare", "frequency": "r"},
    {"id": COMMON, "name": "common", "frequency": "c"},
    {"id": FREQUENT, "name": "frequent", "frequency": "f"},
]
BOX, FAR_BOX = (10, 20, 60, 50), (150, 100, 60, 50)
METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]

Entry = dict[str, Any]


def image(number: int, negative: tuple[int, ...] = (), partial: tuple[int, ...] = ()) -> Entry:
    return {
        "id": number,
        "height": SIZE[0],
        "width": SIZE[1],
        "neg_category_ids": list(negative),
        "not_exhaustive_category_ids": list(partial),
        "coco_url": f"http://images/val2017/{number}.jpg",
    }


def content(images: list[Entry], objects: list[tuple[int, int, tuple[int, ...]]]) -> Entry:
    """Return a file in LVIS's format with objects (image, category, box as x, y, w, h)."""
    annotations = []
    for number, (image_id, category, (x, y, w, h)) in enumerate(objects, 1):
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        annotations.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": category,
                "bbox": [x, y, w, h],
                "area": w * h,
                "segmentation": [polygon],
            }
        )
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def detection(image_id: int, category: int, box: tuple[float, ...], score: float) -> Entry:
    return {"image_id": image_id, "category_id": category, "bbox": list(box), "score": score}


def federated_ap(file: Entry, detections: list[Entry], area: tuple[float, float]) -> np.ndarray:
    """Compute the federated box AP [classes, 10 IoU thresholds] from its definition, in float64.

    Every detection is in one list of its class, sorted by score; it is a hit, a miss, or ignored.
    Precision is made monotone and read at 101 recalls. NaN for a class without an object.
    """
    table = np.full((len(file["categories"]), 10), np.nan)
    for row, category in enumerate(c["id"] for c in file["categories"]):
        for column, threshold in enumerate(0.5 + 0.05 * np.arange(10)):
            hits, valid = [], 0
            for entry in sorted(file["images"], key=lambda e: e["id"]):
                same = [
                    a["bbox"] + [area[0] <= a["area"] <= area[1]]
                    for a in file["annotations"]
                    if (a["image_id"], a["category_id"]) == (entry["id"], category)
                ]
                same.sort(key=lambda o: not o[4])
                valid += sum(o[4] for o in same)
                if not same and category not in entry["neg_category_ids"]:
                    continue
                own = [
                    d
                    for d in detections
                    if (d["image_id"], d["category_id"]) == (entry["id"], category)
                ]
                free = [True] * len(same)
                for d in sorted(own, key=lambda d: -d["score"]):
                    match = best_match(d["bbox"], same, free, threshold)
                    if match is not None:
                        free[match] = False
                        ignored = not same[match][4]
                    else:
                        size = d["bbox"][2] * d["bbox"][3]
                        partial = category in entry["not_exhaustive_category_ids"]
                        ignored = partial or not area[0] <= size <= area[1]
                    if not ignored:
                        hits.append((d["score"], match is not None))
            if valid:
                hits.sort(key=lambda h: -h[0])
                table[row, column] = average_precision([hit for _, hit in hits], valid)
    return 100 * table


def best_match(box: list[float], objects: list, free: list[bool], threshold: float) -> int | None:
    """Index of the free object of highest IoU, those of the area range first."""
    for in_range in (True, False):
        values = [
            intersection_over_union(box, o) if f and o[4] == in_range else -1.0
            for o, f in zip(objects, free, strict=True)
        ]
        if values and max(values) >= threshold - 1e-12:
            return int(np.argmax(values))
    return None


def intersection_over_union(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inside = max(width, 0.0) * max(height, 0.0)
    return inside / (a[2] * a[3] + b[2] * b[3] - inside)


def average_precision(hits: list[bool], valid: int) -> float:
    true = np.cumsum(hits) if hits else np.zeros(0)
    precision, recall = true / np.arange(1, len(hits) + 1), true / valid
    return float(
        np.mean([max(precision[recall >= r - 1e-12], default=0.0) for r in np.linspace(0, 1, 101)])
    )


def random_case(seed: int) -> tuple[Entry, list[Entry]]:
    """Draw a file and detections with all relations of images and classes, and distinct scores."""
    rng = np.random.default_rng(seed)
    images, objects, detections = [], [], []
    for number in range(1, 9):
        present = [c["id"] for c in CATEGORIES if rng.random() < 0.6]
        absent = [c["id"] for c in CATEGORIES if c["id"] not in present and rng.random() < 0.5]
        partial = [c for c in present if rng.random() < 0.4]
        images.append(image(number, tuple(absent), tuple(partial)))
        for category in present:
            for _ in range(rng.integers(1, 4)):
                objects.append((number, category, random_box(rng)))
        for _, category, box in [o for o in objects if o[0] == number]:
            moved = tuple(np.array(box) + rng.integers(-3, 4, 4))
            detections.append(detection(number, category, tuple(map(float, moved)), 0.0))
        for category in (RARE, COMMON, FREQUENT):
            detections += [
                detection(number, category, tuple(map(float, random_box(rng))), 0.0)
                for _ in range(2)
            ]
    for score, entry in zip(rng.permutation(len(detections)), detections, strict=True):
        entry["score"] = float(score + 1) / (len(detections) + 1)
    return content(images, objects), detections


def random_box(rng: np.random.Generator) -> tuple[int, ...]:
    size = int(rng.choice([12, 40, 110]))
    w, h = (int(v) for v in size + rng.integers(0, 20, 2))
    return int(rng.integers(0, SIZE[1] - w)), int(rng.integers(0, SIZE[0] - h)), w, h


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_an_independent_implementation(seed: int) -> None:
    file, detections = random_case(seed)
    metrics = lvis_metrics(file, detections, "bbox")
    assert list(metrics) == METRICS
    table = federated_ap(file, detections, (0, 1e10))
    expected = {"AP": table, "AP50": table[:, 0], "AP75": table[:, 5]}
    expected |= {f"AP{c['frequency']}": table[row] for row, c in enumerate(CATEGORIES)}
    ranges = {"s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}
    for letter, area in ranges.items():
        expected[f"AP{letter}"] = federated_ap(file, detections, area)
    for name, values in expected.items():
        assert metrics[name] == pytest.approx(np.nanmean(values), abs=1e-9), name
    assert 5 < metrics["AP"] < 95


def test_detections_of_a_class_that_is_not_verified_do_not_count() -> None:
    images = [image(1), image(2), image(3, negative=(RARE,))]
    file = content(images, [(1, RARE, BOX)])
    hit = detection(1, RARE, BOX, 0.5)
    unverified = lvis_metrics(file, [hit, detection(2, RARE, BOX, 0.9)], "bbox")
    assert unverified["AP"] == pytest.approx(100)
    verified = lvis_metrics(file, [hit, detection(3, RARE, BOX, 0.9)], "bbox")
    assert verified["AP"] == pytest.approx(50)


def test_unmatched_detections_are_ignored_where_the_class_is_not_exhaustive() -> None:
    hit, other = detection(1, RARE, BOX, 0.5), detection(1, RARE, FAR_BOX, 0.9)
    for partial, ap in (((RARE,), 100), ((COMMON,), 50)):
        file = content([image(1, partial=partial)], [(1, RARE, BOX)])
        assert lvis_metrics(file, [hit, other], "bbox")["AP"] == pytest.approx(ap)


def test_missed_objects_and_classes_lower_the_average() -> None:
    objects = [(1, RARE, BOX), (1, COMMON, FAR_BOX)]
    metrics = lvis_metrics(content([image(1)], objects), [detection(1, RARE, BOX, 1.0)], "bbox")
    assert metrics["AP"] == pytest.approx(50)
    assert (metrics["APr"], metrics["APc"]) == (pytest.approx(100), 0)
    assert math.isnan(metrics["APf"])


def test_object_with_the_id_zero_is_matched() -> None:
    file = content([image(1)], [(1, RARE, BOX)])
    file["annotations"][0]["id"] = 0
    assert lvis_metrics(file, [detection(1, RARE, BOX, 1.0)], "bbox")["AP"] == pytest.approx(100)


def test_cap_of_an_image_and_cap_of_a_class() -> None:
    results = [detection(i, c, BOX, s) for i, c, s in [(1, 3, 0.2), (1, 5, 0.9), (2, 3, 0.4)]]
    assert best_per_image(results, 1) == [results[1], results[2]]
    assert sorted(r["score"] for r in best_per_class(results, 1)) == [0.4, 0.9]
    assert len(best_per_class(results)) == len(best_per_image(results)) == 3


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_hipie_config(cfg)
    return cfg


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[Path]:
    """Path of the file of a data set that is registered as Detectron2 registers LVIS."""
    path = tmp_path / "lvis_v1_val.json"
    register_lvis_instances(NAME, {}, str(path), str(tmp_path))
    yield path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def prediction(entries: list[Entry]) -> Entry:
    """Return the output of a model for one image; masks are the boxes."""
    instances = Instances(SIZE)
    boxes = torch.tensor([e["bbox"] for e in entries], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.tensor([e["score"] for e in entries], dtype=torch.float32)
    order = [RARE, COMMON, FREQUENT]
    classes = [order.index(e["category_id"]) for e in entries]
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    rows, columns = torch.arange(SIZE[0])[:, None], torch.arange(SIZE[1])
    x0, y0, x1, y1 = boxes.round().T[..., None, None]
    instances.pred_masks = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
    return {"instances": instances}


def evaluate(
    cfg: CfgNode, path: Path, file: Entry, detections: list[Entry], images: list[int] | None = None
) -> dict[str, dict[str, float]]:
    path.write_text(json.dumps(file))
    evaluator = build_evaluator(cfg, NAME, str(path.parent / "output"))
    evaluator.reset()
    for number in images or [entry["id"] for entry in file["images"]]:
        entries = [d for d in detections if d["image_id"] == number]
        evaluator.process([{"image_id": number}], [prediction(entries)])
    results: dict[str, dict[str, float]] = evaluator.evaluate()
    return results


def perfect(file: Entry) -> list[Entry]:
    return [
        detection(a["image_id"], a["category_id"], tuple(a["bbox"]), 1 - 0.001 * a["id"])
        for a in file["annotations"]
    ]


def test_perfect_predictions_give_100(cfg: CfgNode, registered: Path) -> None:
    file, _ = random_case(0)
    results = evaluate(cfg, registered, file, perfect(file))
    assert list(results) == ["bbox", "segm"]
    for metrics in results.values():
        assert metrics == pytest.approx(dict.fromkeys(METRICS, 100))
    written = json.loads((registered.parent / "output/lvis_instances_results.json").read_text())
    assert {entry["category_id"] for entry in written} == {RARE, COMMON, FREQUENT}


def test_boxes_and_masks_are_evaluated_from_the_outputs_of_a_model(
    cfg: CfgNode, registered: Path
) -> None:
    file, detections = random_case(1)
    results = evaluate(cfg, registered, file, detections)
    assert results["bbox"] == pytest.approx(lvis_metrics(file, detections, "bbox"), abs=1e-4)
    # Masks of whole pixels that fill their boxes have the same IoU and area.
    assert results["segm"] == pytest.approx(results["bbox"], abs=1e-4)


def test_order_of_images_does_not_matter(cfg: CfgNode, registered: Path) -> None:
    file, detections = random_case(2)
    for entry in detections:
        entry["score"] = round(entry["score"], 1)  # with ties
    reference = evaluate(cfg, registered, file, detections)
    assert evaluate(cfg, registered, file, detections, [5, 2, 8, 1, 7, 3, 6, 4]) == reference
    cfg.TEST.LVIS_FIXED_AP = True
    fixed = evaluate(cfg, registered, file, detections)
    assert evaluate(cfg, registered, file, detections, [5, 2, 8, 1, 7, 3, 6, 4]) == fixed


def test_300_detections_of_an_image_count_unless_ap_is_fixed(
    cfg: CfgNode, registered: Path
) -> None:
    file = content([image(1)], [(1, RARE, BOX), (1, COMMON, FAR_BOX)])
    crowd = [detection(1, FREQUENT, BOX, 0.9)] * 299
    found = [detection(1, RARE, BOX, 0.5), detection(1, COMMON, FAR_BOX, 0.4)]
    assert evaluate(cfg, registered, file, [*crowd, *found])["bbox"]["AP"] == pytest.approx(50)
    cfg.TEST.LVIS_FIXED_AP = True
    assert evaluate(cfg, registered, file, [*crowd, *found])["bbox"]["AP"] == pytest.approx(100)


def test_protocol_names_the_definition(cfg: CfgNode, registered: Path) -> None:
    registered.write_text(json.dumps(content([image(1)], [])))
    assert build_evaluator(cfg, NAME).protocol == "LVIS AP, IoU 0.5 to 0.95, at most 300 an image"
    cfg.TEST.LVIS_FIXED_AP = True
    assert "AP_fixed" in build_evaluator(cfg, NAME).protocol


def test_no_predictions_give_zero(cfg: CfgNode, registered: Path) -> None:
    file = content([image(1)], [(1, RARE, BOX)])
    assert evaluate(cfg, registered, file, [])["segm"]["AP"] == 0


def test_file_without_annotations_gives_predictions_only(cfg: CfgNode, registered: Path) -> None:
    file = content([image(1)], [])
    del file["annotations"]
    assert evaluate(cfg, registered, file, [detection(1, RARE, BOX, 0.5)]) == {}
    assert (registered.parent / "output/lvis_instances_results.json").exists()


@pytest.mark.parametrize("name", ["lvis_v1_val", "lvis_v1_val_federated"])
def test_both_names_of_lvis_are_evaluated(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    register_public_datasets()
    path = tmp_path / "lvis_v1_val.json"
    path.write_text(json.dumps(content([image(1)], [(1, RARE, BOX)])))
    monkeypatch.setitem(vars(MetadataCatalog.get(name)), "json_file", str(path))
    monkeypatch.setitem(vars(MetadataCatalog.get(name)), "vocabulary", None)
    ids = {RARE: 0, COMMON: 1, FREQUENT: 2}
    monkeypatch.setitem(vars(MetadataCatalog.get(name)), "thing_dataset_id_to_contiguous_id", ids)
    monkeypatch.setitem(sys.modules, "lvis", None)
    assert isinstance(build_evaluator(cfg, name), LVISInstanceEvaluator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["categories"][1].pop("frequency"), 'json: category 5 needs "frequency", one'),
        (lambda f: f["images"][0].pop("neg_category_ids"), 'image 1 needs "neg_category_ids"'),
        (lambda f: f["annotations"][0].update(bbox="x", segmentation=0), "json: annotation 1"),
        (lambda f: f["annotations"][0].update(category_id=99), "the unknown category 99"),
    ],
)
def test_files_of_another_format_are_named(
    cfg: CfgNode, registered: Path, change: Any, message: str
) -> None:
    file = json.loads(json.dumps(content([image(1)], [(1, RARE, BOX)])))
    change(file)
    registered.write_text(json.dumps(file))
    with pytest.raises(ValueError, match=message):
        build_evaluator(cfg, NAME)


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.pop("area"),
        lambda entry: entry.update(area="large"),
        lambda entry: entry.update(area=-1.0),
        lambda entry: entry.update(bbox=[0, 0, 0, 0]),
        lambda entry: entry.update(category_id=float(entry["category_id"])),
        lambda entry: entry.update(image_id=str(entry["image_id"])),
        lambda entry: entry.update(segmentation=[[[x, y] for x, y in pairs(entry)]]),
    ],
)
def test_forms_of_fields_give_the_same_metrics(cfg: CfgNode, registered: Path, change) -> None:
    file, detections = random_case(1)
    expected = evaluate(cfg, registered, file, detections)
    changed = json.loads(json.dumps(file))
    for entry in changed["annotations"]:
        change(entry)
    assert evaluate(cfg, registered, changed, detections) == expected


def pairs(entry: Entry) -> list[tuple[float, float]]:
    (numbers,) = entry["segmentation"]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_objects_that_training_leaves_out_are_not_counted(cfg: CfgNode, registered: Path) -> None:
    file = content([image(1)], [(1, RARE, BOX), (1, RARE, FAR_BOX)])
    file["annotations"][1].update(segmentation=[[5, 5, 5, 5, 5, 5]], bbox=[5, 5, 0, 0])
    results = evaluate(cfg, registered, file, [detection(1, RARE, BOX, 0.5)])
    assert results["segm"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)


def test_objects_of_boxes_only_are_evaluated_by_boxes(
    cfg: CfgNode, registered: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = content([image(1)], [(1, RARE, BOX), (1, RARE, FAR_BOX)])
    file["annotations"][1]["segmentation"] = []
    results = evaluate(cfg, registered, file, perfect(file))
    assert list(results) == ["bbox"] and results["bbox"]["AP"] == pytest.approx(100)
    assert "1 objects have no mask" in caplog.text


def test_only_images_of_the_records_are_evaluated(cfg: CfgNode, tmp_path: Path) -> None:
    """A part of LVIS with the whole file as `json_file`, registered with this package's reader."""
    path = tmp_path / "lvis.json"
    file = content([image(1), image(2)], [(1, RARE, BOX), (2, RARE, FAR_BOX)])
    path.write_text(json.dumps(file))
    ids = {RARE: 0, COMMON: 1, FREQUENT: 2}

    def load() -> list[Entry]:
        with accept_missing_images():
            return load_lvis(path, tmp_path, ids)[:1]

    register_dataset(
        "part_of_lvis",
        load,
        vocabulary=Vocabulary.from_names(things=["rare", "common", "frequent"]),
        thing_dataset_id_to_contiguous_id=ids,
        json_file=str(path),
        evaluator_type="lvis",
    )
    try:
        evaluator = build_evaluator(cfg, "part_of_lvis")
        evaluator.reset()
        evaluator.process([{"image_id": 1}], [prediction([detection(1, RARE, BOX, 0.5)])])
        assert evaluator.evaluate()["segm"]["AP"] == pytest.approx(100)
    finally:
        DatasetCatalog.remove("part_of_lvis")
        MetadataCatalog.remove("part_of_lvis")


def test_missing_package_is_named_before_any_file_is_read(
    cfg: CfgNode, registered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert not registered.exists()
    with pytest.raises(ValueError, match=r"^the data set planted_lvis needs the package faster-co"):
        build_evaluator(cfg, NAME)


def test_too_few_detections_an_image_are_reported(
    cfg: CfgNode, registered: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registered.write_text(json.dumps(content([image(1)], [])))
    build_evaluator(cfg, NAME)
    assert "LVIS counts 300 detections an image, but TEST.DETECTIONS_PER_IMAGE is 100" in (
        caplog.text
    )
    caplog.clear()
    cfg.TEST.DETECTIONS_PER_IMAGE = 300
    build_evaluator(cfg, NAME)
    assert "DETECTIONS_PER_IMAGE" not in caplog.text
