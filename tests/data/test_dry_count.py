"""Count of test sets before a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hipie.data.dry_count import count_records, require_ground_truth
from hipie.errors import InputError

BOX = {"bbox": [1, 1, 4, 4], "category_id": 0, "iscrowd": 0}
MASKED = {**BOX, "segmentation": [[1, 1, 5, 1, 5, 5]]}
CROWD = {**MASKED, "iscrowd": 1}


def test_objects_crowds_and_what_was_left_out() -> None:
    records = [
        {"annotations": [BOX, MASKED, CROWD], "left_out": {"object without a pixel": 2}},
        {"annotations": []},
    ]
    count = count_records(records)
    assert (count.images, count.objects, count.crowds, count.boxes_only) == (2, 2, 1, 1)
    assert count.text() == (
        "images: 2; objects: 2; crowds, which are ignored: 1; objects with a box only, whose masks "
        "are not evaluated: 1; left out (object without a pixel): 2"
    )
    assert not count.is_empty


@pytest.mark.parametrize(
    ("record", "number", "name"),
    [
        ({"segments_info": [{"id": 1, "category_id": 0}], "pan_seg_file_name": "a"}, 1, "objects"),
        ({"sem_seg_file_name": "a.png"}, 1, "maps"),
        ({"part_seg_file_name": "a.png"}, 1, "maps"),
        ({"pan_part_file_name": "a.png"}, 1, "maps"),
        ({"expressions": [{"targets": []}] * 3, "annotations": []}, 3, "expressions"),
    ],
)
def test_every_form_of_annotation_is_counted(record: dict, number: int, name: str) -> None:
    count = count_records([record])
    assert getattr(count, name) == number and not count.is_empty
    require_ground_truth("shelf", count, [record], None)


def test_test_sets_without_an_object_are_named() -> None:
    records = [{"annotations": [CROWD]}, {"annotations": [], "left_out": {"empty box": 3}}]
    with pytest.raises(
        InputError,
        match=r"the test set shelf has no object .*ignored: 1; left out \(empty box\): 3",
    ):
        require_ground_truth("shelf", count_records(records), records, None)


def test_test_sets_whose_annotations_are_not_public_are_predicted(tmp_path: Path) -> None:
    records = [{"file_name": "a.png", "annotations": []}]
    file = tmp_path / "image_info.json"
    file.write_text(json.dumps({"images": []}))
    require_ground_truth("dev", count_records(records), records, str(file))
    require_ground_truth("dev", count_records(records), [{"file_name": "a.png"}], None)
    file.write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(
        InputError, match="the test set dev has no object to evaluate: images: 1; correct"
    ):
        require_ground_truth("dev", count_records(records), records, str(file))


def test_two_images_with_one_id_are_named() -> None:
    records = [{"image_id": i, "annotations": [BOX]} for i in (4, "4", 4)]
    with pytest.raises(InputError, match="the test set shelf has the image_id 4 more than once"):
        require_ground_truth("shelf", count_records(records), records, None)
    # Images of groups are in several groups.
    groups = [{**record, "expressions": [{"targets": []}]} for record in records]
    require_ground_truth("groups", count_records(groups), groups, None)
    require_ground_truth("shelf", count_records(records[:2]), records[:2], None)
