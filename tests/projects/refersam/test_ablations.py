"""Ablations of ReferSAM."""

from __future__ import annotations

import pytest
import torch

ABLATIONS = {
    "interactor": {"interactor": False},
    "dense prompt": {"dense_prompt": False},
    "context tokens": {"context_tokens": 0},
}


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_ablation_trains_and_predicts(make_model, item, ablation):
    model = make_model(**ABLATIONS[ablation]).train()
    losses = model([item])
    assert len(losses) == 4 and all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert model.image_encoder.blocks[0].attn.qkv.weight.grad.any()
    assert model.prompter.sparse.weight.grad.any()
    assert len(model.eval()([item])[0]["referring"]) == 3


def test_without_interactor_the_image_embedding_is_that_of_sam(make_model, scene):
    """The embedding is that of SAM's encoder plus the map at stride 16 without text."""
    images, ids, mask = scene
    model = make_model(interactor=False)
    square = images[:, :, :, :64].repeat(1, 1, 4, 4)  # SAM's own encoder has a fixed size
    with torch.no_grad():
        _, _, features = model.mask_logits(square, ids, mask, returned=["c3", "image_embedding"])
        expected = model.image_encoder(square) + features["c3"]
        _, _, shuffled = model.mask_logits(square, ids.flip(0), mask.flip(0), returned=["c3"])
    torch.testing.assert_close(features["image_embedding"], expected, atol=1e-3, rtol=1e-3)
    assert torch.equal(features["c3"], shuffled["c3"])


def test_without_dense_prompt_the_coarse_mask_has_no_effect_on_sam(make_model, scene):
    model = make_model(dense_prompt=False)
    with torch.no_grad():
        logits, coarse = model.mask_logits(*scene)
        model.prompt_head.mask_embedding[2].bias.add_(1.0)
        repeated, changed = model.mask_logits(*scene)
    assert torch.equal(logits, repeated) and not torch.equal(coarse, changed)


def test_without_context_tokens_there_is_only_text(make_model, scene):
    model = make_model(context_tokens=0)
    with torch.no_grad():
        _, _, features = model.mask_logits(*scene, returned="all")
    assert features["block3_context"].shape == (2, 0, 32)
    assert features["block3_lang"].shape == (2, 5, 32)
