"""Protocol and registry of task predictors, and the prepared image that they run on.

A model maps batched inputs to tensors. A task predictor makes the inputs of one task, runs the
model and returns `Segmentation`s. `Segmenter` validates images and calls the predictor that is
registered under the task's name:

    @register_task_predictor("saliency")
    class SaliencyPredictor(TaskPredictor):
        model_task = "saliency"

        def predict(self, images, **request):
            ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from fvcore.common.registry import Registry
from numpy.typing import NDArray

from hipie.memory_check import ImageTooLargeError, check_memory
from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.segmentation import Segmentation

if TYPE_CHECKING:
    from hipie.modeling.sam.predictor import Sam, SamImage
    from hipie.structures import ImageFeatures

TASK_PREDICTOR_REGISTRY = Registry("TASK_PREDICTOR")
TASK_PREDICTOR_REGISTRY.__doc__ = "Subclasses of `TaskPredictor` by task name."

T = TypeVar("T")
Predictor = TypeVar("Predictor", bound="type[TaskPredictor]")


def register_task_predictor(task: str) -> Callable[[Predictor], Predictor]:
    """Class decorator that registers a task predictor under a task name.

    Args:
        task: the name, such as "universal", "referring", "group", "interactive" or "few_shot".
    """

    def register(predictor: Predictor) -> Predictor:
        TASK_PREDICTOR_REGISTRY._do_register(task, predictor)
        return predictor

    return register


class PreparedImage:
    """An image as a model takes it, and what is computed from it once for several calls.

    Args:
        model: the model that the image is for.
        pixels: [H, W, 3] uint8 RGB, at full size.
        inputs: `image` ([3, h, w], resized, in the model's channel order), `height` and `width`
            (H and W), as Detectron2's models take them.
        file_name: the image file; "" for an image that comes from no file.
    """

    def __init__(
        self,
        model: SegmentationModel,
        pixels: NDArray[Any],
        inputs: dict[str, Any],
        file_name: str = "",
    ) -> None:
        self.model = model
        self.pixels = pixels
        self.inputs = inputs
        self.file_name = file_name
        self._cache: dict[Hashable, Any] = {}

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels at full size."""
        height, width = self.pixels.shape[:2]
        return height, width

    def cached(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the value of `compute()`, called at the first use of a key only.

        Args:
            key: names what is computed, such as "sam_image".
            compute: must depend on the image and the model alone.
        """
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]

    def encode(self) -> None:
        """Compute the model's text-free features, which `run` then uses; once an image.

        Nothing is done for a model without such features (`supports_image_features`).
        """
        if self.model.supports_image_features:
            self.cached("image_features", self._encode)

    def _encode(self) -> ImageFeatures:
        with torch.no_grad(), self.model.inference_autocast():
            return self.model.encode_images([self.inputs])

    def run(self, **request: Any) -> dict[str, Any]:
        """Run the model on the image, on the features of `encode` where it was called.

        Args:
            request: further inputs, such as `vocabulary` or `expressions`.

        Returns:
            The model's outputs of this image.

        Raises:
            ImageTooLargeError: if the results would not fit the free memory.
        """
        batched_inputs = [self.inputs | request]
        check_memory(self.model, batched_inputs)
        features = self._cache.get("image_features")
        if features is None:
            return self.model(batched_inputs)[0]
        with torch.no_grad(), self.model.inference_autocast():
            return self.model.inference(batched_inputs, image_features=features)[0]


def encode_together(images: Sequence[PreparedImage]) -> None:
    """Compute the text-free features of images in one call of the model, for later calls of `run`.

    Nothing is done for a model without such features, for images that have them, and where the
    features of all of them together would not fit the free memory.

    Args:
        images: of one model, with inputs of equal shapes.
    """
    model = images[0].model
    missing = [image for image in images if "image_features" not in image._cache]
    if not model.supports_image_features or not missing:
        return
    inputs = [image.inputs for image in missing]
    try:
        check_memory(model, inputs)
    except ImageTooLargeError:
        return
    with torch.no_grad():
        features = model.encode_images(inputs)
    for row, image in enumerate(missing):
        image.cached("image_features", partial(features.select, [row]))


def encode_with_sam(image: PreparedImage, sam: Sam) -> SamImage:
    """Return SAM's encoding of an image, computed once for each image and SAM."""
    return image.cached(("sam_image", sam), lambda: sam.encode(image.pixels))


def encode_together_with_sam(images: Sequence[PreparedImage], sam: Sam) -> None:
    """Compute SAM's encodings of images in one pass, for later calls of `encode_with_sam`.

    Nothing is done for images that have them, and where the memory does not suffice for all.

    Args:
        images: of equal sizes.
        sam: the model.
    """
    missing = [image for image in images if ("sam_image", sam) not in image._cache]
    if not missing:
        return
    try:
        encoded = sam.encode_batch([image.pixels for image in missing])
    except torch.OutOfMemoryError:
        return
    for image, sam_image in zip(missing, encoded, strict=True):
        image.cached(("sam_image", sam), partial(_same, sam_image))


def _same(value: T) -> T:
    return value


class TaskPredictor(ABC):
    """Runs one task of a model on images.

    Args:
        model: in evaluation mode; `model_task` is in its `tasks`.
    """

    model_task: ClassVar[str]
    """The entry of the model's `tasks` that this predictor needs."""

    def __init__(self, model: SegmentationModel) -> None:
        self.model = model

    def encode(self, image: PreparedImage) -> None:
        """Compute what `predict` needs of an image and no request changes.

        Called by `Segmenter.set_image`; results are kept by `PreparedImage.cached`.
        """
        image.encode()

    def encode_together(self, images: Sequence[PreparedImage]) -> None:
        """Compute in one pass what `encode` computes of each image.

        Args:
            images: of equal sizes, also as the model takes them.
        """
        encode_together(images)

    @abstractmethod
    def predict(
        self, images: Sequence[PreparedImage], *args: Any, **request: Any
    ) -> list[Segmentation]:
        """Segment images.

        Args:
            images: one or more.
            *args: none; a subclass has the task's own arguments here, by keyword.
            **request: see `args`.

        Returns:
            One result an image.

        Raises:
            ValueError: for a request that cannot be met, in one sentence.
        """

    def predict_named(self, images: Sequence[PreparedImage], **request: Any) -> list[Segmentation]:
        """Segment images as `predict` does, and put their file names into the results."""
        results = self.predict(images, **request)
        return [
            replace(result, file_name=image.file_name) if image.file_name else result
            for image, result in zip(images, results, strict=True)
        ]
