"""Items of expressions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hipie.data.dataset_mappers import ReferringDatasetMapper

HEIGHT, WIDTH = 40, 60
SQUARES = {0: (5, 10), 1: (40, 10), 2: (5, 25)}


@pytest.fixture
def record(tmp_path: Path) -> dict:
    """Three squares, brighter by number, with expressions for one, two and none of them."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    annotations = []
    for number, (x, y) in SQUARES.items():
        image[y : y + 10, x : x + 10] = 80 * (number + 1)
        corners = [x, y, x + 10, y, x + 10, y + 10, x, y + 10]
        annotations.append({"segmentation": [corners], "bbox": [x, y, 10, 10], "category_id": 1})
    Image.fromarray(image).save(tmp_path / "a.png")
    texts = [
        ("the left square 0", [0]),
        ("square 0", [0]),
        ("leftmost top square 0", [0]),
        ("the square 1 on the right", [1]),
        ("square 2", [2]),
        ("all of them", [0, 1, 2]),
        ("a dog", []),
    ]
    return {
        "file_name": str(tmp_path / "a.png"),
        "height": HEIGHT,
        "width": WIDTH,
        "image_id": 1,
        "annotations": annotations,
        "expressions": [{"expression": words, "targets": targets} for words, targets in texts],
    }


def make(training: bool = True, expressions: int = 3) -> ReferringDatasetMapper:
    return ReferringDatasetMapper(
        training=training, min_sizes=(40, 50), max_size=100, max_expressions=expressions
    )


def test_targets_match_expressions_with_and_without_flip(record: dict) -> None:
    mirrored = set()
    for seed in range(40):
        item = make()(record, (seed,))
        objects = item["instances"]
        assert objects.gt_classes.tolist() == list(range(len(item["expressions"])))
        for words, mask, box in zip(
            item["expressions"], objects.gt_masks.tensor, objects.gt_boxes.tensor, strict=True
        ):
            number = int(next(c for c in words if c.isdigit()))
            assert round(float(item["image"][0][mask].float().mean()) / 80) == number + 1
            middle = float(box[0] + box[2]) / 2
            on_left = middle < item["image"].shape[2] / 2
            if "left" in words:
                assert on_left
            if "right" in words:
                assert not on_left
        first = item["instances"].gt_boxes.tensor[0]
        number = int(next(c for c in item["expressions"][0] if c.isdigit()))
        drawn_left = bool((first[0] + first[2]) / 2 < item["image"].shape[2] / 2)
        mirrored.add(drawn_left != (number != 1))
    assert mirrored == {True, False}


def test_expressions_with_new_targets_are_sampled_first(record: dict) -> None:
    for seed in range(20):
        words = make()(record, (seed,))["expressions"]
        assert {next(c for c in w if c.isdigit()) for w in words} == {"0", "1", "2"}
        assert len(make(expressions=10)(record, (seed,))["expressions"]) == 5
        assert len(make(expressions=1)(record, (seed,))["expressions"]) == 1


def test_seed_determines_the_item(record: dict) -> None:
    first, again = make()(record, (3, 4)), make()(record, (3, 4))
    assert first["expressions"] == again["expressions"]
    assert torch.equal(first["image"], again["image"])
    drawn = {tuple(make(expressions=1)(record, (s,))["expressions"]) for s in range(30)}
    assert len(drawn) > 4


def test_all_expressions_at_test(record: dict) -> None:
    item = make(training=False)(record)
    assert item["expressions"] == [one["expression"] for one in record["expressions"]]
    assert item["task"] == "referring" and "instances" not in item
    assert item["image"].shape == (3, 40, 60)


def test_error_names_records_without_usable_expressions(record: dict) -> None:
    record["expressions"] = record["expressions"][5:]
    with pytest.raises(ValueError, match=r"a.png: none of its expressions"):
        make()(record, (0,))


def test_square_size_resizes_to_a_square(record: dict) -> None:
    for training in (True, False):
        mapper = ReferringDatasetMapper(
            training=training, min_sizes=(40,), max_size=100, square_size=64
        )
        item = mapper(record)
        assert item["image"].shape == (3, 64, 64)
        assert (item["height"], item["width"]) == (HEIGHT, WIDTH)
    assert item["expressions"][-1] == "a dog"


def test_flip_probability_0_and_1(record: dict) -> None:
    def middles(mirror: float) -> set[bool]:
        mapper = ReferringDatasetMapper(
            training=True, min_sizes=(40,), max_size=100, max_expressions=1, flip_prob=mirror
        )
        found = set()
        for seed in range(12):
            item = mapper(record, (seed,))
            (box,) = item["instances"].gt_boxes.tensor
            number = int(next(c for c in item["expressions"][0] if c.isdigit()))
            found.add(bool((box[0] + box[2]) / 2 < WIDTH / 2) != (number != 1))
        return found

    assert middles(0.0) == {False}
    assert middles(1.0) == {True}


def test_expressions_of_several_objects_and_of_none(record: dict) -> None:
    mapper = ReferringDatasetMapper(
        training=True,
        min_sizes=(40,),
        max_size=100,
        max_expressions=7,
        flip_prob=0.0,
        generalized=True,
    )
    item = mapper(record)
    index_of = dict(zip(item["expressions"], range(7)))
    classes = item["instances"].gt_classes.tolist()
    assert classes.count(index_of["all of them"]) == 3
    assert classes.count(index_of["a dog"]) == 0
    assert classes.count(index_of["square 2"]) == 1
    assert set(item["expressions"][:5]) >= {"all of them", "a dog", "square 2"}
    record["expressions"] = [{"expression": "a dog", "targets": []}]
    assert len(mapper(record)["instances"]) == 0
    record["expressions"] = []
    with pytest.raises(ValueError, match="a.png: it has no expression"):
        mapper(record)
