"""The groups of the picture book as data sets."""

from __future__ import annotations

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from hipie.data.datasets import register_picturebook_groups
from hipie.data.datasets.picturebook import GROUP_FOLDER, GROUPS
from hipie.data.picturebook import PictureBook, PictureBookError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    position = tmp_path_factory.mktemp("book")
    yield position
    register_picturebook_groups()


def test_nothing_is_drawn_before_first_use(root: Path) -> None:
    register_picturebook_groups(3, root=root / "new")
    assert MetadataCatalog.get("picturebook_val_group").evaluator_type == "group"
    assert MetadataCatalog.get("picturebook_unseen_group").result_name == "group_unseen"
    assert not (root / "new").exists()


def test_groups_are_those_of_the_book(root: Path) -> None:
    register_picturebook_groups(3, {"val": 2}, root)
    records = DatasetCatalog.get("picturebook_val_group")
    assert (root / GROUP_FOLDER / "groups/val/groups.pkl").is_file()
    for index in range(2):
        group = PictureBook(3, "val").group(index)
        read = [record for record in records if record["group_id"] == index + 1]
        assert len(read) == len(group.pages)
        for position, record in enumerate(read):
            num_targets = [(s["expression"], len(s["targets"])) for s in record["expressions"]]
            assert num_targets == [(s.text, len(s.targets[position])) for s in group.expressions]


def test_fewer_groups_are_the_first_and_nothing_is_drawn_again(root: Path) -> None:
    register_picturebook_groups(3, {"val": 2}, root)
    DatasetCatalog.get("picturebook_val_group")
    (page,) = (root / GROUP_FOLDER / "images/groups_val").glob("000000_0.jpg")
    before = page.stat().st_mtime_ns
    register_picturebook_groups(3, {"val": 1}, root)
    assert {r["group_id"] for r in DatasetCatalog.get("picturebook_val_group")} == {1}
    assert page.stat().st_mtime_ns == before


def test_another_book_needs_another_folder(root: Path) -> None:
    register_picturebook_groups(3, {"val": 2}, root)
    DatasetCatalog.get("picturebook_val_group")
    register_picturebook_groups(4, {"val": 2}, root)
    with pytest.raises(PictureBookError, match="holds the picture book of seed 3"):
        DatasetCatalog.get("picturebook_val_group")


def test_splits_without_groups_and_unknown_ones_are_named() -> None:
    with pytest.raises(ValueError, match='split "val" of the picture book needs at least one gr'):
        register_picturebook_groups(counts={"val": 0})
    with pytest.raises(ValueError, match='no split "tests"; it has train, val, unseen'):
        register_picturebook_groups(counts={"tests": 3})
    assert set(GROUPS) == {"train", "val", "unseen"}
