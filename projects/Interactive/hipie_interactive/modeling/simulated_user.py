"""Simulated user, who corrects the mask of an object a given number of times."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from hipie.modeling.sam.predictor import SamImage
from hipie_interactive.modeling.click_sampler import Click
from hipie_interactive.modeling.interactions import CLICKS, SimulatedUser
from hipie_interactive.modeling.predict import predict_masks
from hipie_interactive.modeling.prompts import PromptError, SamPrompt


@dataclass(frozen=True)
class SimulatedClicks:
    """Points of the prompts on one object and their effect.

    Attributes:
        clicks: points in order, of scribbles several a prompt; there are no more prompts once no
            error is left.
        ious: IoU with the target after each of the given number of prompts; the last one is
            repeated once no error is left.
        mask: [H, W] bool, after the last prompt.
        score: SAM's prediction of its IoU.
    """

    clicks: tuple[Click, ...]
    ious: tuple[float, ...]
    mask: np.ndarray
    score: float


@dataclass
class _ObjectState:
    target: np.ndarray
    mask: np.ndarray
    user: SimulatedUser
    prompt: SamPrompt | None = None
    clicks: list[Click] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    score: float = 0.0
    logits: Tensor | None = None
    done: bool = False


def simulate_clicks(
    image: SamImage,
    targets: np.ndarray,
    clicks: int,
    kind: str = CLICKS,
    jitter: float = 0.1,
    vertices: int = 8,
) -> list[SimulatedClicks]:
    """Prompt every object a number of times.

    Args:
        image: encoded.
        targets: [N, H, W] bool, ground-truth masks.
        clicks: number of prompts on each object.
        kind: "clicks", "scribbles", "boxes" or "polygons"; see `interactions`.
        jitter: of boxes, see `box_around`.
        vertices: largest number of a polygon's vertices.

    Raises:
        PromptError: if a target is empty or of another size than the image.
        InputError: for another kind.
    """
    _check_targets(targets, image.size, clicks)
    objects = [
        _ObjectState(
            target,
            np.zeros_like(target),
            SimulatedUser(target, kind, jitter, vertices, np.random.default_rng(_seed(target))),
        )
        for target in targets.astype(bool)
    ]
    for _ in range(clicks):
        _click_once([state for state in objects if not state.done], image)
    return [
        SimulatedClicks(
            tuple(state.clicks),
            tuple(state.ious + state.ious[-1:] * (clicks - len(state.ious))),
            state.mask,
            state.score,
        )
        for state in objects
    ]


def iou(mask: np.ndarray, target: np.ndarray) -> float:
    """Compute the IoU of a mask with a target that is not empty, each [H, W] bool."""
    return int((mask & target).sum()) / int((mask | target).sum())


def _click_once(objects: list[_ObjectState], image: SamImage) -> None:
    for state in objects:
        prompt = state.user.prompt(state.mask)
        if prompt is None:
            state.done = True
            continue
        points = zip(prompt.points.astype(int).tolist(), prompt.labels.tolist(), strict=True)
        state.clicks += [Click(x, y, bool(label)) for (x, y), label in points]
        state.prompt = prompt if state.prompt is None else state.prompt.merge(prompt)
    active = [state for state in objects if not state.done]
    prompts = [state.prompt for state in active if state.prompt is not None]
    predictions = predict_masks(image, prompts, [state.logits for state in active])
    for state, prediction in zip(active, predictions, strict=True):
        state.mask, state.logits = prediction.mask.cpu().numpy(), prediction.logits
        state.score = prediction.score
        state.ious.append(iou(state.mask, state.target))


def _seed(target: np.ndarray) -> int:
    """Seed of the jitter on an object, which does not depend on other objects."""
    return zlib.crc32(np.packbits(target).tobytes())


def _check_targets(targets: np.ndarray, size: tuple[int, int], clicks: int) -> None:
    if targets.ndim != 3 or tuple(targets.shape[1:]) != size:
        raise PromptError(
            f"the targets are {list(targets.shape)}, and the image needs [N, {size[0]}, {size[1]}]"
        )
    empty = np.flatnonzero(~targets.any((1, 2)))
    if len(empty):
        raise PromptError(f"target {empty[0]} is empty, so there is nothing to click on")
    if clicks < 1:
        raise PromptError(f"MODEL.INTERACTIVE.CLICKS is {clicks}; it has to be at least 1")
