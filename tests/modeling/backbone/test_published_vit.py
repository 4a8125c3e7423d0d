"""The plain transformer against what the published program's computed, narrow and less deep."""

from __future__ import annotations

import numpy as np
import torch

from hipie.modeling.backbone.vit import ViTPyramid
from tests.published import DATA, deterministic_weights


def test_three_scales_of_an_image_that_no_window_divides() -> None:
    """14x22 tokens, windows of 14; run in float64, so that only meaning can differ."""
    model = ViTPyramid(
        width=160,
        depth=14,
        num_heads=4,
        img_size=1024,
        pretrain_img_size=224,
        window_size=14,
        window_block_indexes=(0, 1, 3, 4, 6, 7, 9, 10),
        in_chans=3,
    )
    official = {
        name.replace("finer", "fpn1.0"): tuple(value.shape)
        for name, value in model.state_dict().items()
    }
    state = deterministic_weights(official)
    model.load_state_dict({name.replace("fpn1.0", "finer"): one for name, one in state.items()})
    image = np.random.default_rng(0).standard_normal((2, 3, 224, 352))
    with torch.no_grad():
        found = model.double().eval()(torch.from_numpy(image))
    with np.load(DATA / "published/vit.npz") as file:
        wanted = dict(file)
    for name, array in found.items():
        assert array.shape == tuple(wanted[f"{name}/shape"])
        stored = wanted[name]
        steps = (-(-n // m) for n, m in zip(array.shape, stored.shape, strict=True))
        samples = array.numpy()[tuple(slice(None, None, step) for step in steps)]
        assert np.abs(samples - stored).max() < 1e-5 * wanted[f"{name}/stats"][1]
