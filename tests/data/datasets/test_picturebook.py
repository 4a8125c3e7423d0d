"""The picture book through the readers of public formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import NoOpTransform

from hipie.config import add_hipie_config
from hipie.data.dataset_mappers.annotations import decode_mask, panoptic_masks
from hipie.data.datasets import register_all, register_picturebook
from hipie.data.datasets.picturebook import default_root
from hipie.data.image_io import read_label_map
from hipie.data.picturebook import UNSEEN_THINGS, PictureBook, PictureBookError

COUNTS = {"train": 3, "val": 2, "unseen": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("book")
    register_picturebook(seed=3, counts=COUNTS, root=place)
    yield place
    register_picturebook()


def test_nothing_is_drawn_before_first_use(tmp_path: Path) -> None:
    register_picturebook(seed=3, counts=COUNTS, root=tmp_path / "new")
    MetadataCatalog.get("picturebook_train_panoptic")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("split", ["train", "val", "unseen"])
def test_panoptic_records_match_the_drawn_pages(root: Path, split: str) -> None:
    register_picturebook(seed=3, counts=COUNTS, root=root)
    records = DatasetCatalog.get(f"picturebook_{split}_panoptic")
    meta = MetadataCatalog.get(f"picturebook_{split}_panoptic")
    assert len(records) == COUNTS[split]
    for index, record in enumerate(records):
        page = PictureBook(3, split).page(index)
        masks, classes = panoptic_masks(
            read_label_map(record["pan_seg_file_name"]), record["segments_info"], NoOpTransform()
        )
        assert [meta.stuff_classes[c] for c in classes] == [s.name for s in page.segments]
        for mask, segment in zip(masks, page.segments, strict=True):
            assert (mask == (page.panoptic == segment.id)).all()
        semantic = read_label_map(record["sem_seg_file_name"])
        for mask, label in zip(masks, classes, strict=True):
            assert (semantic[mask] == label).all()


def test_metadata_agrees_with_itself(root: Path) -> None:
    meta = MetadataCatalog.get("picturebook_train_panoptic")
    vocabulary = meta.vocabulary
    assert list(vocabulary.names) == meta.stuff_classes
    assert sum(vocabulary.is_thing) == len(meta.thing_classes)
    assert list(meta.stuff_dataset_id_to_contiguous_id.values()) == list(range(len(vocabulary)))
    assert set(meta.unseen_classes) == set(UNSEEN_THINGS) < set(meta.thing_classes)
    parts = MetadataCatalog.get("picturebook_train_parts")
    assert "person head" in parts.stuff_classes and parts.part_wholes["person head"] == "person"
    assert not any(parts.vocabulary.is_thing)
    assert "horse head" in parts.unseen_classes and "dog head" not in parts.unseen_classes


def test_part_maps_lie_inside_their_wholes(root: Path) -> None:
    register_picturebook(seed=3, counts=COUNTS, root=root)
    wholes = MetadataCatalog.get("picturebook_train_parts").part_wholes
    phrases = MetadataCatalog.get("picturebook_train_parts").stuff_classes
    names = MetadataCatalog.get("picturebook_train_panoptic").stuff_classes
    semantic = {
        r["image_id"]: read_label_map(r["sem_seg_file_name"])
        for r in DatasetCatalog.get("picturebook_train_panoptic")
    }
    for record in DatasetCatalog.get("picturebook_train_parts"):
        labels = read_label_map(record["part_seg_file_name"])
        for value in np.unique(labels[labels > 0]):
            phrase = phrases[value - 1]
            under = semantic[record["image_id"]][labels == value]
            assert {names[i] for i in np.unique(under)} == {wholes.get(phrase, phrase)}


@pytest.mark.parametrize("split", ["train", "unseen"])
def test_targets_match_the_drawn_expressions(root: Path, split: str) -> None:
    register_picturebook(seed=3, counts=COUNTS, root=root)
    single = DatasetCatalog.get(f"picturebook_{split}_refer")
    general = DatasetCatalog.get(f"picturebook_{split}_grefer")
    assert all(len(s["targets"]) == 1 for r in single for s in r["expressions"])
    counts = {len(s["targets"]) for r in general for s in r["expressions"]}
    assert counts >= {0, 1} and max(counts) > 1
    for record in general:
        index = int(Path(record["file_name"]).stem)
        page = PictureBook(3, split).page(index)
        by_text = {e.text: e for e in page.expressions}
        for sentence in record["expressions"]:
            expression = by_text[sentence["expression"]]
            assert sentence["kind"] == expression.kind
            assert sentence["held_out"] == expression.novel
            expected = np.isin(page.panoptic, list(expression.targets))
            found = np.zeros_like(expected)
            for target in sentence["targets"]:
                segmentation = record["annotations"][target]["segmentation"]
                found |= decode_mask(segmentation, *expected.shape).astype(bool)
            assert (found == expected).all()
    if split == "train":
        assert not any(s["held_out"] for r in general for s in r["expressions"])


def test_fewer_training_pages_are_the_first_ones(root: Path) -> None:
    register_picturebook(seed=3, counts=COUNTS, root=root)
    DatasetCatalog.get("picturebook_train_panoptic")
    register_picturebook(seed=3, counts={**COUNTS, "train": 2}, root=root)
    for task in ("panoptic", "parts", "refer"):
        stems = [Path(r["file_name"]).stem for r in DatasetCatalog.get(f"picturebook_train_{task}")]
        assert stems == ["000000", "000001"]


def test_fewer_test_pages_are_refused(root: Path) -> None:
    register_picturebook(seed=3, counts=COUNTS, root=root)
    DatasetCatalog.get("picturebook_val_panoptic")
    register_picturebook(seed=3, counts={**COUNTS, "val": 1}, root=root)
    with pytest.raises(PictureBookError, match="set PICTUREBOOK.ROOT"):
        DatasetCatalog.get("picturebook_val_panoptic")


def test_another_seed_needs_another_folder(root: Path) -> None:
    register_picturebook(seed=3, counts=COUNTS, root=root)
    DatasetCatalog.get("picturebook_val_parts")
    register_picturebook(seed=4, counts=COUNTS, root=root)
    with pytest.raises(PictureBookError):
        DatasetCatalog.get("picturebook_val_parts")


@pytest.mark.parametrize(
    ("counts", "words"), [({"test": 3}, 'no split "test"'), ({"val": 0}, "at least one page")]
)
def test_bad_counts(counts: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        register_picturebook(counts=counts)


def test_configuration_sets_seed_and_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = get_cfg()
    add_hipie_config(cfg)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg.PICTUREBOOK.SEED = 11
    register_all(cfg)
    found = MetadataCatalog.get("picturebook_val_panoptic").image_root
    assert Path(found) == default_root(11) / "images" / "val"
    assert default_root(11).is_relative_to(tmp_path) and "seed11" in default_root(11).name
    cfg.PICTUREBOOK.ROOT = str(tmp_path / "mine")
    register_all(cfg)
    found = MetadataCatalog.get("picturebook_val_panoptic").image_root
    assert Path(found) == tmp_path / "mine" / "images" / "val"
    register_picturebook()
