"""The whole network and the architecture around it."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from hipie.evaluation.metrics.expression_iou import predicted_mask


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    """Within 1e-4 of the mean size."""
    assert (one - other).abs().max() <= 1e-4 * other.abs().mean()


def test_shapes_and_names(model, scene):
    with torch.no_grad():
        logits, coarse, found = model.mask_logits(*scene, returned="all")
    assert logits.shape == (2, 64, 96) and coarse.shape == (2, 1, 16, 24)
    assert found["block3_vit"].shape == (2, 4, 6, 192)
    assert found["block3_adapter"].shape == (2, 96 + 24 + 6, 192)
    assert found["block3_lang"].shape == (2, 5, 32)
    assert found["block3_context"].shape == (2, 16, 32)
    assert found["sparse_prompt"].shape == (2, 4, 256)
    assert found["dense_prompt"].shape == (2, 256, 4, 6)
    assert found["iou"].shape == (2, 1)
    assert len(found) == 46


def test_what_is_returned_changes_nothing(model, scene):
    with torch.no_grad():
        plain = model.mask_logits(*scene)
        asked = model.mask_logits(*scene, returned=["c3", "iou"])
    assert torch.equal(plain[0], asked[0]) and torch.equal(plain[1], asked[1])
    assert set(asked[2]) == {"c3", "iou"}
    with pytest.raises(ValueError, match='no activation "c5".*c4'):
        model.mask_logits(*scene, returned=["c5"])


def test_a_batch_is_its_rows(model, scene):
    images, ids, mask = scene
    with torch.no_grad():
        together = model.mask_logits(images, ids, mask)
        for b in range(2):
            length = int(mask[b].sum())
            rows = slice(b, b + 1)
            alone = model.mask_logits(images[rows], ids[rows, :length], mask[rows, :length])
            close(alone[0], together[0][rows])
            close(alone[1], together[1][rows])


def test_threads_do_not_matter(model, scene):
    with torch.no_grad():
        one = model.mask_logits(*scene)[0]
        torch.set_num_threads(2)
        try:
            two = model.mask_logits(*scene)[0]
        finally:
            torch.set_num_threads(1)
    close(two, one)


def test_expressions_of_one_image_share_it(model, scene):
    images, ids, mask = scene
    with torch.no_grad():
        apart = model.mask_logits(images[[0, 0]], ids, mask)
        calls = []
        hook = model.interactor.spatial_prior.register_forward_hook(
            lambda _, inputs, __: calls.append(len(inputs[0]))
        )
        first = model.image_encoder.blocks[0].register_forward_hook(
            lambda _, inputs, __: calls.append(len(inputs[0]))
        )
        shared = model.mask_logits(images[:1], ids, mask, image_of=[0, 0])
        hook.remove()
        first.remove()
    close(shared[0], apart[0])
    close(shared[1], apart[1])
    assert calls == [1, 1]


def test_image_of_says_which_image(model, scene):
    images, ids, mask = scene
    with torch.no_grad():
        swapped = model.mask_logits(images, ids, mask, image_of=[1, 0])
        wanted = model.mask_logits(images[[1, 0]], ids, mask)
    close(swapped[0], wanted[0])


def test_bfloat16(model, scene):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits, coarse = model.mask_logits(*scene)
    assert logits.dtype == coarse.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_answers_are_detectron2s(model, item):
    assert META_ARCH_REGISTRY.get("ReferSAM") is type(model)
    (found,) = model([{k: v for k, v in item.items() if k != "instances"}])
    assert len(found["referring"]) == 3
    for one in found["referring"]:
        assert one.image_size == (48, 80)
        assert one.pred_masks.shape[1:] == (48, 80) and one.pred_masks.dtype == torch.bool
        assert predicted_mask(one, "page.png", 48, 80).shape == (48, 80)
        assert all(0.5 <= score <= 1 for score in one.scores)


def test_many_expressions_go_in_portions(model, item, monkeypatch):
    item["expressions"] = ["the red square", "a dog", "both", "the left one", "the sky"]
    whole = model([item])[0]["referring"]
    monkeypatch.setattr("refersam.meta_arch.EXPRESSIONS_PER_FORWARD", 2)
    parts = model([item])[0]["referring"]
    for one, other in zip(whole, parts):
        assert (one.pred_masks != other.pred_masks).float().mean() < 0.01


def test_losses_take_the_union_and_the_empty_mask(make_model, item):
    from refersam.meta_arch import target_masks

    masks = target_masks(item, torch.device("cpu"))
    assert masks.sum((1, 2)).tolist() == [256, 512, 0]
    losses = make_model().train()([item, item])
    assert set(losses) == {"loss_mask", "loss_dice", "loss_mask_aux", "loss_dice_aux"}
    assert all(torch.isfinite(term) for term in losses.values())


def test_parameters_without_gradient(make_model, item):
    """Exactly those that the fact sheet of the published network names."""
    model = make_model().train()
    sum(model([item]).values()).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    unused = ("point_embeddings.", "not_a_point_embed.", "no_mask_embed.")
    starts = (*(f"prompt_encoder.{one}" for one in unused), "mask_decoder.iou_prediction_head.")
    assert without == {name for name, _ in model.named_parameters() if name.startswith(starts)}
    zero = {n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()}
    assert zero == {
        name
        for name, _ in model.named_parameters()
        if name.startswith(tuple(f"mask_decoder.output_hypernetworks_mlps.{i}." for i in (1, 2, 3)))
    }


def test_recomputing_gives_the_same_gradients(make_model, item):
    found = []
    for recompute in (False, True):
        model = make_model(checkpoint_activations=recompute).train()
        torch.manual_seed(3)
        sum(model([item]).values()).backward()
        found.append(model.image_encoder.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(found[0], found[1])


def test_freezing_the_image_encoder(make_model):
    model = make_model(freeze_image_encoder=True)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"image_encoder.{name}" for name, _ in model.image_encoder.named_parameters()}
    assert all(p.requires_grad for p in make_model().parameters())


def test_what_is_not_decayed(model):
    still = model.parameters_without_weight_decay()
    assert (
        {
            "image_encoder.pos_embed",
            "image_encoder.blocks.3.attn.rel_pos_h",
            "image_encoder.neck.1.weight",
            "interactor.interactions.2.injector.gamma",
            "interactor.interactions.2.pairs.0.exchange.gamma_text",
            "interactor.context.weight",
            "prompter.level_embedding",
            "prompter.position.weight",
            "projections.fine_norm.bias",
            "text_encoder.model.embeddings.word_embeddings.weight",
            "text_encoder.model.encoder.layer.0.output.LayerNorm.weight",
        }
        <= still
        <= set(dict(model.named_parameters()))
    )
    assert (
        not {
            "image_encoder.blocks.3.attn.qkv.weight",
            "interactor.spatial_prior.stem.0.weight",
            "prompt_head.sparse_embedding.0.weight",
            "text_encoder.model.encoder.layer.0.output.dense.weight",
        }
        & still
    )


@pytest.mark.parametrize("size", [(60, 96), (64, 100), (0, 64)])
def test_sides_that_do_not_divide(model, scene, size):
    _, ids, mask = scene
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels.*divisible by 32"):
        model.mask_logits(torch.zeros(2, 3, *size), ids, mask)


def test_tokens_that_do_not_fit(model, scene):
    images, ids, mask = scene
    with pytest.raises(ValueError, match=r"\[2, 5\] and token_mask \[2, 4\].*\[2, T\]"):
        model.mask_logits(images, ids, mask[:, :4])
    with pytest.raises(ValueError, match=r"\[1, T\]"):
        model.mask_logits(images[:1], ids, mask)


def test_bad_dicts(make_model, item):
    model = make_model()
    with pytest.raises(ValueError, match="page.png.*expressions"):
        model([{**item, "expressions": []}])
    with pytest.raises(ValueError, match='expression " . " contains no letter or digit'):
        model([{**item, "expressions": [" . "]}])
    model.train()
    with pytest.raises(ValueError, match="page.png.*instances"):
        model([{k: v for k, v in item.items() if k != "instances"}])
    other = {**item, "image": torch.zeros(3, 96, 64)}
    with pytest.raises(ValueError, match="one size.*INPUT.SQUARE_SIZE"):
        model([item, other])


def test_unknown_type():
    from refersam.modeling.sam import sam_variant

    with pytest.raises(ValueError, match='"vit_g".*vit_b, vit_l, vit_h'):
        sam_variant("vit_g")
