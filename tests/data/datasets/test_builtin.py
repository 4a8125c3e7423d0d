"""Public data sets in their own formats, through their registered names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from hipie import model_zoo
from hipie.config import add_hipie_config
from hipie.data.check import check_records
from hipie.data.dataset_mappers import UniversalDatasetMapper
from hipie.data.datasets import DatasetError, register_public_datasets
from hipie.data.datasets.odinw_seginw import ODINW_13, odinw_splits
from hipie.data.image_io import read_label_map
from hipie.evaluation import build_evaluator
from hipie.vocabularies.tables import collection_datasets
from tests import benchmark_trees as trees

SEMANTIC = {
    "ade20k_150_sem_seg_val": (7, 2, 255),
    "ade20k_full_sem_seg_val": (846, 300, 65535),
    "ctx59_sem_seg_val": (58, 1, 255),
    "ctx459_sem_seg_val": (458, 3, 65535),
    "pascal21_sem_seg_val": (0, 20, 255),
    "coco_2017_val_sem_seg": (0, 119, 255),
}
PARTS = {
    "pascal_parts_val": ("dog head", "wineglass", 33, -1),
    "pascal_parts_train": ("dog head", "wineglass", 33, -1),
    "pascal_parts_merged_val": ("dog head", "tvmonitor screen", 33, 56),
    "cityscapes_panoptic_parts_val": ("license plate", "road", 39, 0),
}
INSTANCES = {
    "coco_2017_val_instance": [("person", True)],
    "lvis_v1_val_federated": [("zucchini", True)],
    "paco_lvis_val": [("trash can", True), ("car (automobile):antenna", True)],
    "objects365_v2_val": [("Table Tennis", False)],
    "objects365_v2_val_segm": [("Table Tennis", True)],
    "objects365_val": [("flashlight", False)],
    "ade20k_instance_val": [("bed", True)],
    "seginw_Nutterfly-Squireel_train": [("butterfly", True)],
    "seginw_House-Parts_val": [("aluminium door", True)],
    "odinw_BCCD_BCCD.v3-raw.coco_val": [("Platelets", False)],
    "odinw_EgoHands_generic_minival": [("hand", False)],
    "odinw_pistols_export_train_3_30": [("pistol", False)],
}
ODINW = {
    "BCCD/BCCD.v3-raw.coco/valid/annotations_without_background.json": (
        "BCCD/BCCD.v3-raw.coco/valid"
    ),
    "EgoHands/generic/mini_val/annotations_without_background.json": "EgoHands/generic/mini_val",
    "pistols/export/fewshot_train_shot3_seed30.json": "pistols/export",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("sets")
    for write in (trees.coco, trees.ade20k, trees.pascal, trees.coco_format):
        write(place)
    trees.in_the_wild(place, ODINW)
    register_public_datasets(place)
    yield place
    register_public_datasets()


@pytest.fixture
def cfg():
    node = get_cfg()
    add_hipie_config(node)
    return node


def mapped(name: str, record: dict, **more) -> dict:
    """A record through the training mapper, without any change of its size."""
    meta = MetadataCatalog.get(name)
    vocabulary = meta.vocabulary
    mapper = UniversalDatasetMapper(
        vocabulary,
        training=True,
        min_sizes=(trees.HEIGHT,),
        max_size=trees.WIDTH,
        token_counts=[1] * len(vocabulary),
        max_tokens=4096,
        ignore_label=meta.get("ignore_label", 255),
        **more,
    )
    return mapper(record)


def areas(item: dict) -> dict[str, int]:
    """Pixels of the objects in a mapped record, by name."""
    names = item["vocabulary"].names
    objects = item["instances"]
    found = objects.gt_masks.tensor.sum(dim=(1, 2)).tolist()
    return {names[c]: n for c, n in zip(objects.gt_classes.tolist(), found, strict=True)}


@pytest.mark.parametrize(("name", "known"), INSTANCES.items())
def test_instances(root, name, known):
    record = DatasetCatalog.get(name)[0]
    meta = MetadataCatalog.get(name)
    found = record["annotations"]
    assert [(meta.thing_classes[a["category_id"]], "segmentation" in a) for a in found] == known
    assert all(a["bbox"] == trees.BOX for a in found)
    assert areas(mapped(name, record)) == {label: trees.AREA for label, _ in known}
    assert all(meta.vocabulary.is_thing)


def test_coco_panoptic(root):
    name = "coco_2017_val_panoptic_with_sem_seg"
    first, second = DatasetCatalog.get(name)
    assert (first["image_id"], second["image_id"]) == (139, 285)
    assert areas(mapped(name, first)) == {"person": trees.HALF, "sky": trees.HALF}
    assert [s["isthing"] for s in first["segments_info"]] == [True, False]
    labels = read_label_map(first["sem_seg_file_name"])
    assert np.unique(labels).tolist() == [0, 119, 255]
    names = MetadataCatalog.get(name).stuff_classes
    assert (names[0], names[119], len(names)) == ("person", "sky", 133)


def test_ade20k_panoptic(root):
    name = "ade20k_panoptic_val"
    (record,) = DatasetCatalog.get(name)
    assert record["image_id"] == "ADE_val_00000001"
    assert areas(mapped(name, record)) == {"bed": trees.HALF, "sky": trees.HALF}
    meta = MetadataCatalog.get(name)
    assert len(meta.thing_classes) == 100
    assert set(meta.thing_dataset_id_to_contiguous_id) == trees.ADE_THINGS


@pytest.mark.parametrize(("name", "known"), SEMANTIC.items())
def test_semantic(root, name, known):
    record = DatasetCatalog.get(name)[0]
    meta = MetadataCatalog.get(name)
    labels = read_label_map(record["sem_seg_file_name"])
    left, right, nothing = known
    assert (labels[10, 5], labels[10, 60], labels[0, 0]) == known
    assert meta.ignore_label == nothing and max(left, right) < len(meta.stuff_classes)
    assert (record["height"], record["width"]) == (trees.HEIGHT, trees.WIDTH)
    assert Path(record["file_name"]).is_file()
    names = meta.stuff_classes
    assert areas(mapped(name, record)) == {names[left]: trees.HALF, names[right]: trees.HALF}


def test_max_objects_limits_the_objects(root):
    name = "coco_2017_val_panoptic_with_sem_seg"
    record = DatasetCatalog.get(name)[0]
    drawn = {tuple(areas(mapped(name, {**record, "image_id": 0}, max_objects=1))) for _ in "ab"}
    assert len(drawn) == 1 and drawn <= {("person",), ("sky",)}
    assert len(areas(mapped(name, record, max_objects=2))) == 2


def test_voc_without_background(root):
    (record,) = DatasetCatalog.get("pascal20_sem_seg_val")
    labels = read_label_map(record["sem_seg_file_name"])
    assert np.unique(labels).tolist() == [19, 255]
    assert MetadataCatalog.get("pascal20_sem_seg_val").stuff_classes[19] == "tvmonitor"


@pytest.mark.parametrize(("name", "known"), PARTS.items())
def test_parts(root, name, known):
    (record,) = DatasetCatalog.get(name)
    left, right, left_group, right_group = known
    item = mapped(name, record)
    assert item["task"] == "parts"
    assert areas(item) == {left: trees.HALF, right: trees.HALF}
    meta = MetadataCatalog.get(name)
    groups = dict(zip(meta.stuff_classes, meta.part_groups, strict=True))
    assert (groups[left], groups[right]) == (left_group, right_group)
    assert meta.part_wholes.get("dog head") in ("dog", None)


def test_images_without_parts_are_not_in_the_set(root):
    stems = [Path(r["file_name"]).stem for r in DatasetCatalog.get("pascal_parts_train")]
    assert stems == ["2008_000003"]


def answer(record: dict, name: str) -> dict:
    """What a model without errors says of a generated image."""
    meta = MetadataCatalog.get(name)
    size = (trees.HEIGHT, trees.WIDTH)
    found = Instances(size)
    place = {c["id"]: i for i, c in enumerate(trees.COCO_CATEGORIES)}
    thing, stuff = (7, 2) if "ade" in name else (place[1], place[187])
    mask = torch.zeros(size, dtype=torch.bool)
    mask[10:30, 8:24] = True
    found.pred_masks, found.scores = mask[None], torch.ones(1)
    found.pred_classes = torch.tensor([thing])
    left, top, width, height = trees.BOX
    found.pred_boxes = Boxes(torch.tensor([[left, top, left + width, top + height]]))
    labels = torch.from_numpy(trees.halves(thing, stuff, 0).astype(np.int64))
    shown = torch.zeros(size, dtype=torch.bool)
    shown[4:] = True
    semantic = torch.nn.functional.one_hot(labels, len(meta.stuff_classes)).permute(2, 0, 1)
    panoptic = torch.where(shown, torch.from_numpy(trees.halves(1, 2, 0).astype(np.int32)), 0)
    segments = [
        {"id": 1, "isthing": True, "category_id": thing},
        {"id": 2, "isthing": False, "category_id": stuff},
    ]
    return {"instances": found, "sem_seg": semantic.float(), "panoptic_seg": (panoptic, segments)}


@pytest.mark.parametrize("name", ["coco_2017_val_panoptic_with_sem_seg", "ade20k_panoptic_val"])
def test_ground_truth_scores_100(root, name, cfg, tmp_path):
    pytest.importorskip("panopticapi")
    judge = build_evaluator(cfg, name, str(tmp_path))
    judge.reset()
    for record in DatasetCatalog.get(name):
        judge.process([record], [answer(record, name)])
    found = judge.evaluate()
    assert found["bbox"]["AP"] == found["segm"]["AP"] == pytest.approx(100)
    assert found["panoptic_seg"]["PQ"] == found["sem_seg"]["mIoU"] == pytest.approx(100)


def test_odinw_is_evaluated_by_the_categories_of_its_file(cfg, tmp_path):
    folder = tmp_path / "odinw/BCCD/BCCD.v3-raw.coco/valid"
    file = folder / "annotations_without_background.json"
    categories = {1: "Platelets", 2: "RBC"}
    trees.instances(file, folder, ["a.jpg"], categories, [1, 2], masks=False)
    register_public_datasets(tmp_path)
    name = "odinw_BCCD_BCCD.v3-raw.coco_val"
    (record,) = DatasetCatalog.get(name)
    found = Instances((trees.HEIGHT, trees.WIDTH))
    left, top, width, height = trees.BOX
    box = [left, top, left + width, top + height]
    found.pred_boxes = Boxes(torch.tensor([box, box, [0, 0, 9, 9]]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 2])
    judge = build_evaluator(cfg, name, str(tmp_path / "output"))
    judge.reset()
    judge.process([record], [{"instances": found}])
    scores = judge.evaluate()["bbox"]
    assert scores["AP-Platelets"] == pytest.approx(100)
    assert scores["AP-RBC"] == 0 and scores["AP"] == pytest.approx(50)
    register_public_datasets()


def test_environment_variable_sets_the_root(monkeypatch, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_public_datasets()
    meta = MetadataCatalog.get("ade20k_full_sem_seg_val")
    assert Path(meta.image_root) == (
        tmp_path / "ade/ADE20K_2021_17_01/images_detectron2/validation"
    )
    with pytest.raises(FileNotFoundError, match=r"seginw/Cows/valid/_annotations_min1cat"):
        DatasetCatalog.get("seginw_Cows_val")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    register_public_datasets()


def test_a_foreign_category_is_named(tmp_path):
    folder = tmp_path / "seginw/Cows/valid"
    file = folder / "_annotations_min1cat.coco.json"
    trees.instances(file, folder, ["a.jpg"], {5: "horse"}, [5])
    register_public_datasets(tmp_path)
    with pytest.raises(DatasetError, match=r"min1cat\.coco\.json: annotation 1 has the unknown"):
        DatasetCatalog.get("seginw_Cows_val")
    register_public_datasets()


def test_names_of_collections():
    names = set(DatasetCatalog.list())
    odinw = {n for n in names if n.startswith("odinw_")}
    assert len(odinw) == 1088
    assert len([n for n in names if n.startswith("seginw_")]) == 50
    assert set(ODINW_13) < set(collection_datasets("odinw")) and len(ODINW_13) == 13
    assert MetadataCatalog.get("seginw_Cows_val").collection == "seginw"
    splits = {split: (images, file) for split, images, file in odinw_splits("PascalVOC")}
    assert splits["test"] == splits["val"]
    assert splits["val_10_300"][1] == "odinw/PascalVOC/valid/fewshot_val_shot10_seed300.json"
    assert {s for s, _, _ in odinw_splits("PKLot_640") if "_" not in s} == {
        "train",
        "val",
        "minival",
        "test",
    }


def test_camvid_is_read_as_distributed(tmp_path: Path) -> None:
    for folder in ("train", "trainannot"):
        (tmp_path / "CamVid" / folder).mkdir(parents=True)
    labels = np.repeat(np.arange(12, dtype=np.uint8), 2).reshape(4, 6)
    Image.fromarray(labels).save(tmp_path / "CamVid/trainannot/a_1.png")
    Image.new("RGB", (6, 4)).save(tmp_path / "CamVid/train/a_1.png")
    register_public_datasets(tmp_path)
    try:
        metadata = MetadataCatalog.get("camvid_train")
        report = check_records(DatasetCatalog.get("camvid_train"), metadata)
        # 11 is unlabelled.
        assert report.objects == dict.fromkeys(metadata.vocabulary.names, 1)
        assert len(report.objects) == 11 and report.objects["bicyclist"] == 1
        evaluator = build_evaluator(model_zoo.get_config("hipie_nano_picturebook"), "camvid_train")
        evaluator.reset()
        (record,) = DatasetCatalog.get("camvid_train")
        predicted = np.where(labels < 10, labels, 0)
        scores = torch.from_numpy(np.eye(11)[predicted]).permute(2, 0, 1)
        evaluator.process([record], [{"sem_seg": scores}])
        results = evaluator.evaluate()["sem_seg"]
        # Bicyclist is missed and counted as sky; the unlabelled pixels do not count.
        assert results["mIoU"] == pytest.approx(100 * (9 + 0.5) / 11)
    finally:
        register_public_datasets()


def test_car_parts_are_read_as_distributed(tmp_path: Path) -> None:
    folder = tmp_path / "Car-Parts-Segmentation/testset"
    (folder / "JPEGImages").mkdir(parents=True)
    Image.new("RGB", (8, 6)).save(folder / "JPEGImages/te1.jpg")
    polygon = {"bbox": [1, 1, 4, 3], "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]], "iscrowd": 0}
    content = {
        "images": [{"id": 0, "file_name": "JPEGImages/te1.jpg", "height": 6, "width": 8}],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 18, **polygon}],
        "categories": [{"id": 0, "name": "_background_"}, {"id": 18, "name": "wheel"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    register_public_datasets(tmp_path)
    try:
        metadata = MetadataCatalog.get("car_parts_test")
        report = check_records(DatasetCatalog.get("car_parts_test"), metadata)
        assert +report.objects == {"car wheel": 1}
        assert len(report.objects) == 18
    finally:
        register_public_datasets()
