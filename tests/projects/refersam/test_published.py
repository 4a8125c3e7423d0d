"""ViT-B on a photograph against what the authors' network computed with the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie.checkpoint import load_state
from refersam import ReferSAM
from refersam.modeling.criterion import MaskCriterion
from refersam.modeling.text import build_expression_encoder
from tests.projects.refersam.published import DATA, cut, photograph, ruled_weights


@pytest.mark.slow
def test_every_activation():
    pixels = pytest.importorskip("skimage.data").astronaut()
    text = build_expression_encoder("bert-base-uncased", frozen=False, max_tokens=20)
    model = ReferSAM(sam="vit_b", text_encoder=text, criterion=MaskCriterion()).eval()
    report = load_state(model, ruled_weights("vit_b"), "the rule")
    assert report.complete
    with np.load(DATA / "square512.npz") as file:
        wanted = dict(file)
    ids = torch.from_numpy(wanted["token_ids"])
    with torch.no_grad():
        logits, coarse, found = model.mask_logits(
            photograph(pixels, 2), ids, (ids > 0).long(), returned="all"
        )
    names = [name.removesuffix("/stats") for name in wanted if name.endswith("/stats")]
    assert set(names) == set(found)
    for name in names:
        mean, deviation = wanted[f"{name}/stats"][:2]
        size = np.hypot(mean, deviation)
        array = found[name].double().numpy()
        ours = [array.mean(), array.std(), np.abs(array).max(), np.abs(array).mean()]
        assert np.abs(ours - wanted[f"{name}/stats"]).max() < 1e-3 * size, name
        stored = cut(array, wanted[f"{name}/limits"])
        assert np.abs(stored - wanted[name]).max() < 1e-3 * size, name
    bits = np.packbits((logits >= 0).numpy()[:, ::4, ::4])
    same = 1 - np.unpackbits(bits ^ wanted["mask_bits"]).mean()
    assert same >= 0.999
    assert torch.equal(coarse, found["coarse_logits"])
