"""Functions against loops in float64, and properties of their formulas."""

from __future__ import annotations

import math
from operator import mul

import numpy as np
import pytest
import torch

from hipie.modeling.open_vocabulary.clip_blocks import (
    last_blocks,
    queries_keys_values,
    tokens_before,
)
from hipie.modeling.open_vocabulary.sliding_window import sliding_window_inference, window_starts
from hipie.modeling.postprocessing.class_maps import min_max_normalize
from hipie.refinement.pamr import refine_by_pixels
from hipie_training_free.clip_dinoiser import background_patches
from hipie_training_free.gem import self_self_attention
from hipie_training_free.maskclip import denoise_prompts, smooth_by_keys
from hipie_training_free.modeling.dino import last_block_features
from hipie_training_free.modeling.dino_class_attention import attention_masks
from hipie_training_free.modeling.found_background import head_weights
from hipie_training_free.modeling.global_local_clip import (
    expression_features,
    global_features,
    mask_features,
    target_phrase,
)
from hipie_training_free.modeling.tokencut import affinity, second_eigenvector
from hipie_training_free.sclip import correlation
from tests.projects.training_free.ruled import normal_tensor


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [value / sum(powers) for value in powers]


def test_self_self_attention_equals_loops():
    rows, values = normal_tensor("rows", 5, 4), normal_tensor("values", 5, 4)
    current = rows.double().tolist()
    for iteration in range(3):
        units = [[x / math.hypot(*row) for x in row] for row in current]
        weights = [softmax([1.7 * sum(map(mul, a, b)) for b in units]) for a in units]
        source = values.double().tolist() if iteration == 2 else units
        current = [
            [sum(w * source[j][c] for j, w in enumerate(weight)) for c in range(4)]
            for weight in weights
        ]
    output = self_self_attention(rows, values, torch.tensor(1.7), iterations=2)
    np.testing.assert_allclose(output.numpy(), np.array(current), atol=1e-5)


def test_correlation_equals_loops():
    rows = normal_tensor("rows", 6, 4)
    image64 = rows.double().tolist()
    expected = [softmax([sum(map(mul, a, b)) / 2 for b in image64]) for a in image64]
    np.testing.assert_allclose(correlation(rows).numpy(), np.array(expected), atol=1e-6)


def test_block_components_equal_the_image_tower(clip, pixels):
    with torch.no_grad():
        x = tokens_before(clip.visual, pixels, 2)
        for block in last_blocks(clip.visual, 2):
            q, k, v = queries_keys_values(block, x)
            output = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            x = x + block.attn.out_proj(output.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.ln_2(x))
        feature = clip.visual.ln_post(x[:, 0]) @ clip.visual.proj
        torch.testing.assert_close(feature, clip.model.encode_image(pixels), atol=1e-5, rtol=1e-5)


