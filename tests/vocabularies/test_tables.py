"""Class tables of public data sets, compared with Detectron2's metadata."""

from __future__ import annotations

import pytest
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES, COCO_CATEGORIES
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from hipie.modeling.text_encoder.caption import vocabulary_caption
from hipie.modeling.text_encoder.positive_map import PASCAL_WHOLES
from hipie.modeling.text_encoder.tokenizer import load_tokenizer, minilm_folder
from hipie.vocabularies.tables import (
    collection_datasets,
    load_classes,
    load_vocabulary,
    vocabulary_names,
)
from hipie.vocabularies.vocabulary import Vocabulary

COUNTS = {
    "ade20k_150": 150,
    "ade20k_847": 847,
    "cityscapes_panoptic_parts": 50,
    "camvid": 11,
    "car_parts": 18,
    "ccp": 59,
    "coco": 80,
    "coco_panoptic": 133,
    "fasseg": 6,
    "lfw_parts": 3,
    "lvis_1203": 1203,
    "obj365v1": 365,
    "obj365v2": 365,
    "paco": 531,
    "pascal_context_459": 459,
    "pascal_context_59": 59,
    "pascal_parts_merged": 57,
    "pascal_parts_pano": 200,
    "pascal_voc_20": 20,
    "pascal_voc_21": 21,
}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(minilm_folder()))


def caption_length(name: str, tokenizer) -> int:
    """Number of tokens of a data set's caption, [CLS] and [SEP] included."""
    return len(tokenizer(vocabulary_caption(load_vocabulary(name)).text)["input_ids"])


def words_of(names: str) -> set[str]:
    return set(names.replace(",", " ").split())


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_counts(name, count):
    classes = load_classes(name)
    assert len(classes.vocabulary) == len(set(classes.ids)) == count
    assert list(classes.ids) == sorted(classes.ids)


def test_every_vocabulary_is_listed_here():
    names = {*COUNTS, *(f"odinw_{n}" for n in collection_datasets("odinw"))}
    names |= {f"seginw_{n}" for n in collection_datasets("seginw")}
    assert set(vocabulary_names()) == names
    assert (len(collection_datasets("odinw")), len(collection_datasets("seginw"))) == (35, 25)


def test_coco_matches_detectron2():
    classes = load_classes("coco_panoptic")
    assert list(classes.ids) == [c["id"] for c in COCO_CATEGORIES]
    assert list(classes.vocabulary.is_thing) == [bool(c["isthing"]) for c in COCO_CATEGORIES]
    things = [c for c in COCO_CATEGORIES if c["isthing"]]
    assert classes.things == {c["id"]: i for i, c in enumerate(things)}
    assert load_vocabulary("coco").names == tuple(c["name"] for c in things)
    assert load_classes("coco").contiguous == classes.things
    for own_name, detectron2_name in zip(classes.vocabulary.names, COCO_CATEGORIES, strict=True):
        words = set(detectron2_name["name"].replace("-", " ").split())
        assert set(own_name.replace("-", " ").split()) <= words, (own_name, detectron2_name["name"])


def test_lvis_matches_detectron2():
    categories = sorted(LVIS_CATEGORIES, key=lambda c: c["id"])
    names = load_vocabulary("lvis_1203").names
    assert list(names) == [c["name"].replace("_", " ") for c in categories]
    assert load_classes("lvis_1203").ids == tuple(c["id"] for c in categories)


def test_ade20k_matches_detectron2():
    classes = load_classes("ade20k_150")
    assert classes.ids == tuple(range(150))
    pairs = zip(classes.vocabulary.names, ADE20K_SEM_SEG_CATEGORIES, strict=True)
    other = [
        (own_name, detectron2_name)
        for own_name, detectron2_name in pairs
        if not words_of(detectron2_name) & words_of(own_name)
    ]
    assert other == []
    assert len(classes.things) == 100
    by_name = {entry.name.split(",")[0]: entry.kind for entry in classes.vocabulary.classes}
    assert (by_name["bed"], by_name["sky"], by_name["person"]) == ("thing", "stuff", "thing")


def test_voc_and_context():
    with_background, without = load_vocabulary("pascal_voc_21"), load_vocabulary("pascal_voc_20")
    assert with_background.classes[1:] == without.classes
    assert with_background.names[0].startswith("background,bag,bed,bench")
    assert len(with_background.names[0].split(",")) == 40
    assert without.names[:3] == ("aeroplane", "bicycle", "bird")
    assert set(without.names) <= set(load_vocabulary("pascal_context_59").names) | {"diningtable"}
    assert set(load_vocabulary("pascal_context_459").kinds) == {"stuff"}


