"""ViT-B on a photograph against stored features of the authors' network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie.checkpoint import load_state
from refersam import ReferSAM
from refersam.modeling.criterion import MaskCriterion
from refersam.modeling.text import build_expression_encoder
from tests.projects.refersam.published import DATA, cut, photograph, weights_from_names


@pytest.mark.slow
def test_features_and_masks_equal_the_published_network():
    pixels = pytest.importorskip("skimage.data").astronaut()
    text = build_expression_encoder("bert-base-uncased", frozen=False, max_tokens=20)
    model = ReferSAM(sam="vit_b", text_encoder=text, criterion=MaskCriterion()).eval()
    report = load_state(model, weights_from_names("vit_b"), "generated weights")
    assert report.complete
    with np.load(DATA / "square512.npz") as file:
        stored = dict(file)
    ids = torch.from_numpy(stored["token_ids"])
    with torch.no_grad():
        logits, coarse, features = model.mask_logits(
            photograph(pixels, 2), ids, (ids > 0).long(), returned="all"
        )
    names = [name.removesuffix("/stats") for name in stored if name.endswith("/stats")]
    assert set(names) == set(features)
    for name in names:
        mean, std = stored[f"{name}/stats"][:2]
        magnitude = np.hypot(mean, std)
        array = features[name].double().numpy()
        statistics = [array.mean(), array.std(), np.abs(array).max(), np.abs(array).mean()]
        assert np.abs(statistics - stored[f"{name}/stats"]).max() < 1e-3 * magnitude, name
        subsampled = cut(array, stored[f"{name}/limits"])
        assert np.abs(subsampled - stored[name]).max() < 1e-3 * magnitude, name
    mask_bits = np.packbits((logits >= 0).numpy()[:, ::4, ::4])
    agreement = 1 - np.unpackbits(mask_bits ^ stored["mask_bits"]).mean()
    assert agreement >= 0.999
    assert torch.equal(coarse, features["coarse_logits"])
