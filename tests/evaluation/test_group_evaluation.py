"""Scores of groups, against a formula of ten lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie.data.datasets.coco import register
from hipie.data.datasets.grd import GroupQuestions
from hipie.evaluation import GroupReferringEvaluator
from tests.evaluation.referring_sets import random_set


def by_formula(pairs: list[tuple]) -> dict[str, float]:
    positive = [(f, w) for *_, f, w, meant in pairs if meant]
    quiet = [not f.any() for *_, f, _, meant in pairs if not meant]
    inter, union = (
        np.array([op(f, w).sum() for f, w in positive]) for op in (np.logical_and, np.logical_or)
    )
    ious = np.where(union > 0, inter / np.maximum(union, 1), 0.0)
    return {
        "mIoU-positive": 100 * ious.mean(),
        "oIoU-positive": 100 * inter.sum() / union.sum(),
        "N-acc": 100 * np.mean(quiet),
        "T-acc": 100 * np.mean([f.any() for f, _ in positive]),
        "mIoU": 100 * np.mean([*ious, *quiet]),
    }


def wanted_scores(pairs: list[tuple]) -> dict[str, float]:
    groups = sorted({pair[0] for pair in pairs})
    each = [by_formula([pair for pair in pairs if pair[0] == group]) for group in groups]
    macro = {f"macro-{name}": np.mean([one[name] for one in each]) for name in each[0]}
    return by_formula(pairs) | macro | {"pairs": len(pairs), "groups": len(groups)}


def as_group_answers(records: list[dict], pairs: list[tuple]) -> tuple[list[dict], list[list]]:
    """The same answers, as a model of groups gives them: in chunks of four, the last one full."""
    inputs, outputs = [], []
    drawn = {(image, expression): found for _, image, expression, found, *_ in pairs}
    for record in records:
        record.setdefault("group_name", f"group {record['group_id']}")
    for group in GroupQuestions(records):
        images = group["images"]
        for start in range(0, len(images), 4):
            chunk = [*images[start : start + 4], *images][:4]
            inputs.append({**group, "images": chunk})
            masks = [drawn[one["image_id"], group["sent_id"]] for one in chunk]
            outputs.append(
                [
                    {
                        "sem_seg": torch.from_numpy(np.where(mask, 0.7, 0.3))[None],
                        "positive": bool(mask.any()),
                    }
                    for mask in masks
                ]
            )
    return inputs, outputs


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_the_formula(seed: int) -> None:
    records, outputs, pairs = random_set(seed)
    register("hand_made_groups", lambda: records, evaluator_type="group")
    judge = GroupReferringEvaluator("hand_made_groups")
    judge.process(records, outputs)
    assert judge.evaluate()["group"] == pytest.approx(wanted_scores(pairs))


@pytest.mark.parametrize("seed", range(3))
def test_models_of_groups_and_repeated_images(seed: int) -> None:
    records, _, pairs = random_set(seed)
    register("hand_made_groups", lambda: records, evaluator_type="group")
    judge = GroupReferringEvaluator("hand_made_groups")
    inputs, outputs = as_group_answers(records, pairs)
    assert sum(len(one) for one in outputs) > len(pairs)
    judge.process(inputs, outputs)
    assert judge.evaluate()["group"] == pytest.approx(wanted_scores(pairs))


def test_a_rejected_image_has_an_empty_mask() -> None:
    records, _, pairs = random_set(3)
    register("hand_made_groups", lambda: records)
    judge = GroupReferringEvaluator("hand_made_groups")
    inputs, outputs = as_group_answers(records, pairs)
    for group in outputs:
        for one in group:
            one["positive"] = False
    judge.process(inputs, outputs)
    found = judge.evaluate()["group"]
    assert found["N-acc"] == 100 and found["T-acc"] == 0 and found["mIoU-positive"] == 0


def test_missing_and_misshapen_answers_are_named() -> None:
    records, _, pairs = random_set(3)
    register("hand_made_groups", lambda: records)
    judge = GroupReferringEvaluator("hand_made_groups")
    inputs, outputs = as_group_answers(records, pairs)
    with pytest.raises(ValueError, match="group 0: 4 images, but 3 answers"):
        judge.process(inputs[:1], [outputs[0][:3]])
    small = [{"sem_seg": torch.ones(1, 2, 2)} for _ in outputs[0]]
    with pytest.raises(ValueError, match=r"jpg: an answer of \(2, 2\) pixels"):
        judge.process(inputs[:1], [small])


@pytest.mark.parametrize("grouped", [True, False])
def test_an_image_of_two_groups_counts_in_both(grouped: bool) -> None:
    records, outputs, pairs = random_set(1)
    others = [{**one, "group_id": one["group_id"] + 100} for one in records]
    register("hand_made_groups", lambda: records + others)
    judge = GroupReferringEvaluator("hand_made_groups")
    inputs, outputs = as_group_answers(records, pairs) if grouped else (records, outputs)
    judge.process(inputs, outputs)
    judge.process([{**one, "group_id": one["group_id"] + 100} for one in inputs], outputs)
    found = judge.evaluate()["group"]
    assert found["pairs"] == 2 * len(pairs)
    assert found["groups"] == 2 * len({pair[0] for pair in pairs})


def test_an_expression_that_is_not_asked_is_named() -> None:
    records, _, pairs = random_set(3)
    register("hand_made_groups", lambda: records)
    inputs, outputs = as_group_answers(records, pairs)
    judge = GroupReferringEvaluator("hand_made_groups")
    with pytest.raises(ValueError, match="group 0 does not ask it the expression 999"):
        judge.process([{**inputs[0], "sent_id": 999}], outputs[:1])
