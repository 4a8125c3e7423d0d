"""Dense CRF: its marginals against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from hipie.errors import InputError
from hipie.refinement.dense_crf import DenseCRFConfig, refine_probabilities

pytest.importorskip("pydensecrf", reason="pydensecrf2 is not installed")


def random_probabilities(count: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).random((count, 14, 11)) + 0.1
    return values / values.sum(0)


def test_without_pairwise_potentials_probabilities_stay() -> None:
    probabilities = random_probabilities(3, 0)
    image = np.random.default_rng(1).integers(0, 256, (14, 11, 3), dtype=np.uint8)
    config = DenseCRFConfig(position_weight=0.0, bilateral_weight=0.0)
    marginals = refine_probabilities(probabilities, image, config)
    np.testing.assert_allclose(marginals, probabilities, atol=1e-5)


def test_wide_kernels_are_one_mean_field_step_with_the_mean_of_all_pixels() -> None:
    """With an infinitely wide kernel every pixel receives the mean marginal (equation 5)."""
    probabilities = random_probabilities(2, 2)
    image = np.full((14, 11, 3), 90, np.uint8)
    weight = 3.0
    config = DenseCRFConfig(1, 1e4, weight, 1e4, 1e4, 0.0)
    marginals = refine_probabilities(probabilities, image, config)
    mean = probabilities.mean((1, 2), keepdims=True)
    expected = probabilities * np.exp(weight * mean)
    np.testing.assert_allclose(marginals, expected / expected.sum(0), atol=0.01)


def test_unusable_input_is_named() -> None:
    image = np.zeros((14, 11, 3), np.uint8)
    with pytest.raises(InputError, match="image's size 11x14, and these are 2 of 14x11"):
        refine_probabilities(random_probabilities(2, 0).transpose(0, 2, 1), image)
    with pytest.raises(InputError, match="two or more maps .* these are 1 of"):
        refine_probabilities(random_probabilities(1, 0), image)
    with pytest.raises(InputError, match="at least one iteration"):
        DenseCRFConfig(iterations=0)
    with pytest.raises(InputError, match="standard deviations above 0"):
        DenseCRFConfig(color_std=0.0)
