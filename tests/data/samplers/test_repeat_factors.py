"""Repeat factors of LVIS, and passes that follow them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.samplers import RepeatFactorTrainingSampler
from PIL import Image

from hipie.data.samplers.repeat_factors import record_classes, repeat_factors
from hipie.data.samplers.training_sampler import BatchSampler


def test_factors_of_a_hand_made_set() -> None:
    """Of 100 images 4 have class 1, one of them class 2 as well; threshold 0.25."""
    classes = [{0}] * 95 + [{0, 1}] * 3 + [{1, 2}, set()]
    factors = repeat_factors(classes, 0.25)
    assert factors[:95].tolist() == [1.0] * 95
    assert factors[95:98] == pytest.approx([2.5] * 3)  # sqrt(0.25 / 0.04)
    assert factors[98:].tolist() == pytest.approx([5.0, 1.0])  # sqrt(0.25 / 0.01)


@pytest.mark.parametrize("square_root", [True, False])
def test_factors_are_those_of_detectron2(square_root: bool) -> None:
    rng = np.random.default_rng(0)
    classes = [rng.geometric(0.15, rng.integers(0, 6)).tolist() for _ in range(300)]
    records = [{"annotations": [{"category_id": c} for c in present]} for present in classes]
    expected = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, 0.1, square_root
    )
    factors = repeat_factors(classes, 0.1, square_root)
    assert factors.max() > 2
    np.testing.assert_allclose(factors, expected.numpy(), rtol=1e-6)


def test_classes_of_every_annotation_format(tmp_path: Path) -> None:
    labels = np.array([[0, 3, 3, 9]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "map.png")
    path = str(tmp_path / "map.png")
    objects = [{"category_id": 4}, {"category_id": 5, "iscrowd": 1}, {"category_id": 4}]
    assert record_classes({"sem_seg_file_name": path}, 9) == {0, 3}
    assert record_classes({"part_seg_file_name": path}, 9) == {2, 8}
    assert record_classes({"part_seg_file_name": path}, 9, part_ignore_label=9) == {0, 3}
    assert record_classes({"annotations": objects}, 9) == {4}
    assert record_classes({"segments_info": objects, "annotations": []}, 9) == {4}
    assert record_classes({"file_name": path}, 9) == set()


def test_a_pass_repeats_items_by_their_factors() -> None:
    """Every pass has an item floor or ceil of its share; the mean is the share."""
    factors = np.array([1.0] * 30 + [2.5] * 4 + [5.25])
    is_wide = [i % 2 == 0 for i in range(35)]
    sampler = BatchSampler([is_wide, [True] * 5], [1.0, 1.0], [4, 2], 7, [factors, None])
    wide, high = factors[::2].sum(), factors[1::2].sum()
    per_pass = int(-(-wide // 4) + -(-high // 4))
    share = np.where(is_wide, factors * (-(-wide // 4) * 4) / wide, 0)
    share = np.where(is_wide, share, factors * (-(-high // 4) * 4) / high)
    total = Counter()
    drawn = [batch for t in range(4000) if (batch := sampler.batch(t))[0].dataset == 0]
    passes = len(drawn) // per_pass
    for number in range(passes):
        batches = drawn[number * per_pass : (number + 1) * per_pass]
        assert all(len({is_wide[draw.index] for draw in batch}) == 1 for batch in batches)
        counts = Counter(draw.index for batch in batches for draw in batch)
        for item in range(35):
            assert np.floor(share[item]) <= counts[item] <= np.ceil(share[item])
        total.update(counts)
    mean = np.array([total[item] / passes for item in range(35)])
    np.testing.assert_allclose(mean, share, atol=0.15)
    assert sampler.batch(500) == BatchSampler(
        [is_wide, [True] * 5], [1.0, 1.0], [4, 2], 7, [factors, None]
    ).batch(500)


def test_factors_of_one_change_the_size_of_no_pass() -> None:
    plain = BatchSampler([[True] * 10], [1.0], [4], 0)
    ones = BatchSampler([[True] * 10], [1.0], [4], 0, [np.ones(10)])
    for sampler in (plain, ones):
        counts = Counter(draw.index for t in range(3) for draw in sampler.batch(t))
        assert set(counts) == set(range(10)) and sum(counts.values()) == 12
