"""Files that cannot be used: named before a run, or left out, counted and limited."""

from __future__ import annotations

import json
import logging
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hipie.config import add_hipie_config
from hipie.data.broken_images import LEFT_OUT, BrokenImages, usable_item
from hipie.data.build import build_test_loader, build_train_loader
from hipie.data.datasets import register_all
from hipie.data.datasets.catalog import register_dataset
from hipie.data.file_check import check_datasets
from hipie.data.image_io import require_complete
from hipie.data.record_list import read_records
from hipie.errors import InputError

NAME, COUNT = "broken_images", 6


def coco_cfg(folder: Path, *options: object) -> CfgNode:
    """Write a COCO data set of six images with an object each; return a configuration of it."""
    (folder / "img").mkdir()
    images, annotations = [], []
    noise = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = noise.integers(0, 255, (30, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "img" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 40, "height": 30})
        corners = [[5, 5, 20, 5, 20, 20, 5, 20]]
        annotations.append(
            {
                "id": number + 1,
                "image_id": number,
                "category_id": 1,
                "segmentation": corners,
                "bbox": [5, 5, 15, 15],
            }
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "dog"}],
    }
    (folder / "train.json").write_text(json.dumps(content))
    return dataset_cfg(
        NAME,
        *("DATASETS.COCO_FORMAT", [[NAME, str(folder / "train.json"), str(folder / "img")]]),
        *options,
    )


def dataset_cfg(name: str, *options: object) -> CfgNode:
    """Return a small configuration that trains and tests on one data set."""
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (32,), 32
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(list(options))
    register_all(cfg)
    return cfg


def damage(path: Path) -> None:
    """Change bytes in the middle of a file, where its header does not tell."""
    content = bytearray(path.read_bytes())
    content[500:700] = bytes(200)
    path.write_bytes(content)


SKIP = ("DATALOADER.SKIP_BROKEN", True)


