"""Work on one image: point, look, point again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hipie.data.image_io import as_rgb, read_image
from hipie.modeling.sam.predictor import Sam, SamImage
from hipie.segmentation import Segment, Segmentation
from hipie_interactive.predict import Answer, answer_all
from hipie_interactive.prompts import Prompt, PromptError, Told, told

Picture = str | Path | Image.Image | np.ndarray


def segment(
    sam: Sam, image: Picture, prompts: Sequence[Prompt | Mapping[str, Any]]
) -> Segmentation:
    """A mask for every prompt; the image is encoded once.

    Args:
        sam: the model.
        image: a path, a PIL image or an RGB array [H, W, 3].
        prompts: `Prompt`s, or their fields as dicts.

    Raises:
        PromptError: if there is no prompt, or one cannot be meant.
    """
    pixels = read_image(image) if isinstance(image, str | Path) else as_rgb(image)
    asked = [as_prompt(one) for one in prompts]
    if not asked:
        raise PromptError("there is no prompt: name a click, a box, a scribble or a polygon")
    said = [told(one, pixels.shape[:2]) for one in asked]
    answers = answer_all(sam.encode(pixels), said)
    segments = [_segment(one.label, answer) for one, answer in zip(asked, answers, strict=True)]
    return Segmentation(pixels, segments)


def as_prompt(given: Prompt | Mapping[str, Any]) -> Prompt:
    """A prompt from its fields.

    Raises:
        PromptError: for a field that prompts do not have.
    """
    if isinstance(given, Prompt):
        return given
    fields = list(Prompt.__dataclass_fields__)
    for name in given:
        if name not in fields:
            raise PromptError(f'a prompt has no "{name}"; it has {", ".join(fields)}')
    return Prompt(**given)


class Session:
    """One object of one image, in as many steps as it takes.

    Each step adds to what was said before, and SAM starts from the mask it gave then.

    Args:
        sam: the model.
        image: a path, a PIL image or an RGB array [H, W, 3]; it is encoded here, once.
        label: how the object is called.
    """

    def __init__(self, sam: Sam, image: Picture, label: str = "object") -> None:
        self._pixels = read_image(image) if isinstance(image, str | Path) else as_rgb(image)
        self._image: SamImage = sam.encode(self._pixels)
        self._label = label
        self._steps: list[tuple[Told, Answer]] = []

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, prompt: Prompt | Mapping[str, Any]) -> Segmentation:
        """Say more, and see the mask that comes of it.

        Clicks add up; a new box or polygon replaces the one before.

        Raises:
            PromptError: if it cannot be meant, or contradicts what was said; nothing is changed.
        """
        before = self._steps[-1] if self._steps else None
        said = told(as_prompt(prompt), self._image.size, again=before is not None)
        if before:
            said = joined(before[0], said)
        answer = answer_all(self._image, [said], [before[1].logits if before else None])[0]
        self._steps.append((said, answer))
        return self.result()

    def undo(self) -> Segmentation:
        """Take the last step back."""
        if not self._steps:
            raise PromptError("there is no step to take back")
        self._steps.pop()
        return self.result()

    def result(self) -> Segmentation:
        """The mask as it is now; no segment before the first step."""
        found = [_segment(self._label, self._steps[-1][1])] if self._steps else []
        return Segmentation(self._pixels, found)


def joined(before: Told, after: Told) -> Told:
    """What two prompts of one object say together; a mask is not said twice.

    Raises:
        PromptError: if a pixel is inside in one and outside in the other.
    """
    places = dict(zip(map(tuple, np.floor(before.points)), before.labels, strict=True))
    for point, label in zip(np.floor(after.points), after.labels, strict=True):
        if places.get(tuple(point), label) != label:
            x, y = point
            raise PromptError(f"the pixel ({x:g}, {y:g}) was said to be {_side(1 - label)} before")
    return Told(
        np.concatenate([before.points, after.points]),
        np.concatenate([before.labels, after.labels]),
        before.box if after.box is None else after.box,
        after.mask,
    )


def _side(label: int) -> str:
    return "inside" if label else "outside"


def _segment(label: str, answer: Answer) -> Segment:
    return Segment(label, "thing", answer.mask.cpu().numpy(), answer.score)
