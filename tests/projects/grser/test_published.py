"""LAVT with Swin-B at 480x480 against stored outputs of the published code."""

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
    is_not_a_weight,
    official_shapes,
    scene,
    tensor_from_name,
)

TOLERANCE = 2e-4
"""Relative to the standard deviation of a feature map."""


@pytest.mark.slow
def test_features_of_every_stage_and_logits_equal_the_published_code():
    weights = {
        name: tensor_from_name(name, shape)
        for name, shape in official_shapes().items()
        if not is_not_a_weight(name) and not name.startswith("text_encoder.")
    }
    state = {
        k.removeprefix("lavt."): v
        for k, v in convert_state(weights, (OFFICIAL_LAVT,)).state.items()
    }
    lavt = LAVT(LanguageAwareEncoder(SwinBackbone("swin_b"), 768)).eval()
    incompatible = lavt.load_state_dict(state, strict=False)
    assert not incompatible.unexpected_keys
    assert all(is_not_a_weight(name) for name in incompatible.missing_keys)
    with torch.no_grad():
        maps, logits = lavt(*scene())
    arrays = {f"stage{i + 1}": features for i, features in enumerate(maps)} | {"logits": logits}
    with np.load(DATA / "square.npz") as file:
        expected = dict(file)
    assert set(expected) == {key for name in arrays for key in (name, f"{name}/std")}
    for name, array in arrays.items():
        deviation = float(expected[f"{name}/std"])
        assert float(array.std()) == pytest.approx(deviation, rel=1e-3), name
        assert np.abs(cut(array) - expected[name]).max() < TOLERANCE * deviation, name
