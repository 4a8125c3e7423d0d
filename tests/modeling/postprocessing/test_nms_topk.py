"""Class-aware non-maximum suppression and top-k of (query, class) pairs."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_convert

from hipie.modeling.postprocessing.nms_topk import class_aware_nms, topk_query_class_pairs
from hipie.modeling.postprocessing.score_calibration import instance_scores
from hipie.modeling.postprocessing.token_to_class import mask_stuff_classes, pool_token_logits

DET12 = [[1], [3], [5, 6], [8, 9], [11, 12], [14, 15, 16], list(range(18, 23))]
DET12 += [[24, 25, 26], [28, 29, 30], [32, 33, 34], [36, 37, 38], [40]]
IS_THING = [True] * 6 + [False] * 6


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two cxcywh boxes in float64."""
    sides = []
    for axis in (0, 1):
        low = max(box[axis] - box[axis + 2] / 2 for box in (first, second))
        high = min(box[axis] + box[axis + 2] / 2 for box in (first, second))
        sides.append(max(0.0, high - low))
    shared = sides[0] * sides[1]
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def test_official_instances(official) -> None:
    logits = pool_token_logits(official["det12_pred_logits"][0, 10:], DET12)
    boxes = official["det12_pred_boxes"][0, 10:]
    scores = instance_scores(
        mask_stuff_classes(logits, IS_THING), official["det12_pred_iou"][0, 10:]
    )
    assert torch.allclose(scores.amax(-1), official["det12_thing_scores_0"], atol=1e-5)
    assert torch.equal(scores.argmax(-1), official["det12_thing_labels_0"].long())
    kept = class_aware_nms(scores, boxes)
    assert torch.equal(kept, official["det12_nms_keep_0"].long())
    query, label, score = topk_query_class_pairs(scores[kept], 100, IS_THING)
    assert torch.allclose(score, official["det12_inst_scores_0"], atol=1e-5)
    assert torch.equal(label, official["det12_inst_classes_0"].long())
    size = torch.tensor([390.0, 300.0, 390.0, 300.0])
    absolute = (box_convert(boxes[kept[query]], "cxcywh", "xyxy") * size).clamp(min=0).minimum(size)
    assert torch.allclose(absolute, official["det12_inst_boxes_0"], atol=1e-3)


@given(st.integers(0, 2**31), st.integers(1, 25), st.integers(1, 3))
def test_nms_equals_a_greedy_loop(seed: int, count: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, classes, generator=generator)
    centre = 0.4 + 0.1 * torch.rand(count, 2, generator=generator)
    size = 0.2 + 0.1 * torch.rand(count, 2, generator=generator)
    boxes = torch.cat([centre, size], 1)
    plain, labels = boxes.double().numpy(), scores.argmax(1).tolist()
    expected: list[int] = []
    for query in scores.amax(1).argsort(descending=True).tolist():
        rivals = [other for other in expected if labels[other] == labels[query]]
        overlaps = [overlap(plain[query], plain[other]) for other in rivals]
        if any(abs(value - 0.7) < 1e-4 for value in overlaps):
            return
        if all(value <= 0.7 for value in overlaps):
            expected.append(query)
    assert class_aware_nms(scores, boxes).tolist() == expected


def test_permuting_classes_keeps_the_same_queries() -> None:
    scores, boxes, order = torch.rand(30, 4), torch.rand(30, 4) * 0.3 + 0.3, [3, 1, 0, 2]
    assert torch.equal(class_aware_nms(scores, boxes), class_aware_nms(scores[:, order], boxes))
    query, label, score = topk_query_class_pairs(scores, 20)
    permuted_query, permuted_label, permuted_score = topk_query_class_pairs(scores[:, order], 20)
    assert torch.equal(query, permuted_query)
    assert torch.equal(score, permuted_score)
    assert torch.equal(label, torch.tensor(order)[permuted_label])


def test_query_may_have_several_classes() -> None:
    query, label, score = topk_query_class_pairs(
        torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.3, 0.7]]), 3
    )
    assert query.tolist() == [0, 0, 1]
    assert label.tolist() == [0, 1, 2]
    assert torch.allclose(score, torch.tensor([0.9, 0.8, 0.7]))


def test_only_allowed_classes_are_selected() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.3, 0.7]])
    query, label, _ = topk_query_class_pairs(scores, 100, [False, True, True])
    assert label.tolist() == [1, 2, 1, 2]
    assert query.tolist() == [0, 1, 1, 0]


def test_empty_inputs() -> None:
    assert class_aware_nms(torch.zeros(0, 3), torch.zeros(0, 4)).shape == (0,)
    assert [len(part) for part in topk_query_class_pairs(torch.zeros(0, 3))] == [0, 0, 0]
    assert [len(part) for part in topk_query_class_pairs(torch.rand(2, 2), 5, [False, False])] == [
        0,
        0,
        0,
    ]


def test_bfloat16_boxes_are_compared_in_float32() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]]).bfloat16()
    assert class_aware_nms(torch.tensor([[0.3], [0.4]]).bfloat16(), boxes).tolist() == [1]
