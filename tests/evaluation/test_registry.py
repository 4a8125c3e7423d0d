"""Registry of evaluators: data sets of Detectron2, of this package, and of architectures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOPanopticEvaluator, DatasetEvaluator
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image

from hipie.config import add_hipie_config
from hipie.errors import InputError
from hipie.evaluation import EVALUATOR_REGISTRY, build_evaluator
from hipie.evaluation import build as evaluator_build
from hipie.evaluation.coco_evaluation import COCOInstanceEvaluator
from hipie.modeling.meta_arch.base import SegmentationModel


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_hipie_config(cfg)
    return cfg


def test_every_data_set_of_detectron2_has_an_evaluator() -> None:
    names = [name for name in DatasetCatalog.list() if name.startswith(("coco", "lvis", "city"))]
    types = {MetadataCatalog.get(name).get("evaluator_type") for name in names}
    assert {"coco", "coco_panoptic_seg", "lvis", "cityscapes_instance"} <= types
    assert all(kind in EVALUATOR_REGISTRY for kind in types)


def test_data_set_of_detectron2s_reader_is_evaluated(cfg: CfgNode, tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 6, "width": 8}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 7,
                "bbox": [1, 1, 4, 3],
                "area": 12,
                "iscrowd": 0,
                "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]],
            }
        ],
        "categories": [{"id": 7, "name": "bottle"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    register_coco_instances("bottles", {}, str(tmp_path / "instances.json"), str(tmp_path))
    try:
        evaluator = build_evaluator(cfg, "bottles", str(tmp_path / "output"))
    finally:
        DatasetCatalog.remove("bottles")
        MetadataCatalog.remove("bottles")
    assert type(evaluator) is COCOInstanceEvaluator
    truth = evaluator.ground_truth()
    assert [a["bbox"] for a in truth.annotations] == [[1, 1, 4, 3]]
    assert truth.annotations[0]["area"] == 12 and truth.tasks == ("bbox", "segm")


@pytest.mark.parametrize(
    ("name", "evaluator"),
    [
        ("cityscapes_fine_instance_seg_val", "CityscapesInstanceEvaluator"),
        ("cityscapes_fine_sem_seg_val", "CityscapesSemSegEvaluator"),
        ("voc_2007_val", "PascalVOCDetectionEvaluator"),
    ],
)
def test_detectron2s_evaluators_are_used_for_its_data_sets(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, name: str, evaluator: str
) -> None:
    monkeypatch.setattr(evaluator_build, "require_package", lambda *arguments: None)
    monkeypatch.setattr(evaluator_build, evaluator, lambda dataset_name: (evaluator, dataset_name))
    assert build_evaluator(cfg, name) == (evaluator, name)


@pytest.mark.parametrize("missing", ["panoptic_json", "panoptic_root", None])
@pytest.mark.parametrize("exists", [True, False])
def test_files_of_pq_are_needed_when_the_evaluator_is_built(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str, exists: bool
) -> None:
    """Cityscapes and Detectron2's "separated" sets have the panoptic annotation in files only."""
    monkeypatch.setattr(COCOPanopticEvaluator, "__init__", lambda *arguments: None)
    name = "cityscapes_fine_panoptic_val"
    metadata = vars(MetadataCatalog.get(name))
    for key in ("panoptic_json", "panoptic_root"):
        path = tmp_path / key if key == missing and not exists else tmp_path
        monkeypatch.setitem(metadata, key, str(path))
    if missing is None:
        assert isinstance(build_evaluator(cfg, name), COCOPanopticEvaluator)
        return
    if exists:
        monkeypatch.delitem(metadata, missing)
    with pytest.raises(InputError, match=f"{name}.*{missing}.*panoptic quality needs"):
        build_evaluator(cfg, name)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("cityscapes_fine_instance_seg_val", "cityscapesscripts"),
        ("cityscapes_fine_panoptic_val", "panopticapi"),
    ],
)
def test_missing_package_is_told_when_the_evaluator_is_built(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda module, *rest: None if module == package else find_spec(module, *rest),
    )
    with pytest.raises(InputError, match=f"{name} needs the package {package}.*: pip install"):
        build_evaluator(cfg, name)


class Silent(DatasetEvaluator):
    """Evaluator without results."""


class OwnPredictions(SegmentationModel):
    """Architecture that names its evaluator."""

    @classmethod
    def evaluator(cls, cfg: CfgNode, dataset_name: str) -> str | None:
        return "silent" if dataset_name == "coco_2017_val" else None


def test_an_architecture_names_its_evaluator(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "OwnPredictions", OwnPredictions)
    monkeypatch.setitem(EVALUATOR_REGISTRY._obj_map, "silent", lambda *arguments: Silent())
    cfg.MODEL.META_ARCHITECTURE = "OwnPredictions"
    assert isinstance(build_evaluator(cfg, "coco_2017_val"), Silent)
    with pytest.raises(ValueError, match='nowhere has the evaluator_type "None"; registered are'):
        build_evaluator(cfg, "nowhere")
    MetadataCatalog.remove("nowhere")
