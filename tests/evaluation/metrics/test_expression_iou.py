"""Masks as run lengths and drawn ones are the same answer."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from hipie.data.datasets.coco import register
from hipie.data.io.rle import decode_counts
from hipie.evaluation import GeneralizedReferringEvaluator, ReferringEvaluator
from hipie.evaluation.metrics.expression_iou import nearest, overlap_of_runs, target_runs
from hipie.evaluation.metrics.iou import overlap
from tests.evaluation.referring_sets import answer, random_mask, random_set, runs


@pytest.mark.parametrize("seed", range(20))
def test_overlap_of_runs_is_that_of_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 60, 2))
    for _ in range(20):
        first, second = random_mask(rng, size), random_mask(rng, size)
        assert overlap_of_runs(runs(first), runs(second)) == overlap(first, second)


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_are_read_as_pycocotools_reads_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, (int(rng.integers(1, 400)), int(rng.integers(1, 400))))
    found = decode_counts(runs(mask)["counts"])
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    wanted = np.diff(np.concatenate([[0], edges, [flat.size]]))
    if flat[0]:
        wanted = np.concatenate([[0], wanted])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "sizes", [((30, 40), (480, 480)), ((500, 333), (480, 480)), ((7, 5), (3, 9))]
)
def test_nearest_is_pillows(sizes: tuple) -> None:
    before, after = sizes
    mask = np.random.default_rng(0).random(before) < 0.5
    wanted = Image.fromarray(mask).resize(after[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(nearest(mask, *after), np.array(wanted))


def formula(pairs: list[tuple], side: int | None) -> dict[str, float]:
    inter = union = 0
    ious, good, correct = [], [], []
    for *_, found, wanted, meant in pairs:
        if side:
            found, wanted = nearest(found, side, side), nearest(wanted, side, side)
        i, u = (found & wanted).sum(), (found | wanted).sum()
        inter, union = inter + i, union + u
        ious.append(i / u if u else 0.0)
        good.append(ious[-1] if meant else float(not found.any()))
        correct.append((meant, found.any()))
    return {
        "oIoU": 100 * inter / union,
        "mIoU": 100 * np.mean(ious),
        "P@0.5": 100 * np.mean(np.array(ious) >= 0.5),
        "P@0.9": 100 * np.mean(np.array(ious) >= 0.9),
        "gIoU": 100 * np.mean(good),
        "cIoU": 100 * inter / union,
        "N-acc": 100 * np.mean([not any_ for meant, any_ in correct if not meant]),
        "T-acc": 100 * np.mean([any_ for meant, any_ in correct if meant]),
        "Pr@0.7": 100
        * np.mean([v >= 0.7 for v, (meant, _) in zip(ious, correct, strict=True) if meant]),
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [ReferringEvaluator, GeneralizedReferringEvaluator])
def test_both_sizes_by_formula(seed: int, kind: type) -> None:
    records, outputs, pairs = random_set(seed)
    register("hand_made_sizes", lambda: records)
    judge = kind("hand_made_sizes", also_at=48)
    judge.process(records, outputs)
    (found,) = judge.evaluate().values()
    own, resized = formula(pairs, None), formula(pairs, 48)
    compared = [name for name in own if name in found]
    assert len(compared) >= 4
    for name in compared:
        assert found[name] == pytest.approx(own[name], abs=1e-9)
        assert found[f"{name}@48"] == pytest.approx(resized[name], abs=1e-9)
    assert own["cIoU"] != resized["cIoU"]
    assert found["expressions"] == len(pairs)


def test_polygons_and_plain_counts_are_targets_too() -> None:
    square = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]
    drawn = np.zeros((8, 9), bool)
    drawn[1:4, 2:6] = True
    flat = drawn.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    kinds = ([square], {"size": [8, 9], "counts": counts}, runs(drawn))
    record = {
        "height": 8,
        "width": 9,
        "annotations": [{"segmentation": one} for one in kinds],
        "expressions": [{"targets": [k]} for k in range(3)] + [{"targets": []}],
    }
    *same, empty = target_runs(record)
    for one in same:
        np.testing.assert_array_equal(mask_util.decode(one), drawn)
    assert mask_util.area(empty) == 0 and empty["size"] == [8, 9]


def test_boxes_are_judged_where_all_have_one() -> None:
    rng = np.random.default_rng(0)
    truth, found = (rng.uniform(0, 20, (60, 4)) + [0, 0, 1, 1] for _ in range(2))
    found[::3] = truth[::3] + rng.uniform(-0.5, 0.5, (20, 4))
    record = {
        "file_name": "0.jpg",
        "image_id": 0,
        "height": 50,
        "width": 50,
        "annotations": [
            {"bbox": box.tolist(), "segmentation": runs(np.ones((50, 50), bool))} for box in truth
        ],
        "expressions": [{"expression": "it", "targets": [k]} for k in range(60)],
    }
    answers = []
    for k, (left, top, wide, high) in enumerate(found):
        one = answer([np.ones((50, 50), bool)], (50, 50), as_runs=False)
        one.pred_boxes = Boxes(torch.tensor([[left, top, left + wide, top + high]]))
        answers.append(one[:0] if k == 7 else one)
    register("hand_made_boxes", lambda: [record])
    judge = ReferringEvaluator("hand_made_boxes")
    judge.process([record], [{"referring": answers}])
    scores = judge.evaluate()["refer"]
    ious = mask_util.iou(found, truth, [0] * 60).diagonal().copy()
    ious[7] = 0
    for x in (0.5, 0.7, 0.9):
        assert scores[f"box-P@{x}"] == pytest.approx(100 * (ious >= x).mean())
    assert 0 < scores["box-P@0.9"] < scores["box-P@0.5"] < 100
    record["expressions"][3]["targets"] = []
    judge.reset()
    judge.process([record], [{"referring": answers}])
    assert not [name for name in judge.evaluate()["refer"] if name.startswith("box")]


def test_run_lengths_of_another_size_are_refused() -> None:
    records, _, _ = random_set(0, 1)
    register("hand_made_sizes", lambda: records)
    judge = ReferringEvaluator("hand_made_sizes")
    wrong: list[Instances] = [answer([np.ones((3, 3), bool)], (3, 3), as_runs=True)] * 4
    with pytest.raises(ValueError, match=r"0\.jpg: an answer of \(3, 3\) pixels for an image of"):
        judge.process(records, [{"referring": wrong}])
