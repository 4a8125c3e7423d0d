from __future__ import annotations

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hipie.data.datasets import DatasetError, register_coco
from hipie.vocabularies.vocabulary import Vocabulary


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 50)).save(tmp_path / "a.jpg")
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 50, "width": 60}],
        "categories": [{"id": 9, "name": "jug"}, {"id": 4, "name": "cup"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 9, "bbox": [1, 1, 5, 5]}],
    }
    (tmp_path / "mine.json").write_text(json.dumps(content))
    return tmp_path / "mine.json"


def test_register_coco_without_vocabulary(mine: Path) -> None:
    register_coco("shelves", mine, mine.parent)
    meta = MetadataCatalog.get("shelves")
    assert meta.thing_classes == ["cup", "jug"]
    assert meta.vocabulary.names == ("cup", "jug") and all(meta.vocabulary.is_thing)
    assert meta.thing_dataset_id_to_contiguous_id == {4: 0, 9: 1}
    (record,) = DatasetCatalog.get("shelves")
    assert record["annotations"][0]["category_id"] == 1


def test_register_coco_with_vocabulary(mine: Path) -> None:
    words = Vocabulary.from_names(things=[("tea cup", "mug"), "jug"])
    register_coco("shelves", mine, mine.parent, words)
    assert MetadataCatalog.get("shelves").thing_classes == ["tea cup", "jug"]
    register_coco("shelves", mine, mine.parent)
    assert MetadataCatalog.get("shelves").thing_classes == ["cup", "jug"]


def test_vocabulary_of_another_length(mine: Path) -> None:
    with pytest.raises(DatasetError, match="2 categories, the vocabulary 1 classes"):
        register_coco("shelves", mine, mine.parent, Vocabulary.from_names(things=["cup"]))


@pytest.mark.parametrize(
    ("categories", "words"),
    [
        ([{"id": 4, "name": "cup"}, {"id": 4, "name": "jug"}], "two categories have the same id"),
        ([{"id": 4}], 'category 0 of the list has no "name"'),
        ([{"name": "cup"}], 'category 0 of the list has no "id"'),
        ([{"id": 4, "name": "--"}], 'class name "--" has no letter'),
    ],
)
def test_bad_categories(mine: Path, categories: list[dict], words: str) -> None:
    mine.write_text(json.dumps({"categories": categories}))
    with pytest.raises(DatasetError, match=words):
        register_coco("shelves", mine, mine.parent)


def test_root_category_of_the_same_name_is_left_out(mine: Path) -> None:
    content = json.loads(mine.read_text())
    content["categories"].insert(0, {"id": 0, "name": "Jug", "supercategory": "none"})
    mine.write_text(json.dumps(content))
    register_coco("shelves", mine, mine.parent)
    assert MetadataCatalog.get("shelves").thing_classes == ["cup", "jug"]
    (record,) = DatasetCatalog.get("shelves")
    assert record["annotations"][0]["category_id"] == 1


def test_two_classes_of_one_name_are_refused(mine: Path) -> None:
    content = json.loads(mine.read_text())
    content["categories"].append({"id": 10, "name": "jug"})
    mine.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match='class name "jug" occurs twice'):
        register_coco("shelves", mine, mine.parent)
