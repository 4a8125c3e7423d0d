"""Formulas written out again in float64, loop by loop, and properties that they have to have."""

from __future__ import annotations

import math
from operator import mul

import numpy as np
import pytest
import torch

from hipie_training_free.clip_dinoiser import background_patches
from hipie_training_free.gem import self_self_attention
from hipie_training_free.maskclip import denoise_prompts, smooth_by_keys
from hipie_training_free.modeling.clip_blocks import last_blocks, queries_keys_values, tokens_before
from hipie_training_free.modeling.dino import last_block_features
from hipie_training_free.modeling.dino_class_attention import attention_masks
from hipie_training_free.modeling.found_background import head_weights
from hipie_training_free.modeling.global_local_clip import (
    expression_features,
    global_features,
    mask_features,
    target_phrase,
)
from hipie_training_free.modeling.pixel_refinement import refine_by_pixels
from hipie_training_free.modeling.tokencut import affinity, second_eigenvector
from hipie_training_free.postprocessing import min_max_normalize
from hipie_training_free.sclip import correlation
from hipie_training_free.sliding_window import sliding_window_inference, window_starts
from tests.projects.training_free.ruled import numbers


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(one - max(row)) for one in row]
    return [one / sum(powers) for one in powers]


def test_self_self_attention_by_loops():
    rows, values = numbers("rows", 5, 4), numbers("values", 5, 4)
    current = rows.double().tolist()
    for turn in range(3):
        units = [[x / math.hypot(*row) for x in row] for row in current]
        weights = [softmax([1.7 * sum(map(mul, a, b)) for b in units]) for a in units]
        source = values.double().tolist() if turn == 2 else units
        current = [
            [sum(w * source[j][c] for j, w in enumerate(weight)) for c in range(4)]
            for weight in weights
        ]
    found = self_self_attention(rows, values, torch.tensor(1.7), iterations=2)
    np.testing.assert_allclose(found.numpy(), np.array(current), atol=1e-5)


def test_correlation_by_loops():
    rows = numbers("rows", 6, 4)
    plain = rows.double().tolist()
    expected = [softmax([sum(map(mul, a, b)) / 2 for b in plain]) for a in plain]
    np.testing.assert_allclose(correlation(rows).numpy(), np.array(expected), atol=1e-6)


def test_blocks_taken_apart_and_put_together_are_the_tower(clip, pixels):
    with torch.no_grad():
        x = tokens_before(clip.visual, pixels, 2)
        for block in last_blocks(clip.visual, 2):
            q, k, v = queries_keys_values(block, x)
            found = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            x = x + block.attn.out_proj(found.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.ln_2(x))
        feature = clip.visual.ln_post(x[:, 0]) @ clip.visual.proj
        torch.testing.assert_close(feature, clip.model.encode_image(pixels), atol=1e-5, rtol=1e-5)


