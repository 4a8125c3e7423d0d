"""Records of any function in Detectron2's catalog, in the checked form."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.datasets import load_sem_seg, register_coco_instances
from detectron2.data.transforms import NoOpTransform
from detectron2.structures import BoxMode
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hipie.data.dataset_mappers.annotations import instance_masks
from hipie.data.io.validation import DatasetError
from hipie.data.records import check_records, load_records
from hipie.vocabularies.vocabulary import Vocabulary

HEIGHT, WIDTH = 40, 60
BOX = [12.0, 8.0, 20.0, 10.0]
CORNERS = [12.0, 8.0, 32.0, 8.0, 32.0, 18.0, 12.0, 18.0]
CLASSES = Metadata(name="shelf", thing_classes=["cup", "jug"])
MASK = np.zeros((HEIGHT, WIDTH), np.uint8)
MASK[8:18, 12:32] = 1


def record(*annotations: dict, **changes: object) -> dict:
    size = {"height": HEIGHT, "width": WIDTH}
    return {"file_name": "a.png", "image_id": 1, **size, "annotations": list(annotations)} | changes


def checked(*annotations: dict) -> list[dict]:
    return check_records("shelf", [record(*annotations)], CLASSES)[0]["annotations"]


BOXES = {
    BoxMode.XYWH_ABS: BOX,
    BoxMode.XYXY_ABS: [12, 8, 32, 18],
    BoxMode.XYXY_REL: [12 / WIDTH, 8 / HEIGHT, 32 / WIDTH, 18 / HEIGHT],
    BoxMode.XYWH_REL: [12 / WIDTH, 8 / HEIGHT, 20 / WIDTH, 10 / HEIGHT],
    BoxMode.XYWHA_ABS: [22, 13, 20, 10, 0],
}


@pytest.mark.parametrize("mode", BOXES)
@pytest.mark.parametrize("form", [BoxMode, int, lambda mode: mode.name, str])
def test_boxes_of_every_mode_are_one_box(mode: BoxMode, form: type) -> None:
    annotation = {"bbox": BOXES[mode], "bbox_mode": form(mode), "category_id": 1}
    (entry,) = checked(annotation)
    assert entry["bbox"] == pytest.approx(BOX) and entry["bbox_mode"] == BoxMode.XYWH_ABS
    assert entry["iscrowd"] == 0 and "segmentation" not in entry
    for box in (annotation, entry):
        masks, classes = instance_masks([box], HEIGHT, WIDTH, NoOpTransform())
        assert (masks[0] == MASK).all() and classes.tolist() == [1]


def test_unknown_modes_are_named() -> None:
    with pytest.raises(DatasetError, match='a.png: annotation 0: "bbox_mode" must be one of XYXY_'):
        checked({"bbox": BOX, "bbox_mode": "corners", "category_id": 0})


RLE = mask_util.encode(np.asfortranarray(MASK))
SEGMENTATIONS = [
    [CORNERS],
    [np.array(CORNERS)],
    np.array([CORNERS]),
    MASK,
    MASK.astype(bool),
    RLE,
    {"size": [HEIGHT, WIDTH], "counts": RLE["counts"].decode()},
]


@pytest.mark.parametrize("segmentation", SEGMENTATIONS)
def test_masks_of_every_form_are_one_mask(segmentation: object) -> None:
    (entry,) = checked({"segmentation": segmentation, "category_id": 0})
    assert entry["bbox"] == BOX and entry["area"] == 200
    masks, _ = instance_masks([entry], HEIGHT, WIDTH, NoOpTransform())
    assert (masks[0] == MASK).all()


ABSENT = st.sampled_from([None, [], {}, "", float("nan"), ...])


@settings(deadline=None, max_examples=60)
@given(st.tuples(ABSENT, ABSENT, st.sampled_from([None, 0, 0.0, "0", False, ...]), ABSENT))
def test_optional_fields_are_derived(values: tuple) -> None:
    fields = dict(zip(("bbox", "bbox_mode", "iscrowd", "area"), values, strict=True))
    annotation = {key: value for key, value in fields.items() if value is not ...}
    clean = {"segmentation": [CORNERS], "bbox": BOX, "category_id": 1}
    assert checked({"segmentation": [CORNERS], "category_id": 1.0, **annotation}) == checked(clean)


def test_slivers_are_left_out_and_counted() -> None:
    sliver = {"segmentation": [[1, 1, 30, 1.01, 30, 1.02]], "category_id": 0}
    given = record(sliver, {"bbox": BOX, "category_id": 0}, {"category_id": 0})
    before = copy.deepcopy(given)
    (entry,) = check_records("shelf", [given], CLASSES)
    assert len(entry["annotations"]) == 1 and sum(entry["left_out"].values()) == 2
    assert given == before


def test_all_wrong_entries_are_found_in_one_run() -> None:
    records = [record({"bbox": BOX, "category_id": 2}, {"bbox": ["x"] * 4, "category_id": 0})] * 2
    records[1] = {**records[1], "file_name": "b.png"}
    records += [record(file_name="c.png", height="tall"), "d.png"]
    with pytest.raises(DatasetError) as caught:
        check_records("shelf", records, CLASSES)
    message = str(caught.value)
    assert message.startswith("the data set shelf: 6 entries are wrong: a.png: annotation 0: ")
    assert '"category_id" must be a class index from 0 to 1' in message
    for part in ("b.png: annotation 1", "c.png", "'tall'", "record 3 must be a dictionary"):
        assert part in message


def test_sizes_and_ids_are_taken_from_the_images(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / folder / f"{name}.png")
    roots = str(tmp_path / "labels"), str(tmp_path / "images")
    records = check_records("maps", load_sem_seg(*roots, image_ext="png"), CLASSES)
    assert [r["image_id"] for r in records] == ["a", "b"]
    assert all((r["height"], r["width"]) == (HEIGHT, WIDTH) for r in records)
    # Files of the same name in two folders are two images.
    files = [str(tmp_path / folder / "a.png") for folder in ("images", "labels")]
    same = check_records(
        "maps", [{"file_name": file, "annotations": []} for file in files], CLASSES
    )
    assert [r["image_id"] for r in same] == files
    missing = {"file_name": str(tmp_path / "c.png"), "annotations": []}
    with pytest.raises(DatasetError, match=r"the data set maps: .*c\.png: "):
        check_records("maps", [missing], CLASSES)


def test_records_of_detectron2s_reader(tmp_path: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    shared = {"image_id": 5, "bbox": BOX, "area": 1, "iscrowd": 0}
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [
            {**shared, "id": 1, "category_id": 9, "segmentation": [CORNERS]},
            {**shared, "id": 2, "category_id": 4},
        ],
        "categories": [{"id": 4, "name": "cup"}, {"id": 9, "name": "jug"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    register_coco_instances("theirs", {}, str(tmp_path / "a.json"), str(tmp_path))
    try:
        (entry,) = load_records("theirs")
        assert [a["category_id"] for a in entry["annotations"]] == [1, 0]
        assert [a["area"] for a in entry["annotations"]] == [200, 200]
    finally:
        DatasetCatalog.remove("theirs")
        MetadataCatalog.remove("theirs")


def panoptic(*segments: dict) -> list[dict]:
    vocabulary = Vocabulary.from_names(things=["cup"], stuff=["wall"])
    entry = record(segments_info=list(segments), pan_seg_file_name="a_ids.png")
    del entry["annotations"]
    (result,) = check_records("room", [entry], Metadata(name="room", vocabulary=vocabulary))
    return result["segments_info"]


def test_segments_are_completed() -> None:
    assert panoptic(
        {"id": 7.0, "category_id": "1"}, {"id": 9, "category_id": 0, "iscrowd": None}
    ) == [
        {"id": 7, "category_id": 1, "iscrowd": 0, "isthing": False},
        {"id": 9, "category_id": 0, "iscrowd": 0, "isthing": True},
    ]


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([{"id": 0, "category_id": 0}], r'segment 0: "id" must be from 1 to 16777215'),
        ([{"id": 2**24, "category_id": 0}], r'segment 0: "id" must be from 1 to 16777215'),
        ([{"id": 4, "category_id": 0}] * 2, "segment 1: another segment of the image has the id 4"),
        ([{"id": 4, "category_id": 2}], "class index from 0 to 1"),
        ([{"id": 4}], 'has no "category_id"'),
    ],
)
def test_wrong_segments_are_named(segments: list[dict], message: str) -> None:
    with pytest.raises(DatasetError, match=rf"the data set room: a\.png: .*{message}"):
        panoptic(*segments)
