"""A user who clicks on the worst mistake until he has clicked often enough."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from hipie.modeling.sam.predictor import SamImage
from hipie_interactive.click_sampler import Click, next_click
from hipie_interactive.predict import answer_all
from hipie_interactive.prompts import PromptError, Told


@dataclass
class Clicked:
    """What happened to one object.

    Attributes:
        clicks: in order; fewer than asked for if no mistake was left.
        ious: [k] IoU with the target after each click; the last one stays once none is left.
        mask: [H, W] bool, after the last click.
        score: SAM's estimate of its IoU.
    """

    clicks: list[Click] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    mask: np.ndarray | None = None
    score: float = 0.0


@dataclass
class _Object:
    target: np.ndarray
    mask: np.ndarray
    clicked: np.ndarray
    record: Clicked
    logits: Tensor | None = None
    done: bool = False


def simulate(image: SamImage, targets: np.ndarray, clicks: int) -> list[Clicked]:
    """Click on every object so many times; the image is encoded once, whatever their number.

    Args:
        image: encoded.
        targets: [N, H, W] bool, the objects.
        clicks: on each.

    Raises:
        PromptError: if a target is empty or of another size than the image.
    """
    _check(targets, image.size, clicks)
    objects = [
        _Object(target, np.zeros_like(target), np.zeros_like(target), Clicked())
        for target in targets.astype(bool)
    ]
    for _ in range(clicks):
        _click_once([one for one in objects if not one.done], image)
    for one in objects:
        one.record.ious += one.record.ious[-1:] * (clicks - len(one.record.ious))
        one.record.mask = one.mask
    return [one.record for one in objects]


def _click_once(objects: list[_Object], image: SamImage) -> None:
    for one in objects:
        click = next_click(one.target, one.mask, one.clicked)
        if click is None:
            one.done = True
            continue
        one.clicked[click.y, click.x] = True
        one.record.clicks.append(click)
    busy = [one for one in objects if not one.done]
    answers = answer_all(image, [_told(one) for one in busy], [one.logits for one in busy])
    for one, answer in zip(busy, answers, strict=True):
        one.mask, one.logits = answer.mask.cpu().numpy(), answer.logits
        one.record.score = answer.score
        one.record.ious.append(iou(one.mask, one.target))


def iou(mask: np.ndarray, target: np.ndarray) -> float:
    """Intersection over union; the target is not empty."""
    return int((mask & target).sum()) / int((mask | target).sum())


def _told(one: _Object) -> Told:
    clicks = np.array(one.record.clicks, float)
    return Told(clicks[:, :2], clicks[:, 2].astype(int))


def _check(targets: np.ndarray, size: tuple[int, int], clicks: int) -> None:
    if targets.ndim != 3 or tuple(targets.shape[1:]) != size:
        raise PromptError(
            f"the targets are {list(targets.shape)}, and the image needs [N, {size[0]}, {size[1]}]"
        )
    empty = np.flatnonzero(~targets.any((1, 2)))
    if len(empty):
        raise PromptError(f"target {empty[0]} is empty, so there is nothing to click on")
    if clicks < 1:
        raise PromptError(
            f"the simulated user clicks {clicks} times; MODEL.INTERACTIVE.CLICKS is 1 or more"
        )
