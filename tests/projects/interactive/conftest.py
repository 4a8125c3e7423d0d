"""A small SAM with random weights, an image, and a counter of image encodings."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hipie_interactive")
pytest.importorskip("segment_anything")


@pytest.fixture(scope="session")
def sam():
    """SAM with random weights; not to be modified."""
    from hipie.modeling.sam.predictor import Sam

    return Sam.from_source("random:tiny")


@pytest.fixture(scope="session")
def pixels():
    """An image of 60 by 90 pixels."""
    return np.random.default_rng(3).integers(0, 256, (60, 90, 3)).astype(np.uint8)


@pytest.fixture
def image(sam, pixels):
    """The image, encoded."""
    return sam.encode(pixels)


@pytest.fixture
def encoded(sam):
    """List with one entry for each image that goes through the image encoder."""
    calls = []
    hook = sam.model.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()
