"""Loaders over a small picture book."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image

from hipie.config import add_hipie_config
from hipie.data import build as loader
from hipie.data.build import (
    DATASET_MAPPER_REGISTRY,
    MappedDataset,
    build_test_loader,
    build_train_loader,
)
from hipie.data.datasets import register_picturebook
from hipie.data.datasets.catalog import register_dataset
from hipie.data.record_list import RecordList
from hipie.modeling.meta_arch.base import SegmentationModel


@pytest.fixture(scope="module")
def drawn_book(tmp_path_factory: pytest.TempPathFactory) -> None:
    counts = {"train": 6, "val": 2, "unseen": 1}
    register_picturebook(seed=2, counts=counts, root=tmp_path_factory.mktemp("book"))
    yield
    register_picturebook()


@pytest.fixture
def cfg(drawn_book: None) -> CfgNode:
    node = get_cfg()
    add_hipie_config(node)
    node.DATASETS.TRAIN = tuple(f"picturebook_train_{t}" for t in ("panoptic", "parts", "refer"))
    node.DATALOADER.DATASET_RATIO = (2.0, 1.0, 1.0)
    node.DATALOADER.NUM_WORKERS = 0
    node.SOLVER.IMS_PER_BATCH = 2
    node.INPUT.MIN_SIZE_TRAIN = (64, 80)
    node.INPUT.MAX_SIZE_TRAIN = 128
    node.INPUT.MIN_SIZE_TEST = 64
    node.INPUT.MAX_SIZE_TEST = 128
    node.INPUT.LSJ.SIZE = 96
    node.INPUT.MIN_PART_AREA = 4
    return node


def batches(cfg: CfgNode, number: int, start: int = 0) -> list[list[dict[str, Any]]]:
    return list(islice(build_train_loader(cfg, start), number))


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return (
        first["file_name"] == second["file_name"]
        and first["task"] == second["task"]
        and first.get("vocabulary") == second.get("vocabulary")
        and first.get("expressions") == second.get("expressions")
        and torch.equal(first["image"], second["image"])
        and torch.equal(first["instances"].gt_masks.tensor, second["instances"].gt_masks.tensor)
    )


def test_one_task_a_batch_in_proportion(cfg: CfgNode) -> None:
    tasks = []
    for batch in batches(cfg, 8):
        assert len(batch) == 2 and len({item["task"] for item in batch}) == 1
        tasks.append(batch[0]["task"])
    assert sorted(tasks) == ["detection"] * 4 + ["parts"] * 2 + ["referring"] * 2


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_with_any_number_of_workers(cfg: CfgNode, workers: int) -> None:
    straight = batches(cfg, 6)
    cfg.DATALOADER.NUM_WORKERS = workers
    for expected, found in zip(straight[2:], batches(cfg, 4, start=2), strict=True):
        assert all(same(a, b) for a, b in zip(expected, found, strict=True))


def test_processes_share_a_batch(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = batches(cfg, 4)
    monkeypatch.setattr(loader.comm, "get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(loader.comm, "get_rank", lambda rank=rank: rank)
        shares.append(batches(cfg, 4))
    for batch, first, second in zip(whole, *shares, strict=True):
        assert len(first) == len(second) == 1
        assert same(batch[0], first[0]) and same(batch[1], second[0])


def test_batch_sizes_of_their_own(cfg: CfgNode) -> None:
    cfg.DATALOADER.DATASET_BATCH_SIZE = (3, 1, 2)
    sizes = {batch[0]["task"]: len(batch) for batch in batches(cfg, 8)}
    assert sizes == {"detection": 3, "parts": 1, "referring": 2}


def test_training_never_names_unseen_things(cfg: CfgNode) -> None:
    unseen = set(MetadataCatalog.get("picturebook_train_panoptic").unseen_classes)
    named = set()
    for batch in batches(cfg, 12):
        for item in batch:
            if "vocabulary" in item:
                named |= {one.whole or one.name for one in item["vocabulary"].classes}
    assert len(named) > 15 and not named & unseen


def test_captions_have_at_most_the_configured_tokens(cfg: CfgNode) -> None:
    cfg.DATASETS.TRAIN = cfg.DATASETS.TRAIN[:1]
    cfg.DATALOADER.DATASET_RATIO = ()
    cfg.MODEL.HIPIE.TEXT.SOURCE = "minilm"
    cfg.MODEL.HIPIE.TEXT.MAX_TOKENS = 12
    for batch in islice(build_train_loader(cfg), 3):
        assert all(1 <= len(item["vocabulary"]) <= 5 for item in batch)


@pytest.mark.parametrize("task", ["panoptic", "parts", "refer", "grefer"])
def test_test_loader_gives_every_image_once(cfg: CfgNode, task: str) -> None:
    name = f"picturebook_val_{task}"
    items = [item for batch in build_test_loader(cfg, name) for item in batch]
    expected = DatasetCatalog.get(name)
    assert [item["image_id"] for item in items] == [record["image_id"] for record in expected]
    for item, record in zip(items, expected, strict=True):
        assert (item["height"], item["width"]) == (record["height"], record["width"])
        assert min(item["image"].shape[1:]) <= 64
        assert ("expressions" in item) == (task in ("refer", "grefer"))
        assert ("vocabulary" in item) == (task in ("panoptic", "parts"))


@pytest.mark.parametrize("key", ["DATASET_RATIO", "DATASET_BATCH_SIZE"])
def test_lists_must_match_the_data_sets(cfg: CfgNode, key: str) -> None:
    cfg.DATALOADER[key] = (1, 1)
    with pytest.raises(ValueError, match=f"DATALOADER.{key} has 2 numbers, DATASETS.TRAIN 3"):
        build_train_loader(cfg)


def flipped(cfg: CfgNode, flip: str, dataset: str) -> list[bool]:
    """Whether training images are flipped horizontally."""
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.LSJ.PROBABILITY = flip, (0,), 0.0
    cfg.DATALOADER.DATASET_RATIO = ()
    cfg.DATASETS.TRAIN = (dataset,)
    mapped = loader.build_mapped_dataset(cfg, dataset, training=True)
    record = mapped.records[0]
    original = torch.from_numpy(np.array(Image.open(record["file_name"]).convert("RGB")))
    image = original.permute(2, 0, 1)
    items = [mapped.mapper(record, (seed,))["image"] for seed in range(12)]
    for item in items:
        same_image = [torch.equal(item, image.flip(d)) for d in ([], [2], [1])]
        assert any(same_image)
    return [torch.equal(item, image.flip([2])) for item in items]


@pytest.mark.parametrize("task", ["panoptic", "refer"])
def test_random_flip_none_flips_no_image(cfg: CfgNode, task: str) -> None:
    assert any(flipped(cfg, "horizontal", f"picturebook_train_{task}"))
    assert not any(flipped(cfg, "none", f"picturebook_train_{task}"))
    assert not any(flipped(cfg, "vertical", f"picturebook_train_{task}"))


def test_images_without_objects_are_kept_on_request(cfg: CfgNode) -> None:
    box = {"bbox": [1, 1, 4, 4], "category_id": 0}
    records = [
        {"file_name": f"{i}.png", "height": 8, "width": 8, "image_id": i, "annotations": objects}
        for i, objects in enumerate(([{**box, "iscrowd": 0}], [], [{**box, "iscrowd": 1}]))
    ]
    register_dataset("some_empty", lambda: records, thing_classes=["a"])
    kept = []
    for filter_empty in (True, False):
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = filter_empty
        mapped = loader.build_mapped_dataset(cfg, "some_empty", training=True)
        kept.append([record["image_id"] for record in mapped.records])
    DatasetCatalog.remove("some_empty")
    MetadataCatalog.remove("some_empty")
    assert kept == [[0], [0, 1, 2]]


def test_aspect_ratio_grouping_can_be_turned_off(cfg: CfgNode) -> None:
    cfg.DATASETS.TRAIN = ("picturebook_train_panoptic",)
    cfg.DATALOADER.DATASET_RATIO = ()
    mixed = []
    for grouping in (True, False):
        cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
        wide = [[item["width"] > item["height"] for item in batch] for batch in batches(cfg, 12)]
        mixed.append(sum(len(set(batch)) > 1 for batch in wide))
    assert mixed[0] == 0 < mixed[1]


def test_no_data_set(cfg: CfgNode) -> None:
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="DATASETS.TRAIN names no data set"):
        build_train_loader(cfg)


def test_a_data_set_without_objects_is_named(cfg: CfgNode) -> None:
    records = [{"annotations": [{"iscrowd": 1}]}]
    register_dataset("hand_made_empty", lambda: records, thing_classes=["cup"])
    cfg.DATASETS.TRAIN = ("hand_made_empty",)
    cfg.DATALOADER.DATASET_RATIO = ()
    with pytest.raises(ValueError, match="hand_made_empty has an object"):
        build_train_loader(cfg)


class GroupModel(SegmentationModel):
    """Architecture that reads every data set but one in a form of its own."""

    @classmethod
    def dataset_mapper(cls, cfg: CfgNode, dataset_name: str, training: bool) -> str | None:
        return None if dataset_name.endswith("_parts") else "numbered"


def numbered(cfg: CfgNode, dataset_name: str, training: bool) -> MappedDataset:
    records = [{"width": 4, "height": 3, "number": number} for number in range(3)]
    return MappedDataset(records, partial(number_input, dataset_name, training))


def number_input(
    dataset_name: str, training: bool, record: dict[str, Any], seed: Any = None
) -> dict[str, Any]:
    return {**record, "name": dataset_name, "training": training, "seeded": seed is not None}


def test_an_architecture_names_the_mapper_of_its_own_records(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "GroupModel", GroupModel)
    monkeypatch.setitem(DATASET_MAPPER_REGISTRY._obj_map, "numbered", numbered)
    cfg.MODEL.META_ARCHITECTURE = "GroupModel"
    cfg.DATASETS.TRAIN = ("picturebook_train_panoptic", "picturebook_train_parts")
    cfg.DATALOADER.DATASET_RATIO = ()
    items = [item for batch in batches(cfg, 8) for item in batch]
    own = [item for item in items if "number" in item]
    assert {item["task"] for item in items if item not in own} == {"parts"}
    assert own and all(item["training"] and item["seeded"] for item in own)
    tested = [batch[0] for batch in build_test_loader(cfg, "picturebook_val_refer")]
    assert [item["number"] for item in tested] == [0, 1, 2]
    assert not any(item["training"] for item in tested)
    assert "image" in next(iter(build_test_loader(cfg, "picturebook_val_parts")))[0]


def test_a_task_without_a_mapper_is_named(cfg: CfgNode) -> None:
    register_dataset("hand_made_task", list, task="audio")
    with pytest.raises(ValueError, match=r'hand_made_task has the task "audio".*referring'):
        build_test_loader(cfg, "hand_made_task")


def test_records_of_detectron2_without_sizes_are_completed(cfg: CfgNode) -> None:
    source = DatasetCatalog.get("picturebook_val_panoptic")
    keys = ("file_name", "pan_seg_file_name", "segments_info")
    metadata = MetadataCatalog.get("picturebook_val_panoptic")
    register_dataset(
        "bare_panoptic",
        lambda: [{key: record[key] for key in keys} for record in source],
        thing_classes=metadata.thing_classes,
        stuff_classes=metadata.stuff_classes,
        thing_dataset_id_to_contiguous_id=metadata.thing_dataset_id_to_contiguous_id,
    )
    items = [batch[0] for batch in build_test_loader(cfg, "bare_panoptic")]
    sizes = [(record["height"], record["width"]) for record in source]
    assert [(item["height"], item["width"]) for item in items] == sizes
    cfg.DATASETS.TRAIN = ("bare_panoptic",)
    cfg.DATALOADER.DATASET_RATIO = ()
    (batch,) = batches(cfg, 1)
    assert all(len(item["instances"]) for item in batch)


def loaders(cfg: CfgNode) -> list[Any]:
    return [build_train_loader(cfg), build_test_loader(cfg, "picturebook_val_panoptic")]


def test_batches_are_pinned_for_a_gpu_only(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        for device in ("cuda", "cuda:1", "cpu"):
            cfg.MODEL.DEVICE = device
            expected = available and device != "cpu"
            assert [loader.pin_memory for loader in loaders(cfg)] == [expected] * 2
    cfg.MODEL.DEVICE, cfg.DATALOADER.PIN_MEMORY = "cuda", False
    assert not any(loader.pin_memory for loader in loaders(cfg))


@pytest.mark.parametrize("persistent", [True, False])
def test_workers_are_kept_between_two_passes(cfg: CfgNode, persistent: bool) -> None:
    cfg.DATALOADER.NUM_WORKERS = 1
    cfg.DATALOADER.PERSISTENT_WORKERS = persistent
    loader = build_test_loader(cfg, "picturebook_val_panoptic")
    workers = []
    for _ in range(2):
        batches_of_pass = iter(loader)
        workers.append(batches_of_pass._workers[0].pid)
        assert len(list(batches_of_pass)) == 2
    assert (workers[0] == workers[1]) == persistent
    cfg.DATALOADER.NUM_WORKERS = 0
    assert not any(loader.persistent_workers for loader in loaders(cfg))


def test_a_test_loader_shares_its_records_with_workers(cfg: CfgNode) -> None:
    dataset = loader.build_mapped_dataset(cfg, "picturebook_val_panoptic", training=False)
    assert isinstance(dataset.records, RecordList)


@pytest.mark.parametrize("task", [None, "referring"])
def test_sets_evaluated_by_expressions_are_referring_without_a_task(cfg: CfgNode, task) -> None:
    """Also those with an image whose refs have no sentence, which gRefCOCO has."""
    records = [dict(one) for one in DatasetCatalog.get("picturebook_val_refer")]
    records[0]["expressions"] = []
    metadata = {"evaluator_type": "grefer", **({"task": task} if task else {})}
    DatasetCatalog.register("by_expressions", lambda: records)
    MetadataCatalog.get("by_expressions").set(**metadata)
    try:
        items = [item for (item,) in build_test_loader(cfg, "by_expressions")]
    finally:
        DatasetCatalog.remove("by_expressions")
        MetadataCatalog.remove("by_expressions")
    assert [item["file_name"] for item in items] == [one["file_name"] for one in records[1:]]
    assert all(item["task"] == "referring" and item["expressions"] for item in items)
