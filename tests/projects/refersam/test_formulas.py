"""Modules of ReferSAM against reference formulas in NumPy, float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from refersam.modeling.attention import Attention, LevelAttention
from refersam.modeling.interaction_block import Extractor, Injector, InteractionGeometry
from refersam.modeling.multi_scale_geometry import (
    MultiScaleGeometry,
    level_positions,
    sine_positions,
)
from refersam.modeling.prompter import PromptBlock
from refersam.modeling.spatial_prior import SpatialPrior
from refersam.modeling.vision_language_fusion import VisionLanguageFusion
from tests.projects.refersam import formulas as f

SIZES = [(4, 6), (2, 3), (1, 2)]
LENGTHS = [24, 6, 2]


def randomise(module: nn.Module) -> nn.Module:
    """Randomise every parameter and convert to float64."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(torch.randn(value.shape) / max(1, value.shape[-1]) ** 0.5)
            if value.ndim == 1 and name.endswith("weight"):
                value.add_(1)
    return module.double()


def randoms(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize(("queries", "keys", "folds"), [(5, 7, False), (30, 3, True)])
def test_attention_equals_the_reference(queries, keys, folds):
    module = randomise(Attention(10, 14, 12, 3))
    assert module._should_fold(keys, queries) == folds
    q, k, v = randoms((2, queries, 10), (2, keys, 14), (2, keys, 14))
    mask = torch.arange(keys) < torch.tensor([[keys], [keys - 2]])
    output = module(q, k, v, mask)
    for b in range(2):
        expected = f.attend(f.parameters(module), *(x[b].numpy() for x in (q, k, v)), 3, mask[b])
        np.testing.assert_allclose(output[b].detach(), expected, atol=1e-12)


@pytest.mark.parametrize(("queries", "folds"), [(5, False), (3, True)])
def test_level_attention_equals_the_reference(queries, folds):
    module = randomise(LevelAttention(10, 14, 12, 3))
    assert module._should_fold(queries, 32) == folds
    q, k, v = randoms((2, queries, 10), (2, 32, 14), (2, 32, 14))
    output = module(q, k, v, LENGTHS)
    for b in range(2):
        arrays = (x[b].numpy() for x in (q, k, v))
        expected = f.attend(f.parameters(module), *arrays, 3, lengths=LENGTHS)
        np.testing.assert_allclose(output[b].detach(), expected, atol=1e-12)


@pytest.mark.parametrize("length", [6, 3])
def test_fusion_updates_text_first(length):
    module = randomise(VisionLanguageFusion(12, 10, 3))
    maps, positions, text = randoms((2, 32, 12), (1, 32, 12), (2, length, 10))
    mask = torch.arange(length) < torch.tensor([[length], [2]])
    output_maps, output_text = module(maps, positions, LENGTHS, text, mask)
    for b in range(2):
        expected_maps, expected_text = f.exchange(
            f.parameters(module),
            maps[b].numpy(),
            positions[0].numpy(),
            LENGTHS,
            text[b].numpy(),
            mask[b].numpy(),
            3,
        )
        np.testing.assert_allclose(output_maps[b].detach(), expected_maps, atol=1e-11)
        np.testing.assert_allclose(output_text[b].detach(), expected_text, atol=1e-11)


def test_prompt_block_equals_the_reference():
    module = randomise(PromptBlock())
    tokens, token_positions = randoms((2, 5, 256), (5, 256))
    maps, positions, text = randoms((2, 32, 256), (1, 32, 256), (2, 6, 256))
    mask = torch.arange(6) < torch.tensor([[6], [3]])
    output = module(tokens, token_positions, maps, positions, LENGTHS, text, mask)
    for b in range(2):
        expected = f.prompt_block(
            f.parameters(module),
            tokens[b].numpy(),
            token_positions.numpy(),
            maps[b].numpy(),
            positions[0].numpy(),
            LENGTHS,
            text[b].numpy(),
            mask[b].numpy(),
        )
        np.testing.assert_allclose(output[b].detach(), expected, atol=1e-11)


@pytest.fixture
def geometry() -> InteractionGeometry:
    maps = MultiScaleGeometry.from_sizes(tuple(SIZES), torch.device("cpu"))
    return InteractionGeometry(
        maps, MultiScaleGeometry.from_sizes(((2, 3),), torch.device("cpu")), torch.zeros(1, 32, 24)
    )


def test_injector_samples_maps_without_norm(geometry):
    module = randomise(Injector(24, 3)).float()
    patches, maps = torch.randn(1, 6, 24), torch.randn(1, 32, 24)
    p = f.parameters(module)
    query = f.norm(p, "norm", patches[0].double().numpy())
    sampled = f.sample(
        f.submodule(p, "attention"), query, f.centres([(2, 3)]), maps[0].double().numpy(), SIZES, 3
    )
    expected = patches[0].numpy() + p["gamma"] * sampled
    np.testing.assert_allclose(module(patches, maps, geometry)[0].detach(), expected, atol=2e-5)


def test_extractor_has_post_norm(geometry):
    module = randomise(Extractor(24, 3)).float()
    patches, maps = torch.randn(1, 6, 24), torch.randn(1, 32, 24)
    p = f.parameters(module)
    values = f.norm(p, "value_norm", patches[0].double().numpy())
    query = maps[0].double().numpy()
    sampled = f.sample(f.submodule(p, "attention"), query, f.centres(SIZES), values, [(2, 3)], 3)
    expected = f.norm(p, "norm", query + sampled)
    np.testing.assert_allclose(module(maps, patches, geometry)[0].detach(), expected, atol=2e-5)


@pytest.mark.parametrize("channels", [12, 192])
def test_sine_positions_equal_the_reference(channels):
    output = sine_positions(tuple(SIZES), channels, torch.device("cpu"))
    expected = np.concatenate([f.sine(*size, channels) for size in SIZES])
    np.testing.assert_allclose(output, expected, atol=2e-6)


def test_level_embedding_is_added_to_sine_positions():
    maps = MultiScaleGeometry.from_sizes(tuple(SIZES), torch.device("cpu"))
    levels = torch.randn(3, 8)
    output = level_positions(maps, levels)[0] - sine_positions(maps.sizes, 8, torch.device("cpu"))
    expected = torch.cat([embedding.expand(n, -1) for embedding, n in zip(levels, LENGTHS)])
    torch.testing.assert_close(output, expected)


def test_geometry_of_an_image():
    maps = MultiScaleGeometry.of_image(64, 96, torch.device("cpu"))
    assert maps.sizes == ((8, 12), (4, 6), (2, 3))
    assert maps.level_start_index.tolist() == [0, 96, 120]
    np.testing.assert_allclose(
        maps.reference_points[0, :, 0], f.centres(list(maps.sizes)), atol=1e-7
    )


def test_spatial_prior_equals_convolutions_and_global_norms():
    module = randomise(SpatialPrior(12))
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    fine, levels = module(images)
    x = images
    for layer in (0, 3, 6):
        convolution, norm = module.stem[layer], module.stem[layer + 1]
        x = nn.functional.conv2d(x, convolution.weight, None, convolution.stride, 1)
        flat = x.flatten(1)
        x = (x - flat.mean(1).view(-1, 1, 1, 1)) / (
            flat.var(1, correction=0).view(-1, 1, 1, 1) + 1e-6
        ).sqrt()
        x = (x * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)).relu()
    padded = nn.functional.pad(x, (1, 1, 1, 1), value=-1.0)
    expected = padded.unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2))
    torch.testing.assert_close(fine, expected)
    assert [tuple(embedding.shape) for embedding in levels] == [
        (2, 96, 12),
        (2, 24, 12),
        (2, 6, 12),
    ]
    assert len(module.projections) == 3


def test_folding_keeps_gradients():
    """Gradients with and without folding are equal."""
    module = randomise(LevelAttention(10, 14, 12, 3))
    query, maps = randoms((2, 3, 10), (2, 32, 14))
    output = []
    for ratio in (4, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("refersam.modeling.attention.FOLDING_RATIO", ratio)
            module.zero_grad()
            module(query, maps, maps, LENGTHS).square().sum().backward()
            output.append({name: p.grad.clone() for name, p in module.named_parameters()})
    for name, gradient in output[0].items():
        torch.testing.assert_close(gradient, output[1][name], atol=1e-10, rtol=1e-8)