def test_parts_belong_to_their_wholes():
    pano, merged = load_classes("pascal_parts_pano"), load_classes("pascal_parts_merged")
    assert pano.ids == tuple(range(1, 201)) and merged.groups == tuple(range(1, 58))
    assert list(pano.vocabulary.wholes) == list(PASCAL_WHOLES) == list(merged.vocabulary.wholes)
    parts = [entry for entry in pano.vocabulary.classes if entry.kind == "part"]
    assert all(part.name.startswith(f"{part.whole} ") for part in parts)
    assert [g > 0 for g in pano.groups] == [i < 121 for i in range(200)]
    members: dict[int, set[str]] = {}
    for entry, group in zip(pano.vocabulary.classes, pano.groups, strict=True):
        if group:
            members.setdefault(group, set()).add(entry.name)
            assert merged.vocabulary.classes[group - 1].whole == entry.whole
    assert sorted(members) == list(range(1, 58))
    renamed = {n for g, n in enumerate(merged.vocabulary.names, 1) if n not in members[g]}
    assert len(renamed) <= 12, renamed


def test_cityscapes_groups():
    classes = load_classes("cityscapes_panoptic_parts")
    assert sorted(g for g in classes.groups if g) == list(range(1, 41))
    assert classes.vocabulary.wholes == ("person", "rider", "car", "truck", "bus")
    assert classes.vocabulary.names[18:22] == tuple(
        f"person {part}" for part in ("torso", "head", "arm", "leg")
    )


def test_paco_is_objects_and_their_parts():
    names = load_vocabulary("paco").names
    objects, parts = names[:75], names[75:]
    assert len(parts) == 456
    assert not any(":" in name for name in objects)
    assert {part.split(":")[0] for part in parts} <= set(objects)
    assert load_classes("paco").contiguous[2000] == 75


def test_collections():
    assert load_vocabulary("seginw_House-Parts").names[0] == "aluminium door"
    shaver = load_vocabulary("seginw_Electric-Shaver").classes[0]
    assert (shaver.name, shaver.synonyms) == ("caorau,shaver", ("caorau", "electric shaver"))
    for name in collection_datasets("odinw"):
        classes = load_classes(f"odinw_{name}")
        assert classes.vocabulary.names[0] == "background"
        assert classes.ids == tuple(range(len(classes.vocabulary)))
        assert all(classes.vocabulary.is_thing)


def shared_with(vocabulary: Vocabulary, train: str = "coco_panoptic") -> dict[str, bool]:
    """Whether each class shares a prompt with a training vocabulary."""
    prompts = load_vocabulary(train).prompts()
    return {entry.name: not prompts.isdisjoint(entry.phrases) for entry in vocabulary.classes}


def test_prompts_shared_with_the_training_data():
    assert all(shared_with(load_vocabulary("coco_panoptic")).values())
    assert all(shared_with(load_vocabulary("pascal_voc_21")).values())
    ade = shared_with(load_vocabulary("ade20k_150"))
    assert ade["wall"] and ade["airplane,aeroplane,plane"]
    assert not ade["escalator,moving staircase,moving stairway"]
    assert not ade["pool table,billiard table,snooker table"]
    own = Vocabulary.from_names(things=["zebra", ("gnu", "wildebeest"), ("steed", "horse")])
    assert list(shared_with(own).values()) == [True, False, True]
    assert list(shared_with(own, "pascal_context_59").values()) == [False, False, True]
    assert own.prompts(excluded=["gnu", "zebra"]) == {"steed", "horse"}


@pytest.mark.parametrize("name", vocabulary_names())
def test_names_and_synonyms_have_no_extra_spaces(name):
    for entry in load_vocabulary(name).classes:
        assert entry.name == " ".join(entry.name.split())
        for synonym in entry.synonyms:
            assert synonym == " ".join(synonym.split()) != ""
        assert len(set(entry.synonyms)) == len(entry.synonyms)


def test_caption_lengths_match_the_published_ones(tokenizer):
    assert caption_length("coco_panoptic", tokenizer) == 309
    assert caption_length("pascal_context_459", tokenizer) == 1144


@pytest.mark.parametrize("name", vocabulary_names())
def test_every_class_has_word_caption_length(name, tokenizer):
    assert caption_length(name, tokenizer) > len(load_vocabulary(name))


def test_unknown_name_suggests_similar_ones():
    with pytest.raises(
        ValueError, match=r'no vocabulary "coco_panoptik"; similar names are coco_pano'
    ):
        load_vocabulary("coco_panoptik")
