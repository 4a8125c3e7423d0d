"""Items of things, stuff and parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hipie.data.dataset_mappers import UniversalDatasetMapper
from hipie.data.dataset_mappers.transforms import LargeScaleJitter
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

WORDS = Vocabulary(
    [VocabularyClass(f"thing {i}", "thing") for i in range(6)]
    + [VocabularyClass("left wing", "part", whole="bird"), VocabularyClass("sky", "stuff")]
)
HEIGHT, WIDTH = 60, 80


@pytest.fixture
def panoptic(tmp_path: Path) -> dict:
    """Thing 2 at the left in red, sky elsewhere in blue."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 2] = 250
    image[20:50, 5:35] = (250, 0, 0)
    ids = np.full((HEIGHT, WIDTH), 300)
    ids[20:50, 5:35] = 7
    colours = np.stack([ids % 256, ids // 256, 0 * ids], axis=2).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(colours).save(tmp_path / "ids.png")
    return {
        "file_name": str(tmp_path / "a.png"),
        "height": HEIGHT,
        "width": WIDTH,
        "image_id": 5,
        "pan_seg_file_name": str(tmp_path / "ids.png"),
        "segments_info": [{"id": 7, "category_id": 2}, {"id": 300, "category_id": 7}],
    }


def make(**changes) -> UniversalDatasetMapper:
    settings = {
        "training": True,
        "min_sizes": (48, 60),
        "max_size": 100,
        "token_counts": [3] * len(WORDS),
        "max_tokens": 512,
    }
    return UniversalDatasetMapper(WORDS, **{**settings, **changes})


def test_masks_and_classes_match_the_image(panoptic: dict) -> None:
    for seed in range(20):
        item = make(jitter=LargeScaleJitter(0.5, 0.5, 1.5, 64))(panoptic, (seed,))
        assert item["task"] == "detection" and item["image"].dtype == torch.uint8
        objects = item["instances"]
        assert objects.image_size == tuple(item["image"].shape[1:])
        for label, mask in zip(objects.gt_classes.tolist(), objects.gt_masks.tensor, strict=True):
            name = item["vocabulary"].names[label]
            channel = {"thing 2": 0, "sky": 2}[name]
            assert item["image"][channel][mask].float().mean() > 200
        assert len(set(item["vocabulary"].names)) == len(item["vocabulary"])
        assert (item["height"], item["width"], item["image_id"]) == (HEIGHT, WIDTH, 5)


def test_seed_determines_the_item(panoptic: dict) -> None:
    mapper = make(jitter=LargeScaleJitter(0.5, 0.5, 1.5, 64))
    first, again, other = (mapper(panoptic, seed) for seed in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(first["image"], again["image"])
    assert first["vocabulary"] == again["vocabulary"]
    assert torch.equal(first["instances"].gt_masks.tensor, again["instances"].gt_masks.tensor)
    assert (
        first["vocabulary"] != other["vocabulary"] or first["image"].shape != other["image"].shape
    )


def test_flipped_images_flip_class_names(panoptic: dict) -> None:
    sides = set()
    for seed in range(40):
        item = make(negative_candidates=[6])(panoptic, (seed,))
        red = item["image"][0].float()
        half = red.shape[1] // 2
        is_left = bool(red[:, :half].mean() > red[:, half:].mean())
        if "left wing" in item["vocabulary"].names:
            assert is_left
        if "right wing" in item["vocabulary"].names:
            assert not is_left
        sides.add(is_left)
    assert sides == {True, False}


def test_objects_whose_name_does_not_fit_are_dropped(panoptic: dict) -> None:
    item = make(max_tokens=2 + 3)(panoptic, (0,))
    assert len(item["vocabulary"]) == 1
    assert item["instances"].gt_classes.tolist() == [0]


def test_unseen_names_are_never_negatives(panoptic: dict) -> None:
    mapper = make(negative_candidates=[0, 1])
    for seed in range(20):
        names = set(mapper(panoptic, (seed,))["vocabulary"].names)
        assert names <= {"thing 0", "thing 1", "thing 2", "sky"}


def test_federated_records_use_verified_negatives_only(panoptic) -> None:
    panoptic["neg_category_ids"] = [4, 0, 1]
    mapper, named = make(negative_candidates=[0, 1, 2, 3]), set()
    for seed in range(30):
        item = mapper(panoptic, (seed,))
        names = set(item["vocabulary"].names)
        assert {"thing 2", "sky"} <= names <= {"thing 2", "sky", "thing 0", "thing 1"}
        named |= names
    assert len(named) == 4
    panoptic["neg_category_ids"] = []
    assert set(mapper(panoptic, (0,))["vocabulary"].names) == {"thing 2", "sky"}


def test_unsampled_present_classes_are_not_negatives(panoptic: dict) -> None:
    drawn = set()
    for seed in range(20):
        item = make(max_objects=1)(panoptic, (seed,))
        (label,) = item["instances"].gt_classes.tolist()
        drawn.add(item["vocabulary"].names[label])
        other = {"thing 2": "sky", "sky": "thing 2"}[item["vocabulary"].names[label]]
        assert other not in item["vocabulary"].names
    assert drawn == {"thing 2", "sky"}


def test_crops_keep_at_least_one_object(panoptic: dict) -> None:
    panoptic["segments_info"] = panoptic["segments_info"][:1]
    mapper = make(jitter=LargeScaleJitter(1.0, 8.0, 9.0, 64))
    for seed in range(20):
        assert len(mapper(panoptic, (seed,))["instances"]) == 1


def test_images_without_objects(panoptic: dict) -> None:
    panoptic["segments_info"] = []
    item = make()(panoptic, (0,))
    assert len(item["instances"]) == 0 and len(item["vocabulary"]) >= 1


def test_parts(panoptic: dict, tmp_path: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[10:30, 10:30] = 7
    labels[10:30, 50:70] = 7
    labels[50, 50] = 7
    Image.fromarray(labels).save(tmp_path / "parts.png")
    record = {k: panoptic[k] for k in ("file_name", "height", "width", "image_id")}
    record["part_seg_file_name"] = str(tmp_path / "parts.png")
    item = make(min_sizes=(60,), min_part_area=10)(record, (0,))
    assert item["task"] == "parts" and len(item["instances"]) == 2
    name = item["vocabulary"].classes[int(item["instances"].gt_classes[0])]
    assert name.kind == "part" and name.whole == "bird"
    assert item["instances"].gt_masks.tensor.sum().item() == 800


def test_coco_annotations(panoptic: dict) -> None:
    record = {k: panoptic[k] for k in ("file_name", "height", "width", "image_id")}
    square = [5, 20, 35, 20, 35, 50, 5, 50]
    record["annotations"] = [{"category_id": 2, "segmentation": [square], "bbox": [5, 20, 30, 30]}]
    item = make()(record, (4,))
    mask = item["instances"].gt_masks.tensor[0]
    assert item["image"][0][mask].float().mean() > 200
    assert item["vocabulary"].names[int(item["instances"].gt_classes[0])] == "thing 2"


def test_test_items_have_the_full_vocabulary_and_no_instances(panoptic: dict) -> None:
    item = make(training=False)(panoptic)
    assert item["vocabulary"] == WORDS and "instances" not in item
    assert item["image"].shape == (3, 48, 64)
    assert (item["height"], item["width"]) == (HEIGHT, WIDTH)


def test_bgr(panoptic: dict) -> None:
    rgb = make(training=False)(panoptic)["image"]
    bgr = make(training=False, image_format="BGR")(panoptic)["image"]
    assert torch.equal(rgb.flip(0), bgr)


def test_sizes_must_agree(panoptic: dict) -> None:
    panoptic["width"] = 81
    with pytest.raises(ValueError, match=r"a.png: the image has 80x60 pixels, .* has 81x60"):
        make()(panoptic, (0,))


def test_bad_image_is_named(panoptic: dict, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("nothing")
    with pytest.raises(ValueError, match="a.png: this is not an image"):
        make()(panoptic, (0,))


def test_label_maps_are_of_the_task_semantic_unless_there_are_things(
    panoptic: dict, tmp_path: Path
) -> None:
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "labels.png")
    record = {k: panoptic[k] for k in ("file_name", "height", "width", "image_id")}
    record["sem_seg_file_name"] = str(tmp_path / "labels.png")
    stuff = make()
    stuff.vocabulary = Vocabulary.from_names(stuff=[f"stuff {i}" for i in range(len(WORDS))])
    assert stuff(record, (0,))["task"] == "semantic"
    assert make()(record, (0,))["task"] == "detection"
    assert make()(panoptic, (0,))["task"] == "detection"


def test_background_is_no_object_and_never_named(panoptic: dict, tmp_path: Path) -> None:
    labels = np.full((HEIGHT, WIDTH), 7, np.uint8)
    labels[20:50, 5:35] = 2
    Image.fromarray(labels).save(tmp_path / "labels.png")
    record = {k: panoptic[k] for k in ("file_name", "height", "width", "image_id")}
    record["sem_seg_file_name"] = str(tmp_path / "labels.png")
    for candidates in (None, range(len(WORDS))):
        mapper = make(background=7, negative_candidates=candidates)
        for seed in range(20):
            item = mapper(record, (seed,))
            names = item["vocabulary"].names
            assert "sky" not in names
            assert [names[k] for k in item["instances"].gt_classes.tolist()] == ["thing 2"]
    item = make(background=7, training=False)(record)
    assert item["vocabulary"].classes == WORDS.classes[:7] and item["background"] is True
    assert make(training=False)(record)["background"] is False


def square(value: int, other: int) -> np.ndarray:
    labels = np.full((HEIGHT, WIDTH), other, np.uint8)
    labels[20:50, 5:35] = value
    return labels


def ignored_of(record: dict, seed: int = 0, **changes) -> tuple[np.ndarray, torch.Tensor]:
    item = make(min_sizes=(60,), ignore_unlabelled=True, **changes)(record, (seed,))
    assert item["ignored"].dtype == torch.uint8
    assert item["ignored"].shape == item["image"].shape[1:]
    return item["ignored"].numpy(), item["image"]


def test_unlabelled_pixels_and_crowds_are_ignored(panoptic: dict, tmp_path: Path) -> None:
    """The red square is not annotated, or a crowd; it is found by its colour after any flip."""
    shared = {k: panoptic[k] for k in ("file_name", "height", "width", "image_id")}
    Image.fromarray(square(255, 7)).save(tmp_path / "labels.png")
    Image.fromarray(square(0, 7)).save(tmp_path / "parts.png")
    rectangle = [5, 20, 35, 20, 35, 50, 5, 50]
    crowd = {"category_id": 2, "segmentation": [rectangle], "bbox": [5, 20, 30, 30], "iscrowd": 1}
    sky = {"category_id": 7, "segmentation": [[0, 0, 80, 0, 80, 9, 0, 9]], "bbox": [0, 0, 80, 9]}
    segments = [{"id": 300, "category_id": 7}]
    for record, value in (
        ({**shared, "sem_seg_file_name": str(tmp_path / "labels.png")}, 2),
        ({**shared, "part_seg_file_name": str(tmp_path / "parts.png")}, 2),
        ({**panoptic, "segments_info": segments}, 2),
        ({**panoptic, "segments_info": [{**panoptic["segments_info"][0], "iscrowd": 1}]}, None),
        ({**shared, "annotations": [sky, crowd]}, 1),
    ):
        for seed in range(4):
            ignored, image = ignored_of(record, seed)
            red = image[0].numpy() > 200
            if value is None:
                assert (ignored[red] == 1).all() and (ignored[~red] == 2).all()
            else:
                assert (ignored == value * red).all()
    item = make()({**shared, "annotations": [sky, crowd]}, (0,))
    assert "ignored" not in item


def test_padding_is_not_ignored(panoptic: dict) -> None:
    jitter = LargeScaleJitter(1.0, 0.5, 0.5, 60)
    ignored, image = ignored_of(panoptic, jitter=jitter)
    assert (image == 128).all(dim=0).sum() > 1000 and not ignored.any()


def test_held_out_classes_are_neither_prompts_nor_targets_nor_negatives(
    panoptic: dict, tmp_path: Path
) -> None:
    """In every format the red square is unlabelled, and the rest is as it is."""
    shared = {k: panoptic[k] for k in ("file_name", "height", "width", "image_id")}
    Image.fromarray(square(2, 7)).save(tmp_path / "labels.png")
    Image.fromarray(square(3, 8)).save(tmp_path / "parts.png")
    polygon = [5, 20, 35, 20, 35, 50, 5, 50]
    red = {"category_id": 2, "segmentation": [polygon], "bbox": [5, 20, 30, 30]}
    sky = {"category_id": 7, "segmentation": [[0, 0, 80, 0, 80, 9, 0, 9]], "bbox": [0, 0, 80, 9]}
    segments = panoptic["segments_info"]
    for record in (
        {**shared, "sem_seg_file_name": str(tmp_path / "labels.png")},
        {**shared, "part_seg_file_name": str(tmp_path / "parts.png")},
        panoptic,
        {**panoptic, "segments_info": [{**segments[0], "iscrowd": 1}, segments[1]]},
        {**shared, "annotations": [sky, red]},
        {**shared, "annotations": [sky, {**red, "iscrowd": 1}]},
    ):
        for seed in range(4):
            options = {"min_sizes": (60,), "ignore_unlabelled": True, "held_out": {2}}
            item = make(**options)(record, (seed,))
            assert WORDS.names[2] not in item["vocabulary"].names
            names = {item["vocabulary"].names[i] for i in item["instances"].gt_classes}
            assert names == {WORDS.names[7]}
            np.testing.assert_array_equal(item["ignored"] == 2, item["image"][0] > 200)


def test_pixels_of_another_object_are_not_held_out(panoptic: dict) -> None:
    record = {k: panoptic[k] for k in ("file_name", "height", "width", "image_id")}
    box = {"bbox": [5, 20, 30, 30], "segmentation": [[5, 20, 35, 20, 35, 50, 5, 50]]}
    lower = {"bbox": [5, 35, 30, 15], "segmentation": [[5, 35, 35, 35, 35, 50, 5, 50]]}
    record["annotations"] = [{**box, "category_id": 2}, {**lower, "category_id": 7}]
    item = make(min_sizes=(60,), ignore_unlabelled=True, held_out={2})(record, (0,))
    assert (item["ignored"] == 2).sum() == 15 * 30
    assert not (item["instances"].gt_masks.tensor[0] & (item["ignored"] == 2)).any()
