"""ReferSAM: tensors, input dicts, gradients and errors."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from hipie.evaluation.metrics.expression_iou import predicted_mask


def assert_close(actual: torch.Tensor, reference: torch.Tensor) -> None:
    """Assert equality within 1e-4 of the mean magnitude."""
    assert (actual - reference).abs().max() <= 1e-4 * reference.abs().mean()


def test_shapes_and_names_of_features(model, scene):
    with torch.no_grad():
        logits, coarse, outputs = model.mask_logits(*scene, returned="all")
    assert logits.shape == (2, 64, 96) and coarse.shape == (2, 1, 16, 24)
    assert outputs["block3_vit"].shape == (2, 4, 6, 192)
    assert outputs["block3_adapter"].shape == (2, 96 + 24 + 6, 192)
    assert outputs["block3_lang"].shape == (2, 5, 32)
    assert outputs["block3_context"].shape == (2, 16, 32)
    assert outputs["sparse_prompt"].shape == (2, 4, 256)
    assert outputs["dense_prompt"].shape == (2, 256, 4, 6)
    assert outputs["iou"].shape == (2, 1)
    assert len(outputs) == 46


def test_returned_features_do_not_change_results(model, scene):
    with torch.no_grad():
        plain = model.mask_logits(*scene)
        with_features = model.mask_logits(*scene, returned=["c3", "iou"])
    assert torch.equal(plain[0], with_features[0]) and torch.equal(plain[1], with_features[1])
    assert set(with_features[2]) == {"c3", "iou"}
    with pytest.raises(ValueError, match='no feature "c5".*c4'):
        model.mask_logits(*scene, returned=["c5"])


def test_batched_equals_single_inputs(model, scene):
    images, ids, mask = scene
    with torch.no_grad():
        batched = model.mask_logits(images, ids, mask)
        for b in range(2):
            length = int(mask[b].sum())
            rows = slice(b, b + 1)
            single = model.mask_logits(images[rows], ids[rows, :length], mask[rows, :length])
            assert_close(single[0], batched[0][rows])
            assert_close(single[1], batched[1][rows])


def test_results_do_not_depend_on_threads(model, scene):
    with torch.no_grad():
        actual = model.mask_logits(*scene)[0]
        torch.set_num_threads(2)
        try:
            two_threads = model.mask_logits(*scene)[0]
        finally:
            torch.set_num_threads(1)
    assert_close(two_threads, actual)


def test_expressions_of_an_image_share_its_encoding(model, scene):
    images, ids, mask = scene
    with torch.no_grad():
        separate = model.mask_logits(images[[0, 0]], ids, mask)
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
    assert_close(shared[0], separate[0])
    assert_close(shared[1], separate[1])
    assert calls == [1, 1]


def test_image_of_selects_the_image(model, scene):
    images, ids, mask = scene
    with torch.no_grad():
        swapped = model.mask_logits(images, ids, mask, image_of=[1, 0])
        expected = model.mask_logits(images[[1, 0]], ids, mask)
    assert_close(swapped[0], expected[0])


def test_bfloat16_autocast(model, scene):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits, coarse = model.mask_logits(*scene)
    assert logits.dtype == coarse.dtype == torch.float32
    assert torch.isfinite(logits).all()


def test_outputs_are_instances(model, item):
    assert META_ARCH_REGISTRY.get("ReferSAM") is type(model)
    (outputs,) = model([{k: v for k, v in item.items() if k != "instances"}])
    assert len(outputs["referring"]) == 3
    for actual in outputs["referring"]:
        assert actual.image_size == (48, 80)
        assert actual.pred_masks.shape[1:] == (48, 80) and actual.pred_masks.dtype == torch.bool
        assert predicted_mask(actual, "image.png", 48, 80).shape == (48, 80)
        assert all(0.5 <= score <= 1 for score in actual.scores)


def test_many_expressions_are_processed_in_chunks(model, item, monkeypatch):
    item["expressions"] = ["the red square", "a dog", "both", "the left one", "the sky"]
    full = model([item])[0]["referring"]
    monkeypatch.setattr("refersam.meta_arch.EXPRESSIONS_PER_FORWARD", 2)
    chunked = model([item])[0]["referring"]
    for actual, reference in zip(full, chunked):
        assert (actual.pred_masks != reference.pred_masks).float().mean() < 0.01


def test_targets_are_unions_and_empty_masks(make_model, item):
    from refersam.meta_arch import target_masks

    masks = target_masks(item, torch.device("cpu"))
    assert masks.sum((1, 2)).tolist() == [256, 512, 0]
    losses = make_model().train()([item, item])
    assert set(losses) == {"loss_mask", "loss_dice", "loss_mask_aux", "loss_dice_aux"}
    assert all(torch.isfinite(term) for term in losses.values())


def test_parameters_without_gradient(make_model, item):
    """These are the unused parameters of the published network."""
    model = make_model().train()
    sum(model([item]).values()).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    unused = ("point_embeddings.", "not_a_point_embed.", "no_mask_embed.")
    prefixes = (
        *(f"prompt_encoder.{actual}" for actual in unused),
        "mask_decoder.iou_prediction_head.",
    )
    assert without == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}
    zero = {n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()}
    assert zero == {
        name
        for name, _ in model.named_parameters()
        if name.startswith(tuple(f"mask_decoder.output_hypernetworks_mlps.{i}." for i in (1, 2, 3)))
    }


def test_activation_checkpointing_keeps_gradients(make_model, item):
    gradients = []
    for parts in ((), ("backbone", "fusion")):
        model = make_model(checkpointed_parts=parts).train()
        torch.manual_seed(3)
        sum(model([item]).values()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
    layers = [layer for group in model.layer_groups().values() for layer in group]
    assert len(layers) == 12 + 6
    assert all("forward" in vars(layer) for layer in layers)


def test_frozen_image_encoder(make_model):
    model = make_model(freeze_image_encoder=True)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"image_encoder.{name}" for name, _ in model.image_encoder.named_parameters()}
    assert all(p.requires_grad for p in make_model().parameters())


def test_parameters_without_weight_decay(model):
    names = model.parameters_without_weight_decay()
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
        <= names
        <= set(dict(model.named_parameters()))
    )
    assert (
        not {
            "image_encoder.blocks.3.attn.qkv.weight",
            "interactor.spatial_prior.stem.0.weight",
            "prompt_head.sparse_embedding.0.weight",
            "text_encoder.model.encoder.layer.0.output.dense.weight",
        }
        & names
    )


@pytest.mark.parametrize("size", [(60, 96), (64, 100), (0, 64)])
def test_invalid_image_sizes_raise_an_error(model, scene, size):
    _, ids, mask = scene
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels.*divisible by 32"):
        model.mask_logits(torch.zeros(2, 3, *size), ids, mask)


def test_mismatched_tokens_raise_an_error(model, scene):
    images, ids, mask = scene
    with pytest.raises(ValueError, match=r"\[2, 5\] and token_mask \[2, 4\].*\[2, T\]"):
        model.mask_logits(images, ids, mask[:, :4])
    with pytest.raises(ValueError, match=r"\[1, T\]"):
        model.mask_logits(images[:1], ids, mask)


def test_invalid_inputs_raise_an_error(make_model, item):
    model = make_model()
    with pytest.raises(ValueError, match="image.png.*expressions"):
        model([{**item, "expressions": []}])
    with pytest.raises(ValueError, match='expression " . " contains no letter or digit'):
        model([{**item, "expressions": [" . "]}])
    model.train()
    with pytest.raises(ValueError, match="image.png.*instances"):
        model([{k: v for k, v in item.items() if k != "instances"}])
    reference = {**item, "image": torch.zeros(3, 96, 64)}
    with pytest.raises(ValueError, match="one size.*INPUT.SQUARE_SIZE"):
        model([item, reference])


def test_unknown_sam_type_raises_an_error():
    from refersam.modeling.sam import sam_variant

    with pytest.raises(ValueError, match='"vit_g".*vit_b, vit_l, vit_h'):
        sam_variant("vit_g")
