"""D3's tables: read as its own toolkit reads them, and drawn by the picture book."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest

from hipie.data.datasets import DatasetError
from hipie.data.datasets.grd import GroupSamples, load_grd
from hipie.data.picturebook import write_split
from hipie.evaluation.metrics.expression_iou import target_rles
from tests import referring_trees as trees


def write(folder: Path, tables: dict[str, dict]) -> None:
    for name, table in tables.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(table))


def test_equal_to_the_toolkit(tmp_path: Path) -> None:
    toolkit = pytest.importorskip("d_cube")
    write(tmp_path, trees.grd_tables())
    toolkit_data = toolkit.D3(str(tmp_path), str(tmp_path))
    records = load_grd(tmp_path, "", absence_expressions=True)
    assert {record["image_id"] for record in records} == set(toolkit_data.get_img_ids())
    for record in records:
        (image,) = toolkit_data.load_imgs([record["image_id"]])
        assert record["file_name"] == image["file_name"]
        expression_ids = set(toolkit_data.get_sent_ids(group_ids=[record["group_id"]]))
        assert {expression["sent_id"] for expression in record["expressions"]} == expression_ids
        for expression, runs in zip(record["expressions"], target_rles(record), strict=True):
            (row,) = toolkit_data.load_sents([expression["sent_id"]])
            assert row["raw_sent"] == expression["expression"]
            meant = toolkit_data.get_anno_ids(
                img_ids=[record["image_id"]], sent_ids=[expression["sent_id"]]
            )
            assert len(meant) == len(expression["targets"])
            drawn = np.zeros((record["height"], record["width"]), bool)
            for one in toolkit_data.load_annos(meant):
                pieces = one["segmentation"]
                pieces = pieces if isinstance(pieces, list) else [pieces]
                drawn |= toolkit_data.get_mask([{"segmentation": pieces}])["mask"].astype(bool)
            np.testing.assert_array_equal(mask_util.decode(runs).astype(bool), drawn)


def test_groups_of_the_picture_book(tmp_path: Path) -> None:
    write_split(tmp_path, 3, "val", 1, groups=2)
    records = load_grd(tmp_path / "groups/val", tmp_path / "images", absence_expressions=True)
    assert {record["group_id"] for record in records} == {1, 2}
    assert all(Path(record["file_name"]).is_file() for record in records)
    for group in GroupSamples(records):
        shown = [bool(image["expressions"][0]["targets"]) for image in group["images"]]
        assert 4 <= len(shown) <= 8
        if group["sent_id"] % 4 == 1:
            assert any(shown) and not all(shown)


@pytest.mark.parametrize(
    ("table", "number", "change", "words"),
    [
        ("groups", 1, {"img_id": [1, 99]}, r'groups\.pkl: group 1: its "img_id" names 99'),
        ("groups", 2, {"inner_sent_id": [77]}, r'group 2: its "inner_sent_id" names 77'),
        ("images", 1, {"anno_id": [12345]}, r'images\.pkl: image 1: its "anno_id" names 12345'),
        ("images", 1, {"anno_id": [22]}, "has annotation 22, which is of another image"),
        ("images", 3, {"height": 0}, r'images\.pkl: entry 3: its "height" must be'),
        ("annotations", 10, {"segmentation": 5}, r'annotations\.pkl: annotation 10: its "segm'),
        ("sentences", 4, {"raw_sent": " "}, r'sentences\.pkl: entry 4: "raw_sent" must be'),
        ("sentences", 4, {"is_negative": "no"}, '"is_negative" must be true or false'),
    ],
)
def test_faults_are_named(
    tmp_path: Path, table: str, number: int, change: dict, words: str
) -> None:
    tables = trees.grd_tables()
    tables[table][number].update(change)
    write(tmp_path, tables)
    with pytest.raises(DatasetError, match=words):
        load_grd(tmp_path, "", absence_expressions=True)


def test_invalid_tables_are_named(tmp_path: Path) -> None:
    write(tmp_path, trees.grd_tables() | {"images": [1]})
    with pytest.raises(DatasetError, match=r"images\.pkl: expected a dictionary, not a list"):
        load_grd(tmp_path, "")
    write(tmp_path, trees.grd_tables() | {"images": {"one": {}}})
    with pytest.raises(DatasetError, match=r"images\.pkl: the key 'one' is not an integer"):
        load_grd(tmp_path, "")
