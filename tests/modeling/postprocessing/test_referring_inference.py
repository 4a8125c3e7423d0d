"""Best query of a referring expression."""

from __future__ import annotations

import torch
from torchvision.ops import box_convert

from hipie.modeling.postprocessing.referring_inference import best_query


def test_official_expression(official) -> None:
    query, score = best_query(
        official["refer_pred_logits"][0, 10:], official["refer_pred_iou"][0, 10:]
    )
    assert abs(float(score) - float(official["refer_inst_scores_0"][0])) < 1e-5
    box = box_convert(official["refer_pred_boxes"][0, 10:][query], "cxcywh", "xyxy") * torch.tensor(
        [626, 500, 626, 500]
    )
    assert torch.allclose(box, official["refer_inst_boxes_0"][0], atol=1e-3)


def test_score_combines_text_similarity_and_iou() -> None:
    logits, iou = torch.tensor([[2.0], [1.0], [3.0]]), torch.tensor([[0.0], [3.0], [-4.0]])
    query, score = best_query(logits, iou)
    assert int(query) == 1
    exact = torch.tensor([1.0, 3.0]).double().sigmoid().prod().sqrt()
    assert abs(float(score) - float(exact)) < 1e-6


def test_several_expressions_at_once() -> None:
    logits, iou = torch.randn(4, 9, 1), torch.randn(4, 9, 1)
    query, score = best_query(logits, iou)
    assert query.shape == score.shape == (4,)
    alone = [best_query(logits[i], iou[i]) for i in range(4)]
    assert query.tolist() == [int(one) for one, _ in alone]
