"""A small SAM with random weights, a picture, and a count of how often pictures are encoded."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hipie_interactive")
pytest.importorskip("segment_anything")


@pytest.fixture(scope="session")
def sam():
    """Nobody may change it."""
    from hipie.open_vocabulary.sam import Sam

    return Sam.from_source("random:tiny")


@pytest.fixture(scope="session")
def pixels():
    """A picture of 60 by 90 pixels."""
    return np.random.default_rng(3).integers(0, 256, (60, 90, 3)).astype(np.uint8)


@pytest.fixture
def picture(sam, pixels):
    """The picture, encoded."""
    return sam.encode(pixels)


@pytest.fixture
def encoded(sam):
    """A list that grows by one with every picture that goes through the image encoder."""
    calls = []
    hook = sam.model.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()
