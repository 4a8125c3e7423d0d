"""Check of a data set: counts, and empty or invalid entries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from PIL import Image

from hipie.cli import data_check as check
from hipie.cli.main import main as command_line
from hipie.data.annotation_view import read_annotation
from hipie.data.check import check_records, format_report

CLASSES = Metadata(name="synthetic", thing_classes=["dog", "car"])


def box(left: int, top: int, right: int, bottom: int, label: int = 0) -> dict:
    corners = [left, top, right, top, right, bottom, left, bottom]
    return {
        "category_id": label,
        "segmentation": [corners] if right > left else [],
        "bbox": [left, top, right - left, bottom - top],
    }


@pytest.fixture
def record(tmp_path: Path) -> dict:
    """An image with two dogs."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    annotations = [box(5, 5, 20, 20), box(22, 5, 30, 9)]
    return {"file_name": path, "height": 30, "width": 40, "annotations": annotations}


@pytest.mark.parametrize("kind", ["panoptic", "parts", "refer", "grefer"])
def test_picture_book_has_no_faults(small_book: list[str], kind: str, capsys) -> None:
    assert check.main([f"picturebook_val_{kind}", *small_book]) == 0
    output = capsys.readouterr().out
    assert "5 images" in output and "invalid: 0" in output
    assert "images without an object: 0" in output


def test_counts_equal_those_of_the_records(small_book: list[str]) -> None:
    assert check.main(["picturebook_val_panoptic", *small_book]) == 0
    records = DatasetCatalog.get("picturebook_val_panoptic")
    metadata = MetadataCatalog.get("picturebook_val_panoptic")
    report = check_records(records, metadata)
    for index, name in enumerate(metadata.vocabulary.names):
        segments = [s for r in records for s in r["segments_info"] if s["category_id"] == index]
        assert report.objects[name] == len(segments)
    records = DatasetCatalog.get("picturebook_val_grefer")
    report = check_records(records, MetadataCatalog.get("picturebook_val_grefer"))
    entries = [entry for record in records for entry in record["expressions"]]
    assert report.expressions == len(entries)
    assert report.without_target == sum(not entry["targets"] for entry in entries)


def test_report_lists_classes_without_objects(record: dict) -> None:
    report = check_records([record, {**record, "annotations": []}], CLASSES)
    assert report.objects == {"dog": 2, "car": 0}
    lines = format_report(report).splitlines()
    assert lines[0] == "2 images, 2 objects"
    assert "classes without an object: 1" in lines and "  car" in lines
    assert report.images_without_objects == [record["file_name"]] and not report.invalid


def test_empty_objects_and_expressions_are_listed(record: dict) -> None:
    record["annotations"].append(box(7, 7, 7, 7))
    report = check_records([record], CLASSES)
    assert report.empty == [f"{record['file_name']}: object 3 (dog) has no pixel"]
    record["expressions"] = [
        {"expression": " ?", "targets": [0]},
        {"expression": "it", "targets": [9]},
    ]
    report = check_records([record], Metadata(name="expressions"))
    assert any('" ?" has no word' in message for message in report.empty)
    assert any('"it" has a target that does not exist' in message for message in report.invalid)


