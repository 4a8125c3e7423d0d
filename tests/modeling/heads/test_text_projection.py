"""The pooled text as query content."""

from __future__ import annotations

import torch

from hipie.modeling.heads.text_projection import TextResizer


def test_results_have_the_query_width_and_are_normed() -> None:
    content = TextResizer(7, 16)(torch.randn(2, 1, 7))
    assert content.shape == (2, 1, 16)
    torch.testing.assert_close(content.mean(-1), torch.zeros(2, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(content.std(-1, unbiased=False), torch.ones(2, 1))