def test_dinos_last_block_is_timms(dino):
    pixels, kept = numbers("dino", 1, 3, 64, 96), {}
    attention = dino.network.blocks[-1].attn
    attention.fused_attn = False
    hook = attention.attn_drop.register_forward_hook(lambda *given: kept.update(map=given[2]))
    with torch.no_grad():
        tokens = dino.network.forward_features(pixels)
        hook.remove()
        found = last_block_features(dino.network, pixels)
        again = torch.einsum("hp,phd->hd", found.attention, found.values.unflatten(1, (4, -1)))
    assert found.grid == (8, 12) and found.keys.shape == (96, 48)
    torch.testing.assert_close(found.tokens, tokens[0, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.attention, kept["map"][0, :, 0, 1:], atol=1e-6, rtol=1e-5)
    assert torch.isfinite(again).all()


def test_only_absent_names_are_denoised():
    cosines = torch.tensor([[0.3, 0.2], [0.2, 0.3], [0.1, 0.1]])
    found = denoise_prompts(cosines, 0.5)
    assert torch.equal(found[:2], cosines[:2]) and (found[2] == -100).all()


def test_only_unsure_patches_are_smoothed():
    probabilities = torch.tensor([[0.9, 0.4, 0.6], [0.1, 0.6, 0.4]])
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = smooth_by_keys(probabilities, keys, 0.7, along_patches=False)
    torch.testing.assert_close(found[:, 0], probabilities[:, 0])
    torch.testing.assert_close(found[:, 1], torch.tensor([1.3, 0.7]))
    torch.testing.assert_close(found[:, 2], probabilities[:, 2])


def test_pamr_by_loops():
    """One step in float64, pixel by pixel; the border's pixels go on outside."""
    image, maps = numbers("colours", 3, 5, 6), numbers("maps", 2, 5, 6)
    plain, old, far = image.double().numpy(), maps.double().numpy(), (1, 2)
    expected = np.zeros_like(old)
    for y in range(5):
        for x in range(6):
            places = [
                (min(max(y + d * down, 0), 4), min(max(x + d * right, 0), 5), (down, right))
                for d in far
                for down in (-1, 0, 1)
                for right in (-1, 0, 1)
            ]
            spread = np.std([plain[:, v, u] for v, u, _ in places], axis=0, ddof=1)
            around = [(v, u) for v, u, way in places if way != (0, 0)]
            apart = [
                float((abs(plain[:, v, u] - plain[:, y, x]) / (0.1 * spread)).mean())
                for v, u in around
            ]
            weights = softmax([-one for one in apart])
            expected[:, y, x] = sum(w * old[:, v, u] for w, (v, u) in zip(weights, around))
    found = refine_by_pixels(maps, image, 1, far)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_pamr_asks_for_colours_and_not_for_their_units():
    image, maps = numbers("colours", 3, 9, 8), numbers("maps", 2, 9, 8)
    found = refine_by_pixels(maps, image, 3)
    scales = torch.tensor([0.2, 5.0, 1.0])[:, None, None]
    torch.testing.assert_close(refine_by_pixels(maps, image * scales + 3, 3), found)
    assert torch.equal(refine_by_pixels(maps, image, 0), maps)
    flat = torch.full((1, 9, 8), 0.7)
    torch.testing.assert_close(refine_by_pixels(flat, image, 5), flat)


def test_heads_that_look_at_little_count_more():
    attention = torch.full((2, 10), 0.01)
    attention[0, :2], attention[1, :5] = 0.2, 0.2
    weights = head_weights(attention)
    assert weights.tolist() == pytest.approx([math.log(0.7 / 0.2), math.log(0.7 / 0.5)], abs=1e-5)


def test_background_is_neither_salient_nor_sure():
    scores = torch.tensor([[0.999, 0.999, 0.5, 0.5]])
    salient = torch.tensor([True, False, True, False])
    assert background_patches(scores, salient, 0.99).tolist() == [False, False, False, True]


def test_masks_are_the_smallest_that_hold_the_mass():
    attention = numbers("looks", 3, 40).abs()
    for mass in (0.1, 0.6, 0.95):
        masks = attention_masks(attention, mass)
        for row, mask in zip(attention, masks):
            share = row / row.sum()
            assert float(share[mask].sum()) >= mass - 1e-6
            assert float(share[mask].sum() - share[mask].min()) < mass
            assert share[mask].min() >= share[~mask].max()


def test_lanczos_and_the_dense_decomposition_agree():
    graph = affinity(numbers("graph", 90, 5))
    dense, sparse = second_eigenvector(graph, True), second_eigenvector(graph, False)
    np.testing.assert_allclose(sparse * np.sign(sparse @ dense), dense, atol=1e-6)
    degrees = graph.sum(1)
    value = dense @ (np.diag(degrees) - graph) @ dense
    residual = (np.diag(degrees) - graph) @ dense - value * degrees * dense
    assert np.abs(residual).max() < 1e-8 and abs(dense @ (degrees * dense) - 1) < 1e-9


def test_maps_are_stretched():
    maps = torch.stack([numbers("map", 4, 5), torch.full((4, 5), 3.0)])
    found = min_max_normalize(maps)
    assert float(found[0].min()) == 0 and float(found[0].max()) == 1
    assert not found[1].any()


@pytest.mark.parametrize(("length", "window", "stride"), [(64, 64, 32), (40, 64, 32), (97, 32, 20)])
def test_windows_cover_every_pixel(length, window, stride):
    starts = window_starts(length, window, stride)
    covered = {x for start in starts for x in range(start, min(start + window, length))}
    assert covered == set(range(length)) and len(set(starts)) == len(starts)
    pixels = numbers("wide", 1, 3, length, 50)
    seen = sliding_window_inference(pixels, window, stride, lambda crop: crop[0])
    torch.testing.assert_close(seen, pixels[0], atol=1e-6, rtol=1e-6)


def test_a_mask_of_everything_is_the_image(clip, pixels):
    with torch.no_grad():
        found = global_features(clip.visual, pixels, torch.ones(2, 8, 8), 3)
        plain = clip.model.encode_image(pixels)
    torch.testing.assert_close(found, plain.expand(2, -1), atol=1e-5, rtol=1e-5)


def test_a_masks_feature_does_not_depend_on_the_others(clip):
    image, masks = numbers("photo", 3, 50, 70).sigmoid(), torch.zeros(3, 50, 70, dtype=torch.bool)
    masks[0, :20], masks[1, 10:40, 30:60], masks[2, 44, 3] = True, True, True
    together = mask_features(clip, image, masks, blocks=2)
    for row, mask in zip(together, masks):
        alone = mask_features(clip, image, mask[None], blocks=2)[0]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)
    outside = image.clone()
    outside[:, 40:] = 0.1
    changed = mask_features(clip, outside, masks[:1], weight=0.0, blocks=2)
    torch.testing.assert_close(changed, mask_features(clip, image, masks[:1], 0.0, 2))


@pytest.mark.parametrize(
    ("expression", "phrase"),
    [
        ("the red car on the left", "the red car"),
        ("a glass of water", "a glass"),
        ("man wearing a hat", "man"),
        ("left dog", "left dog"),
        ("in front of the house", "in front of the house"),
        ("the one that is blue", "the one"),
        ("the next to the tree", "the next to the tree"),
        ("zebra, closest to us", "zebra"),
    ],
)
def test_the_phrase_of_the_target(expression, phrase):
    assert target_phrase(expression) == phrase


def test_expressions_and_targets_are_mixed(clip):
    whole = clip.text_features(["the dog on the bed"], "none")
    target = clip.text_features(["the dog"], "none")
    for weight in (0.0, 0.3, 1.0):
        expected = torch.nn.functional.normalize(weight * whole + (1 - weight) * target, dim=1)
        found = expression_features(clip, ["the dog on the bed"], weight)
        torch.testing.assert_close(found, expected)
