"""Class logits from token logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hipie.modeling.postprocessing.token_to_class import (
    mask_stuff_classes,
    mask_thing_classes,
    pool_token_logits,
)

SPANS = ((1,), (3, 4), (6, 7, 8), (10,))
IS_THING = (True, False, True, False)
MASKING = {"None": lambda logits, _: logits, "FG": mask_stuff_classes, "BG": mask_thing_classes}


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("masked", ["None", "FG", "BG"])
def test_official_class_logits(official, pooling: str, masked: str) -> None:
    logits_of_classes = MASKING[masked](
        pool_token_logits(official["token_logits"], SPANS, pooling), IS_THING
    )
    assert torch.allclose(
        logits_of_classes, official[f"class_logits_{masked}_{pooling}"], atol=1e-5
    )


@given(
    st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=5), min_size=1, max_size=6),
    st.integers(0, 2**31),
)
def test_pooling_equals_a_loop(spans: list[list[int]], seed: int) -> None:
    logits = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(seed))
    mean, largest = pool_token_logits(logits, spans), pool_token_logits(logits, spans, "max")
    for k, span in enumerate(spans):
        own = logits[..., span].double()
        assert torch.allclose(mean[..., k].double(), own.mean(-1), atol=1e-6)
        assert torch.equal(largest[..., k].double(), own.amax(-1))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_permuted_classes_permute_columns(pooling: str) -> None:
    logits = torch.randn(7, 12)
    order = [2, 0, 3, 1]
    straight = pool_token_logits(logits, SPANS, pooling)
    permuted = pool_token_logits(logits, [SPANS[k] for k in order], pooling)
    assert torch.equal(permuted, straight[:, order])


def test_five_thousand_classes() -> None:
    logits = torch.randn(20, 15000)
    spans = [tuple(range(3 * k, 3 * k + 3)) for k in range(5000)]
    logits_of_classes = pool_token_logits(logits, spans)
    assert torch.allclose(logits_of_classes, logits.view(20, 5000, 3).mean(-1), atol=1e-6)


def test_one_class_no_queries_and_bfloat16() -> None:
    assert pool_token_logits(torch.randn(3, 1), ((0,),)).shape == (3, 1)
    assert pool_token_logits(torch.randn(0, 12), SPANS, "max").shape == (0, 4)
    assert pool_token_logits(torch.randn(3, 12).bfloat16(), SPANS).dtype == torch.float32


def test_gradients_reach_only_tokens_of_the_class() -> None:
    logits = torch.zeros(1, 12, requires_grad=True)
    pool_token_logits(logits, SPANS)[0, 2].backward()
    assert logits.grad[0].nonzero().flatten().tolist() == [6, 7, 8]


def test_vocabulary_without_things_is_not_masked_for_thing_queries() -> None:
    logits = torch.randn(2, 4)
    assert torch.equal(mask_stuff_classes(logits, [False] * 4), logits)
    assert mask_stuff_classes(logits, IS_THING)[:, 1].eq(-9999).all()
    assert mask_thing_classes(logits, [True] * 4).eq(-9999).all()


def test_invalid_arguments_are_rejected() -> None:
    logits = torch.randn(2, 4)
    with pytest.raises(ValueError, match='"median" is none of mean, max'):
        pool_token_logits(logits, SPANS, "median")
    with pytest.raises(ValueError, match="class 1 .* no token"):
        pool_token_logits(logits, ((0,), ()))
    with pytest.raises(ValueError, match="token 10, but there are logits for 4 tokens"):
        pool_token_logits(logits, SPANS)
