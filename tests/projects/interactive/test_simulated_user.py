"""The simulated user on SAM, and on a model that paints discs around clicks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from hipie.modeling.sam.predictor import SamMasks
from hipie_interactive.modeling.click_sampler import next_click
from hipie_interactive.modeling.prompts import PromptError
from hipie_interactive.modeling.simulated_user import iou, simulate_clicks


def squares(size=(60, 90)):
    targets = np.zeros((3, *size), bool)
    targets[0, 5:25, 5:25] = True
    targets[1, 30:55, 20:80] = True
    targets[2, 2, 3] = True
    return targets


class DiscPainter:
    """Encoded image on which each click paints or erases a disc around itself."""

    def __init__(self, size, radius):
        self.size, self.radius = size, radius
        self.rounds = []

    def predict(self, points, labels, boxes, masks, multimask):
        self.rounds.append((points.copy(), labels.copy(), multimask, masks is not None))
        y, x = np.mgrid[: self.size[0], : self.size[1]]
        painted = torch.zeros(len(points), 1, *self.size, dtype=torch.bool)
        for row, (places, kinds) in enumerate(zip(points, labels)):
            for (px, py), inside in zip(places, kinds):
                disc = (x - px) ** 2 + (y - py) ** 2 <= self.radius**2
                painted[row, 0][torch.from_numpy(disc)] = bool(inside)
        return SamMasks(painted, torch.ones(len(points), 1), torch.zeros(len(points), 1, 8, 8))


def test_rounds_equal_sam_predictor_with_the_same_clicks(sam, pixels, image):
    target = squares()[1]
    result = simulate_clicks(image, target[None], 4)[0]
    predictor = SamPredictor(sam.model)
    predictor.set_image(pixels)
    mask, clicked, low, places, kinds = np.zeros_like(target), np.zeros_like(target), None, [], []
    for step in range(4):
        click = next_click(target, mask, clicked)
        clicked[click.y, click.x] = True
        places.append((click.x, click.y))
        kinds.append(int(click.inside))
        masks, scores, logits = predictor.predict(
            np.array(places), np.array(kinds), mask_input=low, multimask_output=step == 0
        )
        best = int(scores.argmax())
        mask, low = masks[best], logits[best][None]
        assert result.clicks[step] == click
        assert result.ious[step] == pytest.approx(iou(mask, target), abs=2e-3)


def test_image_is_encoded_once_for_all_objects_and_clicks(sam, pixels, encoded):
    result = simulate_clicks(sam.encode(pixels), squares(), 6)
    assert [len(clicks.ious) for clicks in result] == [6, 6, 6]
    assert len(encoded) == 1


def test_objects_are_independent(image):
    together = simulate_clicks(image, squares(), 3)
    for joint, target in zip(together, squares()):
        alone = simulate_clicks(image, target[None], 3)[0]
        assert joint.clicks == alone.clicks
        assert joint.ious == pytest.approx(alone.ious)


def test_iou_rises_on_a_responsive_model():
    painter = DiscPainter((60, 90), 5)
    result = simulate_clicks(painter, squares()[:2], 20)
    for clicks in result:
        assert clicks.ious[-1] > 0.7
        assert clicks.ious[-1] > clicks.ious[0]
    points, labels, multimask, given = painter.rounds[0]
    assert points[0, 0].tolist() == [14, 14]
    assert labels.tolist() == [[1], [1]]
    assert multimask
    assert not given
    assert [call[2:] for call in painter.rounds[1:]] == [(False, True)] * 19


def test_finished_object_gets_no_more_clicks():
    painter = DiscPainter((60, 90), 0)
    result = simulate_clicks(painter, squares()[[2, 0]], 3)
    assert result[0].ious == (1.0, 1.0, 1.0)
    assert len(result[0].clicks) == 1
    assert [len(call[0]) for call in painter.rounds] == [2, 1, 1]
    assert len(result[1].clicks) == 3


def test_invalid_targets_are_refused(image):
    targets = squares()
    targets[1] = False
    with pytest.raises(PromptError, match="target 1 is empty, so there is nothing to click on"):
        simulate_clicks(image, targets, 3)
    with pytest.raises(PromptError, match=r"\[N, 60, 90\]"):
        simulate_clicks(image, squares((60, 91)), 3)
    with pytest.raises(PromptError, match="MODEL.INTERACTIVE.CLICKS is 0"):
        simulate_clicks(image, squares(), 0)
