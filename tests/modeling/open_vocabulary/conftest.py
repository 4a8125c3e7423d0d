"""A small CLIP with random weights, an image and masks."""

from __future__ import annotations

import pytest
import torch

from hipie.modeling.open_vocabulary.clip import Clip


@pytest.fixture(scope="session")
def clip() -> Clip:
    return Clip.from_source("random:tiny")


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def masks() -> torch.Tensor:
    """All pixels, two corners, one pixel."""
    masks = torch.zeros(4, 70, 90, dtype=torch.bool)
    masks[0] = True
    masks[1, :20, :30] = True
    masks[2, 40:, 50:] = True
    masks[3, 33, 44] = True
    return masks
