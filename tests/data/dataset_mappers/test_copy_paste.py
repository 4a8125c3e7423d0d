"""Pasted objects hide what is behind them, in pixels and in ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hipie.data.dataset_mappers import UniversalDatasetMapper
from hipie.data.dataset_mappers.annotation_reader import ObjectMasks
from hipie.data.dataset_mappers.copy_paste import (
    CopyPaste,
    paste_objects,
    sample_offset,
    select_pasted,
)
from hipie.data.dataset_mappers.transforms import LargeScaleJitter
from hipie.errors import InputError
from hipie.vocabularies.vocabulary import Vocabulary

NAMES = ["left thing", "right thing", "third", "fourth"]


def rectangle(rows: slice, columns: slice, size: tuple[int, int] = (8, 10)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[rows, columns] = True
    return mask


def test_pasted_masks_hide_objects() -> None:
    """One object is cut, one is hidden completely and removed, one is untouched."""
    image = np.full((8, 10, 3), 10, np.uint8)
    masks = [
        rectangle(slice(0, 4), slice(0, 6)),
        rectangle(slice(1, 3), slice(3, 5)),
        rectangle(slice(6, 8), slice(0, 10)),
    ]
    ignored = np.zeros((8, 10), np.uint8)
    ignored[0:2] = 2
    objects = ObjectMasks(np.stack(masks), np.array([5, 6, 7]), ignored)
    source_image = np.full((6, 6, 3), 200, np.uint8)
    source = ObjectMasks(rectangle(slice(0, 4), slice(1, 5), (6, 6))[None], np.array([9]))
    pasted, result = paste_objects(image, objects, source_image, source, (0, 2))

    covered = rectangle(slice(0, 4), slice(3, 7))
    assert (pasted[covered] == 200).all() and (pasted[~covered] == 10).all()
    assert result.classes.tolist() == [5, 7, 9]
    expected = [rectangle(slice(0, 4), slice(0, 3)), masks[2], covered]
    assert (result.masks == np.stack(expected)).all()
    assert (result.ignored == ignored * ~covered).all()
    assert (image == 10).all() and objects.masks[0].sum() == 24


@pytest.mark.parametrize("offset", [(-3, -4), (5, 7), (-2, 3), (30, 0)])
def test_what_is_outside_the_image_is_cut_off(offset: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = np.zeros((8, 10, 3), np.uint8)
    source_image = rng.integers(1, 255, (9, 12, 3), dtype=np.uint8)
    mask = rng.random((9, 12)) < 0.6
    none = ObjectMasks(np.zeros((0, 8, 10), bool), np.zeros(0, np.int64))
    source = ObjectMasks(mask[None], np.array([1]))
    pasted, result = paste_objects(image, none, source_image, source, offset)
    for y in range(8):
        for x in range(10):
            row, column = y - offset[0], x - offset[1]
            inside = 0 <= row < 9 and 0 <= column < 12 and mask[row, column]
            assert pasted[y, x].tolist() == (
                source_image[row, column].tolist() if inside else [0] * 3
            )
            assert result.masks[:, y, x].any() == inside
    assert len(result.masks) == (offset[0] < 8)


def test_classes_of_semantic_maps_stay_one_object() -> None:
    image = np.zeros((8, 10, 3), np.uint8)
    objects = ObjectMasks(
        np.stack([rectangle(slice(0, 4), slice(0, 5)), rectangle(slice(4, 8), slice(0, 5))]),
        np.array([3, 1]),
    )
    source = ObjectMasks(rectangle(slice(3, 6), slice(4, 8))[None], np.array([3]))
    _, result = paste_objects(image, objects, image, source, (0, 0), join_classes=True)
    assert result.classes.tolist() == [1, 3]
    assert result.masks[1].sum() == 4 * 5 + 3 * 4 - 1
    assert not (result.masks[0] & result.masks[1]).any()


def test_selection_follows_the_kinds_of_classes() -> None:
    rng = np.random.default_rng(0)
    kinds = ["thing", "stuff", "part"]
    things = [select_pasted(rng, np.array([0, 1, 0]), kinds) for _ in range(300)]
    assert all(1 <= selected.sum() <= 2 and not selected[1] for selected in things)
    # Of two things: both, the first or the second, each with 1/4, or with neither one at random.
    assert np.mean([selected[0] for selected in things]) == pytest.approx(0.625, abs=0.1)
    assert select_pasted(rng, np.array([2, 1, 2]), kinds).tolist() == [True, False, True]
    assert not select_pasted(rng, np.array([1, 1]), kinds).any()
    assert select_pasted(rng, np.array([0, 1]), ["stuff", "stuff"]).any()
    assert len(select_pasted(rng, np.zeros(0, int), kinds)) == 0


def test_offsets_keep_the_smaller_within_the_larger() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_offset(rng, (4, 20), (10, 12)) for _ in range(300)]
    assert {row for row, _ in drawn} == set(range(7))
    assert {column for _, column in drawn} == set(range(-8, 1))


@pytest.fixture
def records(tmp_path: Path) -> list[dict]:
    """Images in one colour with a square of a class in another; the left half is darker."""
    records = []
    for number in range(4):
        image = np.full((48, 64, 3), 30 * number + 20, np.uint8)
        image[12:36, 8:40] = (250, 40 * number, 0)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        box = [8, 12, 40, 12, 40, 36, 8, 36]
        records.append(
            {
                "file_name": str(tmp_path / f"{number}.png"),
                "height": 48,
                "width": 64,
                "image_id": number,
                "annotations": [
                    {"category_id": number, "segmentation": [box], "bbox": [8, 12, 32, 24]}
                ],
            }
        )
    return records


def make(records: list[dict], **changes) -> UniversalDatasetMapper:
    options = {
        "training": True,
        "min_sizes": (40, 48),
        "max_size": 100,
        "token_counts": [3] * 4,
        "copy_paste": CopyPaste(1.0, records),
    }
    return UniversalDatasetMapper(Vocabulary.from_names(things=NAMES), **{**options, **changes})


@pytest.mark.parametrize("jitter", [None, LargeScaleJitter(1.0, 0.5, 1.5, 48)])
def test_items_have_masks_and_boxes_of_what_is_visible(records, jitter) -> None:
    counts = set()
    for seed in range(30):
        item = make(records, jitter=jitter)(records[0], (seed,))
        objects = item["instances"]
        masks = objects.gt_masks.tensor
        assert masks.sum(dim=0).max() == 1 and masks.any(dim=2).any(dim=1).all()
        visible, red = masks.any(dim=0), item["image"][0] > 120
        assert (visible & ~red).sum() <= 0.1 * visible.sum()
        for mask, box in zip(masks, objects.gt_boxes.tensor, strict=True):
            rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == [float(value) for value in expected]
            # Every object has its own colour; resizing blurs its edge.
            greens = item["image"][1][mask].float()
            assert greens.std() < 12 or jitter is not None
        counts.add(len(objects))
    assert 2 in counts


def test_pasted_images_are_flipped_like_their_target(records) -> None:
    """All images are flipped together, so that "left" in a prompt is right for all objects."""
    for seed in range(10):
        item = make(records, flip="none")(records[1], (seed,))
        flipped = make(records)(records[1], (seed,))
        if torch.equal(item["image"], flipped["image"]):
            continue
        assert torch.equal(item["image"], flipped["image"].flip(2))
        masks = flipped["instances"].gt_masks.tensor.flip(2).any(dim=0)
        assert torch.equal(item["instances"].gt_masks.tensor.any(dim=0), masks)
        return
    pytest.fail("no image was flipped")


def test_seeds_determine_items_and_other_numbers_do_not_depend_on_pasting(records) -> None:
    first, again, other = (make(records)(records[0], seed) for seed in ((4, 1), (4, 1), (4, 2)))
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], other["image"])
    for seed in range(10):
        never = make(records, copy_paste=CopyPaste(0.0, records))(records[0], (seed,))
        off = make(records, copy_paste=None)(records[0], (seed,))
        assert torch.equal(never["image"], off["image"])
        assert never["vocabulary"] == off["vocabulary"]


def test_an_image_that_cannot_be_read_is_named_or_left_out(records, tmp_path: Path) -> None:
    (tmp_path / "3.png").write_text("nothing")
    with pytest.raises(InputError, match=r"3\.png: this is not an image"):
        make(records, copy_paste=CopyPaste(1.0, records[3:]))(records[0], (0,))
    item = make(records, copy_paste=CopyPaste(1.0, records[3:], True))(records[0], (0,))
    assert len(item["instances"]) == 1
