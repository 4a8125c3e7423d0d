"""Details of the network that a re-implementation can miss."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from refersam.modeling.sam import VARIANTS


@pytest.fixture(scope="module")
def features(model):
    """All features of one forward pass, with its inputs and logits."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 96, generator=generator)
    ids = torch.tensor([[101, 1996, 2450, 1999, 102], [101, 5210, 102, 0, 0]])
    mask = (ids > 0).long()
    with torch.no_grad():
        logits, _, outputs = model.mask_logits(images, ids, mask, returned="all")
    return {**outputs, "images": images, "ids": ids, "mask": mask, "final": logits}


def differs(actual: torch.Tensor, reference: torch.Tensor) -> bool:
    return bool((actual - reference).abs().max() > 1e-2 * reference.abs().mean())


def test_modules_differ_from_vit_adapter(model, make_model):
    initial_model = make_model(generated_weights=False)
    for interaction in initial_model.interactor.interactions:
        names = {name.split(".")[0] for name, _ in interaction.injector.named_parameters()}
        assert names == {"norm", "attention", "gamma"}
        torch.testing.assert_close(interaction.injector.gamma.data, torch.full((192,), 1e-6))
        for pair in interaction.pairs:
            names = {name.split(".")[0] for name, _ in pair.extractor.named_parameters()}
            assert names == {"value_norm", "attention", "norm"}
    norms = [m for m in initial_model.interactor.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 6 and all(norm.num_groups == 1 for norm in norms)
    assert not any("Batch" in type(module).__name__ for module in initial_model.modules())


def test_levels_have_separate_softmax(model):
    """A level with higher scores does not have a larger weight."""
    attention = copy.deepcopy(model.interactor.interactions[0].pairs[0].exchange.text_to_vision)
    query, key, value = torch.randn(1, 4, 32), torch.randn(1, 30, 192), torch.randn(1, 30, 192)
    with torch.no_grad():
        attention.level_weights.weight.zero_()
        attention.level_weights.bias.zero_()
        outputs = attention(query, key, value, [20, 8, 2])
        by_level = [
            _attend_to_level(attention, query, k, v)
            for k, v in zip(key.split([20, 8, 2], 1), value.split([20, 8, 2], 1))
        ]
        expected = attention.out_proj(sum(by_level) / 3)
        scaled = key.clone()
        scaled[:, :20] *= 3
        scaled_output = attention(query, scaled, value, [20, 8, 2])
        by_level[0] = _attend_to_level(attention, query, scaled[:, :20], value[:, :20])
        expected_scaled = attention.out_proj(sum(by_level) / 3)
    torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scaled_output, expected_scaled, atol=1e-5, rtol=1e-5)


def _attend_to_level(attention, query, key, value):
    q = attention._split_heads(attention.q_proj(query))
    k, v = (
        attention._split_heads(attention.k_proj(key)),
        attention._split_heads(attention.v_proj(value)),
    )
    return attention._merge_heads(
        torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v
    )


def test_maps_attend_to_updated_text(model, features):
    """Without the text's attention to the maps, the updated maps differ."""
    modified = copy.deepcopy(model)
    with torch.no_grad():
        modified.interactor.interactions[0].pairs[0].exchange.gamma_text.zero_()
        _, _, outputs = modified.mask_logits(
            features["images"],
            features["ids"],
            features["mask"],
            returned=["block0_adapter", "extractor0"],
        )
    assert torch.equal(outputs["extractor0"], features["extractor0"])
    assert differs(outputs["block0_adapter"], features["block0_adapter"])


def test_padding_changes_the_result(model, features):
    padded = F.pad(features["images"], (0, 32))
    with torch.no_grad():
        outputs, _ = model.mask_logits(padded, features["ids"], features["mask"])
    assert differs(outputs[:, :, :96], features["final"])


