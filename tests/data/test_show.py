"""Contact sheets of the picture book's data sets, and of people's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hipie.cli import data_show as show
from hipie.cli.dataset_argument import find_split
from hipie.cli.main import main as command_line
from hipie.data.annotation_view import read_annotation
from hipie.data.datasets import register_picturebook, register_public_datasets
from hipie.data.records import sample_evenly
from hipie.data.show import draw_annotation


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """An image and a COCO file with one box on it."""
    Image.new("RGB", (40, 30), "white").save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}],
        "categories": [{"id": 7, "name": "tin"}, {"id": 9, "name": "bottle"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 9,
                "bbox": [5, 5, 10, 20],
                "area": 200,
                "iscrowd": 0,
                "segmentation": [[5, 5, 15, 5, 15, 25, 5, 25]],
            }
        ],
    }
    (tmp_path / "shelf.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("kind", ["panoptic", "parts", "refer", "grefer"])
def test_pages_are_drawn(small_book: list[str], kind: str, tmp_path: Path, capsys) -> None:
    words = [f"picturebook_val_{kind}", "--output", str(tmp_path), "--count", "5", *small_book]
    assert show.main(words) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [file.name for file in files] == [f"picturebook_val_{kind}_{i}.png" for i in (0, 1)]
    assert all(min(Image.open(file).size) > 400 for file in files)


def test_masks_are_drawn_at_their_pixels(small_book: list[str], shelf: Path) -> None:
    words = [str(shelf / "shelf.json"), "--images", str(shelf), "--output", str(shelf / "out")]
    assert show.main([*words, *small_book]) == 0
    record = DatasetCatalog.get(words[0])[0]
    view = read_annotation(record, MetadataCatalog.get(words[0]))
    assert [(segment.label, segment.kind) for segment in view.segments] == [("bottle", "thing")]
    expected = np.zeros((30, 40), bool)
    expected[5:25, 5:15] = True
    assert np.array_equal(view.segments[0].mask, expected)
    drawing = draw_annotation(view, "a.png")
    drawn = np.asarray(drawing)
    assert (drawn[15 * 14, 10 * 14] != 255).any() and (drawn[15 * 14, 30 * 14] == 255).all()


def test_console_command_writes_sheets(small_book: list[str], tmp_path: Path) -> None:
    words = ["picturebook_val_parts", "--output", str(tmp_path / "new"), "--count", "1"]
    assert command_line(["data", "show", *words, *small_book]) == 0
    assert len(list((tmp_path / "new").glob("*.png"))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["picturebok"], 'no data set "picturebok"'),
        (["picturebook_validation"], "picturebook_val_panoptic"),
        (["mine.json"], "--images"),
        (["mine.json", "--images", "."], "mine.json"),
        (["picturebook_parts", "--split", "testA"], 'no split "testA"'),
        (["picturebook_val_parts", "--count", "0"], "at least 1"),
        (["picturebook_val_parts", "--config-file", "none.yaml"], "none.yaml"),
        (["picturebook_val_parts", "--opts", "NO.SUCH_KEY", "1"], "NO.SUCH_KEY"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, in_tmp, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        show.main(["--output", "out", *arguments])
    error = ended.value.code
    assert message in error and error.startswith("hipie data show: ") and "\n" not in error


def test_unknown_command_prints_usage(capsys) -> None:
    assert command_line(["data", "shuffle"]) == 2
    assert "{show,check," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "split", "whole"),
    [
        ("coco_2017_panoptic_with_sem_seg", "val", "coco_2017_val_panoptic_with_sem_seg"),
        ("coco_2017_panoptic_with_sem_seg", "val_100", "coco_2017_val_100_panoptic_with_sem_seg"),
        ("refcoco-unc", "testA", "refcoco-unc-testA"),
        ("refcoco_unc", "testA", "refcoco_unc_testA"),
        ("picturebook_refer", "unseen", "picturebook_unseen_refer"),
        ("objects365_v2", "val", "objects365_v2_val"),
    ],
)
def test_split_is_matched_anywhere_in_the_name(name: str, split: str, whole: str) -> None:
    register_public_datasets()
    register_picturebook()
    assert find_split(name, split) == whole


@pytest.mark.parametrize(("count", "expected"), [(None, 10), (3, 3), (1, 1), (99, 10)])
def test_samples_are_evenly_spaced(count: int | None, expected: int) -> None:
    view = sample_evenly(range(10), count)
    assert len(view) == expected and view[0] == 0
    assert view == sorted(set(view))
    assert expected == 1 or view[-1] == 9


def test_files_of_the_user_are_kept(small_book: list[str], shelf: Path, capsys) -> None:
    (shelf / "a.png").rename(shelf / "shelf_0.png")
    content = (shelf / "shelf.json").read_text().replace("a.png", "shelf_0.png")
    (shelf / "shelf.json").write_text(content)
    image = (shelf / "shelf_0.png").read_bytes()
    words = ["data", "show", str(shelf / "shelf.json"), "--images", str(shelf)]
    with pytest.raises(SystemExit) as stop:
        command_line([*words, "--output", str(shelf), "--overwrite", *small_book])
    assert stop.value.code == 2
    assert "would overwrite the image" in capsys.readouterr().err
    assert (shelf / "shelf_0.png").read_bytes() == image
    out = shelf / "out"
    out.mkdir()
    (out / "shelf_0.png").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        command_line([*words, "--output", str(out), *small_book])
    assert stop.value.code == 2
    assert "is not a result of hipie" in capsys.readouterr().err
    assert (out / "shelf_0.png").read_text() == "mine"
    for more in (["--overwrite"], []):
        assert command_line([*words, "--output", str(out), *more, *small_book]) == 0
