"""PerSAM-F against its authors' program and on planted masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hipie.modeling.sam.predictor import SamImage, SamMasks
from hipie_fewshot import Example, ExampleError
from hipie_fewshot.modeling.persam_f import PerSamF, fitted_weights, full_size, weighted
from tests.projects.few_shot.ruled import blob, image_of, ruled_sam

KEPT = Path(__file__).parent / "data/published_persam_f.npz"
# Sizes of the example's image and of the other; steps and rate of the fit.
CASES = [((96, 140), (120, 90), 200, 1e-3), ((100, 80), (70, 128), 150, 3e-2)]


@pytest.fixture(scope="module")
def large_sam():
    """With a grid of 64 by 64, which the published program takes for granted."""
    return ruled_sam(512, 8)


def close(found: torch.Tensor, expected: np.ndarray, within: float = 1e-5) -> None:
    """Within so much of the largest value."""
    assert np.abs(found.numpy() - expected).max() <= within * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("case", range(len(CASES)))
def test_as_the_published_program(large_sam, case, monkeypatch):
    kept = np.load(KEPT)
    shown_size, size, steps, rate = CASES[case]
    asked = []
    predict = SamImage.predict

    def watched(self, **given):
        asked.append((given, predict(self, **given)))
        return asked[-1][1]

    monkeypatch.setattr(SamImage, "predict", watched)
    example = Example(image_of(30 + case, *shown_size), blob(30 + case, *shown_size))
    method = PerSamF(large_sam, steps, rate)
    found = method.find(image_of(40 + case, *size), [example])
    shown, first, second, third = asked
    close(method.learned([example], large_sam.device).weights, kept[f"weights_{case}"])
    assert shown[0]["points"][0].tolist() == kept[f"shown_point_{case}"].tolist()
    assert first[0]["points"][0].tolist() == kept[f"point_{case}"].tolist()
    close(second[0]["masks"][0, ::8, ::8], kept[f"first_{case}"])
    boxes = [round_[0]["boxes"][0].tolist() for round_ in (second, third)]
    assert boxes == kept[f"boxes_{case}"].tolist()
    close(second[1].best().low_resolution[0, 0, ::8, ::8], kept[f"second_{case}"])
    close(third[1].best().low_resolution[0, 0, ::8, ::8], kept[f"third_{case}"], 3e-5)
    assert abs(found.score - np.clip(kept[f"score_{case}"], 0, 1)) < 1e-5
    expected = np.unpackbits(kept[f"mask_{case}"], count=size[0] * size[1]).reshape(size)
    assert (found.mask != expected.astype(bool)).mean() < 1e-3


def slow_loss(weights: np.ndarray, logits: np.ndarray, truth: np.ndarray) -> float:
    """Dice and focal loss in float64, written out."""
    x = np.tensordot(weights, logits, 1)
    p = 1 / (1 + np.exp(-x))
    dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
    right = np.where(truth, p, 1 - p)
    balance = np.where(truth, 0.25, 0.75)
    return float(dice - (balance * (1 - right) ** 2 * np.log(right)).mean())


@pytest.mark.parametrize("right", range(3))
def test_the_mask_that_is_right_gets_the_weight(right):
    truth = torch.from_numpy(blob(right, 40, 50))
    wrong = [torch.from_numpy(blob(10 + number, 40, 50)) for number in range(3)]
    masks = torch.stack([truth if place == right else wrong[place] for place in range(3)])
    logits = torch.where(masks, 4.0, -4.0)
    weights = fitted_weights([logits], [truth], steps=300, rate=0.03)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    assert int(weights.argmax()) == right
    equal = np.full(3, 1 / 3)
    numbers = logits.double().numpy(), truth.numpy().astype(float)
    assert slow_loss(weights.double().numpy(), *numbers) < 0.7 * slow_loss(equal, *numbers)
    assert torch.equal(weighted(weights, logits) > 0, truth)


def test_the_first_step_goes_down_the_slope():
    """Of one step AdamW leaves the sign of each slope, which a float64 difference shows as well."""
    truth = torch.from_numpy(blob(5, 20, 30))
    logits = torch.randn(3, 20, 30, generator=torch.Generator().manual_seed(0)) * 3
    weights = fitted_weights([logits], [truth], steps=1, rate=1e-3).double().numpy()
    numbers = logits.double().numpy(), truth.numpy().astype(float)

    def loss(free: np.ndarray) -> float:
        return slow_loss(np.array([1 - free.sum(), *free]), *numbers)

    start, small = np.full(2, 1 / 3), 1e-6
    for place in range(2):
        step = np.eye(2)[place] * small
        slope = (loss(start + step) - loss(start - step)) / (2 * small)
        assert np.sign(weights[1 + place] - 1 / 3) == -np.sign(slope)


def test_examples_are_fitted_together_without_gradients_around():
    one, two = (torch.from_numpy(blob(number, 30, 30)) for number in (1, 2))
    rows = [torch.stack([m, ~m, m.roll(7, 1)]).float() * 6 - 3 for m in (one, two)]
    with torch.inference_mode():
        both = fitted_weights(rows, [one, two], 100, 0.02)
        again = fitted_weights(rows[::-1], [two, one], 100, 0.02)
    torch.testing.assert_close(both, again, atol=1e-5, rtol=0)
    assert int(both.argmax()) == 0


def test_the_weighted_mask_is_the_same_at_any_size(sam, pixels):
    """Enlarging is linear, so that weighing before it or after it is the same."""
    picture = sam.encode(pixels)
    low = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([0.2, 0.5, 0.3])
    before = full_size(picture, weighted(weights, low)[None])[0]
    after = weighted(weights, full_size(picture, low))
    assert before.shape == pixels.shape[:2]
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


def test_an_empty_mask_ends_it(sam, pixels, example, monkeypatch):
    method = PerSamF(sam, steps=1)
    method.learned([example], sam.device)
    asked = []

    def nothing(self, **given):
        asked.append(given)
        empty = torch.zeros(1, 3, *pixels.shape[:2], dtype=torch.bool)
        return SamMasks(empty, torch.zeros(1, 3), torch.full((1, 3, 32, 32), -1.0))

    monkeypatch.setattr(SamImage, "predict", nothing)
    found = method.find(pixels, [example])
    assert not found.mask.any() and found.score == 0 and len(asked) == 1


def test_settings_and_examples_that_cannot_work(sam, pixels):
    with pytest.raises(ValueError, match="at least one step and a positive rate"):
        PerSamF(sam, steps=0)
    with pytest.raises(ExampleError, match="there is no example"):
        PerSamF(sam).find(pixels, [])


def test_the_target_is_half_mean_half_maximum(sam, example):
    from hipie_fewshot.modeling.location_prior import covered_cells

    grid = sam.encode(example.image).features[0].double()
    cells = covered_cells(sam, example.mask, (8, 8))
    columns = torch.stack([grid[:, y, x] for y, x in cells.nonzero().tolist()])
    slow = F.normalize(columns.mean(0) + columns.max(0).values, dim=0)
    found = PerSamF(sam, steps=1).learned([example], sam.device).target.double()
    torch.testing.assert_close(F.normalize(found, dim=0), slow, atol=1e-5, rtol=1e-5)
