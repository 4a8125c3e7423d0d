"""Instance and panoptic scores, compared with float64 formulas."""

from __future__ import annotations

import math

import pytest
import torch

from hipie.modeling.postprocessing.score_calibration import instance_scores, panoptic_scores


def test_instance_scores_are_the_geometric_mean() -> None:
    logits, iou_logits = torch.randn(5, 3) * 4, torch.randn(5, 1) * 4
    scores = instance_scores(logits, iou_logits)
    for q in range(5):
        for k in range(3):
            p = 1 / (1 + math.exp(-float(logits[q, k])))
            iou = 1 / (1 + math.exp(-float(iou_logits[q, 0])))
            assert abs(float(scores[q, k]) - math.sqrt(p * iou)) < 1e-6


def test_panoptic_scores_equal_float64() -> None:
    logits = torch.randn(6, 4) * 3
    exact = (1 / (1 + (-logits.double()).exp()) / 0.06).exp()
    exact = exact / exact.sum(-1, keepdim=True)
    assert torch.allclose(panoptic_scores(logits).double(), exact, atol=1e-6)


def test_masked_classes_keep_a_small_share() -> None:
    scores = panoptic_scores(torch.tensor([[4.0, -9999.0, -9999.0]]))
    share = 1 / (math.exp(float(torch.tensor(4.0).sigmoid()) / 0.06) + 2)
    assert abs(float(scores[0, 1]) - share) < 1e-9
    assert abs(float(scores.sum()) - 1) < 1e-6


@pytest.mark.parametrize("min_classes", [0, 3, 4, 5, 133])
def test_small_vocabulary_is_scored_as_a_large_one_with_absent_classes(min_classes: int) -> None:
    logits = torch.randn(6, 4) * 3
    absent = torch.full((6, max(min_classes - 4, 0)), -200.0)
    large = panoptic_scores(torch.cat([logits, absent], dim=1))[:, :4]
    assert torch.allclose(
        panoptic_scores(logits, min_softmax_classes=min_classes), large, atol=1e-6
    )
    if min_classes <= 4:
        assert torch.equal(
            panoptic_scores(logits, min_softmax_classes=min_classes), panoptic_scores(logits)
        )


def test_permuted_classes_permute_scores() -> None:
    logits, order = torch.randn(3, 5), [4, 2, 0, 1, 3]
    assert torch.allclose(panoptic_scores(logits)[:, order], panoptic_scores(logits[:, order]))


def test_one_class_empty_and_bfloat16() -> None:
    assert panoptic_scores(torch.randn(2, 1)).eq(1).all()
    assert instance_scores(torch.randn(0, 3), torch.randn(0, 1)).shape == (0, 3)
    assert panoptic_scores(torch.randn(2, 3).bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert instance_scores(torch.randn(2, 3), torch.randn(2, 1)).dtype == torch.float32


def test_official_panoptic_scores(official) -> None:
    from hipie.modeling.postprocessing.token_to_class import mask_stuff_classes, pool_token_logits

    spans = DET12
    logits = pool_token_logits(official["det12_pred_logits"][0, 10:], spans)
    logits = mask_stuff_classes(logits, [True] * 6 + [False] * 6)[official["det12_nms_keep_0"]]
    assert torch.allclose(panoptic_scores(logits)[::4], official["det12_merge_scores"], atol=1e-5)


DET12 = (
    (1,),
    (3,),
    (5, 6),
    (8, 9),
    (11, 12),
    (14, 15, 16),
    (18, 19, 20, 21, 22),
    (24, 25, 26),
    (28, 29, 30),
    (32, 33, 34),
    (36, 37, 38),
    (40,),
)
