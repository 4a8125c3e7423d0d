"""Segment Anything with batches of prompts on an image that is encoded once.

Results equal those of `segment_anything.SamPredictor` with the same weights; prompts are validated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from segment_anything import SamPredictor
from torch import Tensor

from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie.modeling.sam.loading import load_sam
from hipie.modeling.sam.stretched import StretchedPredictor, StretchedSam

# SAM's decoder copies the image features for every prompt, so on a CPU small batches are faster.
PROMPT_BATCH_SIZE, PROMPT_BATCH_SIZE_ON_CPU = 64, 4
# Logit of a mask prompt inside the mask, its negative outside; SAM's masks have this magnitude.
MASK_PROMPT_LOGIT = 10.0


@dataclass(frozen=True)
class SamMasks:
    """Predictions for N prompts, M masks each (3 with multimask output, else 1).

    Attributes:
        masks: [N, M, H, W] bool at the size of the image.
        scores: [N, M] predicted IoU of each mask.
        low_resolution: [N, M, h, w] logits, which a next prompt may use as its mask.
    """

    masks: Tensor
    scores: Tensor
    low_resolution: Tensor

    def __len__(self) -> int:
        return len(self.masks)

    def best(self) -> SamMasks:
        """Keep the mask with the highest score of every prompt: M = 1."""
        index = torch.arange(len(self.masks), device=self.scores.device)
        best = self.scores.argmax(1) if len(index) else index
        return SamMasks(
            self.masks[index, best][:, None],
            self.scores[index, best][:, None],
            self.low_resolution[index, best][:, None],
        )


class Sam:
    """A frozen Segment Anything model; not an `nn.Module`, so checkpoints do not include it.

    Args:
        model: `segment_anything.modeling.Sam`, or a `StretchedSam`: SAM 2 or EfficientSAM.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model: Any = model.eval().requires_grad_(False)

    @classmethod
    def from_source(cls, model: str, weights: str = "") -> Sam:
        """Load a model by type and file, or with random weights: see `load_sam`."""
        return cls(load_sam(model, weights))

    def to(self, device: torch.device | str) -> Sam:
        """Move the model to a device and return it."""
        self.model.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Current device of the model."""
        return self.model.device

    @property
    def is_stretched(self) -> bool:
        """Whether images are stretched to the square, and not padded."""
        return isinstance(self.model, StretchedSam)

    @property
    def image_size(self) -> int:
        """Side of the square that images are padded or stretched to."""
        side: int = self.model.side if self.is_stretched else self.model.image_encoder.img_size
        return side

    def predictor(self) -> SamPredictor | StretchedPredictor:
        """Return a new predictor for one image."""
        return StretchedPredictor(self.model) if self.is_stretched else SamPredictor(self.model)

    def require_padded(self, what: str) -> None:
        """Check that the model has SAM's own decoder, whose parts a method uses.

        Args:
            what: the method, for the message.

        Raises:
            OpenVocabularyError: for SAM 2 and EfficientSAM.
        """
        if self.is_stretched:
            raise OpenVocabularyError(
                f"{what} needs the mask decoder of SAM, MobileSAM or EdgeSAM, and this is "
                f"{type(self.model).__name__}"
            )

    def encode(self, image: npt.NDArray[np.uint8]) -> SamImage:
        """Encode an image for any number of prompts.

        Args:
            image: [H, W, 3] uint8 RGB.

        Raises:
            OpenVocabularyError: for another shape or type.
        """
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
            raise OpenVocabularyError(
                f"SAM takes an RGB image [H, W, 3] of bytes, and this is "
                f"{list(image.shape)} of {image.dtype}"
            )
        predictor = self.predictor()
        predictor.set_image(np.ascontiguousarray(image))
        return SamImage(self, predictor)

    def encode_batch(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[SamImage]:
        """Encode images of equal sizes, of SAM in one pass through the image encoder.

        Args:
            images: each [H, W, 3] uint8 RGB.

        Raises:
            OpenVocabularyError: for images of different sizes.
        """
        sizes = {image.shape for image in images}
        if len(sizes) != 1:
            raise OpenVocabularyError(
                f"images of a batch need one size, and these have {len(sizes)} sizes"
            )
        if self.is_stretched:
            return [self.encode(image) for image in images]
        first = SamPredictor(self.model)
        resized = np.stack([first.transform.apply_image(image) for image in images])
        pixels = torch.as_tensor(resized, device=self.device).permute(0, 3, 1, 2).contiguous()
        first.set_torch_image(pixels, images[0].shape[:2])
        encoded = []
        for features in first.features.split(1):
            predictor = SamPredictor(self.model)
            predictor.original_size, predictor.input_size = first.original_size, first.input_size
            predictor.features, predictor.is_image_set = features, True
            encoded.append(SamImage(self, predictor))
        return encoded


@dataclass
class _Prompts:
    """N validated prompts on SAM's device.

    Attributes:
        points: [N, P, 2].
        labels: [N, P].
        boxes: [N, 4].
        masks: [N, 1, h, w].
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None

    @property
    def lengths(self) -> set[int]:
        """Numbers of points, boxes and masks; a single one for valid prompts."""
        return {
            len(prompt) for prompt in (self.points, self.boxes, self.masks) if prompt is not None
        }

    def batches(self, size: int) -> Iterator[_Prompts]:
        """Slices of at most `size` prompts."""
        for start in range(0, max(self.lengths), size):
            rows = slice(start, start + size)
            yield _Prompts(
                *(
                    None if tensor is None else tensor[rows]
                    for tensor in (self.points, self.labels, self.boxes, self.masks)
                )
            )


