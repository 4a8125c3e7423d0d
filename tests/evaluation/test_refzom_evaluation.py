"""Ref-ZOM's scores against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hipie.data.datasets.catalog import register_dataset
from hipie.evaluation import RefZOMEvaluator
from tests.evaluation.referring_sets import random_set


def expected_scores(pairs: list[tuple], side: int | None = None) -> dict[str, float]:
    inter, union, ious, rejected = 0, 0, [], []
    for *_, predicted, target, has_target in pairs:
        if side:
            predicted, target = (
                np.array(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))
                for mask in (predicted, target)
            )
        if has_target:
            i, u = (predicted & target).sum(), (predicted | target).sum()
            inter, union, ious = inter + i, union + u, [*ious, i / u if u else 0.0]
        else:
            rejected.append(not predicted.any())
    scores = {
        "oIoU": 100 * inter / union,
        "mIoU": 100 * np.mean(ious),
        "Acc": 100 * np.mean(rejected),
    }
    return scores | {
        f"P@{x}": 100 * np.mean(np.array(ious) >= x) for x in (0.5, 0.6, 0.7, 0.8, 0.9)
    }


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_the_formulas(seed: int) -> None:
    records, outputs, pairs = random_set(seed)
    register_dataset("hand_made_refzom", lambda: records, evaluator_type="refzom")
    evaluator = RefZOMEvaluator("hand_made_refzom", resized_to=48)
    evaluator.process(records, outputs)
    scores = evaluator.evaluate()["refzom"]
    assert scores.pop("expressions") == len(pairs) and "@48: both masks" in evaluator.protocol
    expected = expected_scores(pairs)
    expected |= {f"{name}@48": value for name, value in expected_scores(pairs, 48).items()}
    assert scores == pytest.approx(expected)


def test_expressions_without_target_count_in_acc_only() -> None:
    records, outputs, _ = random_set(1)
    for record in records:
        for expression in record["expressions"]:
            expression["targets"] = []
    register_dataset("hand_made_refzom", lambda: records)
    evaluator = RefZOMEvaluator("hand_made_refzom")
    evaluator.process(records, outputs)
    scores = evaluator.evaluate()["refzom"]
    assert np.isnan(scores["oIoU"]) and np.isnan(scores["mIoU"]) and 0 < scores["Acc"] < 100


def test_invalid_predictions_are_refused() -> None:
    records, outputs, _ = random_set(2)
    register_dataset("hand_made_refzom", lambda: records)
    evaluator = RefZOMEvaluator("hand_made_refzom")
    with pytest.raises(ValueError, match=r"0\.jpg: 4 expressions, but 3 predictions"):
        evaluator.process(records[:1], [{"referring": outputs[0]["referring"][:3]}])
    other = random_set(9)[1][:1]
    with pytest.raises(ValueError, match=r"0\.jpg: a prediction of"):
        evaluator.process(records[:1], other)
