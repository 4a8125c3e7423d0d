"""Drawing of few-shot episodes, and reading of their images and masks."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hipie import model_zoo
from hipie_fewshot.data.episodes import (
    EpisodeMapper,
    class_mask,
    draw_episodes,
    few_shot_episodes,
    fold_of_classes,
    index_images_by_class,
)


def square(x, category, crowd=0):
    corners = [x, 5, x + 10, 5, x + 10, 15, x, 15]
    return {"segmentation": [corners], "category_id": category, "iscrowd": crowd}


@pytest.fixture
def records(tmp_path):
    """Class 0 in all six images (twice in the first), class 1 in one, class 2 in three."""
    records = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (60, 30), (number, 0, 0)).save(path)
        objects = [square(0, 0), *([square(20, 0), square(40, 1)] if number == 0 else [])]
        objects += [square(40, 2)] if number % 2 else []
        objects += [square(20, 1, crowd=1)] if number == 1 else []
        records.append(
            {
                "file_name": str(path),
                "height": 30,
                "width": 60,
                "image_id": number,
                "annotations": objects,
            }
        )
    return records


@pytest.fixture
def registered(records):
    DatasetCatalog.register("few_images", lambda: records)
    MetadataCatalog.get("few_images").set(thing_classes=["cup", "pen", "hat"])
    yield "few_images"
    DatasetCatalog.remove("few_images")
    MetadataCatalog.remove("few_images")


def config(*options):
    names = ("NUMBER", 30, *options)
    pairs = zip(names[::2], names[1::2])
    given = [part for key, value in pairs for part in (f"MODEL.FEWSHOT.EPISODES.{key}", value)]
    return model_zoo.get_config("projects/FewShot/configs/persam_random_picturebook.yaml", given)


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_images_of_classes_without_crowds(records):
    assert index_images_by_class(records) == {0: [0, 1, 2, 3, 4, 5], 1: [0], 2: [1, 3, 5]}


def test_draws_are_uniform_and_reproducible():
    images = {0: list(range(10)), 4: [3, 5, 7]}
    drawn = draw_episodes(images, 400, 2, seed=1)
    assert drawn == draw_episodes(images, 400, 2, seed=1)
    assert drawn != draw_episodes(images, 400, 2, seed=2)
    for class_id, query, support in drawn:
        assert len({query, *support}) == 3
        assert {query, *support} <= set(images[class_id])
    assert 150 < sum(class_id == 4 for class_id, *_ in drawn) < 250
    queries = [query for class_id, query, _ in drawn if class_id == 4]
    assert min(map(queries.count, (3, 5, 7))) > 40


def test_folds_select_classes_by_remainder(registered):
    episodes = few_shot_episodes(config(), registered, training=False).records
    assert {episode["class_id"] for episode in episodes} == {0, 2}
    assert len(episodes) == 30
    episodes = few_shot_episodes(config("FOLDS", 2, "FOLD", 0), registered, training=False).records
    assert {episode["class_id"] for episode in episodes} == {0, 2}
    episodes = few_shot_episodes(config("FOLDS", 3, "FOLD", 2), registered, training=False).records
    assert {episode["class_id"] for episode in episodes} == {2}
    episodes = few_shot_episodes(config("SHOTS", 3), registered, training=False).records
    assert {episode["class_id"] for episode in episodes} == {0}


def test_consecutive_folds_are_equal_parts_as_in_pascal_5i():
    folds = [fold_of_classes(20, fold, 4, True) for fold in range(4)]
    assert folds == [list(range(5 * fold, 5 * fold + 5)) for fold in range(4)]
    assert fold_of_classes(80, 1, 4, False) == list(range(1, 80, 4))
    parts = [fold_of_classes(7, fold, 3, True) for fold in range(3)]
    assert [label for part in parts for label in part] == list(range(7))


def test_episodes_of_semantic_maps(tmp_path):
    """Classes of maps are numbered without the background; ignored pixels are no class."""
    records = []
    for number in range(4):
        Image.new("RGB", (20, 10), (number, 0, 0)).save(tmp_path / f"{number}.jpg")
        labels = np.zeros((10, 20), np.uint8)
        labels[2:5, 3:9] = 1 + number % 2
        labels[7:], labels[9] = 3, 255
        Image.fromarray(labels).save(tmp_path / f"{number}.png")
        records.append(
            {
                "file_name": str(tmp_path / f"{number}.jpg"),
                "sem_seg_file_name": str(tmp_path / f"{number}.png"),
                "height": 10,
                "width": 20,
                "image_id": number,
            }
        )
    name = "few_maps"
    DatasetCatalog.register(name, lambda: records)
    names = ["background", "cup", "pen", "hat"]
    MetadataCatalog.get(name).set(stuff_classes=names, ignore_label=255)
    try:
        drawn = {
            fold: few_shot_episodes(
                config("FOLDS", 3, "FOLD", fold, "CONSECUTIVE", True), name, training=False
            )
            for fold in range(3)
        }
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for fold, mapped in drawn.items():
        assert {episode["class_id"] for episode in mapped.records} == {fold + 1}
    item = drawn[0].mapper(drawn[0].records[0])
    assert item["examples"][0].label == "cup" and item["target"].sum() == 18
    assert drawn[2].mapper(drawn[2].records[0])["target"].sum() == 40


def test_mapper_reads_query_target_and_examples(records):
    episode = {"class_id": 0, "query": records[0], "support": [records[1]]}
    item = EpisodeMapper(["cup", "pen", "hat"])(episode)
    assert item["image"].shape == (3, 30, 60)
    expected = np.zeros((30, 60), bool)
    expected[5:15, :10] = expected[5:15, 20:30] = True
    assert np.array_equal(item["target"], expected)
    assert item["class_id"] == 0
    assert item["examples"][0].label == "cup"
    assert item["examples"][0].mask.sum() == 100
    assert item["examples"][0].image[0, 0, 0] == 1


def test_panoptic_segments_of_things_are_joined(tmp_path):
    ids = np.zeros((30, 40, 3), np.uint8)
    ids[:10, :, 0], ids[10:20, :, 0], ids[20:, :, 0] = 1, 2, 3
    Image.fromarray(ids).save(tmp_path / "p.png")
    record = {
        "pan_seg_file_name": str(tmp_path / "p.png"),
        "height": 30,
        "width": 40,
        "segments_info": [
            {"id": 1, "category_id": 7, "isthing": True, "iscrowd": 0},
            {"id": 2, "category_id": 7, "isthing": True, "iscrowd": 0},
            {"id": 3, "category_id": 9, "isthing": False, "iscrowd": 0},
        ],
    }
    assert index_images_by_class([record]) == {7: [0]}
    mask = class_mask(record, 7)
    assert mask[:20].all()
    assert not mask[20:].any()
    assert not class_mask(record, 8).any()


def test_data_sets_without_episodes_are_refused(registered, records):
    for options, message in (
        (("SHOTS", 6), r"no class of the data set few_images is in more than 6 image\(s\)"),
        (("FOLDS", 4, "FOLD", 4), "FOLD is 4; with FOLDS 4 it is 0 to 3"),
        (("SHOTS", 0), "SHOTS and NUMBER have to be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            few_shot_episodes(config(*options), registered, training=False)
    with pytest.raises(ValueError, match="FewShot is not trained"):
        few_shot_episodes(config(), registered, training=True)
    for record in records:
        del record["annotations"]
    with pytest.raises(ValueError, match="has no instances and no semantic maps to use as ex"):
        few_shot_episodes(config(), registered, training=False)
