"""PerSAM-F against its authors' program and on synthetic masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hipie.modeling.sam.predictor import SamImage, SamMasks
from hipie_fewshot import Example, ExampleError
from hipie_fewshot.modeling.persam_f import (
    PerSamF,
    fit_scale_weights,
    upsample_logits,
    weighted_mask_sum,
)
from tests.projects.few_shot.rule_based_weights import ellipse_mask, make_image, rule_based_sam

KEPT = Path(__file__).parent / "data/published_persam_f.npz"
# Sizes of the example's image and of the other; steps and rate of the fit.
CASES = [((96, 140), (120, 90), 200, 1e-3), ((100, 80), (70, 128), 150, 3e-2)]


@pytest.fixture(scope="module")
def large_sam():
    """SAM with a grid of 64 by 64, which the published program assumes."""
    return rule_based_sam(512, 8)


def close(result: torch.Tensor, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Check that values agree within a fraction of the largest absolute value."""
    assert np.abs(result.numpy() - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("case", range(len(CASES)))
def test_equal_to_the_published_program(large_sam, case, monkeypatch):
    kept = np.load(KEPT)
    shown_size, size, steps, rate = CASES[case]
    calls = []
    predict = SamImage.predict

    def recorded(self, **prompts):
        calls.append((prompts, predict(self, **prompts)))
        return calls[-1][1]

    monkeypatch.setattr(SamImage, "predict", recorded)
    example = Example(make_image(30 + case, *shown_size), ellipse_mask(30 + case, *shown_size))
    method = PerSamF(large_sam, steps, rate)
    result = method.predict(make_image(40 + case, *size), [example])
    shown, first, second, third = calls
    close(method.fitted([example], large_sam.device).scale_weights, kept[f"weights_{case}"])
    assert shown[0]["points"][0].tolist() == kept[f"shown_point_{case}"].tolist()
    assert first[0]["points"][0].tolist() == kept[f"point_{case}"].tolist()
    close(second[0]["masks"][0, ::8, ::8], kept[f"first_{case}"])
    boxes = [round_[0]["boxes"][0].tolist() for round_ in (second, third)]
    assert boxes == kept[f"boxes_{case}"].tolist()
    close(second[1].best().low_resolution[0, 0, ::8, ::8], kept[f"second_{case}"])
    close(third[1].best().low_resolution[0, 0, ::8, ::8], kept[f"third_{case}"], 3e-5)
    assert abs(result.score - np.clip(kept[f"score_{case}"], 0, 1)) < 1e-5
    expected = np.unpackbits(kept[f"mask_{case}"], count=size[0] * size[1]).reshape(size)
    assert (result.mask.numpy() != expected.astype(bool)).mean() < 1e-3


def loss_float64(weights: np.ndarray, logits: np.ndarray, truth: np.ndarray) -> float:
    """Compute dice and focal loss in float64."""
    x = np.tensordot(weights, logits, 1)
    p = 1 / (1 + np.exp(-x))
    dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    right = np.where(truth, p, 1 - p)
    balance = np.where(truth, 0.25, 0.75)
    return float(dice - (balance * (1 - right) ** 2 * np.log(right)).mean())


@pytest.mark.parametrize("right", range(3))
def test_correct_mask_gets_the_largest_weight(right):
    truth = torch.from_numpy(ellipse_mask(right, 40, 50))
    wrong = [torch.from_numpy(ellipse_mask(10 + number, 40, 50)) for number in range(3)]
    masks = torch.stack([truth if place == right else wrong[place] for place in range(3)])
    logits = torch.where(masks, 4.0, -4.0)
    weights = fit_scale_weights([logits], [truth], steps=300, learning_rate=0.03)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    assert int(weights.argmax()) == right
    equal = np.full(3, 1 / 3)
    arrays = logits.double().numpy(), truth.numpy().astype(float)
    assert loss_float64(weights.double().numpy(), *arrays) < 0.7 * loss_float64(equal, *arrays)
    assert torch.equal(weighted_mask_sum(weights, logits) > 0, truth)


def test_first_step_descends_the_gradient():
    """AdamW's first step has the sign of the gradient, here by finite differences."""
    truth = torch.from_numpy(ellipse_mask(5, 20, 30))
    logits = torch.randn(3, 20, 30, generator=torch.Generator().manual_seed(0)) * 3
    weights = fit_scale_weights([logits], [truth], steps=1, learning_rate=1e-3).double().numpy()
    arrays = logits.double().numpy(), truth.numpy().astype(float)

    def loss(free: np.ndarray) -> float:
        return loss_float64(np.array([1 - free.sum(), *free]), *arrays)

    start, small = np.full(2, 1 / 3), 1e-6
    for place in range(2):
        step = np.eye(2)[place] * small
        gradient = (loss(start + step) - loss(start - step)) / (2 * small)
        assert np.sign(weights[1 + place] - 1 / 3) == -np.sign(gradient)


def test_examples_are_fitted_jointly_inside_inference_mode():
    one, two = (torch.from_numpy(ellipse_mask(number, 30, 30)) for number in (1, 2))
    rows = [torch.stack([m, ~m, m.roll(7, 1)]).float() * 6 - 3 for m in (one, two)]
    with torch.inference_mode():
        both = fit_scale_weights(rows, [one, two], 100, 0.02)
        again = fit_scale_weights(rows[::-1], [two, one], 100, 0.02)
    torch.testing.assert_close(both, again, atol=1e-5, rtol=0)
    assert int(both.argmax()) == 0


def test_weighting_commutes_with_upsampling(sam, pixels):
    """Upsampling is linear, so weighting before and after it agree."""
    image = sam.encode(pixels)
    low = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([0.2, 0.5, 0.3])
    before = upsample_logits(image, weighted_mask_sum(weights, low)[None])[0]
    after = weighted_mask_sum(weights, upsample_logits(image, low))
    assert before.shape == pixels.shape[:2]
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


def test_empty_mask_is_the_result(sam, pixels, example, monkeypatch):
    method = PerSamF(sam, steps=1)
    method.fitted([example], sam.device)
    calls = []

    def predict_empty(self, **prompts):
        calls.append(prompts)
        empty = torch.zeros(1, 3, *pixels.shape[:2], dtype=torch.bool)
        return SamMasks(empty, torch.zeros(1, 3), torch.full((1, 3, 32, 32), -1.0))

    monkeypatch.setattr(SamImage, "predict", predict_empty)
    result = method.predict(pixels, [example])
    assert not result.mask.any() and result.score == 0 and len(calls) == 1


def test_invalid_settings_and_missing_examples_are_refused(sam, pixels):
    with pytest.raises(ValueError, match="at least one step and a positive learning rate"):
        PerSamF(sam, steps=0)
    with pytest.raises(ExampleError, match="there are no examples"):
        PerSamF(sam).predict(pixels, [])


def test_target_is_half_the_sum_of_mean_and_maximum(sam, example):
    from hipie_fewshot.modeling.location_prior import mask_cells

    grid = sam.encode(example.image).features[0].double()
    cells = mask_cells(sam, example.mask, (8, 8))
    columns = torch.stack([grid[:, y, x] for y, x in cells.nonzero().tolist()])
    expected = F.normalize(columns.mean(0) + columns.max(0).values, dim=0)
    result = PerSamF(sam, steps=1).fitted([example], sam.device).target.double()
    torch.testing.assert_close(F.normalize(result, dim=0), expected, atol=1e-5, rtol=1e-5)
