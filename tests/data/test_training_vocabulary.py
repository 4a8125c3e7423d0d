"""Class names that a model is trained with, and what is asked of a model that has them."""

from __future__ import annotations

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from hipie.data.datasets.catalog import register_dataset
from hipie.data.training_vocabulary import training_vocabulary
from hipie.task_predictors.universal import ClassRequest
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass


@pytest.fixture
def sets():
    things = Vocabulary.from_names(things=["cup", "Road"])
    stuff = Vocabulary.from_names(stuff=["road", "background", "sky"])
    register_dataset("tiny_things", list, vocabulary=things)
    register_dataset("tiny_stuff", list, vocabulary=stuff, background_class="background")
    register_dataset("tiny_expressions", list, task="referring")
    names = ("tiny_things", "tiny_stuff", "tiny_expressions")
    yield names
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_each_class_is_named_once_and_the_background_never(sets):
    vocabulary = training_vocabulary([*sets, "no_such_set"])
    assert vocabulary is not None
    assert list(vocabulary.names) == ["cup", "Road", "sky"]
    assert training_vocabulary(["tiny_expressions"]) is None


def test_parts_of_a_whole_that_was_not_learned_are_segmented_on_their_own():
    hair = VocabularyClass("face hair", "part", whole="face")
    request = ClassRequest.from_vocabulary(Vocabulary((hair,)))
    assert request.part_vocabulary is None and request.vocabulary.kinds == ("stuff",)
    face = VocabularyClass("face", "thing")
    request = ClassRequest.from_vocabulary(Vocabulary((face, hair)))
    assert request.wholes == ("face",) and request.part_vocabulary is not None
