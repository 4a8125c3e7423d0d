"""What is counted in a data set, and what is found to be wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from PIL import Image

from hipie.cli.main import main as command_line
from hipie.data import check
from hipie.data.check import check_records, report

CLASSES = Metadata(name="by hand", thing_classes=["dog", "car"])


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
    place = str(tmp_path / "a.png")
    annotations = [box(5, 5, 20, 20), box(22, 5, 30, 9)]
    return {"file_name": place, "height": 30, "width": 40, "annotations": annotations}


@pytest.mark.parametrize("kind", ["panoptic", "parts", "refer", "grefer"])
def test_the_picture_book_is_whole(small_book: list[str], kind: str, capsys) -> None:
    assert check.main([f"picturebook_val_{kind}", *small_book]) == 0
    said = capsys.readouterr().out
    assert "5 images" in said and "broken: 0" in said and "images without an object: 0" in said


def test_counts_are_those_of_the_records(small_book: list[str]) -> None:
    assert check.main(["picturebook_val_panoptic", *small_book]) == 0
    records = DatasetCatalog.get("picturebook_val_panoptic")
    metadata = MetadataCatalog.get("picturebook_val_panoptic")
    found = check_records(records, metadata)
    for number, name in enumerate(metadata.vocabulary.names):
        of_class = [s for r in records for s in r["segments_info"] if s["category_id"] == number]
        assert found.objects[name] == len(of_class)
    expressions = DatasetCatalog.get("picturebook_val_grefer")
    found = check_records(expressions, MetadataCatalog.get("picturebook_val_grefer"))
    each = [s for r in expressions for s in r["expressions"]]
    assert (found.expressions, found.without_target) == (
        len(each),
        sum(not one["targets"] for one in each),
    )


def test_a_histogram_and_classes_that_do_not_occur(record: dict) -> None:
    found = check_records([record, {**record, "annotations": []}], CLASSES)
    assert found.objects == {"dog": 2, "car": 0}
    said = report(found).splitlines()
    assert said[0] == "2 images, 2 objects"
    assert "classes without an object: 1" in said and "  car" in said
    assert found.bare == [record["file_name"]] and not found.broken


def test_what_is_empty_is_listed(record: dict) -> None:
    record["annotations"].append(box(7, 7, 7, 7))
    found = check_records([record], CLASSES)
    assert found.empty == [f"{record['file_name']}: object 3 (dog) has no pixel"]
    record["expressions"] = [
        {"expression": " ?", "targets": [0]},
        {"expression": "it", "targets": [9]},
    ]
    found = check_records([record], Metadata(name="sentences"))
    assert any('" ?" has no word' in one for one in found.empty)
    assert any('"it" means an object that is not there' in one for one in found.broken)


def test_what_is_broken_is_named_and_the_rest_is_counted(record: dict, tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_text("Dear reader")
    small = tmp_path / "small.png"
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(small)
    bad = [
        ({"file_name": str(tmp_path / "letter.png")}, "letter.png"),
        ({"file_name": str(tmp_path / "gone.png")}, "gone.png"),
        ({"height": 20}, "40x30 pixels, its annotation says 40x20"),
        ({"annotations": [box(1, 1, 9, 9, label=2)]}, "class number 2"),
        ({"part_seg_file_name": str(small)}, "small.png: the map is 4x3 pixels"),
        ({"part_seg_file_name": str(tmp_path / "none.png")}, "none.png"),
    ]
    found = check_records([{**record, **change} for change, _ in bad] + [record], CLASSES)
    assert found.images == len(bad) + 1 and found.objects["dog"] == 2
    for expression, (_, words) in zip(found.broken, bad, strict=True):
        assert words in expression
    assert "broken: 6" in report(found)


def test_broken_data_is_the_exit_status(
    small_book: list[str], record: dict, monkeypatch, capsys
) -> None:
    gone = {**record, "file_name": "gone.png"}
    monkeypatch.setattr(check, "open_dataset", lambda args: ([gone, record], CLASSES))
    with pytest.raises(SystemExit) as stop:
        command_line(["data", "check", "mine"])
    assert stop.value.code == 1
    assert "gone.png" in capsys.readouterr().out


def test_long_lists_are_cut(record: dict) -> None:
    found = check_records([{**record, "annotations": []}] * 13, CLASSES)
    assert "and 3 more" in report(found)