class SamImage:
    """An image encoded by SAM; see `Sam.encode`.

    Args:
        sam: the model.
        predictor: contains the encoded image.
    """

    def __init__(self, sam: Sam, predictor: SamPredictor | StretchedPredictor) -> None:
        self.sam = sam
        self._predictor: Any = predictor

    @property
    def predictor(self) -> Any:
        """Predictor that contains the encoded image."""
        return self._predictor

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        height, width = self._predictor.original_size
        return height, width

    @property
    def features(self) -> Tensor:
        """[1, C, g, g] output of the image encoder for the square."""
        features: Tensor = self._predictor.features
        return features

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the image inside the square; of a stretched one the square's."""
        height, width = self._predictor.input_size
        return height, width

    @torch.no_grad()
    def predict(
        self,
        points: npt.ArrayLike | Tensor | None = None,
        labels: npt.ArrayLike | Tensor | None = None,
        boxes: npt.ArrayLike | Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = False,
    ) -> SamMasks:
        """Predict masks for N prompts of the same kind: points, a box, a mask, or several of them.

        Args:
            points: [N, P, 2] x and y in pixels of the image.
            labels: [N, P] 1 = inside, 0 = outside.
            boxes: [N, 4] x1, y1, x2, y2 in pixels.
            masks: [N, 1, h, w] or [N, h, w] logits of an earlier prediction's `low_resolution`, or
                of `mask_prompts`.
            multimask: predict three masks for each prompt, for ambiguous prompts.

        Raises:
            OpenVocabularyError: for no prompt, unequal numbers of them, labels other than 0 and 1,
                a point outside the image, a box that is empty or outside, the same point as
                inside and outside.
        """
        prompts = self._validate(points, labels, boxes, masks)
        step = PROMPT_BATCH_SIZE_ON_CPU if self.sam.device.type == "cpu" else PROMPT_BATCH_SIZE
        batches = [self._predict_batch(batch, multimask) for batch in prompts.batches(step)]
        if not batches:
            side, num_masks = self.sam.model.prompt_encoder.mask_input_size, 3 if multimask else 1
            device = self.sam.device
            return SamMasks(
                torch.zeros(0, num_masks, *self.size, dtype=torch.bool, device=device),
                torch.zeros(0, num_masks, device=device),
                torch.zeros(0, num_masks, *side, device=device),
            )
        all_masks, scores, logits = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return SamMasks(all_masks, scores, logits)

    def mask_prompts(self, masks: Tensor) -> Tensor:
        """Convert binary masks to mask prompts [N, 1, h, w]: logits of 10 inside and -10 outside.

        Args:
            masks: [N, H, W] bool.

        Raises:
            OpenVocabularyError: for masks of another size.
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
        return torch.where(small >= 0.5, MASK_PROMPT_LOGIT, -MASK_PROMPT_LOGIT)

    def _predict_batch(self, prompts: _Prompts, multimask: bool) -> tuple[Tensor, Tensor, Tensor]:
        points, boxes = prompts.points, prompts.boxes
        transform = self._predictor.transform
        if points is not None:
            points = transform.apply_coords_torch(points, self.size)
        if boxes is not None:
            boxes = transform.apply_boxes_torch(boxes, self.size)
        masks, scores, low = self._predictor.predict_torch(
            points, prompts.labels, boxes, prompts.masks, multimask
        )
        return masks, scores, low

    def _validate(
        self,
        points: npt.ArrayLike | Tensor | None,
        labels: npt.ArrayLike | Tensor | None,
        boxes: npt.ArrayLike | Tensor | None,
        masks: Tensor | None,
    ) -> _Prompts:
        device = self.sam.device
        prompts = _Prompts()
        if points is not None:
            if labels is None:
                raise OpenVocabularyError("points need labels, 1 = inside and 0 = outside")
            prompts.points = torch.as_tensor(points, dtype=torch.float32, device=device)
            prompts.labels = torch.as_tensor(labels, dtype=torch.int, device=device)
            _check_points(prompts.points, prompts.labels, self.size)
        if boxes is not None:
            boxes = torch.as_tensor(boxes, dtype=torch.float32, device=device)
            prompts.boxes = boxes.reshape(-1, 4)
            _check_boxes(prompts.boxes, self.size)
        if masks is not None:
            masks = masks.to(device, torch.float32)
            prompts.masks = masks[:, None] if masks.ndim == 3 else masks
        if not prompts.lengths:
            raise OpenVocabularyError("SAM needs a prompt: points, boxes or masks")
        if len(prompts.lengths) > 1:
            raise OpenVocabularyError(
                "points, boxes and masks of prompts have to be equally many, and there are "
                f"{' and '.join(map(str, sorted(prompts.lengths)))}"
            )
        return prompts


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
    for prompt_points, prompt_labels in zip(points.tolist(), labels.tolist(), strict=True):
        label_by_point = dict(zip(map(tuple, prompt_points), prompt_labels, strict=True))
        for point, label in zip(map(tuple, prompt_points), prompt_labels, strict=True):
            if label_by_point[point] != label:
                raise OpenVocabularyError(
                    f"the point ({point[0]:g}, {point[1]:g}) is both inside and outside the object"
                )


def _inside(x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
    return (x >= 0) & (y >= 0) & (x <= size[1]) & (y <= size[0])


def _check_boxes(boxes: Tensor, size: tuple[int, int]) -> None:
    x1, y1, x2, y2 = boxes.unbind(-1)
    empty = ~((x2 > x1) & (y2 > y1))
    outside = ~((x2 > 0) & (y2 > 0) & (x1 < size[1]) & (y1 < size[0]))
    for invalid, reason in (
        (empty, "is empty"),
        (outside, f"is outside the image, which is {size[1]} wide and {size[0]} high"),
    ):
        if invalid.any():
            box = ", ".join(f"{number:g}" for number in boxes[invalid][0].tolist())
            raise OpenVocabularyError(f"the box ({box}) {reason}")
