"""Small configurations of learning without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hipie_unsupervised")

VIT = (
    *("MODEL.UNSUPERVISED.VIT.NAME", "vit_small_patch8_224.dino"),
    *("MODEL.UNSUPERVISED.VIT.IMAGE_SIZE", 32, "MODEL.UNSUPERVISED.VIT.EMBED_DIM", 24),
    *("MODEL.UNSUPERVISED.VIT.DEPTH", 2, "MODEL.UNSUPERVISED.VIT.NUM_HEADS", 3),
)
HEAD = (
    *("MODEL.UNSUPERVISED.DINO.OUT_DIM", 40, "MODEL.UNSUPERVISED.DINO.HIDDEN_DIM", 32),
    *("MODEL.UNSUPERVISED.DINO.BOTTLENECK_DIM", 12),
)


@pytest.fixture(scope="session")
def published():
    """Results of the released programs, by name."""
    with np.load(Path(__file__).parent / "data" / "published.npz") as stored:
        return dict(stored)


@pytest.fixture
def dino_cfg():
    """Configuration of DINO with a tiny transformer."""
    from hipie import model_zoo

    options = (*VIT, *HEAD, "MODEL.UNSUPERVISED.DINO.FREEZE_LAST_LAYER", 0)
    return model_zoo.get_config("dino_nano_picturebook.yaml", options)
