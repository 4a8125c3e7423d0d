"""COCO files with one fault each."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hipie.data.datasets import DatasetError, load_coco_instances

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
BOW_TIE = [10, 10, 30, 30, 30, 10, 10, 30]


def content(*annotations: dict) -> dict:
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "height": 50, "width": 60},
            {"id": 3, "file_name": "b.jpg", "height": 50, "width": 60},
        ],
        "categories": [{"id": 9, "name": "jug"}, {"id": 4, "name": "cup"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 4, **one}
            for i, one in enumerate(annotations, 1)
        ],
    }


@pytest.fixture
def load(tmp_path: Path) -> Callable[[dict], list[dict]]:
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (60, 50)).save(tmp_path / name)

    def write_and_load(written: dict) -> list[dict]:
        (tmp_path / "mine.json").write_text(json.dumps(written))
        return load_coco_instances(tmp_path / "mine.json", tmp_path)

    return write_and_load


def test_good_file(load: Callable, caplog: pytest.LogCaptureFixture) -> None:
    runs = {"size": [50, 60], "counts": [100, 50, 2850]}
    with caplog.at_level(logging.WARNING):
        records = load(
            content(
                {"segmentation": [SQUARE], "bbox": [10, 10, 20, 20]},
                {"segmentation": [SQUARE], "category_id": 9},
                {"segmentation": runs, "iscrowd": 1},
                {"bbox": [0, 0, 60, 50]},
            )
        )
    assert [record["image_id"] for record in records] == [3, 7]
    assert records[0]["annotations"] == []
    first, second, third, fourth = records[1]["annotations"]
    assert first["category_id"] == 0 and second["category_id"] == 1
    assert second["bbox"] == [10, 10, 20, 20]
    assert third["iscrowd"] == 1 and third["bbox"] == [2, 0, 1, 50]
    assert "segmentation" not in fourth and fourth["bbox"] == [0, 0, 60, 50]
    assert not caplog.records


def test_missing_image(load: Callable) -> None:
    bad = content()
    bad["images"][0]["file_name"] = "gone.jpg"
    with pytest.raises(DatasetError, match=r'mine.json: the image "gone.jpg" of image 7 is not'):
        load(bad)


def test_many_missing_images_are_counted(load: Callable) -> None:
    bad = content()
    for image in bad["images"]:
        image["file_name"] = "nowhere/" + image["file_name"]
    with pytest.raises(DatasetError, match=r'2 entries are wrong: .*"nowhere/b.jpg" of image 3 '):
        load(bad)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category_id": 5}, "annotation 1 has the unknown category 5"),
        ({"image_id": 8}, "annotation 1 is of image 8, which the file does not list"),
    ],
)
def test_unknown_ids(load: Callable, change: dict, words: str) -> None:
    with pytest.raises(DatasetError, match=f"mine.json: {words}"):
        load(content({"segmentation": [SQUARE], **change}))


def test_double_annotation(load: Callable) -> None:
    bad = content({"segmentation": [SQUARE]}, {"segmentation": [SQUARE]})
    bad["annotations"][1]["id"] = 1
    with pytest.raises(DatasetError, match="annotation 1 occurs twice"):
        load(bad)


def test_double_image(load: Callable) -> None:
    bad = content()
    bad["images"][1]["id"] = 7
    with pytest.raises(DatasetError, match="two images have the id 7"):
        load(bad)


def test_image_without_size(load: Callable) -> None:
    bad = content()
    del bad["images"][0]["width"]
    with pytest.raises(DatasetError, match='image 7 has no "width"'):
        load(bad)


def test_annotation_without_category(load: Callable) -> None:
    bad = content({"segmentation": [SQUARE]})
    del bad["annotations"][0]["category_id"]
    with pytest.raises(DatasetError, match='annotation 1 has no "category_id"'):
        load(bad)


def test_file_without_categories(load: Callable) -> None:
    bad = content()
    del bad["categories"]
    with pytest.raises(DatasetError, match='no list "categories"'):
        load(bad)


def test_not_json(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"images": [')
    with pytest.raises(DatasetError, match="mine.json: this is not a JSON file"):
        load_coco_instances(tmp_path / "mine.json", tmp_path)


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mine.json"):
        load_coco_instances(tmp_path / "mine.json", tmp_path)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"segmentation": []}, "has neither box nor mask and is dropped"),
        ({"segmentation": [[1, 1, 5, 5]]}, "without a valid polygon and is dropped"),
        ({"segmentation": [[1, 1, 5, 5, 9]]}, "without a valid polygon and is dropped"),
        (
            {"segmentation": [[1, 1, 5, 5, 9, float("nan")]]},
            "without a valid polygon and is dropped",
        ),
        ({}, "has neither box nor mask and is dropped"),
        ({"bbox": [70, 10, 5, 5]}, "outside its image, and is dropped"),
        ({"bbox": [10, 10, 0, 5]}, "has an empty box"),
        ({"bbox": [0, 0, 0, 0]}, "has an empty box"),
        (
            {"segmentation": [[10.1, 10.1, 10.2, 10.1, 10.2, 10.2, 10.1, 10.2]]},
            "has a mask without a pixel in its image and is dropped",
        ),
        ({"segmentation": [[70, 10, 80, 10, 80, 20, 70, 20]]}, "without a pixel in its image"),
    ],
)
def test_unusable_annotations_are_dropped(
    load: Callable, caplog: pytest.LogCaptureFixture, annotation: dict, words: str
) -> None:
    with caplog.at_level(logging.WARNING):
        records = load(content({"segmentation": [SQUARE]}, annotation))
    assert [one["id"] for one in records[1]["annotations"]] == [1]
    assert len(caplog.records) == 1
    message = caplog.messages[0]
    assert "mine.json: annotation 2 " in message and words in message


def test_self_intersecting_polygon_is_kept(
    load: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        records = load(content({"segmentation": [BOW_TIE]}))
    assert records[1]["annotations"][0]["segmentation"] == [BOW_TIE]
    assert "annotation 1 has a self-intersecting polygon" in caplog.text


def test_box_over_the_edge_is_clipped(load: Callable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        records = load(content({"bbox": [-5, 40, 20, 20]}))
    assert records[1]["annotations"][0]["bbox"] == [0, 40, 15, 10]
    assert "annotation 1 has a box that extends beyond its image" in caplog.text


def test_rounded_boxes_pass_quietly(load: Callable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        records = load(content({"bbox": [-0.4, 0, 60.6, 50.3]}))
    assert records[1]["annotations"][0]["bbox"] == [0, 0, 60, 50]
    assert not caplog.records


def test_bad_polygons_among_good_ones(load: Callable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        records = load(content({"segmentation": [SQUARE, [1, 2]]}))
    assert records[1]["annotations"][0]["segmentation"] == [SQUARE]
    assert "fewer than three corners" in caplog.text


def test_warnings_are_grouped(load: Callable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load(content(*({"segmentation": []} for _ in range(8))))
    assert len(caplog.records) == 1
    assert "annotation 1, 2, 3, 4, 5 (and 3 more)" in caplog.messages[0]
