"""Encoding of expressions and anti-expressions: prefix, truncation and batching."""

from __future__ import annotations

import pytest
import torch

from grser.modeling.text import PREFIX, ExpressionEncoder


@pytest.fixture(scope="module")
def text(tiny_text):
    return ExpressionEncoder.build(str(tiny_text), frozen=False, max_tokens=8).eval()


def hidden_states(text: ExpressionEncoder, expression: str) -> torch.Tensor:
    """Hidden states [T, 32] of one expression by transformers."""
    inputs = text.tokenizer(expression, return_tensors="pt")
    with torch.no_grad():
        return text.model(**inputs).last_hidden_state[0]


def test_prefix_has_three_tokens(text):
    assert text.tokenizer(PREFIX, add_special_tokens=False)["input_ids"] == [1026, 2053, 1028]


def test_features_equal_transformers(text):
    expressions = ["the red car", "a dog"]
    with torch.no_grad():
        features = text.encode(expressions)
    for row, expression in enumerate(expressions):
        states = hidden_states(text, expression)
        torch.testing.assert_close(
            features.tokens[row, : len(states)], states, atol=1e-5, rtol=1e-4
        )
        assert int(features.mask[row].sum()) == len(states)
        torch.testing.assert_close(features.expression[row], states[0], atol=1e-5, rtol=1e-4)
        anti = hidden_states(text, "<no> " + expression)
        torch.testing.assert_close(features.anti_expression[row], anti[0], atol=1e-5, rtol=1e-4)


def test_mean_pooling_averages_the_tokens(tiny_text):
    text = ExpressionEncoder.build(
        str(tiny_text), frozen=False, max_tokens=8, pooling="mean"
    ).eval()
    with torch.no_grad():
        features = text.encode(["the red car", "a dog"])
    expected = hidden_states(text, "a dog").mean(0)
    torch.testing.assert_close(features.expression[1], expected, atol=1e-5, rtol=1e-4)


def test_both_expressions_are_truncated_after_the_same_word(text):
    long_expression = "one two three four five six seven eight nine"
    with pytest.warns(UserWarning, match="has 9 tokens; only the first 6 are used"):
        encoded = text.encode([long_expression])
    truncated = text.encode(["one two three four five six"])
    torch.testing.assert_close(encoded.expression, truncated.expression)
    torch.testing.assert_close(encoded.anti_expression, truncated.anti_expression)
    assert int(encoded.mask.sum()) == 8


def test_empty_expressions_and_too_small_limits_are_rejected(text, tiny_text):
    with pytest.raises(ValueError, match="no letter or digit"):
        text.encode([" . "])
    with pytest.raises(ValueError, match="MAX_TOKENS must be at least 3 .*is 2"):
        ExpressionEncoder.build(str(tiny_text), frozen=False, max_tokens=2)


def test_another_prefix_or_none(text, tiny_text):
    long_expression = "one two three four five six seven"
    encoders = [
        ExpressionEncoder.build(str(tiny_text), frozen=False, max_tokens=8, anti_prefix=prefix)
        for prefix in ("anything but", "")
    ]
    with torch.no_grad():
        with pytest.warns(UserWarning, match="only the first 6 are used"):
            expected = text.encode([long_expression]).expression
        for encoder, prefix in zip(encoders, ("anything but ", None)):
            with pytest.warns(UserWarning, match="only the first 6 are used"):
                features = encoder.eval().encode([long_expression])
            torch.testing.assert_close(features.expression, expected)
            if prefix is None:
                assert features.anti_expression is None
                continue
            anti = hidden_states(encoder, prefix + "one two three four five six")[0]
            torch.testing.assert_close(features.anti_expression[0], anti, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="ANTI_PREFIX is .*no token"):
        ExpressionEncoder.build(str(tiny_text), frozen=False, max_tokens=8, anti_prefix=" ")


@pytest.mark.parametrize("images", [1, 7])
def test_each_group_encodes_two_sequences(make_model, make_group, images):
    model, batch_sizes = make_model(), []
    model.text_encoder.model.register_forward_hook(
        lambda module, inputs, keywords, output: batch_sizes.append(len(output.last_hidden_state)),
        with_kwargs=True,
    )
    group = make_group(*[True] * images)
    model([group])
    assert sum(batch_sizes) == 2
    batch_sizes.clear()
    model.train()([group, group])
    assert sum(batch_sizes) == 2  # equal expressions of a batch are one
