"""Arguments of any kind end in a value or in one sentence, and in nothing else."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hipie.data.dataset_mappers.transforms import flip_text
from hipie.data.image_io import to_rgb_array
from hipie.errors import HipieError
from hipie.task_predictors.referring import read_expressions
from hipie.task_predictors.universal import ClassRequest
from hipie.vocabularies import Vocabulary
from hipie_interactive.modeling.prompts import Prompt, to_sam_prompt

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-9, 99),
    st.floats(),
    st.sampled_from(["car", "Car", "the dog", "car; dog, puppy", "car: wheel", "", "?!", "\ud800"]),
    st.binary(max_size=4),
    st.sampled_from([np.zeros((4, 4)), np.float32(0.5), torch.zeros(3, 4, 4), object()]),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(iter),
        st.dictionaries(st.sampled_from(["car", "Car", "points", "inside", 3]), inner, max_size=2),
    ),
    max_leaves=6,
)
MANY = settings(max_examples=300, deadline=None)


@MANY
@given(ANYTHING, ANYTHING, ANYTHING)
def test_class_names(things: object, stuff: object, parts: object) -> None:
    try:
        request = ClassRequest.from_names(things, stuff, parts)
    except HipieError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(request.vocabulary, Vocabulary) and len(request.vocabulary)
        assert all(isinstance(name, str) for name in request.class_names)


@MANY
@given(ANYTHING)
def test_expressions(expressions: object) -> None:
    try:
        assert all(isinstance(expression, str) for expression in read_expressions(expressions))
    except HipieError as error:
        assert "\n" not in str(error)


@MANY
@given(ANYTHING)
def test_images(image: object) -> None:
    try:
        pixels = to_rgb_array(image)
    except HipieError as error:
        assert "\n" not in str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3


@MANY
@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ("inside", "outside", "box", "scribbles", "polygon", "label"), ANYTHING
        ),
    )
)
def test_prompts(fields: dict[str, object]) -> None:
    try:
        prompt = to_sam_prompt(Prompt.parse(fields), (40, 50))
    except HipieError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(prompt.points).all()


SIDES = st.sampled_from(["left", "right"])
PLACES = st.sampled_from(["top", "bottom", "front", "back", "hand", "side", "most", "y", "er", ""])
BEFORE = st.sampled_from(["top", "bottom_", "lower-", "far", "front", "", "the "])
CASES = st.sampled_from([str.lower, str.upper, str.capitalize])


@MANY
@given(st.lists(st.tuples(BEFORE, SIDES, PLACES, CASES), min_size=1, max_size=4))
def test_every_compound_of_a_side_is_flipped(words: list) -> None:
    text, mirrored = (
        " ".join(f"{before}{case(word)}{after}" for before, word, after, case in flipped)
        for flipped in (
            words,
            [(b, "left" if word == "right" else "right", a, c) for b, word, a, c in words],
        )
    )
    assert flip_text(text) == mirrored
    assert flip_text(mirrored) == text
