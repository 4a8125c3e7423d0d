"""Overlaps of masks as arrays and RLEs, and the scores made of them."""

from __future__ import annotations

import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from hipie.data.datasets.catalog import register_dataset
from hipie.data.io.rle import decode_counts
from hipie.evaluation import GeneralizedReferringEvaluator, ReferringEvaluator
from hipie.evaluation.metrics.expression_iou import (
    MaskOverlap,
    mask_overlap,
    referring_scores,
    resize_nearest,
    target_rles,
)
from tests.evaluation.referring_sets import encode_rle, make_prediction, random_mask, random_set


def rectangle(left: int, right: int) -> np.ndarray:
    mask = np.zeros((4, 10), dtype=bool)
    mask[:, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("predicted", "target", "expected"),
    [
        (rectangle(0, 5), rectangle(0, 5), (20, 20)),
        (rectangle(0, 5), rectangle(3, 8), (8, 32)),
        (rectangle(0, 5), rectangle(5, 8), (0, 32)),
        (rectangle(0, 0), rectangle(5, 8), (0, 12)),
        (rectangle(5, 8), rectangle(0, 0), (0, 12)),
        (rectangle(0, 0), rectangle(0, 0), (0, 0)),
    ],
)
def test_overlap(predicted: np.ndarray, target: np.ndarray, expected: tuple[int, int]) -> None:
    assert mask_overlap(predicted, target) == (*expected, predicted.sum())


def test_iou_of_empty_masks_is_zero() -> None:
    assert MaskOverlap(0, 0, 0).iou == 0 and MaskOverlap(3, 4, 3).iou == 0.75


PAIRS = [(90, 100), (5, 10), (7, 10), (0, 20), (0, 0)]


def test_scores_of_five_expressions() -> None:
    scores = referring_scores([MaskOverlap(*pair, 0) for pair in PAIRS])
    assert scores["oIoU"] == pytest.approx(100 * 102 / 140)
    assert scores["mIoU"] == pytest.approx(100 * (0.9 + 0.5 + 0.7 + 0 + 0) / 5)
    assert [scores[f"P@{x}"] for x in (0.5, 0.6, 0.7, 0.8, 0.9)] == pytest.approx(
        [60, 40, 40, 20, 20]
    )


def test_scores_without_samples_are_nan() -> None:
    assert all(math.isnan(value) for value in referring_scores([]).values())


def test_scores_of_empty_masks_are_zero() -> None:
    scores = referring_scores([MaskOverlap(0, 0, 0)])
    assert scores["oIoU"] == 0 and scores["mIoU"] == 0 and scores["P@0.5"] == 0


def test_scores_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 10**6, (500, 2)).cumsum(1)
    overlaps = [MaskOverlap(int(intersection), int(union), 0) for intersection, union in counts]
    expected = referring_scores(overlaps)
    for _ in range(20):
        assert referring_scores([overlaps[k] for k in rng.permutation(500)]) == expected


@pytest.mark.parametrize("seed", range(20))
def test_overlap_of_rles_equals_that_of_arrays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 60, 2))
    for _ in range(20):
        first, second = random_mask(rng, size), random_mask(rng, size)
        assert mask_overlap(encode_rle(first), encode_rle(second)) == mask_overlap(first, second)


