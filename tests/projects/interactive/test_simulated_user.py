"""The simulated user on a SAM, and on one that always knows better."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from hipie.modeling.sam.predictor import SamMasks
from hipie_interactive.click_sampler import next_click
from hipie_interactive.prompts import PromptError
from hipie_interactive.simulated_user import iou, simulate


def squares(size=(60, 90)):
    targets = np.zeros((3, *size), bool)
    targets[0, 5:25, 5:25] = True
    targets[1, 30:55, 20:80] = True
    targets[2, 2, 3] = True
    return targets


class Painter:
    """Stands for an encoded image: each click paints a disc of its kind around itself."""

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


def test_rounds_equal_the_predictor_clicked_on_by_hand(sam, pixels, image):
    target = squares()[1]
    found = simulate(image, target[None], 4)[0]
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
        assert found.clicks[step] == click
        assert found.ious[step] == pytest.approx(iou(mask, target), abs=2e-3)


def test_the_image_is_encoded_once_for_all_objects_and_clicks(sam, pixels, encoded):
    found = simulate(sam.encode(pixels), squares(), 6)
    assert [len(one.ious) for one in found] == [6, 6, 6]
    assert len(encoded) == 1


def test_objects_do_not_disturb_each_other(image):
    together = simulate(image, squares(), 3)
    for one, target in zip(together, squares()):
        alone = simulate(image, target[None], 3)[0]
        assert one.clicks == alone.clicks
        assert one.ious == pytest.approx(alone.ious)


def test_a_model_that_listens_gets_there():
    painter = Painter((60, 90), 5)
    found = simulate(painter, squares()[:2], 20)
    for one in found:
        assert one.ious[-1] > 0.7
        assert one.ious[-1] > one.ious[0]
    points, labels, multimask, given = painter.rounds[0]
    assert points[0, 0].tolist() == [14, 14]
    assert labels.tolist() == [[1], [1]]
    assert multimask
    assert not given
    assert [one[2:] for one in painter.rounds[1:]] == [(False, True)] * 19


def test_a_finished_object_is_left_alone():
    painter = Painter((60, 90), 0)
    found = simulate(painter, squares()[[2, 0]], 3)
    assert found[0].ious == [1.0, 1.0, 1.0]
    assert len(found[0].clicks) == 1
    assert [len(one[0]) for one in painter.rounds] == [2, 1, 1]
    assert len(found[1].clicks) == 3


def test_bad_targets_are_one_expression(image):
    targets = squares()
    targets[1] = False
    with pytest.raises(PromptError, match="target 1 is empty, so there is nothing to click on"):
        simulate(image, targets, 3)
    with pytest.raises(PromptError, match=r"\[N, 60, 90\]"):
        simulate(image, squares((60, 91)), 3)
    with pytest.raises(PromptError, match="clicks 0 times"):
        simulate(image, squares(), 0)