def test_invalid_entries_are_listed_and_the_others_counted(record: dict, tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_text("Dear reader")
    small = tmp_path / "small.png"
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(small)
    invalid = [
        ({"file_name": str(tmp_path / "letter.png")}, "letter.png"),
        ({"file_name": str(tmp_path / "gone.png")}, "gone.png"),
        ({"height": 20}, "40x30 pixels, but its annotation has 40x20"),
        ({"annotations": [box(1, 1, 9, 9, label=2)]}, "class index 2"),
        ({"part_seg_file_name": str(small)}, "small.png: the map has 4x3 pixels"),
        ({"part_seg_file_name": str(tmp_path / "none.png")}, "none.png"),
    ]
    report = check_records([{**record, **change} for change, _ in invalid] + [record], CLASSES)
    assert report.images == len(invalid) + 1 and report.objects["dog"] == 2
    for message, (_, text) in zip(report.invalid, invalid, strict=True):
        assert text in message
    assert "invalid: 6" in format_report(report)


def test_exit_status_is_1_for_invalid_data(
    small_book: list[str], record: dict, monkeypatch, capsys
) -> None:
    missing = {**record, "file_name": "gone.png"}
    monkeypatch.setattr(check, "open_dataset", lambda args, cfg: ([missing, record], CLASSES))
    assert command_line(["data", "check", "custom"]) == 1
    assert "gone.png" in capsys.readouterr().out


def test_long_lists_are_shortened(record: dict) -> None:
    report = check_records([{**record, "annotations": []}] * 13, CLASSES)
    assert "and 3 more" in format_report(report)


def coco_file(folder: Path, names: list[str], annotations: list[dict], images: int = 2) -> list:
    """Write a COCO data set of black images; arguments of the command."""
    (folder / "img").mkdir()
    for number in range(images):
        Image.new("RGB", (40, 30)).save(folder / "img" / f"{number}.png")
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(images)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [{"id": i + 1, **entry} for i, entry in enumerate(annotations)],
    }
    (folder / "train.json").write_text(json.dumps(content))
    return [str(folder / "train.json"), "--images", str(folder / "img")]


