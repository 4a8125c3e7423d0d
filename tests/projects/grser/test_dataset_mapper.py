"""Groups that are drawn for training, and groups as they are asked."""

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

SIZES = ImageConfig(min_sizes=(30,), max_size=99, square=0, image_format="RGB")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six records; image k is of the grey 40 k, with two objects."""
    folder = tmp_path_factory.mktemp("pictures")
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


def asking(images, shown: int, lacking: int, words: str = "the left one") -> GroupDataset:
    """The first images show their first object, the next ones nothing."""
    found = GroupDataset(list(images))
    positive = [(number, [0]) for number in range(shown)]
    found.add(words, positive, list(range(shown, shown + lacking)))
    return found


def drawn(questions, seed=0, **given) -> dict:
    sizes = given.pop("sizes", SIZES)
    return GroupTrainingMapper(questions, sizes, **given)(questions.samples[0], (seed,))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.integers(0, 2),
    st.integers(1, 9),
    st.integers(1, 7),
)
def test_what_is_drawn(images, seed, shown, lacking, size, most):
    group = drawn(asking(images, shown, lacking), seed, images_per_group=size, max_positives=most)
    numbers = [one["image_id"] for one in group["images"]]
    positive = [number for number in numbers if number < shown]
    assert len(numbers) == size
    assert group["expression"] == "the left one"
    if lacking:
        assert 1 <= len(positive) <= min(most, shown, max(size - 1, 1))
        assert len(set(positive)) == len(positive)
        assert set(numbers) <= set(range(shown + lacking))
    else:
        assert len(positive) == size
    for one in group["images"]:
        number = one["image_id"]
        wanted = trees.mask_of(10 * number) if number < shown else np.zeros((30, 40))
        np.testing.assert_array_equal(one["target"].numpy(), wanted)
        assert one["image"].shape == (3, 30, 40) and (one["image"] == 40 * number).all()


def test_every_number_of_positives_is_drawn(images):
    questions = asking(images, 4, 2)
    counts = [
        sum(
            bool(one["target"].any())
            for one in drawn(questions, seed, images_per_group=5)["images"]
        )
        for seed in range(60)
    ]
    assert set(counts) == {1, 2, 3, 4}


def test_without_negatives_all_show_it(images):
    group = drawn(asking(images, 2, 4), images_per_group=5, negatives=False)
    assert all(one["target"].any() for one in group["images"])
    assert sorted({one["image_id"] for one in group["images"]}) == [0, 1]


def test_negatives_by_name_come_from_the_list_of_that_name(images):
    questions = asking(images, 1, 0)
    questions.samples[0]["negatives"] = "dog"
    questions.negative_pools["dog"] = np.array([3, 5])
    seen = {
        one["image_id"]
        for seed in range(9)
        for one in drawn(questions, seed, images_per_group=3)["images"]
    }
    assert seen == {0, 3, 5}


def test_the_same_seed_draws_the_same_group(images):
    questions = asking(images, 3, 3)
    sizes = ImageConfig((20, 25, 30), 99, 0, "RGB", flip_prob=0.5)
    one, same, other = (drawn(questions, seed, sizes=sizes) for seed in (5, 5, 6))
    for a, b in zip(one["images"], same["images"], strict=True):
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["target"], b["target"])
    numbers = [[i["image_id"] for i in group["images"]] for group in (one, other)]
    assert numbers[0] != numbers[1] or one["expression"] != other["expression"]


def test_a_mirror_is_the_whole_groups_and_the_words(images):
    questions = asking(images, 3, 2)
    plain = drawn(questions, 4)
    mirrored = drawn(questions, 4, sizes=ImageConfig((30,), 99, 0, "RGB", flip_prob=1.0))
    assert mirrored["expression"] == "the right one"
    for one, other in zip(plain["images"], mirrored["images"], strict=True):
        assert one["image_id"] == other["image_id"]
        assert torch.equal(one["target"].flip(-1), other["target"])


def test_squares_and_targets_of_their_size(images):
    square = ImageConfig((30,), 99, 64, "BGR")
    for one in drawn(asking(images, 3, 2), sizes=square)["images"]:
        assert one["image"].shape == (3, 64, 64) and one["target"].shape == (64, 64)
        assert set(one["target"].unique().tolist()) <= {0, 1}


def test_masks_of_co_saliency_are_white(tmp_path):
    grey = np.array([[0, 128, 129, 255]], dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "mask.png")
    record = {"height": 1, "width": 4, "saliency_file_name": str(tmp_path / "mask.png")}
    assert target_mask(record, []).tolist() == [[0, 0, 1, 1]]
    assert target_mask(record, None).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA"])
def test_masks_of_every_mode_are_read_and_stretched_to_the_image(tmp_path, mode):
    grey = Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8))
    grey.convert(mode).save(tmp_path / "mask.png")
    record = {"height": 2, "width": 4, "saliency_file_name": str(tmp_path / "mask.png")}
    assert target_mask(record, []).tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]


def test_several_objects_are_one_target(images):
    wanted = trees.mask_of(20, 21)
    np.testing.assert_array_equal(target_mask(images[2], [0, 1]), wanted)


@pytest.mark.parametrize("name", ["IMAGES_PER_GROUP", "MAX_POSITIVES"])
def test_groups_need_images(images, name):
    with pytest.raises(
        ValueError, match="MODEL.GRSER.TRAIN.IMAGES_PER_GROUP and MAX_POSITIVES have to"
    ):
        GroupTrainingMapper(asking(images, 1, 1), SIZES, **{name.lower(): 0})


@pytest.fixture
def broken(images, tmp_path):
    """The same six records; the second and third cannot be read."""
    records = [dict(record) for record in images]
    records[1]["file_name"] = str(tmp_path / "gone.png")
    records[2]["file_name"] = str(tmp_path / "cut.png")
    whole = Path(images[2]["file_name"]).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:60])
    return records


@pytest.mark.parametrize("number", [1, 2])
def test_a_broken_image_is_named(broken, number):
    group = {"images": [broken[0], broken[number]], "expression": "x"}
    with pytest.raises((ValueError, OSError), match=r"gone\.png|cut\.png"):
        GroupTestMapper(SIZES)(group)
    with pytest.raises((ValueError, OSError), match=r"gone\.png|cut\.png"):
        drawn(asking(broken[number : number + 1], 1, 0))


def test_or_left_out(broken, caplog):
    group = {"images": broken, "expression": "x", "sent_id": 3}
    with caplog.at_level(logging.WARNING):
        found = GroupTestMapper(SIZES, skip_broken=True)(group)
    assert [one["image_id"] for one in found["images"]] == [0, 3, 4, 5]
    assert found["sent_id"] == 3
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "gone.png" in said[0] and "cut.png" in said[1]
    trained = drawn(asking(broken, 3, 3), images_per_group=6, skip_broken=True, max_positives=3)
    assert not {1, 2} & {one["image_id"] for one in trained["images"]}


def test_a_group_without_a_whole_image_is_an_error_all_the_same(broken):
    with pytest.raises((ValueError, OSError), match=r"cut\.png"):
        GroupTestMapper(SIZES, skip_broken=True)({"images": broken[1:3], "expression": "x"})
