"""Fixtures of all tests of the networks: equal random numbers, decoder outputs with losses."""

from __future__ import annotations

import pytest
import torch

from tests.decoder_outputs import make_batch, make_stuff_batch

__all__ = ["make_batch", "make_stuff_batch"]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed torch and use one thread."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
