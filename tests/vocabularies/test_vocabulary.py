"""Vocabularies from names and from the metadata of data sets."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
from detectron2.data import MetadataCatalog

from hipie.vocabularies.vocabulary import (
    Vocabulary,
    VocabularyClass,
    VocabularyError,
    clean_class_name,
    parse_parts,
)


def test_from_names_keeps_order_synonyms_and_wholes() -> None:
    vocabulary = Vocabulary.from_names(
        things=["dog", ("cat", "kitten")],
        stuff=["sky"],
        parts={"dog": ["head", ("tail", "rear end")]},
    )
    assert vocabulary.names == ("dog", "cat", "sky", "dog head", "dog tail")
    assert vocabulary.kinds == ("thing", "thing", "stuff", "part", "part")
    assert vocabulary.is_thing == (True, True, False, False, False)
    assert vocabulary.classes[1].synonyms == ("cat", "kitten")
    assert vocabulary.classes[4].synonyms == ("dog tail", "dog rear end")
    assert vocabulary.wholes == ("dog",)
    assert len(vocabulary) == 5


def test_is_hashable_and_equal_by_value() -> None:
    first = Vocabulary.from_names(["dog", "cat"])
    second = Vocabulary([VocabularyClass("dog", "thing"), VocabularyClass("cat", "thing")])
    assert first == second
    assert hash(first) == hash(second)
    assert first != Vocabulary.from_names(["cat", "dog"])


def test_copies_and_pickles_keep_equality_and_hash() -> None:
    vocabulary = Vocabulary.from_names(["dog"], parts={"dog": ["tail"]})
    assert vocabulary.names and hash(vocabulary)
    for duplicate in (copy.copy(vocabulary), pickle.loads(pickle.dumps(vocabulary))):
        assert duplicate == vocabulary and hash(duplicate) == hash(vocabulary)
        assert duplicate.names == vocabulary.names and duplicate.wholes == ("dog",)
    assert "_hash" not in vocabulary.__getstate__(), "string hashes differ between processes"


def test_five_thousand_names() -> None:
    vocabulary = Vocabulary.from_names([f"name {i}" for i in range(5000)])
    assert len(vocabulary) == 5000


@pytest.mark.parametrize("name", ["...", "", "  ", "(only this)", "_", "?!"])
def test_name_without_letters_is_rejected(name: str) -> None:
    with pytest.raises(VocabularyError, match="has no letter or digit") as error:
        Vocabulary.from_names(["dog", name])
    assert f'"{name}"' in str(error.value)


def test_empty_vocabulary_is_rejected() -> None:
    with pytest.raises(VocabularyError, match="at least one class"):
        Vocabulary.from_names()


@pytest.mark.parametrize("pair", [("dog", "dog"), ("Dog", "dog"), ("dog ", "dog")])
def test_duplicate_names_are_rejected(pair: tuple[str, str]) -> None:
    with pytest.raises(VocabularyError, match='"dog" occurs twice in the vocabulary'):
        Vocabulary.from_names(things=pair[:1], stuff=pair[1:])


def test_wrong_types_are_rejected() -> None:
    with pytest.raises(VocabularyError, match="things must be a list of strings, not b'dog'"):
        Vocabulary.from_names(b"dog")
    with pytest.raises(VocabularyError, match='the parts of "dog" must be a list'):
        Vocabulary.from_names(parts={"dog": 3})
    with pytest.raises(VocabularyError, match="parts must be a dict"):
        Vocabulary.from_names(parts=["head"])
    with pytest.raises(VocabularyError, match="must be a string, not 3"):
        Vocabulary.from_names([3])
    with pytest.raises(VocabularyError, match='kind "object"'):
        VocabularyClass("dog", "object")


def test_metadata_of_things_or_stuff_alone() -> None:
    things = Vocabulary.from_metadata(SimpleNamespace(thing_classes=["dog", "cat"]))
    assert things.names == ("dog", "cat")
    assert things.is_thing == (True, True)
    stuff = Vocabulary.from_metadata(SimpleNamespace(stuff_classes=["sky", "dog"]))
    assert stuff.is_thing == (False, False)


def test_metadata_with_a_vocabulary() -> None:
    own = Vocabulary.from_names(["dog"])
    assert Vocabulary.from_metadata(SimpleNamespace(vocabulary=own, thing_classes=["x"])) is own


def test_metadata_order_where_stuff_contains_the_things() -> None:
    meta = SimpleNamespace(thing_classes=["dog", "cat"], stuff_classes=["sky", "cat", "dog"])
    vocabulary = Vocabulary.from_metadata(meta)
    assert vocabulary.names == ("sky", "cat", "dog")
    assert vocabulary.is_thing == (False, True, True)


def test_metadata_order_where_things_contain_the_stuff() -> None:
    meta = SimpleNamespace(thing_classes=["dog", "sky", "cat"], stuff_classes=["sky"])
    vocabulary = Vocabulary.from_metadata(meta)
    assert vocabulary.names == ("dog", "sky", "cat")
    assert vocabulary.is_thing == (True, False, True)


def test_detectron2_panoptic_metadata() -> None:
    """Both of Detectron2's conventions for COCO panoptic give 80 things and 53 stuff."""
    standard = Vocabulary.from_metadata(MetadataCatalog.get("coco_2017_val_panoptic"))
    assert len(standard) == 133
    assert sum(standard.is_thing) == 80
    assert standard.names[0] == "person"
    separated = Vocabulary.from_metadata(MetadataCatalog.get("coco_2017_val_panoptic_separated"))
    assert len(separated) == 133
    assert separated.is_thing == (True,) * 80 + (False,) * 53
    assert "things" not in separated.names


