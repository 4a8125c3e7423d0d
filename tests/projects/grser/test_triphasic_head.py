"""Triphasic features: what their channels are, and groups of any size."""

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


def scene(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    draw = [
        torch.randn(*s, generator=generator)
        for s in ((count, WIDTH, 3, 2), (TEXT_WIDTH,), (TEXT_WIDTH,))
    ]
    return draw[0], draw[1], draw[2]


def by_hand(head: TriphasicHead, maps, expression, anti) -> np.ndarray:
    """z of a group that fits, in float64."""
    weight, bias = (
        p.detach().double().numpy()
        for p in (head.text_projection.weight, head.text_projection.bias)
    )
    said, denied = (weight @ one.double().numpy() + bias for one in (expression, anti))
    V = maps.double().numpy()
    language = formulas.language_heatmap(V, said)
    p = formulas.prototypes(V, language)
    heat = formulas.visual_heatmaps(V, p[formulas.hierarchy(p, said, denied)])
    return np.concatenate([heat, V], 1)


def test_equal_to_the_formulas():
    head, given_ = build(), scene(4)
    np.testing.assert_allclose(
        features(head, *given_).detach().numpy(), by_hand(head, *given_), atol=2e-5
    )


def test_the_order_is_the_groups_and_can_be_left_out():
    given_ = scene(4)
    ordered, plain = features(build(), *given_), features(build(hierarchizer=False), *given_)
    moved = [
        i
        for i in range(4)
        for j in range(4)
        if torch.allclose(ordered[:, i], plain[:, j], atol=1e-6) and i != j
    ]
    assert moved
    for channel in range(4):
        places = [torch.isclose(ordered[n, channel], plain[n, :4]).all((-1, -2)) for n in range(4)]
        assert all(torch.equal(place, places[0]) for place in places)


def test_permuting_the_group_permutes_the_answers_and_nothing_else():
    maps, *words = scene(4)
    order = torch.tensor([3, 1, 0, 2])
    for kind in ("ranked", "pooled"):
        head = build(kind=kind)
        torch.testing.assert_close(
            features(head, maps[order], *words), features(head, maps, *words)[order]
        )
    unordered = build(hierarchizer=False)
    assert not torch.allclose(
        features(unordered, maps[order], *words), features(unordered, maps, *words)[order]
    )


@given(st.integers(1, 40), st.integers(1, 9))
def test_chunks_answer_for_every_image_once(images, size):
    parts = list(split_and_pad(images, size))
    assert [i for own, _ in parts for i in range(images)[own]] == list(range(images))
    for own, members in parts:
        answered = list(range(images)[own])
        assert len(members) == size and members[: len(answered)] == answered
        assert set(members) == set(answered)
        counts = [members.count(i) for i in answered]
        assert max(counts) - min(counts) <= 1
    assert all(len(range(images)[own]) == size for own, _ in parts[:-1])


def test_a_large_group_is_cut_and_its_rest_is_filled():
    head, (maps, *words) = build(), scene(6)
    found = features(head, maps, *words)
    torch.testing.assert_close(found[:4], features(head, maps[:4], *words))
    torch.testing.assert_close(found[4:], features(head, maps[[4, 5, 4, 5]], *words)[:2])


def test_a_group_of_one_sees_itself_in_every_channel():
    head, (maps, *words) = build(), scene(1)
    found = features(head, maps, *words)
    assert found.shape == (1, 4 + WIDTH, 3, 2)
    for channel in range(4):
        torch.testing.assert_close(found[:, channel], found[:, 0])
    torch.testing.assert_close(found[0], features(head, maps.expand(4, -1, -1, -1), *words)[2])


def test_pooled_and_ranked_are_the_same_for_groups_of_their_size():
    given_ = scene(4)
    torch.testing.assert_close(features(build(kind="pooled"), *given_), features(build(), *given_))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 13))
def test_pooled_takes_groups_of_any_size_at_once(count):
    """Each summary is the mean of the ranks from floor(k n / 4) to ceil((k + 1) n / 4)."""
    maps, *words = scene(count)
    found = features(build(kind="pooled"), maps, *words)
    whole = features(build(group_size=count), maps, *words)[:, :count]
    assert found.shape == (count, 4 + WIDTH, 3, 2)
    for k in range(4):
        first, last = k * count // 4, -(-(k + 1) * count // 4)
        torch.testing.assert_close(found[:, k], whole[:, first:last].mean(1))


@pytest.mark.parametrize("count", [3, 6])
def test_it_also_gives_the_language_heatmaps(count):
    maps, *words = scene(count)
    head = build()
    said = head.text_projection(words[0]).double().detach().numpy()
    wanted = formulas.language_heatmap(maps.double().numpy(), said)
    np.testing.assert_allclose(head(maps, *words)[1].detach().numpy(), wanted, atol=1e-5)


def test_the_language_heatmap_as_a_channel():
    maps, *words = scene(4)
    head = build(language_channel=True)
    found = features(head, maps, *words)
    assert found.shape[1] == head.channels == 4 + 1 + WIDTH
    said = head.text_projection(words[0]).double().detach().numpy()
    wanted = formulas.language_heatmap(maps.double().numpy(), said)
    np.testing.assert_allclose(found[:, 4].detach().numpy(), wanted, atol=1e-5)


def test_heatmaps_are_computed_in_full_precision_under_autocast():
    head, given_ = build(), scene(4)
    wanted = features(head, *given_)
    with torch.autocast("cpu", torch.bfloat16):
        found = features(head, *given_)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", ["ranked", "pooled"])
def test_gradients_go_to_maps_and_words_not_through_the_order(kind):
    maps, expression, anti = (one.requires_grad_() for one in scene(4))
    features(build(kind=kind), maps, expression, anti)[:, :4].square().sum().backward()
    assert maps.grad.flatten(1).abs().sum(1).min() > 0
    assert expression.grad.any()
    assert anti.grad is None or not anti.grad.any()  # it has a say in the order alone


def test_training_begins_with_the_images_own_map_and_a_little_of_the_groups():
    head = build(language_channel=True)
    maps, expression, anti = scene(4)
    z = features(head, maps, expression, anti)
    group = z.clone()
    group[:, -WIDTH:] = 0
    added = head.output_projection(z) - maps
    torch.testing.assert_close(added, head.output_projection(group))
    assert 0 < added.abs().max() <= (head.channels - WIDTH) * head.channels**-0.5
