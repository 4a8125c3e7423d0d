"""A small SAM with random weights, and an image."""

from __future__ import annotations

import numpy as np
import pytest

from hipie.modeling.sam.predictor import Sam


@pytest.fixture(scope="session")
def sam() -> Sam:
    return Sam.from_source("random:tiny")


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (70, 90, 3)).astype(np.uint8)
