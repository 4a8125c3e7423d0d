"""The network without one of its ideas: what is gone is gone, and the rest still works."""

from __future__ import annotations

import pytest
import torch

ARMS = {
    "interactor": {"interactor": False},
    "dense prompt": {"dense_prompt": False},
    "context tokens": {"context_tokens": 0},
}


@pytest.mark.parametrize("arm", ARMS)
def test_it_trains_and_answers(make_model, item, arm):
    model = make_model(**ARMS[arm]).train()
    losses = model([item])
    assert len(losses) == 4 and all(torch.isfinite(one) for one in losses.values())
    sum(losses.values()).backward()
    assert model.image_encoder.blocks[0].attn.qkv.weight.grad.any()
    assert model.prompter.sparse.weight.grad.any()
    assert len(model.eval()([item])[0]["referring"]) == 3


def test_without_interactor_the_image_is_sams(make_model, scene):
    """Its embedding is SAM's own encoder's, plus the map at 1/16 that no word has touched."""
    images, ids, mask = scene
    model = make_model(interactor=False)
    square = images[:, :, :, :64].repeat(1, 1, 4, 4)  # SAM's own encoder takes one size only
    with torch.no_grad():
        _, _, found = model.mask_logits(square, ids, mask, returned=["c3", "image_embedding"])
        wanted = model.image_encoder(square) + found["c3"]
        _, _, other = model.mask_logits(square, ids.flip(0), mask.flip(0), returned=["c3"])
    torch.testing.assert_close(found["image_embedding"], wanted, atol=1e-3, rtol=1e-3)
    assert torch.equal(found["c3"], other["c3"])


def test_without_dense_prompt_the_coarse_mask_is_not_shown_to_sam(make_model, scene):
    model = make_model(dense_prompt=False)
    with torch.no_grad():
        logits, coarse = model.mask_logits(*scene)
        model.prompt_head.mask_embedding[2].bias.add_(1.0)
        again, moved = model.mask_logits(*scene)
    assert torch.equal(logits, again) and not torch.equal(coarse, moved)


def test_without_context_tokens_words_are_alone(make_model, scene):
    model = make_model(context_tokens=0)
    with torch.no_grad():
        _, _, found = model.mask_logits(*scene, returned="all")
    assert found["block3_context"].shape == (2, 0, 32)
    assert found["block3_lang"].shape == (2, 5, 32)
