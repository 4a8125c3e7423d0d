"""Captions and the characters of each class in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipie.modeling.text_encoder.caption import expression_caption, vocabulary_caption
from hipie.vocabularies.normalization import clean_class_name
from hipie.vocabularies.vocabulary import Vocabulary

NAMES = st.lists(
    st.text(alphabet="abc _-(),'", min_size=1, max_size=12).filter(
        lambda name: any(letter.isalnum() for letter in clean_class_name(name))
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda name: name.strip().lower(),
)


@given(NAMES)
def test_spans_cut_out_the_clean_names(names: list[str]) -> None:
    caption = vocabulary_caption(Vocabulary.from_names(names))
    cut = [caption.text[start:end] for start, end in caption.spans]
    assert cut == [clean_class_name(name) for name in names]
    assert ". ".join(cut) == caption.text
    assert not caption.expression


def test_expression_is_one_span() -> None:
    caption = expression_caption("The small, RED dog!")
    assert caption.text == "the small red dog"
    assert caption.spans == ((0, len(caption.text)),)
    assert caption.expression


@pytest.mark.parametrize("expression", ["", "   ", "?!...", "()"])
def test_an_expression_without_words(expression: str) -> None:
    with pytest.raises(ValueError, match="has no word in it"):
        expression_caption(expression)


def test_an_expression_that_is_no_text() -> None:
    with pytest.raises(ValueError, match="must be a string, not 7"):
        expression_caption(7)
