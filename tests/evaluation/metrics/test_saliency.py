"""Saliency measures against pysodmetrics and hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest

from hipie.evaluation.cosaliency_evaluation import cosaliency_scores, measure_image
from hipie.evaluation.metrics.saliency import (
    e_measure,
    f_measure,
    mean_absolute_error,
    normalize_map,
    s_measure,
)

EDGE_CASES = {
    "empty mask": (None, 0.0),
    "full mask": (None, 1.0),
    "empty map": (0, None),
    "full map": (255, None),
    "constant map": (77, None),
    "empty map and mask": (0, 0.0),
    "full map and mask": (255, 1.0),
    "full map, empty mask": (255, 0.0),
}


def pair(rng: np.random.Generator, value: int | None, share: float | None) -> tuple:
    """Draw a uint8 map and a bool mask of a random size; constant where a value is given."""
    size = tuple(rng.integers(2, 40, 2))
    mask = rng.random(size) < (rng.random() if share is None else share)
    noise = rng.integers(0, 256, size) * 0.5 + 127 * mask
    grey = noise.astype(np.uint8) if value is None else np.full(size, value, np.uint8)
    return grey, mask


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(3)
    plain = [pair(rng, None, None) for _ in range(60)]
    edge_cases = [pair(rng, *case) for case in EDGE_CASES.values() for _ in range(4)]
    return plain + edge_cases


@pytest.mark.filterwarnings("ignore")
def test_equal_to_pysodmetrics() -> None:
    oracle = pytest.importorskip("py_sod_metrics")
    measures = {
        "s": oracle.Smeasure(),
        "e": oracle.Emeasure(),
        "f": oracle.Fmeasure(),
        "mae": oracle.MAE(),
    }
    scores = []
    for grey, mask in pairs():
        for measure in measures.values():
            measure.step(pred=grey, gt=mask.astype(np.uint8) * 255)
        scores.append(measure_image(grey, mask))
    results = {name: measure.get_results() for name, measure in measures.items()}
    own_scores = cosaliency_scores(scores)
    assert own_scores["MAE"] == pytest.approx(results["mae"]["mae"], abs=1e-9)
    for letter, key in (("E", "em"), ("F", "fm")):
        curve = results[letter.lower()][key]["curve"]
        assert own_scores[f"{letter}_max"] == pytest.approx(curve.max(), abs=1e-9)
        assert own_scores[f"{letter}_mean"] == pytest.approx(curve.mean(), abs=1e-9)
        adaptive = results[letter.lower()][key]["adp"]
        assert own_scores[f"{letter}_adaptive"] == pytest.approx(adaptive, abs=1e-9)
    for image, reference in zip(scores, measures["f"].changeable_fms, strict=True):
        np.testing.assert_allclose(image.f_curve, reference, atol=1e-9)
    for image, reference in zip(scores, measures["e"].changeable_ems, strict=True):
        np.testing.assert_allclose(image.e_curve, reference, atol=1e-9)
    # pysodmetrics gives NaN where the centroid is on the last row or column: a block is empty.
    reference = np.array(measures["s"].sms)
    known = np.isfinite(reference)
    assert known.sum() > 80 and np.isfinite([image.s for image in scores]).all()
    np.testing.assert_allclose(
        np.array([image.s for image in scores])[known], reference[known], atol=1e-9
    )
    assert cosaliency_scores([image for image, k in zip(scores, known, strict=True) if k])["S"] == (
        pytest.approx(reference[known].mean(), abs=1e-9)
    )


def test_perfect_map() -> None:
    mask = np.zeros((10, 12), bool)
    mask[2:7, 3:9] = True
    values = normalize_map(mask.astype(np.uint8) * 255)
    assert mean_absolute_error(values, mask) == 0
    assert s_measure(values, mask) == pytest.approx(1)
    assert f_measure(values, mask).at_levels[:255].min() == 1
    assert f_measure(values, mask).adaptive == 1
    # The sum of 120 perfect pixels is divided by 119.
    assert e_measure(values, mask).adaptive == pytest.approx(120 / 119)


def test_map_of_half_of_the_object() -> None:
    mask = np.array([[True, True, False, False]])
    values = np.array([[1.0, 0.0, 0.0, 0.0]])
    assert mean_absolute_error(values, mask) == 0.25
    f = f_measure(values, mask)
    assert f.adaptive == pytest.approx(1.3 * 0.5 / (0.3 + 0.5))
    assert f.at_levels[-1] == pytest.approx(1.3 * 0.5 / (0.3 * 0.5 + 1))
    assert len(f.at_levels) == 256


def test_mean_is_over_images() -> None:
    small = measure_image(np.zeros((2, 2), np.uint8), np.zeros((2, 2), bool))
    large = measure_image(np.zeros((20, 20), np.uint8), np.ones((20, 20), bool))
    assert cosaliency_scores([small, large])["MAE"] == 0.5
    assert np.isnan(cosaliency_scores([])["S"])


def test_map_of_another_size_is_resized() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:, 4:] = True
    small = np.repeat(np.array([[0, 0, 255, 255]], np.uint8), 4, axis=0)
    assert measure_image(small, mask).mae < 0.1


@pytest.mark.parametrize(("grey", "mask"), [(0, False), (255, True), (9, True), (255, False)])
def test_single_pixel_has_finite_scores(grey: int, mask: bool) -> None:
    image = measure_image(np.array([[grey]], np.uint8), np.array([[mask]]))
    assert 0 <= image.s <= 1 and 0 <= image.e_adaptive <= 1 and (image.e_curve <= 1).all()
