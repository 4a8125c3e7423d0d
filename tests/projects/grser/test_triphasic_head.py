"""Triphasic features: their channels, and groups of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grser.modeling.group_padding import split_and_pad
from grser.modeling.triphasic_head import HeatmapConfig, TriphasicHead
from tests.projects.grser import formulas

WIDTH, TEXT_WIDTH = 6, 5


def build(**fields) -> TriphasicHead:
    torch.manual_seed(0)
    return TriphasicHead(WIDTH, TEXT_WIDTH, HeatmapConfig(**{"group_size": 4, **fields}))


def features(head, *given) -> torch.Tensor:
    return head(*given)[0]


def make_group(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    draw = [
        torch.randn(*s, generator=generator)
        for s in ((count, WIDTH, 3, 2), (TEXT_WIDTH,), (TEXT_WIDTH,))
    ]
    return draw[0], draw[1], draw[2]


def reference(head: TriphasicHead, maps, expression, anti) -> np.ndarray:
    """Compute z of a group of `group_size` images in float64."""
    weight, bias = (
        p.detach().double().numpy()
        for p in (head.text_projection.weight, head.text_projection.bias)
    )
    projected, anti_projected = (
        weight @ vector.double().numpy() + bias for vector in (expression, anti)
    )
    V = maps.double().numpy()
    language = formulas.language_heatmap(V, projected)
    p = formulas.prototypes(V, language)
    heat = formulas.visual_heatmaps(V, p[formulas.hierarchy(p, projected, anti_projected)])
    return np.concatenate([heat, V], 1)


def test_features_equal_the_reference():
    head, inputs = build(), make_group(4)
    np.testing.assert_allclose(
        features(head, *inputs).detach().numpy(), reference(head, *inputs), atol=2e-5
    )


def test_all_images_share_the_order_of_the_hierarchizer():
    inputs = make_group(4)
    ordered, plain = features(build(), *inputs), features(build(hierarchizer=False), *inputs)
    moved_channels = [
        i
        for i in range(4)
        for j in range(4)
        if torch.allclose(ordered[:, i], plain[:, j], atol=1e-6) and i != j
    ]
    assert moved_channels
    for channel in range(4):
        matches = [torch.isclose(ordered[n, channel], plain[n, :4]).all((-1, -2)) for n in range(4)]
        assert all(torch.equal(match, matches[0]) for match in matches)


def test_heatmaps_are_those_of_their_sources():
    maps, *expressions = make_group(6)
    for fields in ({}, {"ranks": "negative"}, {"hierarchizer": False}):
        head = build(**fields)
        plain = build(kind="ranked", group_size=6, hierarchizer=False)
        output, by_image = head(maps, *expressions), plain(maps, *expressions).visual
        assert torch.equal(output.z[:, :4], output.visual)
        assert output.sources[:4].unique().tolist() == [0, 1, 2, 3]
        assert output.sources[4:].unique().tolist() == [4, 5]  # the padded second part
        expected = by_image[torch.arange(6)[:, None], output.sources]
        torch.testing.assert_close(output.visual, expected, atol=1e-5, rtol=1e-5)
    assert build(kind="pooled")(maps, *expressions).sources is None


def test_language_heatmap_alone():
    maps, *expressions = make_group(5)
    head = build(kind="language")
    output = head(maps, *expressions)
    assert head.channels == 1 + WIDTH and output.z.shape[1] == 1 + WIDTH
    assert torch.equal(output.z[:, 0], output.language) and output.visual.shape == (5, 0, 3, 2)
    torch.testing.assert_close(head(maps[2:3], *expressions).z, output.z[2:3])


def test_permuted_group_permutes_the_features():
    maps, *expressions = make_group(4)
    order = torch.tensor([3, 1, 0, 2])
    for kind in ("ranked", "pooled"):
        head = build(kind=kind)
        torch.testing.assert_close(
            features(head, maps[order], *expressions), features(head, maps, *expressions)[order]
        )
    unordered = build(hierarchizer=False)
    assert not torch.allclose(
        features(unordered, maps[order], *expressions),
        features(unordered, maps, *expressions)[order],
    )


@given(st.integers(1, 40), st.integers(1, 9))
def test_padded_subgroups_contain_every_image_once(images, size):
    parts = list(split_and_pad(images, size))
    assert [i for outputs, _ in parts for i in range(images)[outputs]] == list(range(images))
    for outputs, members in parts:
        indices = list(range(images)[outputs])
        assert len(members) == size and members[: len(indices)] == indices
        assert set(members) == set(indices)
        counts = [members.count(i) for i in indices]
        assert max(counts) - min(counts) <= 1
    assert all(len(range(images)[outputs]) == size for outputs, _ in parts[:-1])


def test_large_group_is_split_and_padded():
    head, (maps, *expressions) = build(), make_group(6)
    z = features(head, maps, *expressions)
    torch.testing.assert_close(z[:4], features(head, maps[:4], *expressions))
    torch.testing.assert_close(z[4:], features(head, maps[[4, 5, 4, 5]], *expressions)[:2])


def test_single_image_is_repeated_in_every_channel():
    head, (maps, *expressions) = build(), make_group(1)
    z = features(head, maps, *expressions)
    assert z.shape == (1, 4 + WIDTH, 3, 2)
    for channel in range(4):
        torch.testing.assert_close(z[:, channel], z[:, 0])
    torch.testing.assert_close(z[0], features(head, maps.expand(4, -1, -1, -1), *expressions)[2])


def test_pooled_equals_ranked_for_groups_of_group_size():
    inputs = make_group(4)
    torch.testing.assert_close(features(build(kind="pooled"), *inputs), features(build(), *inputs))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 13))
def test_pooled_heatmaps_of_groups_of_any_size(count):
    """Channel k is the mean of the ranks from floor(k n / 4) to ceil((k + 1) n / 4)."""
    maps, *expressions = make_group(count)
    z = features(build(kind="pooled"), maps, *expressions)
    all_ranks = features(build(group_size=count), maps, *expressions)[:, :count]
    assert z.shape == (count, 4 + WIDTH, 3, 2)
    for k in range(4):
        first, last = k * count // 4, -(-(k + 1) * count // 4)
        torch.testing.assert_close(z[:, k], all_ranks[:, first:last].mean(1))


@pytest.mark.parametrize("count", [3, 6])
def test_language_heatmaps_are_returned(count):
    maps, *expressions = make_group(count)
    head = build()
    projected = head.text_projection(expressions[0]).double().detach().numpy()
    expected = formulas.language_heatmap(maps.double().numpy(), projected)
    np.testing.assert_allclose(head(maps, *expressions)[1].detach().numpy(), expected, atol=1e-5)


def test_language_heatmap_is_concatenated():
    maps, *expressions = make_group(4)
    head = build(language_channel=True)
    z = features(head, maps, *expressions)
    assert z.shape[1] == head.channels == 4 + 1 + WIDTH
    projected = head.text_projection(expressions[0]).double().detach().numpy()
    expected = formulas.language_heatmap(maps.double().numpy(), projected)
    np.testing.assert_allclose(z[:, 4].detach().numpy(), expected, atol=1e-5)


def test_heatmaps_are_computed_in_full_precision_under_autocast():
    head, inputs = build(), make_group(4)
    expected = features(head, *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        z = features(head, *inputs)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, expected)


@pytest.mark.parametrize("kind", ["ranked", "pooled"])
def test_gradients_reach_maps_and_expression_but_not_the_order(kind):
    maps, expression, anti = (vector.requires_grad_() for vector in make_group(4))
    features(build(kind=kind), maps, expression, anti)[:, :4].square().sum().backward()
    assert maps.grad.flatten(1).abs().sum(1).min() > 0
    assert expression.grad.any()
    assert anti.grad is None or not anti.grad.any()  # it only determines the order


def test_output_projection_is_initialised_close_to_the_identity():
    head = build(language_channel=True)
    maps, expression, anti = make_group(4)
    z = features(head, maps, expression, anti)
    group = z.clone()
    group[:, -WIDTH:] = 0
    added = head.output_projection(z) - maps
    torch.testing.assert_close(added, head.output_projection(group))
    assert 0 < added.abs().max() <= (head.channels - WIDTH) * head.channels**-0.5
