"""Training loaders over hand-made sets with different classes."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from PIL import Image

from hipie.config import add_hipie_config
from hipie.data.build import build_mapped_dataset, build_train_loader
from hipie.data.datasets.catalog import register_dataset
from hipie.errors import InputError

ANIMALS = ["background", "cat", "dog"]
STREETS = ["sky", "road", "car"]


def label_map(folder: Path, name: str, labels: np.ndarray) -> dict[str, Any]:
    """Record of a map whose image has the class in the red channel, times 20."""
    shades = np.stack([20 * labels, 0 * labels, 0 * labels], axis=2).astype(np.uint8)
    Image.fromarray(shades).save(folder / f"{name}.png")
    Image.fromarray(labels.astype(np.uint8)).save(folder / f"{name}_labels.png")
    return {
        "file_name": str(folder / f"{name}.png"),
        "height": labels.shape[0],
        "width": labels.shape[1],
        "image_id": name,
        "sem_seg_file_name": str(folder / f"{name}_labels.png"),
    }


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    """Animals before a background, one dog in four, and streets."""
    animals, streets = [], []
    for number in range(4):
        labels = np.zeros((32, 48), int)
        labels[8:24, 8:24] = 2 if number == 3 else 1
        animals.append(label_map(tmp_path, f"animal{number}", labels))
        labels = np.zeros((32, 48), int)
        labels[16:] = 1
        labels[10:20, 30:40] = 2
        streets.append(label_map(tmp_path, f"street{number}", labels))
    common = {"task": "universal", "evaluator_type": "sem_seg"}
    register_dataset(
        "toy_animals",
        lambda: animals,
        stuff_classes=ANIMALS,
        background_class="background",
        **common,
    )
    register_dataset("toy_streets", lambda: streets, stuff_classes=STREETS, **common)
    node = get_cfg()
    add_hipie_config(node)
    node.DATASETS.TRAIN = ("toy_animals", "toy_streets")
    node.DATALOADER.NUM_WORKERS = 0
    node.SOLVER.IMS_PER_BATCH = 2
    node.INPUT.MIN_SIZE_TRAIN = (32,)
    node.INPUT.MAX_SIZE_TRAIN = 64
    node.INPUT.LSJ.PROBABILITY = 0.0
    return node


def items(cfg: CfgNode, batches: int, start: int = 0) -> list[dict[str, Any]]:
    return [item for batch in islice(build_train_loader(cfg, start), batches) for item in batch]


def test_prompts_have_the_annotated_classes_of_their_own_set_only(cfg: CfgNode) -> None:
    """So that there is no logit, and no gradient, for a class that the set does not annotate."""
    named = {"animal": set(), "street": set()}
    for item in items(cfg, 12):
        names = item["vocabulary"].names
        named[item["image_id"][:-1]].update(names)
        assert item["instances"].gt_classes.max() < len(names)
    assert named == {"animal": {"cat", "dog"}, "street": set(STREETS)}


def test_a_wrong_background_class_is_named(cfg: CfgNode) -> None:
    records = DatasetCatalog.get("toy_animals")
    register_dataset(
        "toy_animals", lambda: records, stuff_classes=ANIMALS, background_class="ground"
    )
    with pytest.raises(InputError, match="toy_animals: its background_class .* 'ground' is not"):
        build_mapped_dataset(cfg, "toy_animals", training=False)


def test_images_with_rare_classes_are_repeated_on_request(cfg: CfgNode) -> None:
    """One image of four has the dog: f = 1/4, with threshold 1 its factor is sqrt(1 / 0.25) = 2."""
    cfg.DATASETS.TRAIN = ("toy_animals",)
    cfg.SOLVER.IMS_PER_BATCH = 1
    counts = Counter(item["image_id"] for item in items(cfg, 40))
    assert set(counts.values()) == {10}
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 1.0
    # The factor of a cat is sqrt(1 / 0.75); a pass has 3 * 1.155 + 2 = 5.46 draws, 6 in all.
    counts = Counter(item["image_id"] for item in items(cfg, 600))
    assert counts["animal3"] == pytest.approx(600 * 2 / 5.464, rel=0.1)
    assert len(counts) == 4
    assert [item["image_id"] for item in items(cfg, 5, start=7)] == [
        item["image_id"] for item in items(cfg, 12)[7:]
    ]


def test_other_samplers_are_refused(cfg: CfgNode) -> None:
    cfg.DATALOADER.SAMPLER_TRAIN = "RandomSubsetTrainingSampler"
    with pytest.raises(InputError, match=r"DATALOADER\.SAMPLER_TRAIN must be .*not RandomSubset"):
        items(cfg, 1)


def test_objects_are_pasted_in_the_sets_that_are_named(cfg: CfgNode) -> None:
    """A loader with workers, resumed in the middle, gives the items of one without."""

    def with_other_classes(items: list[dict[str, Any]]) -> set[str]:
        pasted = set()
        for item in items:
            names = item["vocabulary"].names
            classes = {names[k] for k in item["instances"].gt_classes.tolist()}
            own = {"dog"} if item["image_id"] == "animal3" else {"cat"}
            if item["image_id"].startswith("animal") and classes != own:
                pasted.add(item["image_id"])
        return pasted

    assert not with_other_classes(items(cfg, 12))
    cfg.INPUT.COPY_PASTE.PROBABILITY = 1.0
    cfg.INPUT.COPY_PASTE.DATASETS = ("toy_streets",)
    assert not with_other_classes(items(cfg, 12))
    cfg.INPUT.COPY_PASTE.DATASETS = ("toy_animals",)
    straight = items(cfg, 12)
    assert with_other_classes(straight)
    cfg.DATALOADER.NUM_WORKERS = 2
    for expected, found in zip(straight[10:], items(cfg, 7, start=5), strict=True):
        assert torch.equal(expected["image"], found["image"])
        masks = (item["instances"].gt_masks.tensor for item in (expected, found))
        assert torch.equal(*masks)
    cfg.INPUT.COPY_PASTE.DATASETS = ("coco",)
    with pytest.raises(InputError, match=r"INPUT\.COPY_PASTE\.DATASETS names coco"):
        items(cfg, 1)
