from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny_program(tiny_cfg, tiny_options, tmp_path):
    """Command-line arguments for a tiny model with random weights on tiny pages."""
    weights = tmp_path / "tiny.pth"
    torch.save({"model": build_model(tiny_cfg).state_dict()}, weights)
    output = tmp_path / "found"
    return [
        *("--config-file", str(ROOT / "tests/tiny.yaml"), "--weights", str(weights)),
        *("--output", str(output), *tiny_options),
    ]