def test_features_of_the_last_block_equal_timm(dino):
    pixels, captured = normal_tensor("dino", 1, 3, 64, 96), {}
    attention = dino.network.blocks[-1].attn
    attention.fused_attn = False
    hook = attention.attn_drop.register_forward_hook(
        lambda *arguments: captured.update(map=arguments[2])
    )
    with torch.no_grad():
        tokens = dino.network.forward_features(pixels)
        hook.remove()
        output = last_block_features(dino.network, pixels)
        weighted = torch.einsum("hp,phd->hd", output.attention, output.values.unflatten(1, (4, -1)))
    assert output.grid == (8, 12) and output.keys.shape == (96, 48)
    torch.testing.assert_close(output.tokens, tokens[0, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.attention, captured["map"][0, :, 0, 1:], atol=1e-6, rtol=1e-5)
    assert torch.isfinite(weighted).all()


def test_prompt_denoising_removes_absent_names():
    cosines = torch.tensor([[0.3, 0.2], [0.2, 0.3], [0.1, 0.1]])
    output = denoise_prompts(cosines, 0.5)
    assert torch.equal(output[:2], cosines[:2]) and (output[2] == -100).all()


def test_key_smoothing_changes_uncertain_patches():
    probabilities = torch.tensor([[0.9, 0.4, 0.6], [0.1, 0.6, 0.4]])
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    output = smooth_by_keys(probabilities, keys, 0.7, along_patches=False)
    torch.testing.assert_close(output[:, 0], probabilities[:, 0])
    torch.testing.assert_close(output[:, 1], torch.tensor([1.3, 0.7]))
    torch.testing.assert_close(output[:, 2], probabilities[:, 2])


def test_pamr_equals_loops():
    """Compute one step in float64 pixel by pixel, with replicated borders."""
    image, maps = normal_tensor("colours", 3, 5, 6), normal_tensor("maps", 2, 5, 6)
    image64, maps64, dilations = image.double().numpy(), maps.double().numpy(), (1, 2)
    expected = np.zeros_like(maps64)
    for y in range(5):
        for x in range(6):
            neighbours = [
                (min(max(y + d * down, 0), 4), min(max(x + d * right, 0), 5), (down, right))
                for d in dilations
                for down in (-1, 0, 1)
                for right in (-1, 0, 1)
            ]
            deviation = np.std([image64[:, v, u] for v, u, _ in neighbours], axis=0, ddof=1)
            around = [(v, u) for v, u, offset in neighbours if offset != (0, 0)]
            distances = [
                float((abs(image64[:, v, u] - image64[:, y, x]) / (0.1 * deviation)).mean())
                for v, u in around
            ]
            weights = softmax([-value for value in distances])
            expected[:, y, x] = sum(w * maps64[:, v, u] for w, (v, u) in zip(weights, around))
    output = refine_by_pixels(maps, image, 1, dilations)
    np.testing.assert_allclose(output.numpy(), expected, atol=1e-5)


def test_pamr_is_invariant_to_the_scale_of_colours():
    image, maps = normal_tensor("colours", 3, 9, 8), normal_tensor("maps", 2, 9, 8)
    output = refine_by_pixels(maps, image, 3)
    scales = torch.tensor([0.2, 5.0, 1.0])[:, None, None]
    torch.testing.assert_close(refine_by_pixels(maps, image * scales + 3, 3), output)
    assert torch.equal(refine_by_pixels(maps, image, 0), maps)
    flat = torch.full((1, 9, 8), 0.7)
    torch.testing.assert_close(refine_by_pixels(flat, image, 5), flat)


def test_heads_with_focused_attention_have_larger_weights():
    attention = torch.full((2, 10), 0.01)
    attention[0, :2], attention[1, :5] = 0.2, 0.2
    weights = head_weights(attention)
    assert weights.tolist() == pytest.approx([math.log(0.7 / 0.2), math.log(0.7 / 0.5)], abs=1e-5)


def test_background_patches_are_not_salient_and_uncertain():
    scores = torch.tensor([[0.999, 0.999, 0.5, 0.5]])
    salient = torch.tensor([True, False, True, False])
    assert background_patches(scores, salient, 0.99).tolist() == [False, False, False, True]


def test_attention_masks_are_minimal():
    attention = normal_tensor("looks", 3, 40).abs()
    for mass in (0.1, 0.6, 0.95):
        masks = attention_masks(attention, mass)
        for row, mask in zip(attention, masks):
            share = row / row.sum()
            assert float(share[mask].sum()) >= mass - 1e-6
            assert float(share[mask].sum() - share[mask].min()) < mass
            assert share[mask].min() >= share[~mask].max()


def test_lanczos_equals_dense_decomposition():
    graph = affinity(normal_tensor("graph", 90, 5))
    dense, sparse = second_eigenvector(graph, True), second_eigenvector(graph, False)
    np.testing.assert_allclose(sparse * np.sign(sparse @ dense), dense, atol=1e-6)
    degrees = graph.sum(1)
    value = dense @ (np.diag(degrees) - graph) @ dense
    residual = (np.diag(degrees) - graph) @ dense - value * degrees * dense
    assert np.abs(residual).max() < 1e-8 and abs(dense @ (degrees * dense) - 1) < 1e-9


def test_maps_are_scaled_to_0_and_1():
    maps = torch.stack([normal_tensor("map", 4, 5), torch.full((4, 5), 3.0)])
    output = min_max_normalize(maps)
    assert float(output[0].min()) == 0 and float(output[0].max()) == 1
    assert not output[1].any()


@pytest.mark.parametrize(("length", "window", "stride"), [(64, 64, 32), (40, 64, 32), (97, 32, 20)])
def test_windows_cover_every_pixel(length, window, stride):
    starts = window_starts(length, window, stride)
    counts = {x for start in starts for x in range(start, min(start + window, length))}
    assert counts == set(range(length)) and len(set(starts)) == len(starts)
    pixels = normal_tensor("wide", 1, 3, length, 50)
    average = sliding_window_inference(pixels, window, stride, lambda crop: crop[0])
    torch.testing.assert_close(average, pixels[0], atol=1e-6, rtol=1e-6)


def test_full_mask_has_the_features_of_the_image(clip, pixels):
    with torch.no_grad():
        output = global_features(clip.visual, pixels, torch.ones(2, 8, 8), 3)
        image64 = clip.model.encode_image(pixels)
    torch.testing.assert_close(output, image64.expand(2, -1), atol=1e-5, rtol=1e-5)


def test_features_of_a_mask_are_independent_of_other_masks(clip):
    image, masks = (
        normal_tensor("photo", 3, 50, 70).sigmoid(),
        torch.zeros(3, 50, 70, dtype=torch.bool),
    )
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
def test_target_phrase(expression, phrase):
    assert target_phrase(expression) == phrase


def test_expression_and_target_phrase_are_combined(clip):
    full = clip.text_features(["the dog on the bed"], "none")
    target = clip.text_features(["the dog"], "none")
    for weight in (0.0, 0.3, 1.0):
        expected = torch.nn.functional.normalize(weight * full + (1 - weight) * target, dim=1)
        output = expression_features(clip, ["the dog on the bed"], weight)
        torch.testing.assert_close(output, expected)
