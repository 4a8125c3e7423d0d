"""Expressions and groups with one mask file an object, and refs by configuration."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image

from grser.data.group_sampling import build_group_dataset
from hipie import model_zoo
from hipie.data.build import build_train_loader
from hipie.data.datasets import DatasetError, register_all, register_groups, register_referring
from hipie.data.records import load_records
from hipie.evaluation import build_evaluator
from tests import referring_trees as trees

HEIGHT, WIDTH = 40, 56
TINY = Path(__file__).parents[2] / "tiny.yaml"
NAMES = ("tiny_refs", "tiny_groups", "tiny_coco_refs")


def write(folder: Path, name: str, value: int = 1, empty: bool = False) -> np.ndarray:
    """Write an image and a mask of its name; return the mask."""
    seed = sum(map(ord, name))
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"images/{name}.jpg")
    mask = np.zeros((HEIGHT, WIDTH), bool)
    if not empty:
        top, left = rng.integers(0, 10, 2)
        mask[top : top + 20, left : left + 25] = True
    image = Image.fromarray(mask) if value == 1 else Image.fromarray(mask.astype(np.uint8) * value)
    image.save(folder / f"masks/{name}.png")
    return mask


def entry(name: str, **fields: object) -> dict:
    return {"image": f"images/{name}.jpg", "mask": f"masks/{name}.png", **fields}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for name in ("cat1", "cat2", "dog1", "dog2", "fox1"):
        write(tmp_path, name, 255 if name == "dog1" else 1)
    write(tmp_path, "none", empty=True)
    refs = [
        entry("cat1", **{"class": "cat"}, sentences=["the cat", "a grey cat"]),
        entry("cat2", **{"class": "cat"}, sentences=["the other cat"]),
        entry("dog1", **{"class": "dog"}, sentences=["the dog"]),
        {"image": "images/dog1.jpg", "class": "cat", "sentences": ["the cat on the dog"]},
        entry("none", **{"class": "cat"}, sentences=["the cat in an empty room"]),
    ]
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    groups = {
        "my_cats": {"class": "cat", "val": [entry("cat1"), entry("none")]},
        "more_cats": {"class": "Cat", "val": [entry("cat2")]},
        "dog": {"val": [entry("dog1"), entry("dog2")], "train": [entry("fox1")]},
    }
    (tmp_path / "groups.json").write_text(json.dumps(groups))
    yield tmp_path
    for name in NAMES:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture
def cfg(folder: Path):
    options = [
        *("DATASETS.REFERRING", [["tiny_refs", str(folder / "refs.json"), "", str(folder)]]),
        *("DATASETS.GROUPS", [["tiny_groups", str(folder / "groups.json"), "val", str(folder)]]),
        *("DATASETS.TRAIN", "('tiny_refs',)", "DATASETS.TEST", "('tiny_refs','tiny_groups')"),
        *("DATALOADER.DATASET_BATCH_SIZE", "()", "INPUT.GENERALIZED_EXPRESSIONS", True),
    ]
    cfg = model_zoo.get_config(str(TINY), options)
    register_all(cfg)
    return cfg


def test_expressions_have_the_masks_of_their_files(cfg, folder: Path) -> None:
    assert MetadataCatalog.get("tiny_refs").evaluator_type == "grefer"
    records = {Path(record["file_name"]).stem: record for record in load_records("tiny_refs")}
    assert sorted(records) == ["cat1", "cat2", "dog1", "none"]
    expressions = {
        entry["expression"]: entry["targets"]
        for record in records.values()
        for entry in record["expressions"]
    }
    assert expressions == {
        "the cat": [0],
        "a grey cat": [0],
        "the other cat": [0],
        "the dog": [0],
        "the cat on the dog": [],
        "the cat in an empty room": [],
    }
    for name in ("cat1", "dog1"):
        (annotation,) = records[name]["annotations"]
        stored = np.array(Image.open(folder / f"masks/{name}.png")) > 0
        assert np.array_equal(mask_util.decode(annotation["segmentation"]).astype(bool), stored)


def test_a_model_takes_a_step_on_expressions_of_mask_files(cfg) -> None:
    model = build_model(cfg).train()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    batch = next(iter(build_train_loader(cfg)))
    assert {item["task"] for item in batch} == {"referring"}
    total = sum(model(batch).values())
    total.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3).step()
    assert torch.isfinite(total)
    pairs = zip(before, model.parameters(), strict=True)
    assert sum(not torch.equal(old, new) for old, new in pairs) > 50


def test_scores_of_expressions_against_the_mask_files(cfg, folder: Path) -> None:
    evaluator = build_evaluator(cfg, "tiny_refs")
    rng = np.random.default_rng(0)
    ious, rejected = [], []
    for record in load_records("tiny_refs"):
        outputs = []
        for expression in record["expressions"]:
            mask = rng.random((HEIGHT, WIDTH)) < 0.5
            if expression["expression"].endswith("room"):
                mask[:] = False
            instances = Instances((HEIGHT, WIDTH))
            instances.pred_masks = torch.from_numpy(mask[None])
            outputs.append(instances)
            if expression["targets"]:
                name = Path(record["file_name"]).stem
                truth = np.array(Image.open(folder / f"masks/{name}.png")) > 0
                ious.append((truth & mask).sum() / (truth | mask).sum())
            else:
                rejected.append(not mask.any())
        item = {key: record[key] for key in ("image_id", "file_name")}
        evaluator.process([item], [{"referring": outputs}])
    scores = evaluator.evaluate()["grefer"]
    assert scores["N-acc"] == pytest.approx(100 * np.mean(rejected)) == 50
    assert scores["gIoU"] == pytest.approx(100 * np.mean([*ious, *rejected]))


def members(records: list[dict]) -> dict[str, tuple[list[str], list[str]]]:
    """Positive and negative images by group."""
    groups: dict[str, tuple[list[str], list[str]]] = {}
    for record in records:
        (expression,) = record["expressions"]
        kinds = groups.setdefault(record["group_name"], ([], []))
        kinds[not expression["targets"]].append(Path(record["file_name"]).stem)
    return groups


def test_groups_of_one_class_are_no_negatives_of_each_other(cfg) -> None:
    records = load_records("tiny_groups")
    groups = members(records)
    assert groups["my_cats"] == (["cat1"], ["none", "dog1", "dog2"])
    assert groups["more_cats"] == (["cat2"], ["dog1"])
    assert groups["dog"][0] == ["dog1", "dog2"]
    assert set(groups["dog"][1]) <= {"cat1", "cat2", "none"} and len(groups["dog"][1]) == 2
    texts = {record["group_name"]: record["expressions"][0]["expression"] for record in records}
    assert texts == {"my_cats": "cat", "more_cats": "Cat", "dog": "dog"}


def test_what_label_maps_show_is_no_negative(folder: Path) -> None:
    (folder / "classes.txt").write_text("background\ncat\ndog\n")
    (folder / "maps").mkdir()
    for name, value in (("dog1", 1), ("dog2", 2)):
        Image.fromarray(np.full((HEIGHT, WIDTH), value, np.uint8)).save(folder / f"maps/{name}.png")
    register_groups(
        "tiny_groups",
        folder / "groups.json",
        "val",
        folder,
        negatives=5,
        label_maps=str(folder / "maps"),
        class_names=str(folder / "classes.txt"),
    )
    assert members(load_records("tiny_groups"))["more_cats"] == (["cat2"], ["dog2"])


def test_what_instances_show_is_no_negative(folder: Path) -> None:
    size = {"height": HEIGHT, "width": WIDTH}
    content = {
        "images": [{"id": i, "file_name": f"dog{i}.jpg", **size} for i in (1, 2)],
        "annotations": [{"id": 1, "image_id": 2, "category_id": 3, "bbox": [0, 0, 3, 3]}],
        "categories": [{"id": 3, "name": "cat"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    arguments = (folder / "groups.json", "val", folder)
    register_groups("tiny_groups", *arguments, instances=str(folder / "instances.json"))
    assert members(load_records("tiny_groups"))["more_cats"] == (["cat2"], ["dog1"])


def test_scores_of_groups_against_the_mask_files(cfg, folder: Path) -> None:
    evaluator = build_evaluator(cfg, "tiny_groups")
    rng = np.random.default_rng(0)
    ious, rejected = [], []
    for record in load_records("tiny_groups"):
        (expression,) = record["expressions"]
        mask = rng.random((HEIGHT, WIDTH)) < 0.5
        if record["group_name"] == "dog":
            mask[:] = False
        image = {key: record[key] for key in ("image_id", "file_name", "height", "width")}
        group = {
            "group_id": record["group_id"],
            "sent_id": expression["sent_id"],
            "images": [image],
        }
        output = {"sem_seg": torch.from_numpy(mask[None].astype(np.float32)), "positive": True}
        evaluator.process([group], [[output]])
        if expression["targets"]:
            name = Path(record["file_name"]).stem
            truth = np.array(Image.open(folder / f"masks/{name}.png")) > 0
            ious.append((truth & mask).sum() / (truth | mask).sum())
        else:
            rejected.append(not mask.any())
    scores = evaluator.evaluate()["group"]
    assert scores["mIoU-positive"] == pytest.approx(100 * np.mean(ious))
    assert scores["N-acc"] == pytest.approx(100 * np.mean(rejected))
    assert 0 < scores["N-acc"] < 100


@pytest.mark.parametrize(
    ("name", "positives", "negatives"),
    [
        ("tiny_groups", ["cat1"], ["none", "dog1", "dog2"]),
        ("tiny_refs", ["cat1"], ["dog1", "none"]),
    ],
)
def test_group_sampling_reads_both(cfg, name: str, positives: list, negatives: list) -> None:
    records = load_records(name)
    dataset = build_group_dataset(name, records, MetadataCatalog.get(name))
    sample = dataset.samples[0]
    stems = [Path(record["file_name"]).stem for record in records]
    indices = sample["negatives"]
    pool = indices if isinstance(indices, list) else dataset.negative_pools[indices]
    assert [stems[index] for index, _ in sample["positives"]] == positives
    assert [stems[index] for index in pool] == negatives


def test_refs_of_cocos_objects_by_split(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    content = trees.instances([1, 2], 2)
    for image in content["images"]:
        size = (image["width"], image["height"])
        Image.new("RGB", size).save(tmp_path / "coco" / Path(image["file_name"]).name)
        image["file_name"] = Path(image["file_name"]).name
    (tmp_path / "instances.json").write_text(json.dumps(content))
    refs = [trees.ref(1, 1, 10, "train", 1), trees.ref(2, 2, 20, "val", 2)]
    (tmp_path / "refs.p").write_bytes(pickle.dumps(refs, protocol=2))
    arguments = (tmp_path / "instances.json", tmp_path / "coco")
    register_referring("tiny_coco_refs", tmp_path / "refs.p", *arguments, split="val")
    meta = MetadataCatalog.get("tiny_coco_refs")
    assert (meta.evaluator_type, meta.task) == ("refer", "referring")
    assert [record["image_id"] for record in load_records("tiny_coco_refs")] == [2]
    register_referring("tiny_coco_refs", tmp_path / "refs.p", *arguments)
    assert [record["image_id"] for record in load_records("tiny_coco_refs")] == [1, 2]
    refs[0]["ann_id"] = [10, 11]
    (tmp_path / "grefs.json").write_text(json.dumps(refs))
    register_referring("tiny_coco_refs", tmp_path / "grefs.json", *arguments)
    assert MetadataCatalog.get("tiny_coco_refs").evaluator_type == "grefer"
    with pytest.raises(DatasetError, match="instances JSON, which has to be given"):
        register_referring("tiny_coco_refs", tmp_path / "refs.p", "", tmp_path)
    DatasetCatalog.remove("tiny_coco_refs")
    MetadataCatalog.remove("tiny_coco_refs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "images/no.jpg"}, r'entry 0: the image "images/no.jpg" is not in'),
        ({"mask": "masks/no.png"}, r'entry 0: the mask "masks/no.png" is not in'),
        ({"mask": "masks/grey.png"}, r"grey\.png: a mask has the value 0 and one other"),
        ({"mask": "masks/small.png"}, r"small\.png"),
        ({"sentences": "the cat"}, '"sentences" must be a list of texts'),
    ],
)
def test_wrong_entries_are_named(folder: Path, change: dict, message: str) -> None:
    Image.fromarray(np.arange(WIDTH, dtype=np.uint8)[None].repeat(HEIGHT, 0)).save(
        folder / "masks/grey.png"
    )
    Image.new("1", (3, 3)).save(folder / "masks/small.png")
    refs = [{**entry("cat1", sentences=["the cat"]), **change}]
    (folder / "refs.json").write_text(json.dumps(refs))
    register_referring("tiny_refs", folder / "refs.json", "", folder)
    with pytest.raises(DatasetError, match=message):
        load_records("tiny_refs")


def test_a_split_that_no_group_has_is_named(folder: Path) -> None:
    register_groups("tiny_groups", folder / "groups.json", "test", folder)
    with pytest.raises(DatasetError, match='no group has an image of the split "test"'):
        load_records("tiny_groups")
    with pytest.raises(DatasetError, match="negatives must be a number, not 'many'"):
        register_groups("tiny_groups", folder / "groups.json", "val", folder, negatives="many")
