"""Swin-B with words on 480x480 against what the published network computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grser.checkpoint_converters import OFFICIAL_LAVT
from grser.modeling.lavt import LAVT, LanguageAwareEncoder
from grser.modeling.swin import SwinBackbone
from hipie.checkpoint.converters.conversion import convert_state
from tests.projects.grser.published import (
    DATA,
    cut,
    is_counted,
    official_shapes,
    ruled_tensor,
    scene,
)

ALLOWED = 2e-4
"""Of a map's standard deviation."""


@pytest.mark.slow
def test_every_stage_and_the_logits():
    weights = {
        name: ruled_tensor(name, shape)
        for name, shape in official_shapes().items()
        if not is_counted(name) and not name.startswith("text_encoder.")
    }
    state = {
        k.removeprefix("lavt."): v
        for k, v in convert_state(weights, (OFFICIAL_LAVT,)).state.items()
    }
    lavt = LAVT(LanguageAwareEncoder(SwinBackbone("swin_b"), 768)).eval()
    found = lavt.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all(is_counted(name) for name in found.missing_keys)
    with torch.no_grad():
        maps, logits = lavt(*scene())
    arrays = {f"stage{i + 1}": one for i, one in enumerate(maps)} | {"logits": logits}
    with np.load(DATA / "square.npz") as file:
        wanted = dict(file)
    assert set(wanted) == {key for name in arrays for key in (name, f"{name}/std")}
    for name, array in arrays.items():
        deviation = float(wanted[f"{name}/std"])
        assert float(array.std()) == pytest.approx(deviation, rel=1e-3), name
        assert np.abs(cut(array) - wanted[name]).max() < ALLOWED * deviation, name
