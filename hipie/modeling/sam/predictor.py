"""Segment Anything: an image is encoded once, then any number of prompts are answered.

Results equal those of `segment_anything.SamPredictor` on the same weights; here prompts come many
at a time, and what is wrong with one is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything import SamPredictor
from torch import Tensor

from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie.modeling.sam.loading import load_sam

# SAM's decoder copies the image's features for every prompt, which on a processor costs more than
# small batches do.
PROMPTS_AT_ONCE, PROMPTS_AT_ONCE_ON_CPU = 64, 4
# Logit of a mask prompt inside (minus it outside); SAM's own low-resolution masks are of that size.
SURE = 10.0


@dataclass(frozen=True)
class SamMasks:
    """Answers to N prompts, M masks each (3 where several were asked for, else 1).

    Attributes:
        masks: [N, M, H, W] bool at the image's size.
        scores: [N, M] SAM's own estimate of each mask's IoU with the truth.
        low_resolution: [N, M, h, w] logits that a next prompt may take as its mask.
    """

    masks: Tensor
    scores: Tensor
    low_resolution: Tensor

    def __len__(self) -> int:
        return len(self.masks)

    def best(self) -> SamMasks:
        """Of every prompt the mask with the highest score: M = 1."""
        row = torch.arange(len(self.masks), device=self.scores.device)
        best = self.scores.argmax(1) if len(row) else row
        return SamMasks(
            self.masks[row, best][:, None],
            self.scores[row, best][:, None],
            self.low_resolution[row, best][:, None],
        )


class Sam:
    """A model of `segment_anything`, frozen; it is no `nn.Module`, so no checkpoint contains it.

    Args:
        model: `segment_anything.modeling.Sam`.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def from_source(cls, model: str, weights: str = "") -> Sam:
        """By type and file, or with random weights: see `load_sam`."""
        return cls(load_sam(model, weights))

    def to(self, device: torch.device | str) -> Sam:
        """The same model, moved."""
        self.model.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def image_size(self) -> int:
        """Side of the square that images are fitted into."""
        return self.model.image_encoder.img_size

    def encode(self, image: np.ndarray) -> SamImage:
        """Run an image through the image encoder, once.

        Args:
            image: [H, W, 3] uint8 RGB.

        Raises:
            OpenVocabularyError: if it is none.
        """
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
            raise OpenVocabularyError(
                f"SAM takes an RGB image [H, W, 3] of bytes, and this is "
                f"{list(image.shape)} of {image.dtype}"
            )
        predictor = SamPredictor(self.model)
        predictor.set_image(np.ascontiguousarray(image))
        return SamImage(self, predictor)


