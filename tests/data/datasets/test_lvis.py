from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from hipie.data.datasets import DatasetError, load_lvis


def content() -> dict:
    return {
        "images": [
            {
                "id": 9,
                "coco_url": "http://images.cocodataset.org/val2017/9.jpg",
                "height": 4,
                "width": 6,
                "neg_category_ids": [7],
                "not_exhaustive_category_ids": [3, 7],
            },
            {"id": 2, "file_name": "train2017/2.jpg", "height": 4, "width": 6},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 9,
                "category_id": 7,
                "bbox": [1, 1, 2, 2],
                "segmentation": [[1, 1, 3, 1, 3, 3]],
            }
        ],
        "categories": [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}],
    }


@pytest.fixture
def load(tmp_path: Path):
    for name in ("val2017/9.jpg", "train2017/2.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (6, 4)).save(tmp_path / name)

    def write_and_load(written: dict) -> list[dict]:
        (tmp_path / "lvis.json").write_text(json.dumps(written))
        return load_lvis(tmp_path / "lvis.json", tmp_path, {3: 0, 7: 1})

    return write_and_load


def test_records(load, tmp_path) -> None:
    empty, full = load(content())
    assert (empty["image_id"], empty["annotations"]) == (2, [])
    assert "neg_category_ids" not in empty
    assert full["file_name"] == str(tmp_path / "val2017/9.jpg")
    assert full["neg_category_ids"] == [1] and full["not_exhaustive_category_ids"] == [0, 1]
    (one,) = full["annotations"]
    assert (one["category_id"], one["bbox"], one["iscrowd"]) == (1, [1, 1, 2, 2], 0)
    assert one["segmentation"] == [[1, 1, 3, 1, 3, 3]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["annotations"][0].update(category_id=8), "annotation 1 has the unknown cat"),
        (lambda c: c["annotations"][0].update(image_id=8), "image 8, which the file does not list"),
        (lambda c: c["annotations"][0].update(bbox=[1]), 'annotation 1: "bbox" must be four'),
        (lambda c: c["images"][0].update(neg_category_ids=[8]), "image 9 has the unknown cat"),
        (lambda c: c["images"][0].pop("coco_url"), 'image 0 of the list has no "coco_url"'),
        (lambda c: c["images"][1].update(file_name="train2017/3.jpg"), r'"train2017/3\.jpg" of'),
    ],
)
def test_faults_are_named(load, change, said) -> None:
    bad = content()
    change(bad)
    with pytest.raises(DatasetError, match=said):
        load(bad)
