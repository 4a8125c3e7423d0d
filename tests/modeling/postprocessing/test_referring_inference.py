"""The best query of an expression."""

from __future__ import annotations

import torch

from hipie.modeling.postprocessing.nms_topk import corners
from hipie.modeling.postprocessing.referring_inference import best_query


def test_official_expression(official) -> None:
    query, score = best_query(
        official["refer_pred_logits"][0, 10:], official["refer_pred_iou"][0, 10:]
    )
    assert abs(float(score) - float(official["refer_inst_scores_0"][0])) < 1e-5
    box = corners(official["refer_pred_boxes"][0, 10:][query]) * torch.tensor([626, 500, 626, 500])
    assert torch.allclose(box, official["refer_inst_boxes_0"][0], atol=1e-3)


def test_both_the_words_and_the_quality_count() -> None:
    words, quality = torch.tensor([[2.0], [1.0], [3.0]]), torch.tensor([[0.0], [3.0], [-4.0]])
    query, score = best_query(words, quality)
    assert int(query) == 1
    exact = torch.tensor([1.0, 3.0]).double().sigmoid().prod().sqrt()
    assert abs(float(score) - float(exact)) < 1e-6


def test_several_expressions_at_once() -> None:
    words, quality = torch.randn(4, 9, 1), torch.randn(4, 9, 1)
    query, score = best_query(words, quality)
    assert query.shape == score.shape == (4,)
    alone = [best_query(words[i], quality[i]) for i in range(4)]
    assert query.tolist() == [int(one) for one, _ in alone]