def test_maps_are_added_after_the_neck_and_at_stride_4(model, features):
    with torch.no_grad():
        neck = model.image_encoder.neck(features["block3_vit"].permute(0, 3, 1, 2))
        torch.testing.assert_close(features["image_embedding"], neck + features["c3"])
        raw = model.projections.fine_norm(model.projections.fine(features["spm_c1"]))
        up = F.interpolate(features["c2"], (16, 24), mode="bilinear", align_corners=False)
        torch.testing.assert_close(features["mask_feature"], model.projections.out(raw + up))


def test_dense_token_is_the_detached_first_token(model, features):
    text = features["lang_proj"].clone().requires_grad_()
    mask = features["mask"].bool()
    levels = [features[name].flatten(2).transpose(1, 2) for name in ("c2", "c3", "c4")]
    from refersam.feature_capture import FeatureCapture
    from refersam.modeling.multi_scale_geometry import MultiScaleGeometry

    capture = FeatureCapture("all")
    summary = model.text_encoder.summary_index(mask)
    assert summary.tolist() == [0, 0]
    maps = MultiScaleGeometry.of_image(64, 96, torch.device("cpu"))
    dense, sparse = model.prompter(levels, maps, text, mask, summary, capture)
    torch.testing.assert_close(capture.features["prompt_block1"], features["prompt_block1"])
    # Without the attention over text, the text has no gradient.
    modified = copy.deepcopy(model.prompter)
    for block in modified.blocks:
        nn.init.zeros_(block.to_text.out_proj.weight)
    dense, sparse = modified(levels, maps, text, mask, summary, capture)
    (dense.square().sum() + sparse.square().sum()).backward()
    assert not text.grad.any()


def test_mask_prompt_is_logits_and_upsampling_aligns_corners(model, features):
    with torch.no_grad():
        scaled = model.prompt_head.mask_scaling(features["coarse_logits"])
        torch.testing.assert_close(features["mask_prompt"], scaled)
        prompt = model.prompt_encoder.mask_downscaling(scaled)
        torch.testing.assert_close(features["dense_prompt"], prompt)
    low, full = features["low_res_logits"][:, 0], features["final"]
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(full[:, corner[0], corner[1]], low[:, corner[0], corner[1]])


def test_positions_are_not_added_to_values(model):
    """With equal values everywhere the result does not depend on positions."""
    exchange = model.interactor.interactions[1].pairs[0].exchange
    maps = torch.randn(1, 1, 192).expand(1, 30, 192)
    text, mask = torch.randn(1, 5, 32), torch.ones(1, 5, dtype=torch.bool)
    with torch.no_grad():
        outputs_of_equal_values = [
            exchange(maps, positions, [20, 8, 2], text, mask)[1]
            for positions in (torch.zeros(1, 30, 192), torch.randn(1, 30, 192))
        ]
        random_maps = torch.randn(1, 30, 192)
        outputs_by_positions = [
            exchange(random_maps, positions, [20, 8, 2], text, mask)[1]
            for positions in (torch.zeros(1, 30, 192), torch.randn(1, 30, 192))
        ]
    torch.testing.assert_close(*outputs_of_equal_values, atol=1e-5, rtol=1e-5)
    assert differs(*outputs_by_positions)


def test_all_parameters_are_trained(make_model):
    assert all(p.requires_grad for p in make_model().parameters())


@pytest.mark.parametrize("name", list(VARIANTS))
def test_interactor_has_the_width_of_the_encoder_and_prompter_256(name):
    from refersam.modeling.interactor import Interactor
    from refersam.modeling.prompter import NUM_HEADS, Projections

    variant = VARIANTS[name]
    with torch.device("meta"):
        interactor = Interactor(variant, 768)
        projections = Projections(variant.width, 768)
    exchange = interactor.interactions[3].pairs[2].exchange
    assert exchange.text_self.q_proj.weight.shape == (variant.width, 768)
    assert exchange.text_self.heads == variant.heads
    assert [len(actual.pairs) for actual in interactor.interactions] == [1, 1, 1, 3]
    assert projections.levels[0][0].weight.shape == (256, variant.width)
    assert NUM_HEADS == 8
