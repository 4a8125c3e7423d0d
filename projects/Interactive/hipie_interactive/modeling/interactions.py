"""Prompts of a simulated user: clicks, scribbles, boxes and polygons on an object.

The first prompt is of the chosen kind; scribbles are followed by scribbles, boxes and polygons by
clicks. Clicks and scribbles are drawn on the largest error of the last mask; see `next_click`.
"""

from __future__ import annotations

import cv2
import numpy as np

from hipie.errors import InputError
from hipie_interactive.modeling.click_sampler import next_click
from hipie_interactive.modeling.prompts import (
    Prompt,
    SamPrompt,
    scribble_points,
    to_sam_prompt,
)

CLICKS, SCRIBBLES, BOXES, POLYGONS = KINDS = ("clicks", "scribbles", "boxes", "polygons")
# Steps between the samples of a scribble's line, pixels.
STEP = 0.5


def check_interactions(kind: str, jitter: float, vertices: int) -> None:
    """Check the settings of a simulated user.

    Raises:
        InputError: for an unknown kind, a jitter outside of 0..0.5 or fewer than 4 vertices.
    """
    if kind not in KINDS:
        raise InputError(
            f'MODEL.INTERACTIVE.PROMPTS is "{kind}"; it has to be one of {", ".join(KINDS)}'
        )
    if not 0 <= jitter <= 0.5:
        raise InputError(f"MODEL.INTERACTIVE.BOX_JITTER is {jitter}; it has to be in 0..0.5")
    if vertices < 4:
        raise InputError(
            f"MODEL.INTERACTIVE.POLYGON_VERTICES is {vertices}; it has to be at least 4"
        )


