"""Masks of batched prompts against `SamPredictor` on the same random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from hipie_interactive.modeling.predict import predict_masks
from hipie_interactive.modeling.prompts import Prompt, Scribble, to_sam_prompt
from hipie_interactive.session import segment

PROMPTS = {
    "a click": Prompt(inside=[(40, 30)]),
    "clicks": Prompt(inside=[(40, 30), (50, 20)], outside=[(5, 5)]),
    "a box": Prompt(box=(10, 8, 70, 50)),
    "a box and a click": Prompt(box=(10, 8, 70, 50), inside=[(40, 30)]),
    "a scribble": Prompt(scribbles=[Scribble([(10, 10), (60, 40)])]),
    "another click": Prompt(inside=[(11, 12)]),
}


@pytest.fixture
def predictor(sam, pixels):
    predictor = SamPredictor(sam.model)
    predictor.set_image(pixels)
    return predictor


def predict_alone(predictor, prompt, low=None):
    """Predict one prompt, with the best of three masks for an ambiguous one."""
    multimask = prompt.ambiguous and low is None
    masks, scores, logits = predictor.predict(
        point_coords=prompt.points if len(prompt.points) else None,
        point_labels=prompt.labels if len(prompt.points) else None,
        box=prompt.box,
        mask_input=None if low is None else low[None],
        multimask_output=multimask,
    )
    best = int(scores.argmax())
    return masks[best], scores[best], logits[best]


def assert_same(prediction, expected):
    mask, score, logits = expected
    np.testing.assert_allclose(prediction.logits.numpy(), logits, atol=1e-5)
    assert prediction.score == pytest.approx(float(score), abs=1e-5)
    assert (prediction.mask.numpy() != mask).mean() < 1e-3


def test_batched_prompts_equal_single_ones(image, predictor):
    prompts = [to_sam_prompt(prompt, image.size) for prompt in PROMPTS.values()]
    for prediction, prompt in zip(predict_masks(image, prompts), prompts):
        assert_same(prediction, predict_alone(predictor, prompt))


def test_second_step_starts_from_the_logits_of_the_first(image, predictor):
    prompts = [to_sam_prompt(prompt, image.size) for prompt in PROMPTS.values()]
    first = predict_masks(image, prompts)
    second = predict_masks(image, prompts, [prediction.logits for prediction in first])
    changed = 0
    for before, after, prompt in zip(first, second, prompts):
        assert_same(after, predict_alone(predictor, prompt, before.logits.numpy()))
        changed += not torch.allclose(before.logits, after.logits)
    assert changed == len(prompts)


def test_polygon_gives_box_click_and_mask_prompt(image, predictor):
    prompt = to_sam_prompt(Prompt(polygon=[(20, 10), (70, 10), (70, 50), (20, 50)]), image.size)
    low = image.mask_prompts(torch.from_numpy(prompt.mask)[None])[0, 0]
    assert set(low.unique().tolist()) == {-10.0, 10.0}
    expected = predict_alone(predictor, prompt, low.numpy())
    assert_same(predict_masks(image, [prompt])[0], expected)


def test_mask_prompt_of_a_polygon_has_its_position(image):
    """The mask prompt has 32 cells a side for 90 pixels."""
    prompt = to_sam_prompt(Prompt(polygon=[(45, 30), (89, 30), (89, 59), (45, 59)]), image.size)
    cells = image.mask_prompts(torch.from_numpy(prompt.mask)[None])[0, 0] > 0
    rows, columns = (cells.any(axis).nonzero().flatten() for axis in (1, 0))
    assert rows[0] == pytest.approx(30 * 32 / 90, abs=1)
    assert rows[-1] == pytest.approx(59 * 32 / 90, abs=1)
    assert columns[0] == pytest.approx(45 * 32 / 90, abs=1)
    assert columns[-1] == 31


def test_64_prompts_encode_the_image_once(sam, pixels, encoded):
    rng = np.random.default_rng(0)
    prompts = [Prompt(inside=[(int(x), int(y))]) for x, y in rng.integers(0, 60, (40, 2))]
    prompts += [Prompt(box=(x, 5, x + 20, 30)) for x in range(24)]
    result = segment(sam, pixels, prompts)
    assert len(result) == 64
    assert len(encoded) == 1


def test_masks_do_not_depend_on_the_other_prompts(image):
    prompts = [to_sam_prompt(prompt, image.size) for prompt in PROMPTS.values()]
    for prompt, prediction in zip(prompts, predict_masks(image, prompts)):
        alone = predict_masks(image, [prompt])[0]
        torch.testing.assert_close(alone.logits, prediction.logits, atol=1e-5, rtol=1e-5)


def test_no_prompts_give_no_masks(image):
    assert predict_masks(image, []) == []
