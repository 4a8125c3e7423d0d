"""Semantic and panoptic inference, compared with published values and a loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hipie.modeling.postprocessing.panoptic_inference import (
    PanopticAccumulator,
    PanopticThresholds,
    panoptic_candidates,
    panoptic_inference,
)
from hipie.modeling.postprocessing.semantic_inference import (
    BandScores,
    QueryBlock,
    SemanticAccumulator,
    SemanticLabelAccumulator,
    semantic_inference,
)

IS_THING = [True] * 5 + [False] * 3


def rows_of(segments: list[dict]) -> list[list[int]]:
    return [
        [segment["id"], int(segment["isthing"]), segment["category_id"]] for segment in segments
    ]


def plain_panoptic(scores: Tensor, masks: Tensor, is_thing: list[bool], low: float, share: float):
    """Published loop over queries in float64."""
    best, labels = scores.double().max(1)
    keep = best > low
    best, labels, p = best[keep], labels[keep], masks.double().sigmoid()[keep]
    out = torch.zeros(masks.shape[1:], dtype=torch.int32)
    segments: list[list[int]] = []
    if not len(best):
        return out, segments
    winner = (best[:, None, None] * p).argmax(0)
    stuff: dict[int, int] = {}
    for query in range(len(best)):
        own = p[query] >= 0.5
        won = winner == query
        if not (won & own).any() or won.sum() / own.sum() < share:
            continue
        label = int(labels[query])
        if not is_thing[label] and label in stuff:
            out[won & own] = stuff[label]
            continue
        segments.append([len(segments) + 1, int(is_thing[label]), label])
        stuff[label] = len(segments)
        out[won & own] = len(segments)
    return out, segments


def test_official_semantic(official) -> None:
    output = semantic_inference(official["scores"], official["masks"].float())
    assert torch.allclose(output[:, ::6, ::8], official["semantic"], atol=5e-3)


@pytest.mark.parametrize(("name", "overlap"), [("default", 0.8), ("loose", 0.3)])
def test_official_panoptic(official, name: str, overlap: float) -> None:
    output, segments = panoptic_inference(
        official["scores"],
        official["masks"].float(),
        IS_THING,
        PanopticThresholds(0.25, overlap),
    )
    assert output.dtype == torch.int32
    assert torch.equal(output, official[f"panoptic_{name}"].int())
    assert rows_of(segments) == official[f"segments_{name}"].tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(0, 9),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.25, 0.5, 0.9]),
    st.sampled_from([0.0, 0.3, 0.8]),
)
def test_panoptic_equals_a_loop(
    seed: int, queries: int, classes: int, low: float, share: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = (4 * torch.randn(queries, classes, generator=generator)).softmax(-1)
    masks = 3 * torch.randn(queries, 6, 5, generator=generator)
    is_thing = [k % 2 == 0 for k in range(classes)]
    output, segments = panoptic_inference(scores, masks, is_thing, PanopticThresholds(low, share))
    expected, rows = plain_panoptic(scores, masks, is_thing, low, share)
    assert torch.equal(output, expected)
    assert rows_of(segments) == rows


def test_semantic_equals_float64() -> None:
    scores, masks = torch.rand(20, 6), torch.randn(20, 9, 7)
    exact = torch.einsum("qk,qhw->khw", scores.double(), masks.double().sigmoid())
    assert torch.allclose(semantic_inference(scores, masks).double(), exact, atol=1e-5)


@pytest.mark.parametrize("step", [1, 3, 20])
@pytest.mark.parametrize("height", [1, 4, 9])
def test_blocks_of_queries_and_bands_of_rows_give_equal_maps(step: int, height: int) -> None:
    scores, masks = torch.rand(20, 6), torch.randn(20, 9, 7)
    blocks = [QueryBlock(slice(start, min(start + step, 20))) for start in range(0, 20, step)]
    candidates = panoptic_candidates(scores)
    semantic, panoptic = (
        SemanticAccumulator(scores, (9, 7), blocks),
        PanopticAccumulator(scores[candidates], [True] * 6, (9, 7)),
    )
    labels = SemanticLabelAccumulator(scores, (9, 7), blocks)
    for top in range(0, 9, height):
        rows = slice(top, min(top + height, 9))
        probabilities = masks[:, rows].sigmoid().transpose(0, 1)
        semantic.add(rows, probabilities)
        labels.add(rows, probabilities)
        panoptic.add(rows, probabilities[:, candidates])
    best, classes = semantic.result().max(0)
    assert torch.equal(labels.result().labels, classes)
    assert torch.equal(labels.result().scores, best)
    torch.testing.assert_close(labels.result().totals, semantic.result().sum(0))
    assert torch.allclose(semantic.result(), semantic_inference(scores, masks), atol=1e-5)
    expected, segments = panoptic_inference(scores, masks, [True] * 6)
    assert torch.equal(panoptic.result()[0], expected)
    assert panoptic.result()[1] == segments


@pytest.mark.parametrize("own", [[0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1] * 5])
def test_classes_with_equal_scores_are_summed_once(own: list[int]) -> None:
    apart = torch.tensor(own, dtype=torch.bool)
    scores, masks = torch.rand(20, 5), torch.rand(9, 20, 7)
    scores = torch.where(apart, scores, torch.rand(20, 1))
    halves = slice(0, 12), slice(12, 20)
    short = BandScores(scores, [QueryBlock(half, apart.tolist()) for half in halves])
    torch.testing.assert_close(short(masks), BandScores(scores)(masks), atol=1e-5, rtol=1e-5)


def test_permuted_classes_permute_labels(official) -> None:
    scores, masks = official["scores"], official["masks"].float()
    order = [7, 3, 0, 5, 1, 6, 2, 4]
    permuted_things = [IS_THING[k] for k in order]
    permuted = semantic_inference(scores[:, order], masks)
    assert torch.allclose(permuted, semantic_inference(scores, masks)[order], atol=1e-6)
    straight, segments = panoptic_inference(scores, masks, IS_THING)
    output, permuted_segments = panoptic_inference(scores[:, order], masks, permuted_things)
    assert torch.equal(output, straight)
    assert [order[segment["category_id"]] for segment in permuted_segments] == [
        segment["category_id"] for segment in segments
    ]


def test_stuff_of_one_class_is_one_segment() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
    masks = torch.full((2, 2, 4), -9.0)
    masks[0, :, :2] = masks[1, :, 2:] = 9.0
    output, segments = panoptic_inference(scores, masks, [False, True])
    assert output.unique().tolist() == [1]
    assert rows_of(segments) == [[1, 0, 0]]
    assert segments[0]["score"] == pytest.approx(0.9)
    output, segments = panoptic_inference(scores, masks, [True, False])
    assert output[0].tolist() == [1, 1, 2, 2]
    assert len(segments) == 2


def test_no_queries_give_an_empty_map() -> None:
    output, segments = panoptic_inference(torch.zeros(0, 3), torch.zeros(0, 4, 5), [True] * 3)
    assert output.shape == (4, 5)
    assert not output.any()
    assert segments == []
    assert semantic_inference(torch.zeros(0, 3), torch.zeros(0, 4, 5)).eq(0).all()


def test_sums_ignore_bfloat16_autocast() -> None:
    scores, masks = torch.rand(20, 6), torch.randn(20, 9, 7)
    exact = semantic_inference(scores, masks)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(semantic_inference(scores, masks), exact)


def test_default_thresholds_are_the_published_ones() -> None:
    assert PanopticThresholds() == PanopticThresholds(object_mask=0.25, overlap=0.8)
