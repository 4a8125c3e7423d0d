"""PartPQ of hand-made query predictions through inference and evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torch import Tensor

from hipie.data.datasets import register_public_datasets
from hipie.evaluation import PartPQEvaluator
from hipie.modeling.postprocessing.part_panoptic import part_owners
from hipie.modeling.postprocessing.universal_inference import InferenceSettings, universal_inference
from hipie.structures import ImageQueries, LayerOutput
from hipie.vocabularies.vocabulary import Vocabulary

SIDE, STRIDE, CONFIDENT_LOGIT = 32, 4, 12.0
NAME = "cityscapes_part_pq_val"
# Stripes of an image: first and last column, number in the label map.
STRIPES = [
    (0, 8, 23),
    (8, 12, 24_001_02),
    (12, 20, 24_001_01),
    (20, 24, 24_002_04),
    (24, 28, 28_000_01),
    (28, 32, 28_000_05),
]
THING_STRIPES = [("person", 8, 20), ("person", 20, 24), ("bus", 24, 32)]
STUFF_STRIPES = [
    ("sky", 0, 8),
    ("person head", 8, 12),
    ("person torso", 12, 20),
    ("person legs", 20, 24),
    ("bus windows", 24, 28),
    ("bus chassis", 28, 32),
]

PRESENT = ("person", "bus", "sky")


class StoredMasks:
    """Mask head whose mask features are the masks [Q, h, w] of the queries."""

    def logits(self, layer, mask_features, image_index, query_index, counts=None) -> Tensor:
        return mask_features[0][query_index]


def make_queries(vocabulary: Vocabulary, stripes: list[tuple[str, int, int]]) -> ImageQueries:
    """Make one query for each stripe, confident of one class."""
    logits = torch.full((1, len(stripes), len(vocabulary)), -CONFIDENT_LOGIT)
    masks = torch.full((len(stripes), SIDE // STRIDE, SIDE // STRIDE), -CONFIDENT_LOGIT)
    boxes = torch.tensor([[(a + b) / 2 / SIDE, 0.5, (b - a) / SIDE, 1.0] for _, a, b in stripes])
    for query, (name, first, last) in enumerate(stripes):
        logits[0, query, vocabulary.names.index(name)] = CONFIDENT_LOGIT
        masks[query, :, first // STRIDE : last // STRIDE] = CONFIDENT_LOGIT
    iou_logits = torch.full((1, len(stripes), 1), CONFIDENT_LOGIT)
    layer = LayerOutput(boxes[None], logits, iou_logits=iou_logits)
    return ImageQueries(layer, StoredMasks(), (masks,))


def results(
    vocabulary: Vocabulary, stuff_stripes: list[tuple[str, int, int]], semantic: bool = True
) -> dict:
    return universal_inference(
        make_queries(vocabulary, THING_STRIPES),
        make_queries(vocabulary, stuff_stripes),
        token_spans=[(k,) for k in range(len(vocabulary))],
        is_thing=vocabulary.is_thing,
        input_size=(SIDE, SIDE),
        output_size=(SIDE, SIDE),
        settings=InferenceSettings(semantic_on=semantic),
        owners=part_owners(vocabulary.names, [c.whole for c in vocabulary.classes]),
    )


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register_public_datasets()


@pytest.fixture
def record(tmp_path: Path):
    """An image of Cityscapes Panoptic Parts, as distributed."""
    labels = np.zeros((SIDE, SIDE), dtype=np.int32)
    for first, last, number in STRIPES:
        labels[:, first:last] = number
    place = tmp_path / "cityscapes"
    file = place / "gtFinePanopticParts/val/ulm/a_gtFinePanopticParts.tif"
    image = place / "leftImg8bit/val/ulm/a_leftImg8bit.png"
    for folder in (file.parent, image.parent):
        folder.mkdir(parents=True)
    Image.fromarray(labels).save(file)
    Image.new("RGB", (SIDE, SIDE)).save(image)
    register_public_datasets(tmp_path)
    (only,) = DatasetCatalog.get(NAME)
    yield only
    register_public_datasets()


def evaluate(record: dict, stuff_stripes: list[tuple[str, int, int]]) -> dict[str, float]:
    vocabulary = MetadataCatalog.get(NAME).vocabulary
    evaluator = PartPQEvaluator(NAME)
    evaluator.process([record], [results(vocabulary, stuff_stripes)])
    return evaluator.evaluate()["part_pq"]


def test_vocabulary_lists_evaluated_classes_before_parts() -> None:
    for name, classes, parts in (("pascal", 59, 52), ("cityscapes", 19, 23)):
        known = MetadataCatalog.get(f"{name}_part_pq_val")
        vocabulary = known.vocabulary
        assert len(vocabulary) == classes + parts
        assert list(vocabulary.names[:classes]) == [c.name for c in known.part_pq_classes]
        owners = part_owners(vocabulary.names, [c.whole for c in vocabulary.classes])
        assert owners[:classes] == [None] * classes
        for index, part_class in enumerate(known.part_pq_classes):
            assert owners.count(index) == len(part_class.part_names)


def test_perfect_queries_have_full_score(record: dict) -> None:
    scores = evaluate(record, STUFF_STRIPES)
    known = {name: value for name, value in scores.items() if not np.isnan(value)}
    names = ("PartPQ", "PartPQ-parts", "PartPQ-no-parts", *(f"PartPQ-{n}" for n in PRESENT))
    assert known == dict.fromkeys(names, 100.0)


def test_wrong_part_lowers_its_segment_only(record: dict) -> None:
    wrong = [
        ("person arms", *place) if name == "person head" else (name, *place)
        for name, *place in STUFF_STRIPES
    ]
    scores = evaluate(record, wrong)
    # Of the first person, torso and "no part" have IoU 1; the missed head and the arms, which the
    # truth does not have, 0. The second person is correct.
    assert scores["PartPQ-person"] == 100 * (2 / 4 + 1) / 2
    assert scores["PartPQ-parts"] == (75 + 100) / 2
    assert scores["PartPQ-sky"] == scores["PartPQ-bus"] == 100


def test_parts_of_other_classes_are_not_predicted(record: dict) -> None:
    vocabulary = MetadataCatalog.get(NAME).vocabulary
    wrong = [
        ("bus windows", *place) if name == "person head" else (name, *place)
        for name, *place in STUFF_STRIPES
    ]
    scores = results(vocabulary, wrong)
    segments, info = scores["panoptic_seg"]
    assert sorted(vocabulary.names[segment["category_id"]] for segment in info) == [
        "bus",
        "person",
        "person",
        "sky",
    ]
    assert (segments > 0).all()
    parts = scores["part_seg"]
    assert parts.shape == (SIDE, SIDE) and not parts[:, :8].any()
    assert set(parts[:, 8:24].unique().tolist()) <= {1, 2, 3, 4}
    assert (parts[:, 12:20] == 1).all() and (parts[:, 24:28] == 1).all()
    assert "instances" in scores and len(scores["sem_seg"]) == len(vocabulary)


def test_no_parts_without_the_semantic_map() -> None:
    vocabulary = MetadataCatalog.get(NAME).vocabulary
    scores = results(vocabulary, STUFF_STRIPES, semantic=False)
    assert set(scores) == {"instances", "panoptic_seg"}