def box_around(
    target: np.ndarray, jitter: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Draw a loose or tight box of an object.

    Args:
        target: [H, W] bool, not empty.
        jitter: each side is moved by up to this share of the box's extent, in or out.
        rng: of the moves.

    Returns:
        x1, y1, x2, y2 within the image.
    """
    height, width = target.shape
    rows, columns = np.flatnonzero(target.any(1)), np.flatnonzero(target.any(0))
    x1, y1, x2, y2 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    moves = rng.uniform(-jitter, jitter, 4) * np.array([x2 - x1, y2 - y1] * 2)
    left, top, right, bottom = np.array([x1, y1, x2, y2]) + moves
    left, right = np.clip([left, right], 0, width)
    top, bottom = np.clip([top, bottom], 0, height)
    if right - left < 1 or bottom - top < 1:  # a jitter of one half may leave nothing
        return float(x1), float(y1), float(x2), float(y2)
    return float(left), float(top), float(right), float(bottom)


def polygon_around(target: np.ndarray, vertices: int) -> list[tuple[float, float]]:
    """Draw a coarse polygon around the largest part of an object.

    The outline is simplified (Douglas and Peucker, 1973) with the smallest tolerance that leaves
    few enough vertices.

    Args:
        target: [H, W] bool, not empty.
        vertices: largest number, at least 4.

    Returns:
        Vertices (x, y); the box's corners, if the object is thinner than an outline, or no
        simplified outline with an area has few enough vertices.
    """
    outlines, _ = cv2.findContours(
        target.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    outline = max(outlines, key=cv2.contourArea)
    low, high = 0.0, float(sum(target.shape))
    best = None
    for _ in range(24):
        middle = (low + high) / 2
        simple = cv2.approxPolyDP(outline, middle, True)[:, 0]
        if len(simple) > vertices:
            low = middle
        else:
            high = middle
            best = simple if len(simple) >= 3 else best
    if best is None or cv2.contourArea(best.astype(np.float32)) <= 0:
        rows, columns = np.flatnonzero(target.any(1)), np.flatnonzero(target.any(0))
        left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return [(float(x), float(y)) for x, y in corners]
    return [(float(x), float(y)) for x, y in best]


def next_scribble(
    target: np.ndarray, mask: np.ndarray, drawn: np.ndarray
) -> tuple[np.ndarray, bool] | None:
    """Draw a straight scribble through the largest error of a mask.

    It goes through the pixel of `next_click`, along the principal axis of the connected part of the
    error around it, as far as it stays inside of that part.

    Args:
        target: [H, W] bool, ground truth.
        mask: [H, W] bool, prediction.
        drawn: [H, W] bool, pixels of earlier scribbles.

    Returns:
        Pixels [n, 2] (x, y) along the scribble, and whether it is on the object; None if the mask
        has no error where nothing is drawn yet.
    """
    click = next_click(target, mask, drawn)
    if click is None:
        return None
    error = (target & ~mask) if click.inside else (mask & ~target)
    _, parts = cv2.connectedComponents(error.astype(np.uint8), connectivity=4)
    part = parts == parts[click.y, click.x]
    ys, xs = np.nonzero(part)
    covariance = np.cov(np.stack([xs, ys]).astype(float)) if len(xs) > 1 else np.eye(2)
    direction = np.linalg.eigh(covariance)[1][:, -1]
    ends = [_walk(part, (click.x, click.y), sign * direction) for sign in (-1, 1)]
    line = [*ends[0][::-1], (click.x, click.y), *ends[1]]
    return np.array(list(dict.fromkeys(line))), click.inside


def _walk(part: np.ndarray, start: tuple[int, int], direction: np.ndarray) -> list[tuple[int, int]]:
    """Pixels from a start along a direction, without the start, until the part ends."""
    height, width = part.shape
    pixels: list[tuple[int, int]] = []
    for step in range(1, int((height + width) / STEP)):
        x, y = np.rint(np.array(start) + step * STEP * direction).astype(int).tolist()
        if not (0 <= x < width and 0 <= y < height and part[y, x]):
            break
        pixels.append((x, y))
    return pixels


class SimulatedUser:
    """Prompts of one kind on one object, step by step.

    Args:
        target: [H, W] bool, ground truth, not empty.
        kind: one of `KINDS`.
        jitter: of boxes, see `box_around`.
        vertices: of polygons, see `polygon_around`.
        rng: of the jitter.
    """

    def __init__(
        self,
        target: np.ndarray,
        kind: str = CLICKS,
        jitter: float = 0.1,
        vertices: int = 8,
        rng: np.random.Generator | None = None,
    ) -> None:
        check_interactions(kind, jitter, vertices)
        self.target, self.kind = target, kind
        self.jitter, self.vertices = jitter, vertices
        self.rng = rng or np.random.default_rng(0)
        self.used = np.zeros_like(target)
        self.steps = 0

    def prompt(self, mask: np.ndarray) -> SamPrompt | None:
        """Return the next prompt after a mask [H, W] bool; None if no error is left.

        Points are pixels of the error that they correct, so that no pixel is on the object in one
        prompt and on the background in another.
        """
        self.steps += 1
        if self.steps == 1 and self.kind == BOXES:
            box = box_around(self.target, self.jitter, self.rng)
            return to_sam_prompt(Prompt(box=box), self.target.shape)
        if self.steps == 1 and self.kind == POLYGONS:
            polygon = polygon_around(self.target, self.vertices)
            prompt = to_sam_prompt(Prompt(polygon=polygon), self.target.shape)
            # A coarse polygon may have its centre beside the object, where no user clicks.
            ((x, y),) = prompt.points.astype(int)
            self.used[y, x] = True
            if not self.target[y, x]:
                no_points = np.zeros((0, 2)), np.zeros(0, int)
                prompt = SamPrompt(*no_points, prompt.box, prompt.mask)
            return prompt
        if self.kind == SCRIBBLES:
            scribble = next_scribble(self.target, mask, self.used)
            if scribble is None:
                return None
            pixels, inside = scribble
            samples = scribble_points(pixels.astype(float), self.target.shape)
            distances = ((samples[:, None] - pixels[None]) ** 2).sum(2)
            points = pixels[np.unique(distances.argmin(1))]
            self.used[pixels[:, 1], pixels[:, 0]] = True
            return SamPrompt(points.astype(float), np.full(len(points), int(inside)))
        click = next_click(self.target, mask, self.used)
        if click is None:
            return None
        self.used[click.y, click.x] = True
        return SamPrompt(np.array([[click.x, click.y]], float), np.array([int(click.inside)]))
