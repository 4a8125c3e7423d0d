from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import pytest

from hipie.data.picturebook.check import check_split


@pytest.fixture
def copy(small_book: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_book, tmp_path / "copy"))


def test_missing_image_is_reported(copy: Path) -> None:
    (copy / "images/val/000001.jpg").unlink()
    assert any("images/val/000001.jpg is missing" in line for line in check_split(copy, "val"))


@pytest.mark.parametrize(
    ("folder", "words"),
    [("panoptic", "pixels"), ("semantic", "semantic map"), ("parts", "label map of parts")],
)
def test_a_changed_map_is_noticed(copy: Path, folder: str, words: str) -> None:
    path = str(copy / f"{folder}_val/000000.png")
    labels = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    labels[2:6, 2:6] = 1
    cv2.imwrite(path, labels)
    assert any("page 000000" in line and words in line for line in check_split(copy, "val"))


def test_expression_with_target_on_another_page_is_reported(copy: Path) -> None:
    path = copy / "grefer/grefs(picturebook).json"
    references = json.loads(path.read_text())
    wrong = next(r for r in references if r["split"] == "val" and not r["no_target"])
    wrong["image_id"] += 1
    path.write_text(json.dumps(references))
    assert any(str(wrong["ref_id"]) in line for line in check_split(copy, "val"))


def test_unfinished_split_is_reported(tmp_path: Path) -> None:
    assert "no finished split" in check_split(tmp_path, "train")[0]


def test_a_cut_json_is_named(copy: Path) -> None:
    path = copy / "instances_val.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="instances_val.json"):
        check_split(copy, "val")
