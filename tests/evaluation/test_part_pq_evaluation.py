"""PartPQ against a direct float64 implementation of the published definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hipie.data.datasets.catalog import register_dataset
from hipie.data.datasets.panoptic_parts import PartClass, decode_uids
from hipie.evaluation import PartPQEvaluator

# Two dataset parts of the cow are one part of the metric; road is stuff, bag has one part.
CLASSES = [
    PartClass("cow", (3,), True, {1: 1, 2: 2, 3: 2}),
    PartClass("bag", (4,), True, {1: 1}),
    PartClass("road", (7, 8), False),
]
SIZE = (24, 30)


def uid(name: int, thing: int | None = None, part: int = 0) -> int:
    if thing is None:
        return name
    return name * 1000 + thing if part == 0 else name * 100_000 + thing * 100 + part


def draw(rng: np.random.Generator) -> np.ndarray:
    """Draw a label map: road, unlabelled ground, cows with and without parts, bags, a crowd."""
    labels = np.full(SIZE, 99)
    labels[:12] = uid(7)
    labels[8:12, :9] = uid(8)
    for thing in range(1, rng.integers(2, 5)):
        top, left = rng.integers(0, 18), rng.integers(0, 24)
        place = (slice(top, top + 8), slice(left, left + 7))
        if rng.random() < 0.6:
            parts = rng.integers(0, 4, (1, 7)).repeat(8, 0) * (rng.random() < 0.8)
            values = np.vectorize(lambda p, t=thing: uid(3, t, int(p)))(parts)
        else:
            values = np.full((8, 7), uid(4, thing, 1))
        shape = labels[place].shape
        labels[place] = values[: shape[0], : shape[1]]
    if rng.random() < 0.5:
        labels[20:, 25:] = uid(3)
    return labels


def perturb(
    rng: np.random.Generator, labels: np.ndarray
) -> tuple[np.ndarray, list[dict], np.ndarray]:
    """Make a prediction: the truth with segments moved, some removed, some added."""
    truth = decode_uids(labels)
    ids, info = np.zeros(SIZE, int), []
    parts = np.zeros(SIZE, int)
    for place, part_class in enumerate(CLASSES):
        for name in part_class.numbers:
            for thing in np.unique(truth.objects[truth.classes == name]):
                mask = (truth.classes == name) & (truth.objects == thing)
                if rng.random() < 0.15:
                    continue
                shift = tuple(rng.integers(-1, 2, 2))
                moved = np.roll(mask, shift, (0, 1))
                number = len(info) + 1
                ids[moved] = number
                info.append({"id": number, "category_id": place})
                table = np.array([0, *(part_class.parts.get(p, 0) for p in range(1, 4))])
                parts[moved] = table[np.roll(truth.parts, shift, (0, 1))][moved]
    wrong = rng.random(SIZE) < 0.05
    parts[wrong] = rng.choice([0, 1, 2, 255], wrong.sum())
    ids[rng.random(SIZE) < 0.02] = 0
    if rng.random() < 0.5:
        ids[:3, :3], info = len(info) + 1, [*info, {"id": len(info) + 1, "category_id": 1}]
    return ids, info, parts


def part_pq_by_definition(images: list[tuple]) -> list[float]:
    """Compute PartPQ of every class, mask by mask."""
    values = []
    for place, part_class in enumerate(CLASSES):
        total, tp, fp, fn = 0.0, 0, 0, 0
        for labels, ids, info, parts in images:
            truth = decode_uids(labels)
            void = ~np.isin(truth.classes, [3, 4, 7, 8])
            crowd = np.zeros(SIZE, bool)
            segments = []
            for key in np.unique(labels):
                name, thing = decode_uids(np.array([[key]])).classes[0, 0], key >= 1000
                if name not in part_class.numbers:
                    continue
                group = decode_uids(np.array([[key]])).objects[0, 0]
                mask = (truth.classes == name) & (truth.objects == group)
                known = np.zeros(SIZE, int)
                for old, new in part_class.parts.items():
                    known[mask & (truth.parts == old)] = new
                if (part_class.thing and not thing) or (part_class.has_parts and not known.any()):
                    crowd |= mask
                elif not any((mask == m).all() for m, _ in segments):
                    segments.append((mask, known))
            scores = [ids == s["id"] for s in info if s["category_id"] == place]
            free = [m for m in scores if m.any()]
            for mask, known in segments:
                for j, guess in enumerate(free):  # noqa: B007  (used after the loop)
                    union = (mask | guess).sum() - (void & guess).sum()
                    iou = (mask & guess).sum() / union if union else 0
                    if iou > 0.5:
                        break
                else:
                    fn += 1
                    continue
                free.pop(j)
                tp += 1
                if part_class.has_parts:
                    valid = ~(void | crowd | (mask & (known == 0)))
                    a, b = known[valid], np.where(guess, parts, 0)[valid]
                    part_ious = []
                    for p in {*a.tolist(), *b.tolist()} - {255}:
                        part_ious.append(((a == p) & (b == p)).sum() / ((a == p) | (b == p)).sum())
                    iou = np.mean(part_ious)
                total += iou
            for guess in free:
                fp += (guess & (void | crowd)).sum() / guess.sum() <= 0.5
        values.append(100 * total / (tp + 0.5 * fp + 0.5 * fn) if tp + fp + fn else np.nan)
    return values


@pytest.mark.parametrize("seed", range(4))
def test_equal_to_the_definition(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    records, outputs, images = [], [], []
    for number in range(12):
        labels = draw(rng)
        path = tmp_path / f"{number}.tif"
        Image.fromarray(labels.astype(np.int32), mode="I").save(path)
        ids, info, parts = perturb(rng, labels)
        image = tmp_path / f"{number}.png"
        Image.new("RGB", labels.shape[::-1]).save(image)
        records.append({"file_name": str(image), "pan_part_file_name": str(path)})
        outputs.append({"panoptic_seg": (torch.from_numpy(ids), info), "part_seg": parts})
        images.append((labels, ids, info, parts))
    register_dataset("hand_made_part_pq", lambda: records, part_pq_classes=CLASSES)
    evaluator = PartPQEvaluator("hand_made_part_pq")
    evaluator.process(records, outputs)
    scores = evaluator.evaluate()["part_pq"]
    cow, bag, road = part_pq_by_definition(images)
    assert 20 < cow < 100 and 20 < road < 100
    assert scores["PartPQ-parts"] == pytest.approx(cow, abs=1e-9)
    assert scores["PartPQ-bag"] == pytest.approx(bag, abs=1e-9, nan_ok=True)
    assert scores["PartPQ-road"] == pytest.approx(road, abs=1e-9)
    assert scores["PartPQ-no-parts"] == pytest.approx(np.nanmean([bag, road]), abs=1e-9)
    assert scores["PartPQ"] == pytest.approx(np.nanmean([cow, bag, road]), abs=1e-9)


def test_ground_truth_has_full_score(tmp_path: Path) -> None:
    labels = np.full(SIZE, uid(7))
    labels[:6, :6], labels[6:9, :6] = uid(3, 1, 1), uid(3, 1, 3)
    Image.fromarray(labels.astype(np.int32), mode="I").save(tmp_path / "a.tif")
    Image.new("RGB", labels.shape[::-1]).save(tmp_path / "a.png")
    record = {
        "file_name": str(tmp_path / "a.png"),
        "pan_part_file_name": str(tmp_path / "a.tif"),
    }
    register_dataset("hand_made_part_pq", lambda: [record], part_pq_classes=CLASSES)
    evaluator = PartPQEvaluator("hand_made_part_pq")
    truth = decode_uids(labels)
    ids = np.where(truth.classes == 3, 1, 2)
    info = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 2}]
    parts = np.array([0, 1, 2, 2])[truth.parts]
    evaluator.process([record], [{"panoptic_seg": (ids, info), "part_seg": parts}])
    scores = evaluator.evaluate()["part_pq"]
    assert scores["PartPQ"] == scores["PartPQ-parts"] == scores["PartPQ-no-parts"] == 100
    assert np.isnan(scores["PartPQ-bag"])
    with pytest.raises(ValueError, match=r"a\.tif: the label map has \(24, 30\) pixels, part_seg"):
        evaluator.process([record], [{"panoptic_seg": (ids, info), "part_seg": parts[:5]}])


def test_labels_outside_of_the_format_are_refused() -> None:
    with pytest.raises(ValueError, match="10000000, outside of 0 to 9999999"):
        decode_uids(np.array([[10_000_000]]))
    scores = decode_uids(np.array([[7, 7001, 99_999, 700_102, 9_999_999]]))
    assert scores.classes.tolist() == [[7, 7, 99, 7, 99]]
    assert scores.objects.tolist() == [[-1, 1, 999, 1, 999]]
    assert scores.parts.tolist() == [[0, 0, 0, 2, 99]]