class SamImage:
    """An image that SAM has seen; made by `Sam.encode`.

    Args:
        sam: the model.
        predictor: that holds the encoded image.
    """

    def __init__(self, sam: Sam, predictor: SamPredictor) -> None:
        self.sam = sam
        self._predictor = predictor

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return tuple(self._predictor.original_size)

    @property
    def features(self) -> Tensor:
        """[1, C, g, g] what the image encoder made of the square."""
        return self._predictor.features

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the image inside the square."""
        return tuple(self._predictor.input_size)

    @torch.no_grad()
    def predict(
        self,
        points: np.ndarray | Tensor | None = None,
        labels: np.ndarray | Tensor | None = None,
        boxes: np.ndarray | Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = False,
    ) -> SamMasks:
        """Masks for N prompts; each may have points, a box and a mask, all prompts alike.

        Args:
            points: [N, P, 2] x and y in pixels of the image.
            labels: [N, P] 1 = inside, 0 = outside.
            boxes: [N, 4] x1, y1, x2, y2 in pixels.
            masks: [N, 1, h, w] or [N, h, w] logits of an earlier answer's `low_resolution`, or of
                `mask_prompts`.
            multimask: three masks a prompt, for prompts that may mean several things.

        Raises:
            OpenVocabularyError: for no prompt, unequal numbers of them, labels other than 0 and 1,
                a point outside the image, a box that is empty or outside, the same point as
                inside and outside.
        """
        given = self._checked(points, labels, boxes, masks)
        count = len(next(one for one in given if one is not None))
        step = PROMPTS_AT_ONCE_ON_CPU if self.sam.device.type == "cpu" else PROMPTS_AT_ONCE
        found = [self._answer(*part, multimask) for part in _parts(given, count, step)]
        if not found:
            side, shown = self.sam.model.prompt_encoder.mask_input_size, 3 if multimask else 1
            device = self.sam.device
            return SamMasks(
                torch.zeros(0, shown, *self.size, dtype=torch.bool, device=device),
                torch.zeros(0, shown, device=device),
                torch.zeros(0, shown, *side, device=device),
            )
        return SamMasks(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def mask_prompts(self, masks: Tensor) -> Tensor:
        """Binary masks of the image as mask prompts: [N, 1, h, w] logits, 10 inside, else -10.

        Args:
            masks: [N, H, W] bool.
        """
        if tuple(masks.shape[-2:]) != self.size:
            raise OpenVocabularyError(
                f"the masks are {list(masks.shape)}, and the image needs "
                f"[N, {self.size[0]}, {self.size[1]}]"
            )
        inside = F.interpolate(
            masks[:, None].to(self.sam.device, torch.float32), self.input_size, mode="bilinear"
        )
        side = self.sam.image_size
        height, width = self.input_size
        square = F.pad(inside, (0, side - width, 0, side - height))
        small = F.interpolate(square, self.sam.model.prompt_encoder.mask_input_size, mode="area")
        return torch.where(small >= 0.5, SURE, -SURE)

    def _answer(
        self,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        multimask: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        transform = self._predictor.transform
        if points is not None:
            points = transform.apply_coords_torch(points, self.size)
        if boxes is not None:
            boxes = transform.apply_boxes_torch(boxes, self.size)
        return self._predictor.predict_torch(points, labels, boxes, masks, multimask)

    def _checked(
        self,
        points: np.ndarray | Tensor | None,
        labels: np.ndarray | Tensor | None,
        boxes: np.ndarray | Tensor | None,
        masks: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        device = self.sam.device
        if points is not None:
            points = torch.as_tensor(points, dtype=torch.float32, device=device)
            if labels is None:
                raise OpenVocabularyError("points need labels, 1 = inside and 0 = outside")
            labels = torch.as_tensor(labels, dtype=torch.int, device=device)
            _check_points(points, labels, self.size)
        if boxes is not None:
            boxes = torch.as_tensor(boxes, dtype=torch.float32, device=device).reshape(-1, 4)
            _check_boxes(boxes, self.size)
        if masks is not None:
            masks = masks.to(device, torch.float32)
            masks = masks[:, None] if masks.ndim == 3 else masks
        lengths = {len(one) for one in (points, boxes, masks) if one is not None}
        if not lengths:
            raise OpenVocabularyError("SAM needs a prompt: points, boxes or masks")
        if len(lengths) > 1:
            raise OpenVocabularyError(
                "points, boxes and masks of prompts have to be equally many, and they are "
                f"{' and '.join(map(str, sorted(lengths)))}"
            )
        return points, labels, boxes, masks


def _check_points(points: Tensor, labels: Tensor, size: tuple[int, int]) -> None:
    if points.ndim != 3 or points.shape[-1] != 2 or labels.shape != points.shape[:2]:
        raise OpenVocabularyError(
            f"points have to be [N, P, 2] and labels [N, P], and they are {list(points.shape)} "
            f"and {list(labels.shape)}"
        )
    if not ((labels == 0) | (labels == 1)).all():
        raise OpenVocabularyError("labels of points have to be 1 (inside) or 0 (outside)")
    outside = ~_inside(points[..., 0], points[..., 1], size)
    if outside.any():
        x, y = points[outside][0].tolist()
        raise OpenVocabularyError(
            f"the point ({x:g}, {y:g}) is outside the image, which is {size[1]} wide and "
            f"{size[0]} high"
        )
    for own, said in zip(points.tolist(), labels.tolist(), strict=True):
        kinds = dict(zip(map(tuple, own), said, strict=True))
        for place, label in zip(map(tuple, own), said, strict=True):
            if kinds[place] != label:
                raise OpenVocabularyError(
                    f"the point ({place[0]:g}, {place[1]:g}) is both inside and outside the object"
                )


def _inside(x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
    return (x >= 0) & (y >= 0) & (x <= size[1]) & (y <= size[0])


def _check_boxes(boxes: Tensor, size: tuple[int, int]) -> None:
    x1, y1, x2, y2 = boxes.unbind(-1)
    empty = ~((x2 > x1) & (y2 > y1))
    apart = ~((x2 > 0) & (y2 > 0) & (x1 < size[1]) & (y1 < size[0]))
    for wrong, why in (
        (empty, "is empty"),
        (apart, f"is outside the image, which is {size[1]} wide and {size[0]} high"),
    ):
        if wrong.any():
            box = ", ".join(f"{number:g}" for number in boxes[wrong][0].tolist())
            raise OpenVocabularyError(f"the box ({box}) {why}")


def _parts(
    given: tuple[Tensor | None, ...], count: int, step: int
) -> Iterator[tuple[Tensor | None, ...]]:
    for start in range(0, count, step):
        rows = slice(start, start + step)
        yield tuple(None if one is None else one[rows] for one in given)
