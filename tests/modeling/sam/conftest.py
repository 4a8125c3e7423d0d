from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.sam.predictor import Sam


@pytest.fixture(scope="session")
def clip() -> Clip:
    return Clip.from_source("random:tiny")


@pytest.fixture(scope="session")
def sam() -> Sam:
    return Sam.from_source("random:tiny")


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (70, 90, 3)).astype(np.uint8)


@pytest.fixture
def masks() -> torch.Tensor:
    """Everything, a corner, another corner, one pixel."""
    found = torch.zeros(4, 70, 90, dtype=torch.bool)
    found[0] = True
    found[1, :20, :30] = True
    found[2, 40:, 50:] = True
    found[3, 33, 44] = True
    return found
