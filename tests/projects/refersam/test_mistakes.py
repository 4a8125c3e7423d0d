"""Ten things that a re-implementation of ReferSAM easily gets wrong."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from refersam.modeling.sam import VARIANTS


@pytest.fixture(scope="module")
def seen(model):
    """Everything that one forward pass computed."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 96, generator=generator)
    ids = torch.tensor([[101, 1996, 2450, 1999, 102], [101, 5210, 102, 0, 0]])
    mask = (ids > 0).long()
    with torch.no_grad():
        logits, _, found = model.mask_logits(images, ids, mask, returned="all")
    return {**found, "images": images, "ids": ids, "mask": mask, "final": logits}


def differs(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() > 1e-2 * other.abs().mean())


def test_1_the_adapter_is_not_vit_adapter(model, make_model):
    fresh = make_model(ruled=False)
    for interaction in fresh.interactor.interactions:
        names = {name.split(".")[0] for name, _ in interaction.injector.named_parameters()}
        assert names == {"norm", "attention", "gamma"}
        torch.testing.assert_close(interaction.injector.gamma.data, torch.full((192,), 1e-6))
        for pair in interaction.pairs:
            names = {name.split(".")[0] for name, _ in pair.extractor.named_parameters()}
            assert names == {"value_norm", "attention", "norm"}
    norms = [m for m in fresh.interactor.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 6 and all(norm.num_groups == 1 for norm in norms)
    assert not any("Batch" in type(module).__name__ for module in fresh.modules())


def test_2_levels_are_weighted_apart(model):
    """A level whose scores are all higher draws no more attention for that."""
    attention = copy.deepcopy(model.interactor.interactions[0].pairs[0].exchange.text_to_vision)
    query, key, value = torch.randn(1, 4, 32), torch.randn(1, 30, 192), torch.randn(1, 30, 192)
    with torch.no_grad():
        attention.level_weights.weight.zero_()
        attention.level_weights.bias.zero_()
        found = attention(query, key, value, [20, 8, 2])
        each = [
            _one_level(attention, query, k, v)
            for k, v in zip(key.split([20, 8, 2], 1), value.split([20, 8, 2], 1))
        ]
        wanted = attention.out_proj(sum(each) / 3)
        loud = key.clone()
        loud[:, :20] *= 3
        louder = attention(query, loud, value, [20, 8, 2])
        each[0] = _one_level(attention, query, loud[:, :20], value[:, :20])
        still = attention.out_proj(sum(each) / 3)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(louder, still, atol=1e-5, rtol=1e-5)


def _one_level(attention, query, key, value):
    q = attention._split_heads(attention.q_proj(query))
    k, v = (
        attention._split_heads(attention.k_proj(key)),
        attention._split_heads(attention.v_proj(value)),
    )
    return attention._merge_heads(
        torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v
    )


def test_3_vision_hears_the_new_words(model, seen):
    """The maps depend on what the words have just seen: cut that off, and they change."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.interactor.interactions[0].pairs[0].exchange.gamma_text.zero_()
        _, _, found = changed.mask_logits(
            seen["images"], seen["ids"], seen["mask"], returned=["block0_adapter", "extractor0"]
        )
    assert torch.equal(found["extractor0"], seen["extractor0"])
    assert differs(found["block0_adapter"], seen["block0_adapter"])


def test_4_padding_would_change_the_answer(model, seen):
    padded = F.pad(seen["images"], (0, 32))
    with torch.no_grad():
        found, _ = model.mask_logits(padded, seen["ids"], seen["mask"])
    assert differs(found[:, :, :96], seen["final"])


def test_5_maps_join_behind_the_neck_and_at_a_quarter(model, seen):
    with torch.no_grad():
        neck = model.image_encoder.neck(seen["block3_vit"].permute(0, 3, 1, 2))
        torch.testing.assert_close(seen["image_embedding"], neck + seen["c3"])
        raw = model.projections.fine_norm(model.projections.fine(seen["spm_c1"]))
        up = F.interpolate(seen["c2"], (16, 24), mode="bilinear", align_corners=False)
        torch.testing.assert_close(seen["mask_feature"], model.projections.out(raw + up))


def test_6_the_expression_is_its_projected_first_piece_detached(model, seen):
    words = seen["lang_proj"].clone().requires_grad_()
    mask = seen["mask"].bool()
    levels = [seen[name].flatten(2).transpose(1, 2) for name in ("c2", "c3", "c4")]
    from refersam.feature_capture import FeatureCapture
    from refersam.modeling.multi_scale_geometry import MultiScaleGeometry

    kept = FeatureCapture("all")
    summary = model.text_encoder.summary_index(mask)
    assert summary.tolist() == [0, 0]
    maps = MultiScaleGeometry.of_image(64, 96, torch.device("cpu"))
    dense, sparse = model.prompter(levels, maps, words, mask, summary, kept)
    torch.testing.assert_close(kept.features["prompt_block1"], seen["prompt_block1"])
    # With no way through the attention over words, no gradient is left for them.
    changed = copy.deepcopy(model.prompter)
    for block in changed.blocks:
        nn.init.zeros_(block.to_text.out_proj.weight)
    dense, sparse = changed(levels, maps, words, mask, summary, kept)
    (dense.square().sum() + sparse.square().sum()).backward()
    assert not words.grad.any()


def test_7_logits_go_in_and_corners_stay_corners(model, seen):
    with torch.no_grad():
        scaled = model.prompt_head.mask_scaling(seen["coarse_logits"])
        torch.testing.assert_close(seen["mask_prompt"], scaled)
        prompt = model.prompt_encoder.mask_downscaling(scaled)
        torch.testing.assert_close(seen["dense_prompt"], prompt)
    low, full = seen["low_res_logits"][:, 0], seen["final"]
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        torch.testing.assert_close(full[:, corner[0], corner[1]], low[:, corner[0], corner[1]])


def test_8_positions_are_not_in_the_values(model):
    """With equal values everywhere, what is read does not depend on positions; attention does."""
    exchange = model.interactor.interactions[1].pairs[0].exchange
    maps = torch.randn(1, 1, 192).expand(1, 30, 192)
    text, mask = torch.randn(1, 5, 32), torch.ones(1, 5, dtype=torch.bool)
    with torch.no_grad():
        words = [
            exchange(maps, positions, [20, 8, 2], text, mask)[1]
            for positions in (torch.zeros(1, 30, 192), torch.randn(1, 30, 192))
        ]
        other = torch.randn(1, 30, 192)
        moved = [
            exchange(other, positions, [20, 8, 2], text, mask)[1]
            for positions in (torch.zeros(1, 30, 192), torch.randn(1, 30, 192))
        ]
    torch.testing.assert_close(*words, atol=1e-5, rtol=1e-5)
    assert differs(*moved)


def test_9_everything_trains(make_model):
    assert all(p.requires_grad for p in make_model().parameters())


@pytest.mark.parametrize("name", list(VARIANTS))
def test_10_the_adapter_is_as_wide_as_the_encoder_and_the_prompter_never(name):
    from refersam.modeling.interactor import Interactor
    from refersam.modeling.prompter import NUM_HEADS, Projections

    variant = VARIANTS[name]
    with torch.device("meta"):
        interactor = Interactor(variant, 768)
        projections = Projections(variant.width, 768)
    exchange = interactor.interactions[3].pairs[2].exchange
    assert exchange.text_self.q_proj.weight.shape == (variant.width, 768)
    assert exchange.text_self.heads == variant.heads
    assert [len(one.pairs) for one in interactor.interactions] == [1, 1, 1, 3]
    assert projections.levels[0][0].weight.shape == (256, variant.width)
    assert NUM_HEADS == 8
