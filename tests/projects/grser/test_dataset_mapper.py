"""Dataset mappers of groups for training and for test."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from grser.data.dataset_mapper import GroupTestMapper, GroupTrainingMapper, ImageConfig, target_mask
from grser.data.group_sampling import GroupDataset
from tests import referring_trees as trees

IMAGE_CONFIG = ImageConfig(min_sizes=(30,), max_size=99, square=0, image_format="RGB")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six records; image k has the grey value 40 k and two objects."""
    folder = tmp_path_factory.mktemp("images")
    records = []
    for number in range(6):
        path = folder / f"{number}.png"
        Image.new("RGB", (trees.WIDTH, trees.HEIGHT), (40 * number,) * 3).save(path)
        objects = [{"segmentation": [trees.polygon(10 * number + k)]} for k in range(2)]
        records.append(
            {
                "file_name": str(path),
                "image_id": number,
                "height": trees.HEIGHT,
                "width": trees.WIDTH,
                "annotations": objects,
            }
        )
    return records


def build_dataset(images, num_positives: int, num_negatives: int) -> GroupDataset:
    """Dataset whose first images contain their first object, and the next ones no target."""
    dataset = GroupDataset(list(images))
    positives = [(index, [0]) for index in range(num_positives)]
    negatives = list(range(num_positives, num_positives + num_negatives))
    dataset.add("the left one", positives, negatives)
    return dataset


def sample_group(dataset, seed=0, **arguments) -> dict:
    image_config = arguments.pop("image_config", IMAGE_CONFIG)
    return GroupTrainingMapper(dataset, image_config, **arguments)(dataset.samples[0], (seed,))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(0, 2),
    st.integers(1, 9),
    st.integers(1, 7),
)
def test_sampled_groups_have_positives_and_negatives(
    images, seed, num_positives, num_negatives, size, max_positives
):
    dataset = build_dataset(images, num_positives, num_negatives)
    group = sample_group(dataset, seed, images_per_group=size, max_positives=max_positives)
    numbers = [image["image_id"] for image in group["images"]]
    positive = [number for number in numbers if number < num_positives]
    assert len(numbers) == size
    assert group["expression"] == "the left one"
    if num_negatives:
        assert 1 <= len(positive) <= min(max_positives, num_positives, max(size - 1, 1))
        assert len(set(positive)) == len(positive)
        assert set(numbers) <= set(range(num_positives + num_negatives))
    else:
        assert len(positive) == size
    for image in group["images"]:
        number = image["image_id"]
        expected = trees.mask_of(10 * number) if number < num_positives else np.zeros((30, 40))
        np.testing.assert_array_equal(image["target"].numpy(), expected)
        assert image["image"].shape == (3, 30, 40) and (image["image"] == 40 * number).all()


def test_number_of_positives_varies(images):
    dataset = build_dataset(images, 4, 2)
    counts = [
        sum(
            bool(image["target"].any())
            for image in sample_group(dataset, seed, images_per_group=5)["images"]
        )
        for seed in range(60)
    ]
    assert set(counts) == {1, 2, 3, 4}


def test_without_negatives_all_images_are_positive(images):
    group = sample_group(build_dataset(images, 2, 4), images_per_group=5, negatives=False)
    assert all(image["target"].any() for image in group["images"])
    assert sorted({image["image_id"] for image in group["images"]}) == [0, 1]


def test_negatives_are_sampled_from_their_pool(images):
    dataset = build_dataset(images, 1, 0)
    dataset.samples[0]["negatives"] = "dog"
    dataset.negative_pools["dog"] = np.array([3, 5])
    image_ids = {
        image["image_id"]
        for seed in range(9)
        for image in sample_group(dataset, seed, images_per_group=3)["images"]
    }
    assert image_ids == {0, 3, 5}


def test_sampling_is_deterministic(images):
    dataset = build_dataset(images, 3, 3)
    image_config = ImageConfig((20, 25, 30), 99, 0, "RGB", flip_prob=0.5)
    group, same, other = (
        sample_group(dataset, seed, image_config=image_config) for seed in (5, 5, 6)
    )
    for a, b in zip(group["images"], same["images"], strict=True):
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["target"], b["target"])
    numbers = [[i["image_id"] for i in sampled["images"]] for sampled in (group, other)]
    assert numbers[0] != numbers[1] or group["expression"] != other["expression"]


