"""Every part against the same formula written out in NumPy, float64."""

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


def shaken(module: nn.Module) -> nn.Module:
    """In float64, every parameter random: no bias 0, no norm 1, offsets of pixels."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(torch.randn(value.shape) / max(1, value.shape[-1]) ** 0.5)
            if value.ndim == 1 and name.endswith("weight"):
                value.add_(1)
    return module.double()


def randoms(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize(("queries", "keys", "folded"), [(5, 7, False), (30, 3, True)])
def test_plain_attention_between_two_widths(queries, keys, folded):
    module = shaken(Attention(10, 14, 12, 3))
    assert module._should_fold(keys, queries) == folded
    q, k, v = randoms((2, queries, 10), (2, keys, 14), (2, keys, 14))
    mask = torch.arange(keys) < torch.tensor([[keys], [keys - 2]])
    found = module(q, k, v, mask)
    for b in range(2):
        wanted = f.attend(f.parameters(module), *(x[b].numpy() for x in (q, k, v)), 3, mask[b])
        np.testing.assert_allclose(found[b].detach(), wanted, atol=1e-12)


@pytest.mark.parametrize(("queries", "folded"), [(5, False), (3, True)])
def test_attention_by_level(queries, folded):
    module = shaken(LevelAttention(10, 14, 12, 3))
    assert module._should_fold(queries, 32) == folded
    q, k, v = randoms((2, queries, 10), (2, 32, 14), (2, 32, 14))
    found = module(q, k, v, LENGTHS)
    for b in range(2):
        arrays = (x[b].numpy() for x in (q, k, v))
        wanted = f.attend(f.parameters(module), *arrays, 3, lengths=LENGTHS)
        np.testing.assert_allclose(found[b].detach(), wanted, atol=1e-12)


@pytest.mark.parametrize("length", [6, 3])
def test_exchange_updates_words_first(length):
    module = shaken(VisionLanguageFusion(12, 10, 3))
    maps, positions, text = randoms((2, 32, 12), (1, 32, 12), (2, length, 10))
    mask = torch.arange(length) < torch.tensor([[length], [2]])
    found_maps, found_text = module(maps, positions, LENGTHS, text, mask)
    for b in range(2):
        wanted_maps, wanted_text = f.exchange(
            f.parameters(module),
            maps[b].numpy(),
            positions[0].numpy(),
            LENGTHS,
            text[b].numpy(),
            mask[b].numpy(),
            3,
        )
        np.testing.assert_allclose(found_maps[b].detach(), wanted_maps, atol=1e-11)
        np.testing.assert_allclose(found_text[b].detach(), wanted_text, atol=1e-11)


def test_prompt_block():
    module = shaken(PromptBlock())
    tokens, places = randoms((2, 5, 256), (5, 256))
    maps, positions, words = randoms((2, 32, 256), (1, 32, 256), (2, 6, 256))
    mask = torch.arange(6) < torch.tensor([[6], [3]])
    found = module(tokens, places, maps, positions, LENGTHS, words, mask)
    for b in range(2):
        wanted = f.prompt_block(
            f.parameters(module),
            tokens[b].numpy(),
            places.numpy(),
            maps[b].numpy(),
            positions[0].numpy(),
            LENGTHS,
            words[b].numpy(),
            mask[b].numpy(),
        )
        np.testing.assert_allclose(found[b].detach(), wanted, atol=1e-11)


@pytest.fixture
def place() -> InteractionGeometry:
    maps = MultiScaleGeometry.from_sizes(tuple(SIZES), torch.device("cpu"))
    return InteractionGeometry(
        maps, MultiScaleGeometry.from_sizes(((2, 3),), torch.device("cpu")), torch.zeros(1, 32, 24)
    )


def test_injector_samples_three_maps_as_they_are(place):
    module = shaken(Injector(24, 3)).float()
    patches, maps = torch.randn(1, 6, 24), torch.randn(1, 32, 24)
    p = f.parameters(module)
    query = f.norm(p, "norm", patches[0].double().numpy())
    sampled = f.sample(
        f.of(p, "attention"), query, f.centres([(2, 3)]), maps[0].double().numpy(), SIZES, 3
    )
    wanted = patches[0].numpy() + p["gamma"] * sampled
    np.testing.assert_allclose(module(patches, maps, place)[0].detach(), wanted, atol=2e-5)


def test_extractor_norms_behind_the_sum(place):
    module = shaken(Extractor(24, 3)).float()
    patches, maps = torch.randn(1, 6, 24), torch.randn(1, 32, 24)
    p = f.parameters(module)
    values = f.norm(p, "value_norm", patches[0].double().numpy())
    query = maps[0].double().numpy()
    sampled = f.sample(f.of(p, "attention"), query, f.centres(SIZES), values, [(2, 3)], 3)
    wanted = f.norm(p, "norm", query + sampled)
    np.testing.assert_allclose(module(maps, patches, place)[0].detach(), wanted, atol=2e-5)


@pytest.mark.parametrize("channels", [12, 192])
def test_sine_positions_row_first(channels):
    found = sine_positions(tuple(SIZES), channels, torch.device("cpu"))
    wanted = np.concatenate([f.sine(*size, channels) for size in SIZES])
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_levels_add_a_vector_each():
    maps = MultiScaleGeometry.from_sizes(tuple(SIZES), torch.device("cpu"))
    levels = torch.randn(3, 8)
    found = level_positions(maps, levels)[0] - sine_positions(maps.sizes, 8, torch.device("cpu"))
    wanted = torch.cat([one.expand(n, -1) for one, n in zip(levels, LENGTHS)])
    torch.testing.assert_close(found, wanted)


def test_maps_of_an_image_and_their_centres():
    maps = MultiScaleGeometry.of_image(64, 96, torch.device("cpu"))
    assert maps.sizes == ((8, 12), (4, 6), (2, 3))
    assert maps.level_start_index.tolist() == [0, 96, 120]
    np.testing.assert_allclose(
        maps.reference_points[0, :, 0], f.centres(list(maps.sizes)), atol=1e-7
    )


def test_spatial_prior_is_convolutions_and_whole_map_norms():
    module = shaken(SpatialPrior(12))
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    fine, levels = module(images)
    x = images
    for at in (0, 3, 6):
        convolution, scale = module.stem[at], module.stem[at + 1]
        x = nn.functional.conv2d(x, convolution.weight, None, convolution.stride, 1)
        flat = x.flatten(1)
        x = (x - flat.mean(1).view(-1, 1, 1, 1)) / (
            flat.var(1, correction=0).view(-1, 1, 1, 1) + 1e-6
        ).sqrt()
        x = (x * scale.weight.view(1, -1, 1, 1) + scale.bias.view(1, -1, 1, 1)).relu()
    padded = nn.functional.pad(x, (1, 1, 1, 1), value=-1.0)
    wanted = padded.unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2))
    torch.testing.assert_close(fine, wanted)
    assert [tuple(one.shape) for one in levels] == [(2, 96, 12), (2, 24, 12), (2, 6, 12)]
    assert len(module.projections) == 3


def test_folding_saves_work_and_keeps_every_gradient():
    """With the same parameters, folded and plain answers and gradients agree."""
    module = shaken(LevelAttention(10, 14, 12, 3))
    query, maps = randoms((2, 3, 10), (2, 32, 14))
    found = []
    for factor in (4, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("refersam.modeling.attention.FOLDING_RATIO", factor)
            module.zero_grad()
            module(query, maps, maps, LENGTHS).square().sum().backward()
            found.append({name: p.grad.clone() for name, p in module.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-10, rtol=1e-8)
