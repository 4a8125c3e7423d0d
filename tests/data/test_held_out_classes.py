"""Classes that are held out of a training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from hipie.config import add_hipie_config
from hipie.data.build import build_mapped_dataset
from hipie.data.held_out_classes import held_out_indices, require_held_out
from hipie.errors import InputError
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

ANIMALS = Vocabulary.from_names(things=["cat", "dog", "Brown Bear"])


def test_names_synonyms_and_both_sides() -> None:
    vocabulary = Vocabulary(
        (
            VocabularyClass("automobile", "thing", synonyms=("car",)),
            VocabularyClass("left mirror", "part", whole="automobile"),
            VocabularyClass("right mirror", "part", whole="automobile"),
            VocabularyClass("mirror", "thing"),
        )
    )
    assert held_out_indices(["CAR"], vocabulary) == {0}
    assert held_out_indices(["right mirror"], vocabulary) == {1, 2}
    assert held_out_indices(["dog"], vocabulary) == frozenset()
    with pytest.raises(InputError, match="all 3 classes"):
        held_out_indices(["cat", "dog", "brown bear"], ANIMALS)


@pytest.fixture
def animals(tmp_path):
    """Two images: of a dog, and of a bear."""
    name = "held_out_animals"
    records = [
        {
            "file_name": f"{number}.png",
            "image_id": number,
            "height": 9,
            "width": 9,
            "annotations": [
                {"category_id": number, "bbox": [1, 1, 5, 5], "bbox_mode": 1, "iscrowd": 0}
            ],
        }
        for number in (1, 2)
    ]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(vocabulary=ANIMALS, thing_classes=list(ANIMALS.names))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.fixture
def cfg(animals: str) -> CfgNode:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "HIPIE"
    cfg.MODEL.HIPIE.TEXT.SOURCE = "minilm"
    cfg.DATASETS.TRAIN = (animals,)
    cfg.DATASETS.HELD_OUT_CLASSES = ("brown bear",)
    cfg.INPUT.IGNORE_UNLABELLED = True
    return cfg


def test_images_of_held_out_classes_only_are_left_out(cfg: CfgNode, animals: str) -> None:
    mapped = build_mapped_dataset(cfg, animals, training=True)
    assert [record["image_id"] for record in mapped.records] == [1]
    assert mapped.classes is not None and mapped.classes(mapped.records[0]) == {1}
    assert mapped.mapper.mapper.negative_candidates == (0, 1)
    test = build_mapped_dataset(cfg, animals, training=False)
    assert len(test.records) == 2 and test.mapper.mapper.prompt_vocabulary == ANIMALS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("brown bear", "brown beer")}, "'brown beer', which is a class of no data set"),
        ({"ignore": False}, "IGNORE_UNLABELLED"),
    ],
)
def test_settings_that_cannot_be_kept(cfg: CfgNode, change, message: str) -> None:
    require_held_out(cfg)
    wanted = SimpleNamespace(**{"names": ("brown bear",), "ignore": True, **change})
    cfg.DATASETS.HELD_OUT_CLASSES, cfg.INPUT.IGNORE_UNLABELLED = wanted.names, wanted.ignore
    with pytest.raises(InputError, match=message):
        require_held_out(cfg)
