"""Text features: pooling, selection and expansion."""

from __future__ import annotations

import pytest
import torch

from hipie.structures import TextFeatures


@pytest.fixture
def features() -> TextFeatures:
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return TextFeatures(
        hidden=torch.randn(2, 5, 4, generator=generator),
        mask=mask,
        input_ids=torch.arange(10).view(2, 5),
        token_spans=(((1,), (3,)), ((1,),)),
    )


def test_pooled_is_the_mean_of_real_tokens(features: TextFeatures) -> None:
    pooled = features.pooled()
    assert pooled.shape == (2, 1, 4)
    expected = features.hidden[1, :3].double().mean(0)
    assert torch.allclose(pooled[1, 0].double(), expected, atol=1e-6)
    noisy = features.with_hidden(features.hidden + ~features.mask[..., None] * 7.0)
    assert torch.equal(noisy.pooled(), pooled)


def test_select_repeats_captions(features: TextFeatures) -> None:
    chosen = features.select([1, 0, 1])
    assert len(chosen) == 3
    assert torch.equal(chosen.hidden[2], features.hidden[1])
    assert torch.equal(chosen.mask[0], features.mask[1])
    assert chosen.token_spans == (((1,),), ((1,), (3,)), ((1,),))
    assert len(features.select(torch.tensor([], dtype=torch.long))) == 0


def test_expand_shares_memory(features: TextFeatures) -> None:
    one = features.select([0])
    many = one.expand(3)
    assert many.hidden.data_ptr() == one.hidden.data_ptr()
    assert len(many.token_spans) == len(many) == 3
    with pytest.raises(ValueError, match="single caption"):
        features.expand(2)
