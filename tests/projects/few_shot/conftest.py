"""Small models with weights that a rule makes, and images in which something is masked."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hipie_fewshot")
pytest.importorskip("segment_anything")


@pytest.fixture(scope="session")
def sam():
    """SAM for images of 128 pixels with a grid of 8 by 8; nobody may change it."""
    from tests.projects.few_shot.ruled import ruled_sam

    return ruled_sam(128, 16)


@pytest.fixture(scope="session")
def dino():
    """A ViT for squares of 112 pixels with a grid of 8 by 8; nobody may change it."""
    from tests.projects.few_shot.ruled import ruled_dino

    return ruled_dino()


@pytest.fixture(scope="session")
def pixels():
    """An image of 60 by 90 pixels."""
    from tests.projects.few_shot.ruled import image_of

    return image_of(0, 60, 90)


@pytest.fixture(scope="session")
def example():
    """Another image with a mask."""
    from hipie_fewshot import Example
    from tests.projects.few_shot.ruled import image_of

    mask = np.zeros((80, 70), bool)
    mask[20:60, 10:50] = True
    return Example(image_of(1, 80, 70), mask, "cup")
