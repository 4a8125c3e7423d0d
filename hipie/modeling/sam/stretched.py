"""SAMs whose input is the image stretched to a square, behind the interface of `SamPredictor`.

SAM pads its square; SAM 2 and EfficientSAM resize both sides to it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = tuple[int, int]


class StretchedSam(nn.Module):
    """Network that predicts masks of prompts on an image resized to a square.

    Attributes:
        mask_threshold: logit above which a pixel is inside.
        image_format: order of the channels of images.
        interpolation: mode in which masks are resized to the image.
    """

    mask_threshold: float = 0.0
    image_format: str = "RGB"
    interpolation: str = "bilinear"

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device

    @property
    @abstractmethod
    def side(self) -> int:
        """Side of the square."""

    @abstractmethod
    def encode(self, image: npt.NDArray[np.uint8]) -> list[Tensor]:
        """Encode an image [H, W, 3] RGB; the last tensor is [1, C, g, g]."""

    @abstractmethod
    def decode(
        self,
        features: list[Tensor],
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Predict masks of N prompts.

        Args:
            features: of `encode`.
            points: [N, P, 2] x and y in pixels of the square.
            labels: [N, P] 1 = inside, 0 = outside.
            boxes: [N, 4] xyxy in pixels of the square.
            masks: [N, 1, h, w] logits.
            multimask: predict three masks a prompt instead of one.

        Returns:
            Logits [N, M, h, w] and predicted IoU [N, M].
        """

    def postprocess_masks(self, masks: Tensor, input_size: Size, original_size: Size) -> Tensor:
        """Resize logits [N, M, h, w] of the square to the image: [N, M, *original_size]."""
        return F.interpolate(
            masks.float(), tuple(original_size), mode=self.interpolation, align_corners=False
        )


class SquareTransform:
    """Map coordinates of an image to those of the square; see `ResizeLongestSide`.

    Args:
        side: of the square.
    """

    def __init__(self, side: int) -> None:
        self.target_length = side

    def apply_coords(self, coords: npt.NDArray[Any], original_size: Size) -> npt.NDArray[Any]:
        """Map x and y [..., 2] of an image (height, width)."""
        scale = np.array(
            [self.target_length / original_size[1], self.target_length / original_size[0]]
        )
        return np.asarray(coords, float) * scale

    def apply_boxes(self, boxes: npt.NDArray[Any], original_size: Size) -> npt.NDArray[Any]:
        """Map boxes [N, 4] xyxy."""
        return self.apply_coords(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Tensor, original_size: Size) -> Tensor:
        """Map x and y [..., 2] of an image (height, width)."""
        height, width = original_size
        return coords.float() * coords.new_tensor(
            [self.target_length / width, self.target_length / height], dtype=torch.float32
        )

    def apply_boxes_torch(self, boxes: Tensor, original_size: Size) -> Tensor:
        """Map boxes [N, 4] xyxy."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)


class StretchedPredictor:
    """Counterpart of `segment_anything.SamPredictor` for a `StretchedSam`.

    Args:
        model: the network.
    """

    def __init__(self, model: StretchedSam) -> None:
        self.model = model
        self.transform = SquareTransform(model.side)
        self.input_size: Size = (model.side, model.side)
        self.reset_image()

    @property
    def features(self) -> Tensor:
        """[1, C, g, g] of the image that was set."""
        return self._features[-1]

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.model.device

    def reset_image(self) -> None:
        """Discard the image."""
        self.is_image_set = False
        self.original_size: Size = (0, 0)
        self._features: list[Tensor] = []

    @torch.no_grad()
    def set_image(self, image: npt.NDArray[np.uint8], image_format: str = "RGB") -> None:
        """Encode an image [H, W, 3]."""
        if image_format != self.model.image_format:
            image = np.ascontiguousarray(image[..., ::-1])
        self._features = self.model.encode(image)
        self.original_size = (image.shape[0], image.shape[1])
        self.is_image_set = True

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict masks of prompts in pixels of the square; see `SamPredictor.predict_torch`."""
        low, scores = self.model.decode(
            self._features, point_coords, point_labels, boxes, mask_input, multimask_output
        )
        masks = self.model.postprocess_masks(low, self.input_size, self.original_size)
        return masks if return_logits else masks > self.model.mask_threshold, scores, low
