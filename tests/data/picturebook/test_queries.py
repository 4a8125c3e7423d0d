from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hipie.data.picturebook.queries import Query, describe, noun
from hipie.data.picturebook.segment import Segment


def _thing(number: int, name: str = "dog", x: int = 0, wide: int = 20, **rest) -> Segment:
    words = {"colour": "red", "size": "small", "pattern": "plain", "ground": "grass"}
    fields = {**words, "height": 20.0, **rest}
    return Segment(number, name, "thing", (x, 0, wide, 20), wide * 20, **fields)


def test_attributes_narrow_and_but_excludes() -> None:
    things = [_thing(1), _thing(2, colour="blue"), _thing(3, "cat")]
    assert Query("dog").select(things) == {1, 2}
    assert Query("dog", colour="blue").select(things) == {2}
    assert Query("dog", excluded_colour="blue").select(things) == {1}
    assert Query("dog", size="large").select(things) == frozenset()
    assert Query("dog", colour="blue", other_query=Query("cat")).select(things) == {2, 3}


def test_unclear_ground_makes_the_query_unclear() -> None:
    things = [_thing(1), _thing(2, ground=None)]
    assert Query("dog", ground="grass").select(things) is None
    assert Query("dog", ground="grass").select(things[:1]) == {1}
    assert Query("dog", ground="road").select(things[:1]) == frozenset()


def test_side_relations_need_separated_boxes_and_one_anchor() -> None:
    cat = _thing(9, "cat", x=100)
    left = Query("dog", side="left", anchor=Query("cat"))
    assert left.select([_thing(1, x=10), _thing(2, x=200), cat]) == {1}
    assert left.select([_thing(1, x=95), cat]) is None
    assert left.select([_thing(1, x=10), cat, _thing(8, "cat", x=150)]) is None
    assert (
        Query("dog", side="right", anchor=Query("cat")).select([_thing(1, x=10), cat])
        == frozenset()
    )


def test_extremes_need_two_things_and_a_margin() -> None:
    small, large = _thing(1, height=20.0), _thing(2, x=100, wide=30, height=30.0)
    assert Query("dog", extreme="largest").select([small, large]) == {2}
    assert Query("dog", extreme="smallest").select([small, large]) == {1}
    assert Query("dog", extreme="leftmost").select([small, large]) == {1}
    assert Query("dog", extreme="rightmost").select([small, large]) == {2}
    assert Query("dog", extreme="largest").select([small]) is None
    assert Query("dog", extreme="largest").select([small, _thing(3, height=22.0)]) is None


def test_a_largest_thing_that_is_mostly_hidden_is_unclear() -> None:
    hidden = _thing(2, x=100, wide=5, height=30.0)
    assert Query("dog", extreme="largest").select([_thing(1), hidden]) is None


@given(st.integers(0, 300), st.integers(1, 60), st.integers(0, 300), st.integers(1, 60))
def test_left_and_right_never_both_hold(x: int, wide: int, other: int, broad: int) -> None:
    things = [_thing(1, x=x, wide=wide), _thing(2, "cat", x=other, wide=broad)]
    left = Query("dog", side="left", anchor=Query("cat")).select(things)
    right = Query("dog", side="right", anchor=Query("cat")).select(things)
    mirrored = Query("cat", side="right", anchor=Query("dog")).select(things)
    assert not (left and right)
    assert bool(left) == bool(mirrored)


def test_wording() -> None:
    assert (
        noun(Query("car", "red", "small", "striped", ground="road"))
        == "small striped red car on the road"
    )
    assert noun(Query("person", "red", pattern="dotted")) == "person in a dotted red shirt"
    assert noun(Query("person", "red"), plural=True) == "people in red"
    assert noun(Query("dog", excluded_colour="red")) == "dog that is not red"
    assert noun(Query("bird", extreme="largest")) == "largest bird"
    assert describe(Query("dog"), 2, 0) == "the two dogs"
    assert describe(Query("dog"), 3, 1) == "all the dogs"
    assert describe(Query("dog"), 1, 0) == "dog"
    assert (
        describe(Query("dog", other_query=Query("cat", "red")), 2, 1) == "the dog and the red cat"
    )


def test_novel_names_are_detected_in_nested_queries() -> None:
    assert Query("horse").names_novel() == "class"
    assert Query("dog", "purple").names_novel() == "pair"
    assert Query("cat", side="left", anchor=Query("bus")).names_novel() == "class"
    assert Query("cat", other_query=Query("house", pattern="striped")).names_novel() == "pair"
    assert Query("dog", "red").names_novel() == ""
