"""Ref-ZOM's scores, against a formula of ten lines."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hipie.data.datasets.coco import register
from hipie.evaluation import RefZOMEvaluator
from tests.evaluation.referring_sets import random_set


def by_formula(pairs: list[tuple], side: int | None = None) -> dict[str, float]:
    inter, union, ious, quiet = 0, 0, [], []
    for *_, found, wanted, meant in pairs:
        if side:
            found, wanted = (
                np.array(Image.fromarray(one).resize((side, side), Image.Resampling.NEAREST))
                for one in (found, wanted)
            )
        if meant:
            i, u = (found & wanted).sum(), (found | wanted).sum()
            inter, union, ious = inter + i, union + u, [*ious, i / u if u else 0.0]
        else:
            quiet.append(not found.any())
    scores = {"oIoU": 100 * inter / union, "mIoU": 100 * np.mean(ious), "Acc": 100 * np.mean(quiet)}
    return scores | {
        f"P@{x}": 100 * np.mean(np.array(ious) >= x) for x in (0.5, 0.6, 0.7, 0.8, 0.9)
    }


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_the_formula(seed: int) -> None:
    records, outputs, pairs = random_set(seed)
    register("hand_made_refzom", lambda: records, evaluator_type="refzom")
    judge = RefZOMEvaluator("hand_made_refzom", also_at=48)
    judge.process(records, outputs)
    found = judge.evaluate()["refzom"]
    assert found.pop("expressions") == len(pairs) and "@48: both masks" in judge.protocol
    wanted = by_formula(pairs)
    wanted |= {f"{name}@48": value for name, value in by_formula(pairs, 48).items()}
    assert found == pytest.approx(wanted)


def test_nothing_meant_counts_in_acc_alone() -> None:
    records, outputs, _ = random_set(1)
    for record in records:
        for expression in record["expressions"]:
            expression["targets"] = []
    register("hand_made_refzom", lambda: records)
    judge = RefZOMEvaluator("hand_made_refzom")
    judge.process(records, outputs)
    found = judge.evaluate()["refzom"]
    assert np.isnan(found["oIoU"]) and np.isnan(found["mIoU"]) and 0 < found["Acc"] < 100


def test_wrong_answers_are_named() -> None:
    records, outputs, _ = random_set(2)
    register("hand_made_refzom", lambda: records)
    judge = RefZOMEvaluator("hand_made_refzom")
    with pytest.raises(ValueError, match=r"0\.jpg: 4 expressions, but 3 answers"):
        judge.process(records[:1], [{"referring": outputs[0]["referring"][:3]}])
    other = random_set(9)[1][:1]
    with pytest.raises(ValueError, match=r"0\.jpg: an answer of"):
        judge.process(records[:1], other)
