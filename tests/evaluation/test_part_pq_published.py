"""PartPQ with the published choices of classes, against numbers of panoptic_parts 2.0rc6.

That package evaluated the label maps and predictions that `draw_image` makes (its
`annotation_parsing`, `prediction_parsing`, `generate_ignore_info_tiff` and `pq_part` on its own
specifications).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hipie.data.annotation_view import read_annotation
from hipie.data.datasets import register_public_datasets
from hipie.data.datasets.panoptic_parts import PartClass, decode_uids, load_part_classes
from hipie.evaluation import PartPQEvaluator

SIZE = (40, 60)
IMAGES = 16
PUBLISHED = {
    "pascal": {
        "PartPQ": 53.36918645005687,
        "PartPQ-parts": 35.23196966357634,
        "PartPQ-no-parts": 63.832965365334104,
        "PartPQ-bicycle": 26.979512137098904,
        "PartPQ-horse": 14.221012222695997,
        "PartPQ-aeroplane": 41.88761164699567,
        "PartPQ-motorbike": 56.06497000493474,
    },
    "cityscapes": {
        "PartPQ": 49.83901863070794,
        "PartPQ-parts": 28.10425231442132,
        "PartPQ-no-parts": 58.19854413697202,
        "PartPQ-car": 22.81021095943063,
        "PartPQ-bicycle": 38.30890262683062,
    },
}


def draw_image(classes: list[PartClass], rng: np.random.Generator) -> tuple:
    """Draw a label map as distributed, and a prediction: segments, their classes, parts."""
    things = [c for c in classes if c.thing]
    stuff = [c.numbers[0] for c in classes if not c.thing]
    labels = np.zeros(SIZE, dtype=np.int64)
    labels[:18], labels[18:36] = rng.choice(stuff, 2, replace=False)
    for number in range(1, rng.integers(3, 7)):
        top, left = rng.integers(0, 30), rng.integers(0, 48)
        place = slice(top, top + rng.integers(8, 14)), slice(left, left + rng.integers(8, 16))
        part_class = things[rng.integers(len(things))]
        shape = labels[place].shape
        given = np.array([0, *(part for part in part_class.parts if part)])
        parts = np.repeat(rng.choice(given, (1, shape[1])), shape[0], axis=0)
        with_object = part_class.numbers[0] * 1_000 + number
        labels[place] = np.where(parts > 0, with_object * 100 + parts, with_object)
    if rng.random() < 0.5:
        labels[30:, 50:] = things[rng.integers(len(things))].numbers[0]
    return labels, *perturb(classes, labels, rng)


def perturb(classes: list[PartClass], labels: np.ndarray, rng: np.random.Generator) -> tuple:
    """Make a prediction: the truth with segments moved, some removed, parts confused."""
    truth = decode_uids(labels)
    ids, parts, info = np.zeros(SIZE, int), np.zeros(SIZE, int), []
    for place, part_class in enumerate(classes):
        table = np.zeros(100, int)
        table[list(part_class.parts)] = list(part_class.parts.values())
        of_class = np.isin(truth.classes, part_class.numbers)
        for number in np.unique(truth.objects[of_class]):
            if rng.random() < 0.15:
                continue
            shift = tuple(rng.integers(-2, 3, 2))
            moved = np.roll(of_class & (truth.objects == number), shift, (0, 1))
            info.append({"id": len(info) + 1, "category_id": place})
            ids[moved] = len(info)
            parts[moved] = table[np.roll(truth.parts, shift, (0, 1))][moved] * part_class.has_parts
            if part_class.has_parts:
                wrong = moved & (rng.random(SIZE) < 0.1)
                parts[wrong] = rng.choice([0, 1, 2, 255], wrong.sum())
    ids[rng.random(SIZE) < 0.02] = 0
    info = [segment for segment in info if (ids == segment["id"]).any()]
    return ids, info, parts


def draw_images(name: str) -> list[tuple]:
    """Draw the label maps and predictions that both packages evaluate."""
    rng = np.random.default_rng(7)
    classes = load_part_classes(name)
    return [draw_image(classes, rng) for _ in range(IMAGES)]


@pytest.fixture
def root(tmp_path: Path):
    """Write a tree with the drawn label maps, as they are distributed."""
    folders = {
        "pascal": (
            "pascal_parts/labels/validation",
            ".tif",
            "VOCdevkit/VOC2010/JPEGImages",
            ".jpg",
        ),
        "cityscapes": (
            "cityscapes/gtFinePanopticParts/val/ulm",
            "_gtFinePanopticParts.tif",
            "cityscapes/leftImg8bit/val/ulm",
            "_leftImg8bit.png",
        ),
    }
    for name, (maps, map_ending, images, image_suffix) in folders.items():
        for folder in (maps, images):
            (tmp_path / folder).mkdir(parents=True)
        for number, (labels, *_) in enumerate(draw_images(name)):
            label_file = tmp_path / maps / f"{number:02}{map_ending}"
            Image.fromarray(labels.astype(np.int32)).save(label_file)
            image = Image.new("RGB", SIZE[::-1])
            image.save(tmp_path / images / f"{number:02}{image_suffix}")
    register_public_datasets(tmp_path)
    yield tmp_path
    register_public_datasets()


@pytest.mark.parametrize("name", ["pascal", "cityscapes"])
def test_equal_to_panoptic_parts(root: Path, name: str) -> None:
    evaluator = PartPQEvaluator(f"{name}_part_pq_val")
    records = DatasetCatalog.get(f"{name}_part_pq_val")
    for record, (_, ids, info, parts) in zip(records, draw_images(name), strict=True):
        evaluator.process([record], [{"panoptic_seg": (ids, info), "part_seg": parts}])
    scores = evaluator.evaluate()["part_pq"]
    assert {key: scores[key] for key in PUBLISHED[name]} == pytest.approx(PUBLISHED[name], abs=1e-9)


def test_published_choices_of_classes() -> None:
    pascal, cityscapes = load_part_classes("pascal"), load_part_classes("cityscapes")
    assert [len(pascal), len(cityscapes)] == [59, 19]
    counts = [sum(len(set(c.parts.values())) for c in classes) for classes in (pascal, cityscapes)]
    # Five of Pascal's classes count as one part each in the published 57.
    assert counts == [57 - 5, 23]
    for part_class in (*pascal, *cityscapes):
        assert sorted(set(part_class.parts.values())) == list(
            range(1, len(part_class.part_names) + 1)
        )
        assert part_class.has_parts == bool(part_class.parts)
    assert sum(c.thing for c in pascal) == 20 and sum(c.thing for c in cityscapes) == 8
    known = MetadataCatalog.get("pascal_part_pq_val")
    assert known.vocabulary.names[:2] == ("aeroplane", "bicycle") and len(known.thing_classes) == 20


def test_annotated_objects_contain_their_parts(root: Path) -> None:
    record = DatasetCatalog.get("cityscapes_part_pq_val")[0]
    scores = read_annotation(record, MetadataCatalog.get("cityscapes_part_pq_val")).segments
    assert {segment.kind for segment in scores} == {"thing", "stuff", "part"}
    for place, segment in enumerate(scores):
        if segment.kind == "part":
            whole = next(w for w in reversed(scores[:place]) if w.kind == "thing")
            assert segment.label.startswith(whole.label) and not (segment.mask & ~whole.mask).any()


def test_outputs_without_parts_are_refused(root: Path) -> None:
    evaluator = PartPQEvaluator("cityscapes_part_pq_val")
    record = DatasetCatalog.get("cityscapes_part_pq_val")[0]
    with pytest.raises(ValueError, match='00_gtFine.*PartPQ needs the output "part_seg"'):
        evaluator.process([record], [{"panoptic_seg": (np.zeros(SIZE, int), [])}])
