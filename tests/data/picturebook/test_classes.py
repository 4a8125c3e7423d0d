from __future__ import annotations

from hipie.data.picturebook import classes
from hipie.data.picturebook.drawings import DRAWINGS


def test_number_of_classes() -> None:
    train_things = [classes.THING_BY_NAME[name] for name in classes.SEEN_THINGS]
    with_parts = [thing for thing in train_things if thing.parts]
    assert len(classes.SEEN_THINGS) >= 14
    assert len(classes.UNSEEN_THINGS) == 3
    assert len(with_parts) >= 7
    assert all(2 <= sum(p.level == 1 for p in thing.parts) <= 5 for thing in with_parts)
    assert len(classes.STUFF) >= 8
    assert len(classes.COLOURS) == 8 and len(classes.SIZES) == 3 and len(classes.PATTERNS) == 3


def test_names_are_unique_and_every_thing_has_a_drawing() -> None:
    assert len(set(classes.CLASS_NAMES)) == len(classes.CLASS_NAMES)
    assert set(DRAWINGS) == set(classes.THING_BY_NAME)
    assert [classes.CATEGORY_IDS[name] for name in classes.CLASS_NAMES] == list(
        range(1, len(classes.CLASS_NAMES) + 1)
    )


def test_grounds_and_held_out_pairs_name_things_that_exist() -> None:
    for thing in classes.THINGS:
        assert thing.grounds and {kind for kind, _ in thing.grounds} <= set(classes.STUFF_BY_NAME)
    for attribute, name in classes.HELD_OUT_PAIRS:
        assert attribute in classes.COLOURS or attribute in classes.PATTERNS
        assert name in classes.SEEN_THINGS


def test_a_person_has_parts_of_parts() -> None:
    rows = {row.name: row for row in classes.PARTS}
    assert rows["person eye"].level == 2 and rows["person eye"].parent == "person head"
    assert rows["person head"].level == 1 and rows["person head"].parent is None
    assert rows["ball"].whole is None and rows["sky"].kind == "stuff"
    assert len(classes.PARTS) < 255


def test_held_out_classes_and_pairs() -> None:
    assert classes.held_out("horse") and classes.held_out("dog", "purple", "plain")
    assert not classes.held_out("dog", "red", "plain")