def test_metadata_with_parts() -> None:
    meta = SimpleNamespace(thing_classes=["dog"], parts={"dog": ["tail"]})
    assert Vocabulary.from_metadata(meta).classes[1] == VocabularyClass(
        "dog tail", "part", (), "dog"
    )


def test_metadata_without_names_is_rejected() -> None:
    with pytest.raises(VocabularyError, match='"bare" has neither'):
        Vocabulary.from_metadata(SimpleNamespace(name="bare"))
    same = SimpleNamespace(name="twins", thing_classes=["a"], stuff_classes=["a"])
    with pytest.raises(VocabularyError, match='"twins" lists the same names'):
        Vocabulary.from_metadata(same)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("person", "person"),
        ("sky-other-merged", "sky-other-merged"),
        ("traffic_light", "traffic light"),
        ("bow_(decorative) ribbon", "bow ribbon"),
        ("a (b) c (d) e", "a e"),
        ("a    b", "a  b"),
        ("door, bars", "door, bars"),
        ("open ( only", "open ( only"),
        (") wrong (", ") wrong ("),
        ("Teddy Bear", "Teddy Bear"),
    ],
)
def test_clean_class_name(name: str, clean: str) -> None:
    assert clean_class_name(name) == clean


@pytest.mark.parametrize(
    "things",
    [
        ["ball", ("box", "crate")],
        ("ball", ["box", "crate"]),
        (name for name in ["ball", ("box", "crate")]),
        "ball; box, crate",
        {"ball": 0, ("box", "crate"): 0}.keys(),
        {"ball", ("box", "crate")},
    ],
    ids=["list", "tuple", "generator", "text", "view", "set"],
)
def test_names_in_every_form_are_the_same_classes(things) -> None:
    expected = Vocabulary.from_names(things=["ball", ("box", "crate")])
    assert set(Vocabulary.from_names(things=things).classes) == set(expected.classes)


def test_a_single_string_is_one_name() -> None:
    assert Vocabulary.from_names("ball", stuff="green grass").names == ("ball", "green grass")
    assert Vocabulary.from_names(parts="car: wheel, door; car wheel: rim") == Vocabulary.from_names(
        parts={"car": {"wheel": ["rim"], "door": []}}
    )
    with pytest.raises(VocabularyError, match=r"pass \['cat', 'dog'\] or \[\('cat', 'dog'\)\]"):
        Vocabulary.from_names("cat, dog")


@pytest.mark.parametrize("text", ["car:wheel:rim", "car: wheel; dog: head: eye"])
def test_parts_with_two_colons_are_refused(text: str) -> None:
    with pytest.raises(VocabularyError, match="more than one colon"):
        parse_parts(text)


def test_parts_of_one_whole_add_up() -> None:
    assert parse_parts("car: wheel; dog: head; car: door") == {
        "car": ["wheel", "door"],
        "dog": ["head"],
    }
