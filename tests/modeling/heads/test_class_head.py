"""Text class head against the formula in float64."""

from __future__ import annotations

import math

import torch

from hipie.modeling.heads.class_head import TextClassHead


def random_head(width: int = 6, text_width: int = 5) -> TextClassHead:
    """Head with random parameters."""
    head = TextClassHead(width, text_width)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return head


def test_logits_follow_the_formula() -> None:
    head = random_head()
    queries, text = torch.randn(2, 3, 6), torch.randn(2, 4, 5)
    logits = head(queries, text)
    weight = head.dot_product_projection_text.weight.double()
    bias = head.dot_product_projection_text.bias.double()
    for b in range(2):
        for q in range(3):
            for t in range(4):
                e = text[b, t].double() / text[b, t].double().norm()
                score = queries[b, q].double() @ (weight @ (e / 2) + bias)
                expected = (
                    score / head.log_scale.double().exp()
                    + e @ head.bias_lang.double()
                    + head.bias0.double()
                )
                torch.testing.assert_close(logits[b, q, t].double(), expected[0], atol=1e-5, rtol=0)


def test_a_new_head_predicts_the_prior_probability() -> None:
    head = TextClassHead(4, 4)
    logits = head(torch.zeros(1, 2, 4), torch.randn(1, 3, 4))
    torch.testing.assert_close(logits.sigmoid(), torch.full((1, 2, 3), 0.01))


def test_logits_are_bounded_and_independent_of_the_norm_of_text() -> None:
    head = random_head()
    queries, text = torch.randn(1, 3, 6), torch.randn(1, 4, 5)
    torch.testing.assert_close(head(queries, text), head(queries, 9 * text))
    assert head(queries * 1e9, text).abs().max() == 50000


def test_permuted_tokens_permute_logits() -> None:
    head = random_head()
    queries, text = torch.randn(1, 3, 6), torch.randn(1, 4, 5)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(head(queries, text[:, order]), head(queries, text)[:, :, order])


def test_logits_are_float32_under_autocast() -> None:
    head = random_head(64, 32)
    queries, text = torch.randn(1, 9, 64), torch.randn(1, 4, 32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head(queries, text)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, head(queries, text))
    assert math.isfinite(mixed.sum().item())
