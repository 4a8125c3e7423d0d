"""Scores of groups against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie.data.datasets.catalog import register_dataset
from hipie.data.datasets.grd import GroupSamples
from hipie.evaluation import GroupReferringEvaluator
from tests.evaluation.referring_sets import random_set


def pair_scores(pairs: list[tuple]) -> dict[str, float]:
    positive = [(p, t) for *_, p, t, has_target in pairs if has_target]
    rejected = [not p.any() for *_, p, _, has_target in pairs if not has_target]
    inter, union = (
        np.array([op(p, t).sum() for p, t in positive]) for op in (np.logical_and, np.logical_or)
    )
    ious = np.where(union > 0, inter / np.maximum(union, 1), 0.0)
    return {
        "mIoU-positive": 100 * ious.mean(),
        "oIoU-positive": 100 * inter.sum() / union.sum(),
        "P@0.5": 100 * np.mean(ious >= 0.5),
        "P@0.5-box": 100 * np.mean([box_iou(p, t) >= 0.5 for p, t in positive]),
        "N-acc": 100 * np.mean(rejected),
        "T-acc": 100 * np.mean([p.any() for p, _ in positive]),
        "mIoU": 100 * np.mean([*ious, *rejected]),
    }


def box_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of the bounding boxes of two masks."""
    if not a.any() or not b.any():
        return 0.0
    boxes = np.zeros((2, *a.shape), bool)
    for box, mask in zip(boxes, (a, b), strict=True):
        rows, columns = np.nonzero(mask)
        box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return float((boxes[0] & boxes[1]).sum() / (boxes[0] | boxes[1]).sum())


def expected_scores(pairs: list[tuple]) -> dict[str, float]:
    groups = sorted({pair[0] for pair in pairs})
    scores = [pair_scores([pair for pair in pairs if pair[0] == group]) for group in groups]
    macro = {f"macro-{name}": np.mean([group[name] for group in scores]) for name in scores[0]}
    return pair_scores(pairs) | macro | {"pairs": len(pairs), "groups": len(groups)}


def as_group_outputs(records: list[dict], pairs: list[tuple]) -> tuple[list[dict], list[list]]:
    """Convert predictions to a group model's outputs, in chunks of four padded by repetition."""
    inputs, outputs = [], []
    predicted = {(image, expression): mask for _, image, expression, mask, *_ in pairs}
    for record in records:
        record.setdefault("group_name", f"group {record['group_id']}")
    for group in GroupSamples(records):
        images = group["images"]
        for start in range(0, len(images), 4):
            chunk = [*images[start : start + 4], *images][:4]
            inputs.append({**group, "images": chunk})
            masks = [predicted[image["image_id"], group["sent_id"]] for image in chunk]
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
def test_equal_to_the_formulas(seed: int) -> None:
    records, outputs, pairs = random_set(seed)
    register_dataset("hand_made_groups", lambda: records, evaluator_type="group")
    evaluator = GroupReferringEvaluator("hand_made_groups")
    evaluator.process(records, outputs)
    assert evaluator.evaluate()["group"] == pytest.approx(expected_scores(pairs))


@pytest.mark.parametrize("seed", range(3))
def test_repeated_images_of_group_models_count_once(seed: int) -> None:
    records, _, pairs = random_set(seed)
    register_dataset("hand_made_groups", lambda: records, evaluator_type="group")
    evaluator = GroupReferringEvaluator("hand_made_groups")
    inputs, outputs = as_group_outputs(records, pairs)
    assert sum(len(output) for output in outputs) > len(pairs)
    evaluator.process(inputs, outputs)
    assert evaluator.evaluate()["group"] == pytest.approx(expected_scores(pairs))


def test_rejected_image_has_an_empty_mask() -> None:
    records, _, pairs = random_set(3)
    register_dataset("hand_made_groups", lambda: records)
    evaluator = GroupReferringEvaluator("hand_made_groups")
    inputs, outputs = as_group_outputs(records, pairs)
    for group in outputs:
        for output in group:
            output["positive"] = False
    evaluator.process(inputs, outputs)
    scores = evaluator.evaluate()["group"]
    assert scores["N-acc"] == 100 and scores["T-acc"] == 0 and scores["mIoU-positive"] == 0


