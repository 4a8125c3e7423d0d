"""Readers of COCO's formats on damaged files: one kind of error that names the file."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data.transforms import NoOpTransform
from PIL import Image

from hipie.data.dataset_mappers.annotations import instance_masks, panoptic_masks
from hipie.data.datasets import (
    DatasetError,
    load_coco_instances,
    load_coco_panoptic,
    load_label_maps,
    load_lvis,
    register_coco,
)
from tests import benchmark_trees as trees
from tests.data.datasets.mutations import changed_files

MUTANTS = 520
CATEGORIES = {3: "dog", 7: "sky"}


def as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


def survive(
    path: Path,
    load: Callable[[], list[dict]],
    use: Callable[[dict], None],
    mutants: Any,
) -> tuple[int, int]:
    """Write each mutant, read it, and use what was read; returns how many were refused, taken."""
    refused = taken = 0
    for data in mutants:
        path.write_bytes(data)
        try:
            records = load()
        except DatasetError as error:
            assert path.name in str(error) and "\n" not in str(error).strip()
            refused += 1
            continue
        taken += 1
        for record in records:
            use(record)
    return refused, taken


def instances(folder: Path) -> tuple[Path, dict]:
    file = folder / "instances.json"
    trees.instances(file, folder, ["a.jpg", "b.jpg"], CATEGORIES, [3, 7])
    content = json.loads(file.read_text())
    first, second, third, _ = content["annotations"]
    second["segmentation"] = {"size": [48, 64], "counts": [0, 500, 2572]}
    mask = np.zeros((48, 64), np.uint8, order="F")
    mask[10:20, 5:9] = 1
    runs = mask_util.encode(mask)
    third["segmentation"] = {"size": [48, 64], "counts": runs["counts"].decode()}
    first["iscrowd"] = 1
    return file, content


def use_objects(record: dict) -> None:
    masks, classes = instance_masks(
        record["annotations"], record["height"], record["width"], NoOpTransform()
    )
    assert masks.shape[1:] == (record["height"], record["width"])
    assert set(classes.tolist()) <= {0, 1}
    for one in record["annotations"]:
        assert np.isfinite(one["bbox"]).all() and one["iscrowd"] in (0, 1)


@pytest.mark.parametrize("known", [True, False])
def test_instances(tmp_path: Path, known: bool) -> None:
    file, content = instances(tmp_path)
    contiguous = {3: 0, 7: 1} if known else None
    refused, taken = survive(
        file,
        lambda: load_coco_instances(file, tmp_path, contiguous),
        use_objects if known else lambda record: None,
        changed_files(11, content, as_json, True, MUTANTS),
    )
    assert refused > 200 and taken > 50


def test_registering(tmp_path: Path) -> None:
    file, content = instances(tmp_path)
    refused, taken = survive(
        file,
        lambda: register_coco("mutant", file, tmp_path) or [],
        lambda record: None,
        changed_files(12, {"categories": content["categories"]}, as_json, True, MUTANTS),
    )
    assert refused > 200 and taken > 20


def test_panoptic(tmp_path: Path) -> None:
    categories = [{"id": i, "name": n, "isthing": int(i == 3)} for i, n in CATEGORIES.items()]
    entries = [(1, "a.jpg"), (2, "b.jpg")]
    trees.panoptic(tmp_path, "panoptic", entries, [(1000, 3), (70000, 7)], categories)
    for _, name in entries:
        trees.write_image(tmp_path / name)
    file = tmp_path / "panoptic.json"
    content = json.loads(file.read_text())
    colours = np.zeros((4, 4, 3), np.uint8)

    def use(record: dict) -> None:
        masks, classes = panoptic_masks(colours, record["segments_info"], NoOpTransform())
        assert len(masks) == len(classes) and set(classes.tolist()) <= {0, 1}
        assert all(type(s["isthing"]) is bool for s in record["segments_info"])

    refused, taken = survive(
        file,
        lambda: load_coco_panoptic(file, tmp_path / "panoptic", tmp_path, {3: 0, 7: 1}),
        use,
        changed_files(13, content, as_json, True, MUTANTS),
    )
    assert refused > 200 and taken > 50


def test_lvis(tmp_path: Path) -> None:
    file, content = instances(tmp_path)
    for image in content["images"]:
        image["coco_url"] = f"http://somewhere/{image.pop('file_name')}"
        image["neg_category_ids"], image["not_exhaustive_category_ids"] = [3], [7]
    (tmp_path / "somewhere").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).rename(tmp_path / "somewhere" / name)
    refused, taken = survive(
        file,
        lambda: load_lvis(file, tmp_path, {3: 0, 7: 1}),
        use_objects,
        changed_files(14, content, as_json, True, MUTANTS),
    )
    assert refused > 200 and taken > 50


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_label_maps(tmp_path: Path, ending: str) -> None:
    labels = tmp_path / "labels"
    trees.write_image(tmp_path / "images/a.jpg")
    path = labels / f"a{ending}"
    trees.label_map(path, trees.halves(1, 2, 0, np.uint16 if ending == ".tif" else np.uint8))
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(MUTANTS):
        data = bytearray(whole[: generator.integers(1, len(whole) + 1)])
        for place in generator.integers(0, len(data), 3):
            data[place] = generator.integers(256)
        path.write_bytes(bytes(data))
        try:
            (record,) = load_label_maps(labels, tmp_path / "images", label_suffix=ending)
            assert record["height"] > 0 and record["width"] > 0
        except DatasetError as error:
            refused += 1
            assert path.name in str(error)
    assert refused > 30


def test_invalid_sizes_allocate_no_memory(tmp_path: Path) -> None:
    file, content = instances(tmp_path)
    content["annotations"][1]["segmentation"] = {"size": [10**6, 10**6], "counts": [0, 10**12]}
    file.write_bytes(as_json(content))
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r'annotation 2: its "segmentation"'):
        load_coco_instances(file, tmp_path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2_000_000
    content["annotations"][1]["segmentation"] = [[0, 0, 1e12, 0, 1e12, 1e12]]
    file.write_bytes(as_json(content))
    with pytest.raises(DatasetError, match=r'annotation 2: its "segmentation"'):
        load_coco_instances(file, tmp_path)


def test_an_image_of_another_kind_is_no_label_map(tmp_path: Path) -> None:
    trees.write_image(tmp_path / "images/a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.png").write_text("no image")
    with pytest.raises(DatasetError, match=r"a\.png: this label map cannot be read"):
        load_label_maps(tmp_path / "labels", tmp_path / "images")
    Image.new("L", (4, 3)).save(tmp_path / "labels/a.png")
    (record,) = load_label_maps(tmp_path / "labels", tmp_path / "images")
    assert (record["height"], record["width"]) == (3, 4)
