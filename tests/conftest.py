"""What every test gets: one thread, the same seeds, and a folder of its own."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Detectron2's model zoo imports pkg_resources
    import detectron2.model_zoo  # noqa: F401


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small tensors are quicker on one thread, and sums come out the same everywhere."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_seeds():
    """Each test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  Detectron2 draws its augmentations from this state
    torch.manual_seed(0)


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """A test that runs inside its own empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
