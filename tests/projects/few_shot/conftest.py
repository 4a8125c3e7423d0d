"""Small models with rule-based weights, an image, and an example."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hipie_fewshot")
pytest.importorskip("segment_anything")


@pytest.fixture(scope="session")
def sam():
    """SAM for images of 128 pixels with a grid of 8 by 8; not to be modified."""
    from tests.projects.few_shot.rule_based_weights import rule_based_sam

    return rule_based_sam(128, 16)


@pytest.fixture(scope="session")
def dino():
    """A ViT for squares of 112 pixels with a grid of 8 by 8; not to be modified."""
    from tests.projects.few_shot.rule_based_weights import rule_based_dino

    return rule_based_dino()


@pytest.fixture(scope="session")
def pixels():
    """An image of 60 by 90 pixels."""
    from tests.projects.few_shot.rule_based_weights import make_image

    return make_image(0, 60, 90)


@pytest.fixture(scope="session")
def example():
    """Another image with a mask."""
    from hipie_fewshot import Example
    from tests.projects.few_shot.rule_based_weights import make_image

    mask = np.zeros((80, 70), bool)
    mask[20:60, 10:50] = True
    return Example(make_image(1, 80, 70), mask, "cup")
