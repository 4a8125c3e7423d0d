"""Padding and ignored values of maps, by their kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.data.catalog import Metadata
from PIL import Image

from hipie.data.annotation_view import read_annotation
from hipie.data.dataset_mappers.annotations import panoptic_masks, part_masks, semantic_masks
from hipie.data.dataset_mappers.transforms import LargeScaleJitter, sample_augmentation
from hipie.data.label_values import DEFAULT_IGNORE_LABEL, ignore_label, transform_labels
from hipie.errors import InputError

PADDED = T.PadTransform(0, 0, 4, 4, 4, 4, pad_value=128, seg_pad_value=0)


def jitters(count: int = 12) -> list[T.Transform]:
    """Sample large-scale jitters of a 40x30 image into a crop of 64 pixels, most of them padded."""
    jitter = LargeScaleJitter(1.0, 0.1, 2.0, 64)
    sizes = {"min_sizes": (48,), "max_size": 96, "jitter": jitter}
    samples = [
        sample_augmentation(np.random.default_rng(seed), 30, 40, **sizes) for seed in range(count)
    ]
    return [sample.transform for sample in samples]


@pytest.mark.parametrize(("dtype", "ignored"), [(np.uint8, 255), (np.uint16, 65535)])
def test_jitter_pads_semantic_maps_with_the_ignored_value(dtype: type, ignored: int) -> None:
    labels = np.full((30, 40), 21, dtype)
    labels[:, 20:] = 22
    labels[:5] = ignored
    padded = 0
    for transform in jitters():
        masks, classes = semantic_masks(labels, transform, ignored)
        assert set(classes.tolist()) <= {21, 22}
        inside = transform.apply_segmentation(np.ones((30, 40), np.uint8)).astype(bool)
        assert not masks.any(axis=0)[~inside].any()
        padded += (~inside).any()
    assert padded > 0


def test_padding_by_kind_of_map() -> None:
    zeros = np.zeros((4, 4), np.uint8)
    masks, classes = semantic_masks(zeros, PADDED, 255)
    assert classes.tolist() == [0] and masks[0].sum() == 16
    _, classes = semantic_masks(zeros, PADDED, 0)
    assert classes.tolist() == []
    masks, classes = part_masks(np.ones((4, 4), np.uint8), PADDED, 1)
    assert classes.tolist() == [0] and masks[0].sum() == 16
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[..., 0] = 9
    masks, _ = panoptic_masks(colours, [{"id": 9, "category_id": 0}], PADDED)
    assert masks[0].sum() == 16


def test_id_0_is_void_in_panoptic_maps() -> None:
    colours = np.zeros((4, 4, 3), np.uint8)
    masks, _ = panoptic_masks(colours, [{"id": 0, "category_id": 0}], T.NoOpTransform())
    assert masks.shape == (0, 4, 4)


def test_transform_of_wide_maps_is_that_of_each_plane() -> None:
    labels = np.random.default_rng(0).integers(0, 60000, (9, 7)).astype(np.uint16)
    flipped = transform_labels(labels, T.HFlipTransform(7), 5)
    assert (flipped == labels[:, ::-1]).all()


def test_ignored_value_of_a_data_set() -> None:
    assert ignore_label(Metadata(name="a")) == DEFAULT_IGNORE_LABEL == 255
    assert ignore_label(Metadata(name="a", ignore_label=np.uint16(65535))) == 65535
    with pytest.raises(
        InputError, match="data set a: its ignore_label must be an integer, not 'no'"
    ):
        ignore_label(Metadata(name="a", ignore_label="no"))


def test_semantic_maps_mean_the_same_when_drawn_and_when_learned(tmp_path: Path) -> None:
    labels = np.array([[0, 0, 1], [2, 2, 1]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "image.png")
    record = {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
    }
    names = ["sky", "sea", "sand"]
    for value in (0, 1, 255):
        metadata = Metadata(name="beach", stuff_classes=names, ignore_label=value)
        drawn = {s.label: s.mask.sum() for s in read_annotation(record, metadata).segments}
        masks, classes = semantic_masks(labels, T.NoOpTransform(), ignore_label(metadata))
        learned = {names[c]: mask.sum() for mask, c in zip(masks, classes, strict=True)}
        assert (
            drawn
            == learned
            == {name: (labels == i).sum() for i, name in enumerate(names) if i != value}
        )
