"""COCO files with one fault each."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pycocotools.mask as mask_util
import pytest
from PIL import Image

from hipie.data.datasets import DatasetError, load_coco_instances

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
BOW_TIE = [10, 10, 30, 30, 30, 10, 10, 30]


def content(*annotations: dict) -> dict:
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "height": 50, "width": 60},
            {"id": 3, "file_name": "b.jpg", "height": 50, "width": 60},
        ],
        "categories": [{"id": 9, "name": "jug"}, {"id": 4, "name": "cup"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 4, **one}
            for i, one in enumerate(annotations, 1)
        ],
    }


@pytest.fixture
def load(tmp_path: Path) -> Callable[[dict], list[dict]]:
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (60, 50)).save(tmp_path / name)

    def write_and_load(written: dict) -> list[dict]:
        (tmp_path / "mine.json").write_text(json.dumps(written))
        return load_coco_instances(tmp_path / "mine.json", tmp_path)

    return write_and_load


def test_good_file(load: Callable, caplog: pytest.LogCaptureFixture) -> None:
    runs = {"size": [50, 60], "counts": [100, 50, 2850]}
    with caplog.at_level(logging.WARNING):
        records = load(
            content(
                {"segmentation": [SQUARE], "bbox": [10, 10, 20, 20]},
                {"segmentation": [SQUARE], "category_id": 9},
                {"segmentation": runs, "iscrowd": 1},
                {"bbox": [0, 0, 60, 50]},
            )
        )
    assert [record["image_id"] for record in records] == [3, 7]
    assert records[0]["annotations"] == []
    first, second, third, fourth = records[1]["annotations"]
    assert first["category_id"] == 0 and second["category_id"] == 1
    assert second["bbox"] == [10, 10, 20, 20]
    assert third["iscrowd"] == 1 and third["bbox"] == [2, 0, 1, 50]
    assert "segmentation" not in fourth and fourth["bbox"] == [0, 0, 60, 50]
    assert not caplog.records


def test_missing_image(load: Callable) -> None:
    bad = content()
    bad["images"][0]["file_name"] = "gone.jpg"
    with pytest.raises(DatasetError, match=r'mine.json: the image "gone.jpg" of image 7 is not'):
        load(bad)


def test_many_missing_images_are_counted(load: Callable) -> None:
    bad = content()
    for image in bad["images"]:
        image["file_name"] = "nowhere/" + image["file_name"]
    with pytest.raises(DatasetError, match=r'2 entries are wrong: .*"nowhere/b.jpg" of image 3 '):
        load(bad)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"category_id": 5}, "annotation 1 has the unknown category 5"),
        ({"image_id": 8}, "annotation 1 is of image 8, which the file does not list"),
    ],
)
def test_unknown_ids(load: Callable, change: dict, words: str) -> None:
    with pytest.raises(DatasetError, match=f"mine.json: {words}"):
        load(content({"segmentation": [SQUARE], **change}))


def test_double_annotation(load: Callable) -> None:
    bad = content({"segmentation": [SQUARE]}, {"segmentation": [SQUARE]})
    bad["annotations"][1]["id"] = 1
    with pytest.raises(DatasetError, match="annotation 1 occurs twice"):
        load(bad)


def test_double_image(load: Callable) -> None:
    bad = content()
    bad["images"][1]["id"] = 7
    with pytest.raises(DatasetError, match="two images have the id 7"):
        load(bad)


def test_image_without_size(load: Callable) -> None:
    bad = content()
    del bad["images"][0]["width"]
    with pytest.raises(DatasetError, match='image 7 has no "width"'):
        load(bad)


def test_annotation_without_category(load: Callable) -> None:
    bad = content({"segmentation": [SQUARE]})
    del bad["annotations"][0]["category_id"]
    with pytest.raises(DatasetError, match='annotation 1 has no "category_id"'):
        load(bad)


def test_file_without_categories(load: Callable) -> None:
    bad = content()
    del bad["categories"]
    with pytest.raises(DatasetError, match='no list "categories"'):
        load(bad)


def test_not_json(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"images": [')
    with pytest.raises(DatasetError, match="mine.json: this is not a JSON file"):
        load_coco_instances(tmp_path / "mine.json", tmp_path)


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mine.json"):
        load_coco_instances(tmp_path / "mine.json", tmp_path)


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"segmentation": []}, "has neither box nor mask and is dropped"),
        ({"segmentation": [[1, 1, 5, 5]]}, "without a valid polygon and is dropped"),
        ({"segmentation": [[1, 1, 5, 5, 9]]}, "without a valid polygon and is dropped"),
        (
            {"segmentation": [[1, 1, 5, 5, 9, float("nan")]]},
            "without a valid polygon and is dropped",
        ),
        ({}, "has neither box nor mask and is dropped"),
        ({"bbox": [70, 10, 5, 5]}, "outside its image, and is dropped"),
        ({"bbox": [10, 10, 0, 5]}, "has an empty box"),
        ({"bbox": [0, 0, 0, 0]}, "has an empty box"),
        (
            {"segmentation": [[10.1, 10.1, 10.2, 10.1, 10.2, 10.2, 10.1, 10.2]]},
            "has a mask without a pixel in its image and is dropped",
        ),
        ({"segmentation": [[70, 10, 80, 10, 80, 20, 70, 20]]}, "without a pixel in its image"),
    ],
)
def test_unusable_annotations_are_dropped(
    load: Callable, caplog: pytest.LogCaptureFixture, annotation: dict, words: str
) -> None:
    with caplog.at_level(logging.WARNING):
        records = load(content({"segmentation": [SQUARE]}, annotation))
    assert [one["id"] for one in records[1]["annotations"]] == [1]
    assert len(caplog.records) == 1
    message = caplog.messages[0]
    assert "mine.json: annotation 2 " in message and words in message


def test_self_intersecting_polygon_is_kept(
    load: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        records = load(content({"segmentation": [BOW_TIE]}))
    assert records[1]["annotations"][0]["segmentation"] == [BOW_TIE]
    assert "annotation 1 has a self-intersecting polygon" in caplog.text


def test_box_over_the_edge_is_clipped(load: Callable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        records = load(content({"bbox": [-5, 40, 20, 20]}))
    assert records[1]["annotations"][0]["bbox"] == [0, 40, 15, 10]
    assert "annotation 1 has a box that extends beyond its image" in caplog.text


def test_rounded_boxes_pass_quietly(load: Callable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        records = load(content({"bbox": [-0.4, 0, 60.6, 50.3]}))
    assert records[1]["annotations"][0]["bbox"] == [0, 0, 60, 50]
    assert not caplog.records


def test_bad_polygons_among_good_ones(load: Callable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        records = load(content({"segmentation": [SQUARE, [1, 2]]}))
    assert records[1]["annotations"][0]["segmentation"] == [SQUARE]
    assert "fewer than three corners" in caplog.text


def test_warnings_are_grouped(load: Callable, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load(content(*({"segmentation": []} for _ in range(8))))
    assert len(caplog.records) == 1
    assert "annotation 1, 2, 3, 4, 5 (and 3 more)" in caplog.messages[0]


def boxes(records: list[dict]) -> list[list[float]]:
    return [one["bbox"] for record in records for one in record["annotations"]]


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [30, 30, -20, -20], None, [], [70, 10, 5, 5]])
def test_box_is_taken_from_the_mask(load: Callable, box: list | None) -> None:
    assert boxes(load(content({"segmentation": [SQUARE], "bbox": box}))) == [[10, 10, 20, 20]]


def test_box_drawn_backwards_is_turned_round(load: Callable) -> None:
    records = load(content({"bbox": [30, 40, -20, -5]}, {"bbox": [30, 10, -20, 5]}))
    assert boxes(records) == [[10, 35, 20, 5], [10, 10, 20, 5]]


@pytest.mark.parametrize(
    ("as_written", "words"),
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], r"\[left, top, right, bottom\], but COCO's"),
        (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], r"\[centre x, centre y, width, height\]"),
        (
            lambda x, y, w, h: [x / 60, y / 50, w / 60, h / 50],
            ".* as fractions of the image's size",
        ),
        (lambda x, y, w, h: [y, x, h, w], r"\[top, left, height, width\]"),
    ],
)
def test_boxes_of_another_convention_are_said_once(
    load: Callable, caplog: pytest.LogCaptureFixture, as_written: Callable, words: str
) -> None:
    xywh = [(x, y, 20, 8) for x in (12, 30) for y in (15, 40)]
    written = [
        {
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            "bbox": as_written(x, y, w, h),
        }
        for x, y, w, h in xywh
    ]
    with caplog.at_level(logging.WARNING):
        records = load(content(*written))
    assert boxes(records) == [list(box) for box in xywh]
    assert len(caplog.messages) == 2
    assert re.search("the boxes are likely " + words, caplog.messages[1])


def test_corners_of_boxes_without_masks_are_suspected(
    load: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load(content({"bbox": [20, 20, 55, 45]}, {"bbox": [5, 5, 40, 30]}))
    assert any("likely [left, top, right, bottom]" in message for message in caplog.messages)


def test_rounded_boxes_do_not_disagree(load: Callable, caplog: pytest.LogCaptureFixture) -> None:
    small = [10.2, 10.2, 13.4, 10.2, 13.4, 13.4, 10.2, 13.4]
    with caplog.at_level(logging.WARNING):
        load(content({"segmentation": [small], "bbox": [9, 9, 3, 3]}))
    assert not caplog.records


def test_files_of_crowds_only_are_named(load: Callable, caplog: pytest.LogCaptureFixture) -> None:
    crowd = {"segmentation": [SQUARE], "iscrowd": 1}
    with caplog.at_level(logging.WARNING):
        load(content(crowd, crowd))
        load(content(crowd, {"segmentation": [SQUARE]}))
    assert len(caplog.messages) == 1 and "all 2 annotations are crowds" in caplog.messages[0]


def test_area_is_counted_from_the_mask(load: Callable) -> None:
    circle = [30, 20, 37, 23, 40, 30, 37, 37, 30, 40, 23, 37, 20, 30, 23, 23]
    (one,) = load(content({"segmentation": [circle, SQUARE], "area": 7}))[1]["annotations"]
    rles = mask_util.frPyObjects([circle, SQUARE], 50, 60)
    assert one["area"] == mask_util.decode(mask_util.merge(rles)).sum()


def test_all_wrong_entries_are_named_in_one_run(load: Callable) -> None:
    bad = content(*({"bbox": [1, 2, k]} for k in range(12)), {"bbox": [1, 1, 5, 5]})
    bad["images"][1]["width"] = "wide"
    bad["annotations"][11]["image_id"] = 3  # The image is wrong itself.
    with pytest.raises(DatasetError) as caught:
        load(bad)
    message = str(caught.value)
    assert "12 entries are wrong" in message and message.endswith("; and 2 more")
    assert message.count('"bbox" must be four finite numbers') == 9
    assert "\"width\" must be an integer from 1 to 65535, not 'wide'" in message
    assert message.count("mine.json") == 1


def test_left_out_objects_are_counted_by_reason(load: Callable) -> None:
    empty, full = load(content({"bbox": [1, 1, 5, 5]}, {"bbox": [0, 0, 0, 0]}, {}))
    assert "left_out" not in empty
    assert full["left_out"] == {
        "box that is empty or outside its image": 1,
        "object without box and mask": 1,
    }


@pytest.mark.parametrize(
    "name",
    ["sub\\Bücher 1.PNG", "sub/Bu\u0308cher 1.png", "SUB/bücher 1.png", "./sub//Bücher 1.png"],
)
def test_spelling_of_file_names(load: Callable, tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (60, 50)).save(tmp_path / "sub" / "B\u00fccher 1.png")
    written = content()
    written["images"][0]["file_name"] = name
    path = Path(load(written)[1]["file_name"])
    assert path.is_file() and path.samefile(tmp_path / "sub" / "B\u00fccher 1.png")


def test_names_that_fit_two_files_are_not_guessed(load: Callable, tmp_path: Path) -> None:
    for name in ("IMG.png", "img.png"):
        Image.new("RGB", (60, 50)).save(tmp_path / name)
    written = content()
    written["images"][0]["file_name"] = "Img.png"
    with pytest.raises(DatasetError, match=r'the image "Img\.png" of image 7 is not in'):
        load(written)
    written["images"][0]["file_name"] = "img.png"
    assert load(written)[1]["file_name"] == str(tmp_path / "img.png")


def test_root_category_is_no_class(load: Callable) -> None:
    written = content({"segmentation": [SQUARE]})
    for category in written["categories"]:
        category["supercategory"] = "vessels"
    written["categories"].append({"id": 0, "name": "vessels", "supercategory": "none"})
    assert load(written)[1]["annotations"][0]["category_id"] == 0
    written["annotations"].append({"id": 2, "image_id": 7, "category_id": 0, "bbox": [1, 1, 5, 5]})
    assert [a["category_id"] for a in load(written)[1]["annotations"]] == [1, 0]
