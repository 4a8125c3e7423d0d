"""People's own COCO files, named in the configuration."""

from __future__ import annotations

import json

import pytest
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hipie import add_hipie_config
from hipie.data.datasets import register_all


@pytest.fixture
def cfg() -> CN:
    cfg = get_cfg()
    add_hipie_config(cfg)
    return cfg


@pytest.fixture
def shelf(tmp_path):
    """A name, an annotation file and a folder."""
    Image.new("RGB", (8, 6)).save(tmp_path / "1.png")
    box = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 4, 3], "area": 12, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 6, "width": 8}],
        "annotations": [box],
        "categories": [{"id": 7, "name": "bottle"}],
    }
    (tmp_path / "shelf.json").write_text(json.dumps(content))
    yield ["shelf", str(tmp_path / "shelf.json"), str(tmp_path)]
    if "shelf" in DatasetCatalog.list():
        DatasetCatalog.remove("shelf")
        MetadataCatalog.remove("shelf")


def test_an_entry_becomes_a_data_set(cfg, shelf):
    cfg.merge_from_list(["DATASETS.COCO_FORMAT", str([shelf])])
    register_all(cfg)
    (record,) = DatasetCatalog.get("shelf")
    assert record["annotations"][0]["category_id"] == 0
    assert MetadataCatalog.get("shelf").thing_classes == ["bottle"]


def test_an_entry_of_another_form_is_named(cfg, shelf):
    cfg.DATASETS.COCO_FORMAT = [shelf[:2]]
    with pytest.raises(ValueError, match=r"DATASETS.COCO_FORMAT has \['shelf'.*takes \[name"):
        register_all(cfg)
    cfg.DATASETS.COCO_FORMAT = ["abc"]
    with pytest.raises(ValueError, match="DATASETS.COCO_FORMAT has 'abc'"):
        register_all(cfg)


def test_a_missing_file_is_named(cfg, tmp_path):
    cfg.DATASETS.COCO_FORMAT = [["shelf", str(tmp_path / "no.json"), str(tmp_path)]]
    with pytest.raises(FileNotFoundError, match=r"no\.json"):
        register_all(cfg)
