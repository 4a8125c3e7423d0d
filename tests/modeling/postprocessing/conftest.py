"""Published values of the inference steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

FILE = Path(__file__).parents[2] / "data" / "inference" / "official_units.npz"


@pytest.fixture(scope="session")
def official() -> dict[str, Tensor]:
    with np.load(FILE) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