def run_json(arguments: list[str], capsys) -> tuple[int, dict]:
    """Run the command; return its exit status and its JSON."""
    status = check.main(["--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


def test_json_counts_what_training_uses(tmp_path: Path, capsys) -> None:
    annotations = [
        {"image_id": 0, **box(5, 5, 20, 20)},
        {"image_id": 0, **box(5, 5, 20, 20, 1)},
        {"image_id": 0, "iscrowd": 1, **box(0, 0, 30, 30)},
        # Its polygon has no pixel, its box has.
        {
            "image_id": 0,
            "category_id": 0,
            "segmentation": [[3, 3, 9, 3, 9, 3.01]],
            "bbox": [3, 3, 6, 1],
        },
    ]
    status, report = run_json(coco_file(tmp_path, ["dog", "car"], annotations), capsys)
    assert status == 0 and report["trainable"] and report["evaluable"]
    assert (report["images"], report["objects"], report["crowd"]) == (2, 2, 1)
    assert report["left_out"]["image without an object"] == 1
    dropped = sum(n for reason, n in report["left_out"].items() if "image" not in reason)
    assert report["objects"] + report["crowd"] + dropped == len(annotations)
    assert report["objects_by_class"] == {"dog": 1, "car": 1} and report["errors"] == []


def test_sets_without_objects_are_not_trainable(tmp_path: Path, capsys) -> None:
    annotations = [{"image_id": 0, "iscrowd": 1, **box(0, 0, 30, 30)}]
    status, report = run_json(coco_file(tmp_path, ["dog"], annotations), capsys)
    assert status == 1 and report["crowd"] == 1
    assert not report["trainable"] and not report["evaluable"]
    assert any("crowds" in error for error in report["errors"])


def test_empty_sets_are_an_error_with_their_name(tmp_path: Path, capsys) -> None:
    arguments = coco_file(tmp_path, ["dog"], [], images=0)
    try:
        status, report = run_json(arguments, capsys)
        text = " ".join(report["errors"])
    except SystemExit as error:
        status, text = 1, str(error.code)
    assert status == 1 and "train.json" in text


def test_json_of_a_set_that_cannot_be_read_has_the_error(tmp_path: Path, capsys) -> None:
    annotations = [{"image_id": i, **box(5, 5, 20, 20)} for i in range(2)]
    arguments = coco_file(tmp_path, ["dog"], annotations)
    (tmp_path / "img" / "1.png").unlink()
    status, report = run_json(arguments, capsys)
    assert status == 1 and not report["trainable"] and not report["evaluable"]
    assert "1.png" in report["errors"][0]
    # Left out as a run leaves it out, and counted.
    status, report = run_json([*arguments, "--opts", "DATALOADER.SKIP_BROKEN", "True"], capsys)
    assert status == 0 and report["objects"] == 1
    assert report["left_out"] == {"image that cannot be used": 1}


def test_names_are_judged_as_the_text_encoder_sees_them(tmp_path: Path, capsys) -> None:
    annotations = [{"image_id": i, **box(5, 5, 20, 20)} for i in range(2)]
    arguments = coco_file(tmp_path, ["box (a)", "box (b)"], annotations)
    status, report = run_json(arguments, capsys)
    assert status == 0 and "the tokens of all are box" in report["warnings"][-1]
    (tmp_path / "other").mkdir()
    arguments = coco_file(tmp_path / "other", ["\u7403"], annotations)
    status, report = run_json(arguments, capsys)
    assert status == 1 and not report["trainable"]
    assert "bert-base-multilingual-cased" in report["errors"][0]


def test_values_of_label_maps_are_class_indices_as_in_training(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    labels = np.zeros((30, 40), np.uint8)
    labels[:10], labels[10:15] = 1, 2
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record = {
        "file_name": str(tmp_path / "a.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
    }
    metadata = Metadata(name="zero", stuff_classes=["ground", "ball", "box"], ignore_label=0)
    assert check_records([record], metadata).objects == {"ground": 0, "ball": 1, "box": 1}
    view = read_annotation({**record, "height": 30, "width": 40}, metadata)
    assert [segment.label for segment in view.segments] == ["ball", "box"]


def test_masks_of_0_and_255_are_named(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    labels = np.zeros((30, 40), np.uint8)
    labels[:10] = 255
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record = {
        "file_name": str(tmp_path / "a.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
    }
    classes = ["ground", "ball"]
    report = check_records([record], Metadata(name="masks", stuff_classes=classes))
    assert not report.trainable and not report.evaluable
    (fault,) = report.as_dict()["errors"]
    assert "labels.png" in fault and "0 and 255" in fault
    metadata = Metadata(name="masks_3", stuff_classes=[*classes, "box"])
    assert check_records([record], metadata).trainable


def test_expressions_are_counted_as_training_uses_them(record: dict) -> None:
    entries = [("one", [0]), ("both", [0, 1]), ("none", []), ("?", [1])]
    record["expressions"] = [{"expression": t, "targets": n, "ref_id": 7} for t, n in entries]
    records = [record, {**record, "expressions": []}]
    metadata = Metadata(name="refs")
    report = check_records(records, metadata)
    assert report.objects.total() == 1 and not report.trainable
    assert report.left_out == {
        "expression without a target or with several": 2,
        "expression without a word": 1,
        "image without an expression": 1,
    }
    assert 'the expression "?" of ref 7 has no word' in report.invalid[0]
    report = check_records(records, metadata, generalized=True, skip_broken=True)
    assert report.objects.total() == 2 and report.trainable and report.evaluable


def test_panoptic_maps_without_compared_areas_are_counted(tmp_path: Path) -> None:
    """The reader compares the areas of some maps only; nothing reads those of the others."""
    colours = np.zeros((4, 6, 3), np.uint8)
    colours[..., 0] = 7
    records = []
    for number in range(3):
        image, panoptic = tmp_path / f"{number}.jpg", tmp_path / f"{number}.png"
        Image.new("RGB", (6, 4)).save(image)
        Image.fromarray(colours).save(panoptic)
        segment = {"id": 7, "category_id": 0, "isthing": True, "iscrowd": 0}
        segment |= {"area": 24} if number else {}
        records.append(
            {
                "file_name": str(image),
                "pan_seg_file_name": str(panoptic),
                "segments_info": [segment],
            }
        )
    metadata = Metadata(thing_classes=["dog"], stuff_classes=[])
    report = check_records(records, metadata)
    assert any("was compared with 2 of 3 panoptic maps" in line for line in report.warnings)
    assert report.trainable and report.evaluable
    assert not check_records(records[1:], metadata).warnings
