"""Masks are those of SAM's own predictor on the same random weights, one prompt at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from hipie_interactive.predict import answer_all
from hipie_interactive.prompts import Prompt, Scribble, told
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
    one = SamPredictor(sam.model)
    one.set_image(pixels)
    return one


def ask(predictor, said, low=None):
    """SAM's own predictor, and the choice that its authors advise."""
    lone = said.ambiguous and low is None
    masks, scores, logits = predictor.predict(
        point_coords=said.points if len(said.points) else None,
        point_labels=said.labels if len(said.points) else None,
        box=said.box,
        mask_input=None if low is None else low[None],
        multimask_output=lone,
    )
    best = int(scores.argmax())
    return masks[best], scores[best], logits[best]


def same(answer, expected):
    mask, score, logits = expected
    np.testing.assert_allclose(answer.logits.numpy(), logits, atol=1e-5)
    assert answer.score == pytest.approx(float(score), abs=1e-5)
    assert (answer.mask.numpy() != mask).mean() < 1e-3


def test_every_form_at_once_equals_the_predictor_one_by_one(image, predictor):
    said = [told(prompt, image.size) for prompt in PROMPTS.values()]
    for answer, one in zip(answer_all(image, said), said):
        same(answer, ask(predictor, one))


def test_the_second_round_starts_from_the_first(image, predictor):
    said = [told(prompt, image.size) for prompt in PROMPTS.values()]
    first = answer_all(image, said)
    second = answer_all(image, said, [one.logits for one in first])
    changed = 0
    for before, after, one in zip(first, second, said):
        same(after, ask(predictor, one, before.logits.numpy()))
        changed += not torch.allclose(before.logits, after.logits)
    assert changed == len(said)


def test_a_polygon_tells_box_click_and_mask(image, predictor):
    said = told(Prompt(polygon=[(20, 10), (70, 10), (70, 50), (20, 50)]), image.size)
    low = image.mask_prompts(torch.from_numpy(said.mask)[None])[0, 0]
    assert set(low.unique().tolist()) == {-10.0, 10.0}
    same(answer_all(image, [said])[0], ask(predictor, said, low.numpy()))


def test_the_mask_of_a_polygon_lies_where_the_polygon_is(image):
    """Of 60x90 pixels in a square of 128, a mask prompt of 32 has 1 cell for 2.8 pixels."""
    said = told(Prompt(polygon=[(45, 30), (89, 30), (89, 59), (45, 59)]), image.size)
    cells = image.mask_prompts(torch.from_numpy(said.mask)[None])[0, 0] > 0
    rows, columns = (cells.any(axis).nonzero().flatten() for axis in (1, 0))
    assert rows[0] == pytest.approx(30 * 32 / 90, abs=1)
    assert rows[-1] == pytest.approx(59 * 32 / 90, abs=1)
    assert columns[0] == pytest.approx(45 * 32 / 90, abs=1)
    assert columns[-1] == 31


def test_64_prompts_on_one_image_encode_it_once(sam, pixels, encoded):
    rng = np.random.default_rng(0)
    prompts = [Prompt(inside=[(int(x), int(y))]) for x, y in rng.integers(0, 60, (40, 2))]
    prompts += [Prompt(box=(x, 5, x + 20, 30)) for x in range(24)]
    found = segment(sam, pixels, prompts)
    assert len(found) == 64
    assert len(encoded) == 1


def test_answers_do_not_depend_on_the_company(image):
    said = [told(prompt, image.size) for prompt in PROMPTS.values()]
    together = answer_all(image, said)
    for one, answer in zip(said, together):
        alone = answer_all(image, [one])[0]
        torch.testing.assert_close(alone.logits, answer.logits, atol=1e-5, rtol=1e-5)


def test_no_prompts_no_answers(image):
    assert answer_all(image, []) == []
