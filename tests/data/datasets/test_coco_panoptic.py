from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hipie.data.datasets import DatasetError, load_coco_panoptic, load_part_maps

# Segment 260 has 18 pixels, segment 2 has 4, 2 pixels are void.
IDS = np.array([[260] * 6, [260] * 6, [260] * 6, [2] * 4 + [0] * 2])


def write_map(folder: Path, ids: np.ndarray, name: str = "a.png", channels: int = 1) -> None:
    """Write a panoptic map; `channels` -1 exchanges red and blue."""
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    (folder / "png").mkdir(exist_ok=True)
    Image.fromarray(np.ascontiguousarray(colours[:, :, ::channels])).save(folder / "png" / name)


def content() -> dict:
    segments = [{"id": 260, "category_id": 5, "iscrowd": 0}, {"id": 2, "category_id": 8}]
    return {
        "images": [{"id": 3, "file_name": "a.jpg", "height": 4, "width": 6}],
        "categories": [
            {"id": 5, "name": "dog", "isthing": 1},
            {"id": 8, "name": "sky", "isthing": 0},
        ],
        "annotations": [{"image_id": 3, "file_name": "a.png", "segments_info": segments}],
    }


@pytest.fixture
def load(tmp_path: Path) -> Callable[[dict], list[dict]]:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg")
    write_map(tmp_path, IDS)

    def write_and_load(written: dict) -> list[dict]:
        (tmp_path / "p.json").write_text(json.dumps(written))
        return load_coco_panoptic(
            tmp_path / "p.json", tmp_path / "png", tmp_path, {5: 0, 8: 1}, tmp_path / "sem"
        )

    return write_and_load


def test_records(load: Callable, tmp_path: Path) -> None:
    (record,) = load(content())
    assert record["file_name"] == str(tmp_path / "a.jpg")
    assert record["pan_seg_file_name"] == str(tmp_path / "png" / "a.png")
    assert record["sem_seg_file_name"] == str(tmp_path / "sem" / "a.png")
    assert [(s["id"], s["category_id"], s["isthing"]) for s in record["segments_info"]] == [
        (260, 0, True),
        (2, 1, False),
    ]


def test_unknown_category(load: Callable) -> None:
    bad = content()
    bad["annotations"][0]["segments_info"][0]["category_id"] = 6
    with pytest.raises(DatasetError, match="segment 260 of image 3 has the unknown category 6"):
        load(bad)


def test_unknown_image(load: Callable) -> None:
    bad = content()
    bad["annotations"][0]["image_id"] = 4
    with pytest.raises(DatasetError, match="of image 4, which the file does not list"):
        load(bad)


def test_missing_image(load: Callable) -> None:
    bad = content()
    bad["images"][0]["file_name"] = "b.jpg"
    with pytest.raises(DatasetError, match='p.json: the image "b.jpg" of image 3'):
        load(bad)


def test_images_without_a_part_map_are_left_out(tmp_path: Path) -> None:
    written = content()
    written["images"].append({"id": 4, "file_name": "b.jpg", "height": 4, "width": 6})
    (tmp_path / "p.json").write_text(json.dumps(written))
    (tmp_path / "parts").mkdir()
    for name in ("a.jpg", "b.jpg", "parts/b.png"):
        Image.new("L", (6, 4)).save(tmp_path / name)
    (record,) = load_part_maps(tmp_path / "p.json", tmp_path / "parts", tmp_path)
    assert record["image_id"] == 4
    assert record["part_seg_file_name"] == str(tmp_path / "parts" / "b.png")
    with pytest.raises(DatasetError, match="nowhere: there is no label map"):
        load_part_maps(tmp_path / "p.json", tmp_path / "nowhere", tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": 0}, '"id" is 0, which stands for pixels without a segment'),
        ({"id": 2}, 'image 3 has two segments with the "id" 2'),
        ({"area": 1}, r'segment 260 of image 3: "area" is 1, but it has 18 pixels in .*a\.png'),
        ({"iscrowd": 3}, 'segment 260 of image 3: "iscrowd" must be 0 or 1, not 3'),
    ],
)
def test_segments_that_make_pq_wrong_are_refused(load: Callable, change: dict, words: str) -> None:
    bad = content()
    bad["annotations"][0]["segments_info"][0].update(change)
    with pytest.raises(DatasetError, match=words):
        load(bad)


def test_area_is_counted_and_crowd_is_0_where_they_are_absent(load: Callable) -> None:
    written = content()
    written["annotations"][0]["segments_info"][1]["area"] = 4.0
    (record,) = load(written)
    dog = {"id": 260, "category_id": 0, "isthing": True, "iscrowd": 0, "area": 18}
    sky = {"id": 2, "category_id": 1, "isthing": False, "iscrowd": 0, "area": 4}
    assert record["segments_info"] == [
        {**dog, "bbox": [0, 0, 6, 3]},
        {**sky, "bbox": [0, 3, 4, 1]},
    ]
    del written["annotations"][0]["file_name"]
    assert load(written) == [record]


def test_all_wrong_segments_are_named(load: Callable) -> None:
    bad = content()
    bad["annotations"][0]["segments_info"] = [{"id": 0, "category_id": 5}, {"id": 2}, "x"]
    with pytest.raises(DatasetError, match=r"3 entries are wrong.*is 0.*category_id.*not 'x'"):
        load(bad)


def test_all_areas_of_a_map_are_compared(load: Callable) -> None:
    bad = content()
    for segment in bad["annotations"][0]["segments_info"]:
        segment["area"] = 1
    with pytest.raises(DatasetError, match="2 entries are wrong: segment 2 of .*; segment 260 of"):
        load(bad)


def test_larger_areas_of_overlapping_segments(load: Callable, tmp_path: Path) -> None:
    written = content()
    written["annotations"][0]["segments_info"][0]["area"] = 24
    with pytest.raises(DatasetError, match='"area" is 24, but it has 18 pixels'):
        load(written)
    (record,) = load_coco_panoptic(
        tmp_path / "p.json", tmp_path / "png", tmp_path, {5: 0, 8: 1}, overlapping_areas=True
    )
    assert [segment["area"] for segment in record["segments_info"]] == [24, 4]


def test_a_map_in_bgr_order_is_named(load: Callable, tmp_path: Path) -> None:
    write_map(tmp_path, np.where(IDS == 260, 70000, IDS), channels=-1)
    bad = content()
    bad["annotations"][0]["segments_info"][0]["id"] = 70000
    with pytest.raises(DatasetError, match=r"a\.png: .*BGR"):
        load(bad)
