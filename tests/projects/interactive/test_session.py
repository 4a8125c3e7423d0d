"""Interactive sessions step by step, and segmentation of several prompts."""

from __future__ import annotations

import numpy as np
import pytest
from segment_anything import SamPredictor

from hipie.segmentation import Segmentation
from hipie_interactive.modeling.prompts import Prompt, PromptError
from hipie_interactive.session import Session, segment


def test_steps_equal_sam_predictor_with_its_last_mask(sam, pixels, encoded):
    session = Session(sam, pixels, "thing")
    session.add(Prompt(inside=[(40, 30)]))
    result = session.add({"outside": [(10, 10)], "inside": [(60, 40)]})
    assert len(encoded) == 1
    predictor = SamPredictor(sam.model)
    predictor.set_image(pixels)
    _, scores, low = predictor.predict(np.array([[40, 30]]), np.array([1]))
    best = low[int(scores.argmax())]
    points = np.array([[40, 30], [60, 40], [10, 10]])
    masks, scores, _ = predictor.predict(
        points, np.array([1, 1, 0]), mask_input=best[None], multimask_output=False
    )
    assert isinstance(result, Segmentation)
    assert result.labels == ["thing"]
    assert result.scores[0] == pytest.approx(scores[0], abs=1e-5)
    assert (result.masks[0] != masks[0]).mean() < 1e-3


def test_undo_restores_the_previous_mask(sam, pixels):
    session = Session(sam, pixels)
    assert len(session.result()) == 0
    first = session.add(Prompt(inside=[(40, 30)]))
    session.add(Prompt(outside=[(10, 10)]))
    assert np.array_equal(session.undo().masks, first.masks)
    assert len(session.undo()) == 0
    with pytest.raises(PromptError, match="no step to undo"):
        session.undo()


def test_contradiction_of_an_earlier_step_leaves_the_session_unchanged(sam, pixels):
    session = Session(sam, pixels)
    session.add(Prompt(inside=[(40, 30)]))
    with pytest.raises(PromptError, match=r"the pixel \(40, 30\) is inside in an earlier prompt"):
        session.add(Prompt(outside=[(40.5, 30.5)]))
    assert len(session) == 1


def test_first_step_needs_a_point_on_the_object(sam, pixels):
    with pytest.raises(PromptError, match="does not locate"):
        Session(sam, pixels).add(Prompt(outside=[(1, 1)]))


def test_new_box_or_polygon_replaces_the_box(sam, pixels):
    session = Session(sam, pixels)
    session.add(Prompt(box=(5, 5, 30, 30)))
    boxed = session.add(Prompt(box=(10, 8, 70, 50)))
    drawn = session.add(Prompt(polygon=[(10, 8), (70, 8), (70, 50)]))
    assert len(session) == 3
    assert boxed.masks.shape == drawn.masks.shape == (1, 60, 90)


def test_prompts_as_dicts(sam, pixels):
    result = segment(
        sam, pixels, [{"inside": [(40, 30)], "label": "cup"}, Prompt(box=(1, 1, 9, 9))]
    )
    assert result.labels == ["cup", "object"]
    assert result.to_coco()[0]["segmentation"]["size"] == [60, 90]
    with pytest.raises(PromptError, match='a prompt has no "clicks"; it has inside, outside'):
        segment(sam, pixels, [{"clicks": [(1, 1)]}])
    with pytest.raises(PromptError, match="there is no prompt"):
        segment(sam, pixels, [])