def test_missing_and_misshapen_outputs_are_refused() -> None:
    records, _, pairs = random_set(3)
    register_dataset("hand_made_groups", lambda: records)
    evaluator = GroupReferringEvaluator("hand_made_groups")
    inputs, outputs = as_group_outputs(records, pairs)
    with pytest.raises(ValueError, match="group 0: 4 images, but 3 outputs"):
        evaluator.process(inputs[:1], [outputs[0][:3]])
    small = [{"sem_seg": torch.ones(1, 2, 2)} for _ in outputs[0]]
    with pytest.raises(ValueError, match=r"jpg: a prediction of \(2, 2\) pixels"):
        evaluator.process(inputs[:1], [small])


def test_pointing_accuracy_of_planted_heatmaps() -> None:
    """Heatmaps whose maximum is planted on the target, or beside it, one pair after another."""
    records, _, pairs = random_set(3)
    register_dataset("hand_made_groups", lambda: records)
    evaluator = GroupReferringEvaluator("hand_made_groups")
    inputs, outputs = as_group_outputs(records, pairs)
    targets = {(image, expression): target for _, image, expression, _, target, _ in pairs}
    hits: dict[tuple, tuple] = {}
    for group, images in zip(inputs, outputs, strict=True):
        for image, output in zip(group["images"], images, strict=True):
            target = targets[image["image_id"], group["sent_id"]]
            bits = (len(hits) % 2, len(hits) // 2 % 2, len(hits) // 4 % 2)
            pattern = tuple((hit and target.any()) or target.all() for hit in bits)
            pattern = hits.setdefault((image["image_id"], group["sent_id"]), pattern)
            planted = [plant(target, bool(hit)) for hit in pattern]
            language, first, rest = planted
            output["heatmaps"] = {
                "language": torch.from_numpy(language),
                "visual": torch.from_numpy(np.stack([first, 9 * rest])),
                "sources": None,
            }
    evaluator.process(inputs, outputs)
    scores = evaluator.evaluate()["group"]
    positive = [(image, expression) for _, image, expression, *_, shown in pairs if shown]
    for index, name in enumerate(("language", "first", "visual")):
        expected = 100 * np.mean([hits[key][index] for key in positive])
        assert scores[f"pointing-{name}"] == pytest.approx(expected)
    shares = [targets[key].mean() for key in positive]
    assert scores["pointing-chance"] == pytest.approx(100 * np.mean(shares), abs=1e-3)
    assert 0 < scores["pointing-language"] < 100 and "macro-pointing-visual" in scores


def plant(target: np.ndarray, hit: bool) -> np.ndarray:
    """Heatmap of a target's size with its maximum on the target, or outside of it."""
    heatmap = np.zeros(target.shape, np.float32)
    if (target == hit).any():
        heatmap[tuple(np.argwhere(target == hit)[0])] = 1
    return heatmap


@pytest.mark.parametrize("grouped", [True, False])
def test_image_of_two_groups_counts_in_both(grouped: bool) -> None:
    records, outputs, pairs = random_set(1)
    others = [{**r, "group_id": r["group_id"] + 100} for r in records]
    register_dataset("hand_made_groups", lambda: records + others)
    evaluator = GroupReferringEvaluator("hand_made_groups")
    inputs, outputs = as_group_outputs(records, pairs) if grouped else (records, outputs)
    evaluator.process(inputs, outputs)
    evaluator.process([{**i, "group_id": i["group_id"] + 100} for i in inputs], outputs)
    scores = evaluator.evaluate()["group"]
    assert scores["pairs"] == 2 * len(pairs)
    assert scores["groups"] == 2 * len({pair[0] for pair in pairs})


def test_expression_of_another_image_is_refused() -> None:
    records, _, pairs = random_set(3)
    register_dataset("hand_made_groups", lambda: records)
    inputs, outputs = as_group_outputs(records, pairs)
    evaluator = GroupReferringEvaluator("hand_made_groups")
    with pytest.raises(ValueError, match="group 0 has no expression 999 for this image"):
        evaluator.process([{**inputs[0], "sent_id": 999}], outputs[:1])