def test_flip_applies_to_all_images_and_the_expression(images):
    dataset = build_dataset(images, 3, 2)
    plain = sample_group(dataset, 4)
    flip_config = ImageConfig((30,), 99, 0, "RGB", flip_prob=1.0)
    flipped = sample_group(dataset, 4, image_config=flip_config)
    assert flipped["expression"] == "the right one"
    for image, other in zip(plain["images"], flipped["images"], strict=True):
        assert image["image_id"] == other["image_id"]
        assert torch.equal(image["target"].flip(-1), other["target"])


def test_images_and_targets_are_resized_to_squares(images):
    square = ImageConfig((30,), 99, 64, "BGR")
    for image in sample_group(build_dataset(images, 3, 2), image_config=square)["images"]:
        assert image["image"].shape == (3, 64, 64) and image["target"].shape == (64, 64)
        assert set(image["target"].unique().tolist()) <= {0, 1}


def test_saliency_mask_is_thresholded(tmp_path):
    grey = np.array([[0, 128, 129, 255]], dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "mask.png")
    record = {"height": 1, "width": 4, "saliency_file_name": str(tmp_path / "mask.png")}
    assert target_mask(record, []).tolist() == [[0, 0, 1, 1]]
    assert target_mask(record, None).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA"])
def test_saliency_masks_of_every_mode_are_resized_to_the_image(tmp_path, mode):
    grey = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8))
    grey.convert(mode).save(tmp_path / "mask.png")
    record = {"height": 2, "width": 4, "saliency_file_name": str(tmp_path / "mask.png")}
    assert target_mask(record, []).tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]


def test_target_is_the_union_of_objects(images):
    expected = trees.mask_of(20, 21)
    np.testing.assert_array_equal(target_mask(images[2], [0, 1]), expected)


@pytest.mark.parametrize("name", ["IMAGES_PER_GROUP", "MAX_POSITIVES"])
def test_empty_groups_are_rejected(images, name):
    with pytest.raises(
        ValueError, match="MODEL.GRSER.TRAIN.IMAGES_PER_GROUP and MAX_POSITIVES have to"
    ):
        GroupTrainingMapper(build_dataset(images, 1, 1), IMAGE_CONFIG, **{name.lower(): 0})


@pytest.fixture
def broken(images, tmp_path):
    """Six records, of which the second and third cannot be read."""
    records = [dict(record) for record in images]
    records[1]["file_name"] = str(tmp_path / "gone.png")
    records[2]["file_name"] = str(tmp_path / "cut.png")
    content = Path(images[2]["file_name"]).read_bytes()
    (tmp_path / "cut.png").write_bytes(content[:60])
    return records


@pytest.mark.parametrize("number", [1, 2])
def test_unreadable_image_raises_an_error_with_its_file(broken, number):
    group = {"images": [broken[0], broken[number]], "expression": "x"}
    with pytest.raises((ValueError, OSError), match=r"gone\.png|cut\.png"):
        GroupTestMapper(IMAGE_CONFIG)(group)
    with pytest.raises((ValueError, OSError), match=r"gone\.png|cut\.png"):
        sample_group(build_dataset(broken[number : number + 1], 1, 0))


def test_unreadable_images_can_be_skipped(broken, caplog):
    group = {"images": broken, "expression": "x", "sent_id": 3}
    with caplog.at_level(logging.WARNING):
        mapped = GroupTestMapper(IMAGE_CONFIG, skip_broken=True)(group)
    assert [image["image_id"] for image in mapped["images"]] == [0, 3, 4, 5]
    assert mapped["sent_id"] == 3
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2 and "gone.png" in messages[0] and "cut.png" in messages[1]
    dataset = build_dataset(broken, 3, 3)
    trained = sample_group(dataset, images_per_group=6, skip_broken=True, max_positives=3)
    assert not {1, 2} & {image["image_id"] for image in trained["images"]}


def test_group_without_readable_image_raises_an_error(broken):
    with pytest.raises((ValueError, OSError), match=r"cut\.png"):
        GroupTestMapper(IMAGE_CONFIG, skip_broken=True)({"images": broken[1:3], "expression": "x"})
