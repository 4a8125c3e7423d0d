"""Threshold of expressions without target: its curve against the evaluator at every threshold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hipie.data.datasets.catalog import register_dataset
from hipie.errors import InputError
from hipie.evaluation import GeneralizedReferringEvaluator
from hipie.evaluation.metrics.no_target import NoTargetThresholds
from tests.evaluation.referring_sets import random_set

NAMES = ("gIoU", "N-acc", "T-acc")


def scored_set(seed: int) -> tuple[list[dict], list[dict]]:
    """Draw records and predictions with a score each; those of no target score lower on average."""
    records, outputs, _ = random_set(seed)
    rng = np.random.default_rng(seed)
    for record, output in zip(records, outputs, strict=True):
        for expression, instances in zip(record["expressions"], output["referring"], strict=True):
            top = 1.0 if expression["targets"] else 0.6
            instances.scores = torch.from_numpy(rng.uniform(0, top, len(instances)))
    return records, outputs


def evaluate(records: list[dict], outputs: list[dict], threshold: float, folder=None) -> dict:
    register_dataset("scored_expressions", lambda: records, evaluator_type="grefer")
    evaluator = GeneralizedReferringEvaluator(
        "scored_expressions", False, no_target_threshold=threshold, output_folder=folder
    )
    assert evaluator.requested_results == ("best_instances",)
    evaluator.process(records, outputs)
    return evaluator.evaluate()["grefer"]


@pytest.mark.parametrize("seed", range(3))
def test_curve_has_the_scores_of_an_evaluation_with_each_threshold(seed, tmp_path):
    records, outputs = scored_set(seed)
    scores = evaluate(records, outputs, 0.0, tmp_path)
    curve = json.loads((tmp_path / "no_target_thresholds.json").read_text())
    assert [entry["threshold"] for entry in curve] == pytest.approx(np.arange(100) / 100)
    for entry in curve[::7]:
        at = evaluate(records, outputs, entry["threshold"])
        expected = [entry[key] for key in ("giou", "n_acc", "t_acc")]
        assert [at[name] for name in NAMES] == pytest.approx(expected)
    best = scores["best_no_target_threshold"]
    at = evaluate(records, outputs, best)
    assert [scores[f"{n}_best_no_target_threshold"] for n in NAMES] == pytest.approx(
        [at[name] for name in NAMES]
    )
    assert at["gIoU"] == pytest.approx(max(entry["giou"] for entry in curve))
    assert at["gIoU"] > scores["gIoU"] and best > 0


def test_threshold_off_is_the_evaluation_without_one():
    records, outputs = scored_set(1)
    register_dataset("scored_expressions", lambda: records, evaluator_type="grefer")
    plain = GeneralizedReferringEvaluator("scored_expressions", False)
    plain.process(records, outputs)
    assert not hasattr(plain, "requested_results")
    scores = evaluate(records, outputs, 0.0)
    assert plain.evaluate()["grefer"] == {
        name: value for name, value in scores.items() if "threshold" not in name
    }


def test_threshold_that_is_no_score_is_refused():
    with pytest.raises(InputError, match="NO_TARGET must be in 0 to 1"):
        NoTargetThresholds(1.5)
