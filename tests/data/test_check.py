"""Check of a data set: counts, and empty or invalid entries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from PIL import Image

from hipie.cli.main import main as command_line
from hipie.data import check
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
        ({"height": 20}, "40x30 pixels, its annotation 40x20"),
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
    monkeypatch.setattr(check, "open_dataset", lambda args: ([missing, record], CLASSES))
    assert command_line(["data", "check", "custom"]) == 1
    assert "gone.png" in capsys.readouterr().out


def test_long_lists_are_shortened(record: dict) -> None:
    report = check_records([{**record, "annotations": []}] * 13, CLASSES)
    assert "and 3 more" in format_report(report)