@pytest.mark.parametrize("fault", ["missing", "size", "not an image", "cut short"])
def test_faults_are_named_before_the_run_or_left_out(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = coco_cfg(tmp_path)
    path = tmp_path / "img" / "2.png"
    if fault == "missing":
        path.unlink()
    elif fault == "size":
        Image.new("RGB", (41, 30)).save(path)
    elif fault == "cut short":
        path.write_bytes(path.read_bytes()[:-300])
    else:
        path.write_text("Dear reader")
    with pytest.raises(InputError, match=r"2\.png"):
        check_datasets(cfg)
    cfg.merge_from_list(SKIP)
    with caplog.at_level(logging.WARNING, "hipie"):
        check_datasets(cfg)
    assert "2.png" in caplog.text and "1 of 6 images" in caplog.text
    # Every reader of the data set gets the others: loaders as well as evaluators.
    assert len(read_records(NAME)) == len(build_test_loader(cfg, NAME)) == COUNT - 1
    files = {
        Path(item["file_name"]).name
        for batch in islice(build_train_loader(cfg), 9)
        for item in batch
    }
    assert files == {f"{number}.png" for number in range(COUNT) if number != 2}
    cfg.DATALOADER.MAX_BROKEN = 0
    with pytest.raises(InputError, match="MAX_BROKEN 0"):
        check_datasets(cfg)
    cfg.DATALOADER.SKIP_BROKEN = False
    with pytest.raises(InputError, match=r"2\.png"):
        check_datasets(cfg)


def test_sound_files_have_no_faults(tmp_path: Path) -> None:
    cfg = coco_cfg(tmp_path)
    check_datasets(cfg)
    assert len(read_records(NAME)) == COUNT


def test_damaged_images_are_left_out_where_they_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = coco_cfg(tmp_path)
    damage(tmp_path / "img" / "2.png")
    check_datasets(cfg)  # the header is sound
    with pytest.raises(InputError, match=r"2\.png.*damaged"):
        list(build_test_loader(cfg, NAME))
    with pytest.raises(InputError, match=r"2\.png.*damaged"):
        list(islice(build_train_loader(cfg), 9))
    cfg.merge_from_list(SKIP)
    with caplog.at_level(logging.WARNING, "hipie"):
        items = [item for batch in build_test_loader(cfg, NAME) for item in batch]
        batches = list(islice(build_train_loader(cfg), 9))
    assert [item["image_id"] for item in items] == [0, 1, 3, 4, 5]
    assert all(len(batch) == 2 for batch in batches)
    files = [Path(item["file_name"]).name for batch in batches for item in batch]
    assert "2.png" not in files and not any(LEFT_OUT in item for b in batches for item in b)
    assert caplog.text.count("2.png: the image is damaged") == 2  # once a loader
    # A loader that starts later continues with the same batches.
    later = list(islice(build_train_loader(cfg, 4), 5))
    assert [[i["file_name"] for i in batch] for batch in later] == [
        [i["file_name"] for i in batch] for batch in batches[4:]
    ]


def test_more_broken_images_than_the_limit_end_the_run(tmp_path: Path) -> None:
    cfg = coco_cfg(tmp_path, *SKIP, "DATALOADER.MAX_BROKEN", 1)
    for number in (1, 3):
        damage(tmp_path / "img" / f"{number}.png")
    for loader in (build_test_loader(cfg, NAME), build_train_loader(cfg)):
        with pytest.raises(InputError, match=r"2 images cannot be used.*MAX_BROKEN 1"):
            list(islice(loader, 20))


def test_images_are_counted_once() -> None:
    broken = BrokenImages(2)
    for _ in range(3):
        broken.add({"a.png": "a.png: damaged", "b.png": "b.png: damaged"})
    with pytest.raises(InputError, match="3 images.*c.png: damaged"):
        broken.add({"c.png": "c.png: damaged"})


def test_only_errors_of_the_data_are_left_out() -> None:
    def fail(record: dict) -> dict:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        usable_item([{"file_name": "a"}].__getitem__, 1, 0, fail, 5)


def test_expressions_without_a_word_are_named_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    annotation = {"id": 1, "segmentation": [[5, 5, 20, 5, 20, 20, 5, 20]], "iscrowd": 0}

    def record(image_id: int, *texts: str) -> dict:
        return {
            "file_name": str(tmp_path / "a.png"),
            "height": 30,
            "width": 40,
            "image_id": image_id,
            "annotations": [annotation],
            "expressions": [{"expression": t, "targets": [0], "ref_id": 17} for t in texts],
        }

    name = "wordless"
    records = [record(1, "the dog", "?"), record(2), record(3, " - "), record(4, "it")]
    register_dataset(name, lambda: records, task="referring", evaluator_type="refer")
    cfg = dataset_cfg(name)
    message = 'the expression "[?]" of ref 17 has no word.*SKIP_BROKEN'
    for build in (
        lambda: check_datasets(cfg),
        lambda: build_train_loader(cfg),
        lambda: build_test_loader(cfg, name),
    ):
        with pytest.raises(InputError, match=f"{name}.*a.png: {message}"):
            build()
    cfg.merge_from_list(SKIP)
    with caplog.at_level(logging.WARNING, "hipie"):
        check_datasets(cfg)
    assert 'the expression "?" of ref 17' in caplog.text
    # Neither images without an expression, as in gRefCOCO, nor those without a usable one.
    items = [item for batch in build_test_loader(cfg, name) for item in batch]
    assert [(i["image_id"], i["expressions"]) for i in items] == [(1, ["the dog"]), (4, ["it"])]
    texts = {
        t for batch in islice(build_train_loader(cfg), 4) for i in batch for t in i["expressions"]
    }
    assert texts == {"the dog", "it"}


def test_images_without_expressions_are_left_out_without_any_key(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    base = {"file_name": str(tmp_path / "a.png"), "height": 30, "width": 40, "annotations": []}
    records = [
        {**base, "image_id": 1, "expressions": []},
        {**base, "image_id": 2, "expressions": [{"expression": "nothing", "targets": []}]},
    ]
    register_dataset("no_refs", lambda: records, task="referring", evaluator_type="grefer")
    cfg = dataset_cfg("no_refs")
    check_datasets(cfg)
    assert [b[0]["image_id"] for b in build_test_loader(cfg, "no_refs")] == [2]
    with pytest.raises(InputError, match="no_refs describes exactly one object"):
        build_train_loader(cfg)
    records.pop()
    with pytest.raises(InputError, match="no_refs has an expression"):
        build_test_loader(cfg, "no_refs")


def test_sets_without_images_are_named() -> None:
    register_dataset("nothing", list, thing_classes=["dog"], evaluator_type="coco")
    with pytest.raises(InputError, match="the data set nothing has no image"):
        check_datasets(dataset_cfg("nothing"))


@pytest.mark.parametrize("fault", ["size", "grey", "bgr", "jpeg"])
def test_panoptic_maps_are_checked_before_the_run(fault: str, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    colours = np.full((30, 40, 3), (10, 1, 2), np.uint8)
    segment = {"id": 10 + 256 + 2 * 65536, "category_id": 0, "isthing": True}
    file = tmp_path / ("map.jpg" if fault == "jpeg" else "map.png")
    changed = {
        "size": colours[:20],
        "grey": colours[:, :, 0],
        "bgr": colours[:, :, ::-1],
        "jpeg": colours,
    }[fault]
    record = {
        "file_name": str(tmp_path / "a.png"),
        "height": 30,
        "width": 40,
        "image_id": 1,
        "pan_seg_file_name": str(file),
        "segments_info": [segment],
    }
    register_dataset("maps", lambda: [record], thing_classes=["dog"])
    Image.fromarray(np.ascontiguousarray(changed)).save(file)
    with pytest.raises(InputError, match=rf"{file.name}: "):
        check_datasets(dataset_cfg("maps"))
    if fault != "jpeg":
        Image.fromarray(colours).save(file)
        check_datasets(dataset_cfg("maps"))


def test_all_crowds_are_called_so(tmp_path: Path) -> None:
    cfg = coco_cfg(tmp_path)
    records = DatasetCatalog.get(NAME)
    for record in records:
        record["annotations"][0]["iscrowd"] = 1
    register_dataset("crowds", lambda: records, thing_classes=["dog"])
    with pytest.raises(InputError, match="crowds has an object to learn from; all of its 6"):
        build_train_loader(dataset_cfg("crowds"))
    assert cfg.DATASETS.TRAIN == (NAME,) and "thing_classes" in MetadataCatalog.get(NAME).as_dict()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_files_that_are_cut_short_are_found_by_their_end(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    require_complete(path)
    path.write_bytes(whole + b"more bytes at the end")
    require_complete(path)
    path.write_bytes(whole[:-200])
    if name.endswith("bmp"):
        require_complete(path)
    else:
        with pytest.raises(InputError, match=f"{name}: the image is damaged or cut short"):
            require_complete(path)
