"""Referring metrics on expressions worked out by hand."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances

from hipie.data.datasets.coco import register
from hipie.evaluation import GeneralizedReferringEvaluator, ReferringEvaluator

SIZE = (4, 10)


def columns(left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[:, left:right] = 1
    return mask


def annotation(left: int, right: int) -> dict:
    return {"segmentation": mask_util.encode(np.asfortranarray(columns(left, right)))}


def answer(*masks: np.ndarray) -> Instances:
    found = Instances(SIZE)
    found.pred_masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *SIZE))
    return found


@pytest.fixture
def expressions() -> list[dict]:
    """Two images: expressions for one thing, for two, and for nothing."""
    records = [
        {
            "file_name": "a.jpg",
            "height": 4,
            "width": 10,
            "image_id": 1,
            "annotations": [annotation(0, 4), annotation(5, 9)],
            "expressions": [
                {"expression": "left", "targets": [0], "kind": "class", "held_out": ""},
                {"expression": "both", "targets": [0, 1], "kind": "class", "held_out": "pair"},
                {"expression": "nothing", "targets": [], "kind": "none"},
            ],
        },
        {
            "file_name": "b.jpg",
            "height": 4,
            "width": 10,
            "image_id": 2,
            "annotations": [annotation(2, 6)],
            "expressions": [
                {"expression": "it", "targets": [0]},
                {"expression": "no", "targets": []},
            ],
        },
    ]
    register("hand_made_sentences", lambda: records)
    return records


ANSWERS = [
    {"referring": [answer(columns(0, 3)), answer(columns(0, 4)), answer(columns(0, 1))]},
    {"referring": [answer(columns(2, 6)), answer()]},
]


def test_referring_by_hand(expressions: list[dict]) -> None:
    judge = ReferringEvaluator("hand_made_sentences", distributed=False)
    for record, given in zip(expressions, ANSWERS, strict=True):
        judge.process([record], [given])
    scores = judge.evaluate()["refer"]
    assert scores["oIoU"] == pytest.approx(100 * (12 + 16 + 0 + 16 + 0) / (16 + 32 + 4 + 16 + 0))
    assert scores["mIoU"] == pytest.approx(100 * (0.75 + 0.5 + 0 + 1 + 0) / 5)
    assert scores["P@0.5"] == pytest.approx(60) and scores["P@0.8"] == pytest.approx(20)
    assert scores["oIoU-class"] == pytest.approx(100 * 28 / 48)
    assert scores["oIoU-unseen_pair"] == pytest.approx(50)
    assert scores["oIoU-seen"] == pytest.approx(75)
    assert scores["expressions"] == 5


def test_boxes_by_hand() -> None:
    """Right, too narrow (6 of 8 cells), two columns off (4 of 12), too high (8 of 16), none."""
    boxed = {**annotation(1, 5), "bbox": [1, 1, 4, 2]}
    record = {
        "file_name": "a.jpg",
        "height": 4,
        "width": 10,
        "image_id": 1,
        "annotations": [boxed],
        "expressions": [{"expression": word, "targets": [0]} for word in "abcde"],
    }
    register("hand_made_boxes", lambda: [record])
    answers = []
    for box in ([1, 1, 5, 3], [2, 1, 5, 3], [3, 1, 7, 3], [1, 0, 5, 4]):
        answers.append(answer(columns(1, 5)))
        answers[-1].pred_boxes = Boxes(torch.tensor([box], dtype=torch.float32))
    answers.append(answer())
    answers[-1].pred_boxes = Boxes(torch.zeros(0, 4))
    judge = ReferringEvaluator("hand_made_boxes", distributed=False)
    judge.process([record], [{"referring": answers}])
    scores = judge.evaluate()["refer"]
    found = [scores[f"box-P@{x}"] for x in (0.5, 0.7, 0.8, 0.9)]
    assert found == pytest.approx([60, 40, 20, 20])


def test_what_is_new_in_the_words_is_told_apart(expressions: list[dict]) -> None:
    for expression, new in zip(expressions[0]["expressions"], ("class", "pair", ""), strict=True):
        expression["held_out"] = new
    judge = ReferringEvaluator("hand_made_sentences", distributed=False)
    judge.process([expressions[0]], [ANSWERS[0]])
    scores = judge.evaluate()["refer"]
    assert scores["oIoU-unseen_class"] == pytest.approx(75)
    assert scores["oIoU-unseen_pair"] == pytest.approx(50)
    assert scores["oIoU-seen"] == 0


def test_an_empty_answer_counts_the_whole_target(expressions: list[dict]) -> None:
    judge = ReferringEvaluator("hand_made_sentences", distributed=False, result_name="mine")
    judge.process([expressions[1]], [{"referring": [answer(), answer()]}])
    scores = judge.evaluate()["mine"]
    assert scores["oIoU"] == 0 and scores["mIoU"] == 0


def test_several_masks_are_joined(expressions: list[dict]) -> None:
    judge = ReferringEvaluator("hand_made_sentences", distributed=False)
    both = answer(columns(2, 4), columns(4, 6))
    judge.process([expressions[1]], [{"referring": [both, answer()]}])
    assert judge.evaluate()["refer"]["mIoU"] == pytest.approx(50)


def test_reset_forgets(expressions: list[dict]) -> None:
    judge = ReferringEvaluator("hand_made_sentences", distributed=False)
    judge.process([expressions[0]], [ANSWERS[0]])
    judge.reset()
    judge.process([expressions[1]], [ANSWERS[1]])
    assert judge.evaluate()["refer"]["expressions"] == 2


@pytest.mark.parametrize("kind", [ReferringEvaluator, GeneralizedReferringEvaluator])
def test_missing_answers_are_named(expressions: list[dict], kind: type) -> None:
    judge = kind("hand_made_sentences", distributed=False)
    with pytest.raises(ValueError, match="a.jpg: 3 expressions, but 1 answers"):
        judge.process([expressions[0]], [{"referring": [answer()]}])


def test_answers_of_another_size_are_refused(expressions: list[dict]) -> None:
    judge = ReferringEvaluator("hand_made_sentences", distributed=False)
    small = Instances((2, 2))
    small.pred_masks = torch.ones(1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="pixels for an image of"):
        judge.process([expressions[1]], [{"referring": [small, small]}])


def test_generalized_by_hand(expressions: list[dict]) -> None:
    judge = GeneralizedReferringEvaluator("hand_made_sentences", distributed=False)
    for record, given in zip(expressions, ANSWERS, strict=True):
        judge.process([record], [given])
    scores = judge.evaluate()["grefer"]
    assert scores["gIoU"] == pytest.approx(100 * (0.75 + 0.5 + 0 + 1 + 1) / 5)
    assert scores["cIoU"] == pytest.approx(100 * 44 / 68)
    assert scores["N-acc"] == pytest.approx(50)
    assert scores["T-acc"] == pytest.approx(100)
    assert scores["Pr@0.7"] == pytest.approx(200 / 3)
    assert scores["Pr@0.9"] == pytest.approx(100 / 3)


def test_generalized_misses(expressions: list[dict]) -> None:
    judge = GeneralizedReferringEvaluator("hand_made_sentences", distributed=False)
    judge.process([expressions[1]], [{"referring": [answer(), answer(columns(0, 1))]}])
    scores = judge.evaluate()["grefer"]
    assert scores["gIoU"] == 0 and scores["T-acc"] == 0 and scores["N-acc"] == 0


def test_generalized_without_expressions() -> None:
    register("hand_made_nothing", list)
    judge = GeneralizedReferringEvaluator("hand_made_nothing", distributed=False)
    assert np.isnan(judge.evaluate()["grefer"]["gIoU"])