@pytest.mark.parametrize("seed", range(20))
def test_counts_are_decoded_as_pycocotools_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, (int(rng.integers(1, 400)), int(rng.integers(1, 400))))
    scores = decode_counts(encode_rle(mask)["counts"])
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    expected = np.diff(np.concatenate([[0], edges, [flat.size]]))
    if flat[0]:
        expected = np.concatenate([[0], expected])
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize(
    "sizes", [((30, 40), (480, 480)), ((500, 333), (480, 480)), ((7, 5), (3, 9))]
)
def test_resize_nearest_equals_pillow(sizes: tuple) -> None:
    before, after = sizes
    mask = np.random.default_rng(0).random(before) < 0.5
    expected = Image.fromarray(mask).resize(after[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(resize_nearest(mask, *after), np.array(expected))


def expected_scores(pairs: list[tuple], side: int | None) -> dict[str, float]:
    inter = union = 0
    ious, giou_terms, presence = [], [], []
    for *_, predicted, target, has_target in pairs:
        if side:
            predicted = resize_nearest(predicted, side, side)
            target = resize_nearest(target, side, side)
        i, u = (predicted & target).sum(), (predicted | target).sum()
        inter, union = inter + i, union + u
        ious.append(i / u if u else 0.0)
        giou_terms.append(ious[-1] if has_target else float(not predicted.any()))
        presence.append((has_target, predicted.any()))
    return {
        "oIoU": 100 * inter / union,
        "mIoU": 100 * np.mean(ious),
        "P@0.5": 100 * np.mean(np.array(ious) >= 0.5),
        "P@0.9": 100 * np.mean(np.array(ious) >= 0.9),
        "gIoU": 100 * np.mean(giou_terms),
        "cIoU": 100 * inter / union,
        "N-acc": 100 * np.mean([not any_ for has_target, any_ in presence if not has_target]),
        "T-acc": 100 * np.mean([any_ for has_target, any_ in presence if has_target]),
        "Pr@0.7": 100
        * np.mean([v >= 0.7 for v, (known, _) in zip(ious, presence, strict=True) if known]),
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [ReferringEvaluator, GeneralizedReferringEvaluator])
def test_scores_at_both_sizes(seed: int, kind: type) -> None:
    records, outputs, pairs = random_set(seed)
    register_dataset("hand_made_sizes", lambda: records)
    evaluator = kind("hand_made_sizes", resized_to=48)
    evaluator.process(records, outputs)
    (scores,) = evaluator.evaluate().values()
    own, resized = expected_scores(pairs, None), expected_scores(pairs, 48)
    compared = [name for name in own if name in scores]
    assert len(compared) >= 4
    for name in compared:
        assert scores[name] == pytest.approx(own[name], abs=1e-9)
        assert scores[f"{name}@48"] == pytest.approx(resized[name], abs=1e-9)
    assert own["cIoU"] != resized["cIoU"]
    assert scores["expressions"] == len(pairs)


def test_polygons_and_uncompressed_counts_are_targets() -> None:
    square = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]
    drawn = np.zeros((8, 9), bool)
    drawn[1:4, 2:6] = True
    flat = drawn.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    forms = ([square], {"size": [8, 9], "counts": counts}, encode_rle(drawn))
    record = {
        "height": 8,
        "width": 9,
        "annotations": [{"segmentation": form} for form in forms],
        "expressions": [{"targets": [k]} for k in range(3)] + [{"targets": []}],
    }
    *same, empty = target_rles(record)
    for rle in same:
        np.testing.assert_array_equal(mask_util.decode(rle), drawn)
    assert mask_util.area(empty) == 0 and empty["size"] == [8, 9]


def test_box_precision_needs_a_box_for_every_expression() -> None:
    rng = np.random.default_rng(0)
    truth, result = (rng.uniform(0, 20, (60, 4)) + [0, 0, 1, 1] for _ in range(2))
    result[::3] = truth[::3] + rng.uniform(-0.5, 0.5, (20, 4))
    record = {
        "file_name": "0.jpg",
        "image_id": 0,
        "height": 50,
        "width": 50,
        "annotations": [
            {"bbox": box.tolist(), "segmentation": encode_rle(np.ones((50, 50), bool))}
            for box in truth
        ],
        "expressions": [{"expression": "it", "targets": [k]} for k in range(60)],
    }
    predictions = []
    for k, (x, y, width, height) in enumerate(result):
        prediction = make_prediction([np.ones((50, 50), bool)], (50, 50), as_rle=False)
        prediction.pred_boxes = Boxes(torch.tensor([[x, y, x + width, y + height]]))
        predictions.append(prediction[:0] if k == 7 else prediction)
    register_dataset("hand_made_boxes", lambda: [record])
    evaluator = ReferringEvaluator("hand_made_boxes")
    evaluator.process([record], [{"referring": predictions}])
    scores = evaluator.evaluate()["refer"]
    ious = mask_util.iou(result, truth, [0] * 60).diagonal().copy()
    ious[7] = 0
    for x in (0.5, 0.7, 0.9):
        assert scores[f"box-P@{x}"] == pytest.approx(100 * (ious >= x).mean())
    assert 0 < scores["box-P@0.9"] < scores["box-P@0.5"] < 100
    record["expressions"][3]["targets"] = []
    evaluator = ReferringEvaluator("hand_made_boxes")
    evaluator.process([record], [{"referring": predictions}])
    assert not [name for name in evaluator.evaluate()["refer"] if name.startswith("box")]


def test_rles_of_another_size_are_refused() -> None:
    records, _, _ = random_set(0, 1)
    register_dataset("hand_made_sizes", lambda: records)
    evaluator = ReferringEvaluator("hand_made_sizes")
    wrong: list[Instances] = [make_prediction([np.ones((3, 3), bool)], (3, 3), as_rle=True)] * 4
    with pytest.raises(
        ValueError, match=r"0\.jpg: a prediction of \(3, 3\) pixels for an image of"
    ):
        evaluator.process(records, [{"referring": wrong}])


def test_run_lengths_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    records, _, pairs = random_set(3)
    register_dataset("hand_made_rles", lambda: records)
    evaluator = ReferringEvaluator("hand_made_rles")
    decoded = []
    decode = mask_util.decode
    monkeypatch.setattr(mask_util, "decode", lambda rle: decoded.append(rle) or decode(rle))
    for as_rle in (True, False):
        for record in records:
            size = record["height"], record["width"]
            predictions = [
                make_prediction([prediction], size, as_rle)
                for _, image, _, prediction, _, _ in pairs
                if image == record["image_id"]
            ]
            evaluator.process([record], [{"referring": predictions}])
        assert bool(decoded) != as_rle
