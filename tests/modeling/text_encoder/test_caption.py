"""Captions, their character spans, normalization and windows."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipie.modeling.text_encoder.caption import (
    SpecialTokens,
    clean_expression,
    expression_caption,
    split_into_windows,
    vocabulary_caption,
)
from hipie.modeling.text_encoder.tokenizer import load_tokenizer, tokenize
from hipie.vocabularies.vocabulary import Vocabulary, clean_class_name

START, END, PADDING, STOP = 101, 102, 0, 1012
SPECIAL_TOKENS = SpecialTokens(START, END, PADDING, STOP)

NAMES = st.lists(
    st.text(alphabet="abc _-(),'", min_size=1, max_size=12).filter(
        lambda name: any(character.isalnum() for character in clean_class_name(name))
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda name: name.strip().lower(),
)


@given(NAMES)
def test_spans_select_the_clean_names(names: list[str]) -> None:
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
def test_expression_without_letters_is_rejected(expression: str) -> None:
    with pytest.raises(ValueError, match="contains no letter or digit"):
        expression_caption(expression)


def test_expression_of_another_type_is_rejected() -> None:
    with pytest.raises(ValueError, match="must be a string, not 7"):
        expression_caption(7)


@pytest.mark.parametrize(
    ("expression", "clean"),
    [
        ("The man's RED-coat, left!", "the mans red coat left"),
        ("dog/cat (small) #2: *this*; that?", "dog cat small 2 this that"),
        ('  "quoted"   words. ', "quoted words"),
    ],
)
def test_clean_expression(expression: str, clean: str) -> None:
    assert clean_expression(expression) == clean


def caption_of(lengths: list[int]) -> list[int]:
    ids = [START]
    for name, length in enumerate(lengths):
        ids += [2000 + name] * length + [STOP]
    return [*ids[:-1], END]


def test_caption_that_fits_is_one_window() -> None:
    ids = caption_of([3, 2, 3])
    (only,) = split_into_windows(ids, SPECIAL_TOKENS, window=len(ids))
    assert (list(only.ids), only.offset, only.skip) == (ids, 0, 0)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=40), st.integers(16, 40))
def test_windows_contain_every_token_once_and_split_at_full_stops(
    lengths: list[int], window: int
) -> None:
    ids = caption_of(lengths)
    windows = split_into_windows(ids, SPECIAL_TOKENS, window)
    joined: list[int] = []
    for one in windows:
        assert one.offset == len(joined)
        assert len(one.ids) <= window
        assert one.ids[0] == START
        assert one.ids[-1] == END
        joined += one.ids[one.skip :]
    borders = {one.offset - 1 for one in windows[1:]}
    for i, (window_id, given_id) in enumerate(zip(joined, ids, strict=True)):
        assert window_id == (END if i in borders else given_id)
        assert i not in borders or given_id == STOP


@given(st.lists(st.integers(1, 10), min_size=20, max_size=40))
def test_windows_are_as_long_as_class_borders_allow(lengths: list[int]) -> None:
    window = 24
    ids = caption_of(lengths)
    windows = split_into_windows(ids, SPECIAL_TOKENS, window)
    for one, following in zip(windows, windows[1:], strict=False):
        own = len(one.ids) - one.skip
        name = following.ids[1:].index(END)
        if STOP in following.ids:
            name = min(name, following.ids[1:].index(STOP))
        assert own + name + 1 > window - 2


def test_window_without_full_stop_is_rejected() -> None:
    with pytest.raises(ValueError, match="contain no full stop"):
        split_into_windows(caption_of([30, 2]), SPECIAL_TOKENS, window=20)


def test_long_expressions_are_cut_before_they_are_tokenized():
    tokenizer = load_tokenizer("bert-base-uncased")
    start = time.process_time()
    with pytest.warns(UserWarning, match=r"has 1,200,000 characters; only the first 10,000"):
        caption = expression_caption("box " * 300_000)
    with pytest.warns(UserWarning, match=r"only the first 510 are used"):
        tokens = tokenize(tokenizer, caption)
    assert time.process_time() - start < 5
    short = expression_caption("box " * 512)
    with pytest.warns(UserWarning, match=r"only the first 510 are used"):
        assert tokens == tokenize(tokenizer, short)
