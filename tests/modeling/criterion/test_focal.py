"""Focal loss and its cost against the formula in double precision."""

from __future__ import annotations

import torch

from hipie.modeling.criterion.focal import focal, focal_class_cost, token_focal


def by_formula(logits, targets):
    p = logits.double().sigmoid()
    t = targets.double()
    yes = 0.25 * (1 - p) ** 2 * -torch.log(p)
    no = 0.75 * p**2 * -torch.log1p(-p)
    return t * yes + (1 - t) * no


def test_values_follow_the_formula():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4, 50, generator=generator)
    targets = torch.rand(4, 50, generator=generator)
    hard = (targets > 0.5).float()
    torch.testing.assert_close(
        focal(logits, hard).double(), by_formula(logits, hard), atol=1e-6, rtol=1e-5
    )


def test_only_real_word_pieces_are_summed():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 5, generator=generator)
    positive = torch.rand(2, 3, 5, generator=generator) > 0.7
    text_mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    logits[1, :, 3:] = torch.nan
    whole = by_formula(logits[0], positive[0]).sum()
    part = by_formula(logits[1, :, :3], positive[1, :, :3]).sum()
    found = token_focal(logits, positive, text_mask)
    torch.testing.assert_close(found.double(), whole + part, atol=1e-5, rtol=1e-5)


def test_gradients_push_words_towards_their_objects():
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    token_focal(logits, torch.tensor([[[True, False]]]), None).backward()
    assert logits.grad[0, 0, 0] < 0 < logits.grad[0, 0, 1]


def test_the_cost_is_the_mean_over_an_objects_word_pieces():
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    cost = focal_class_cost(logits, torch.tensor([[True, False, True]]))
    yes = by_formula(logits, torch.ones(1, 3))
    no = by_formula(logits, torch.zeros(1, 3))
    wanted = (yes - no)[0, [0, 2]].mean()
    torch.testing.assert_close(cost[0, 0].double(), wanted, atol=1e-6, rtol=1e-6)


def test_bfloat16_logits_are_counted_in_single_precision():
    logits = torch.randn(3, 4).bfloat16()
    assert focal(logits, torch.zeros(3, 4)).dtype == torch.float32
