"""Expressions and anti-expressions: the prefix, the cut, and how often the encoder is asked."""

from __future__ import annotations

import pytest
import torch

from grser.modeling.text import PREFIX, ExpressionEncoder


@pytest.fixture(scope="module")
def text(tiny_text):
    return ExpressionEncoder.build(str(tiny_text), frozen=False, max_tokens=8).eval()


def by_library(text: ExpressionEncoder, expression: str) -> torch.Tensor:
    """Hidden states [T, 32] as the library computes them, expression by expression."""
    given = text.tokenizer(expression, return_tensors="pt")
    with torch.no_grad():
        return text.model(**given).last_hidden_state[0]


def test_the_prefix_is_three_word_pieces_of_berts(text):
    assert text.tokenizer(PREFIX, add_special_tokens=False)["input_ids"] == [1026, 2053, 1028]


def test_expression_and_anti_expression_are_what_the_library_reads(text):
    asked = ["the red car", "a dog"]
    with torch.no_grad():
        found = text.encode(asked)
    for row, expression in enumerate(asked):
        states = by_library(text, expression)
        torch.testing.assert_close(found.tokens[row, : len(states)], states, atol=1e-5, rtol=1e-4)
        assert int(found.mask[row].sum()) == len(states)
        torch.testing.assert_close(found.expression[row], states[0], atol=1e-5, rtol=1e-4)
        anti = by_library(text, "<no> " + expression)
        torch.testing.assert_close(found.anti_expression[row], anti[0], atol=1e-5, rtol=1e-4)


def test_an_expressions_vector_can_be_the_mean_of_its_words(tiny_text):
    text = ExpressionEncoder.build(
        str(tiny_text), frozen=False, max_tokens=8, pooling="mean"
    ).eval()
    with torch.no_grad():
        found = text.encode(["the red car", "a dog"])
    wanted = by_library(text, "a dog").mean(0)
    torch.testing.assert_close(found.expression[1], wanted, atol=1e-5, rtol=1e-4)


def test_both_are_cut_after_the_same_word(text):
    long = "one two three four five six seven eight nine"
    with pytest.warns(UserWarning, match="has 9 tokens; only the first 6 are used"):
        cut = text.encode([long])
    same = text.encode(["one two three four five six"])
    torch.testing.assert_close(cut.expression, same.expression)
    torch.testing.assert_close(cut.anti_expression, same.anti_expression)
    assert int(cut.mask.sum()) == 8


def test_an_expression_needs_a_word_and_room_for_it(text, tiny_text):
    with pytest.raises(ValueError, match="no letter or digit"):
        text.encode([" . "])
    with pytest.raises(ValueError, match="MAX_TOKENS is 2; two markers and a word are 3"):
        ExpressionEncoder.build(str(tiny_text), frozen=False, max_tokens=2)


@pytest.mark.parametrize("images", [1, 7])
def test_a_group_is_read_twice_whatever_its_size(make_model, make_group, images):
    model, rows = make_model(), []
    model.text_encoder.model.register_forward_hook(
        lambda module, inputs, given, output: rows.append(len(output.last_hidden_state)),
        with_kwargs=True,
    )
    group = make_group(*[True] * images)
    model([group])
    assert sum(rows) == 2
    rows.clear()
    model.train()([group, group])
    assert sum(rows) == 2  # equal expressions of a batch are one
