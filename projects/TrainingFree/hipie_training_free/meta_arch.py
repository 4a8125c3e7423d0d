"""Base class of the training-free architectures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from detectron2.config import CfgNode
from torch import Tensor

from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.inputs import named_inference_size, output_size, vocabulary_of
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.postprocessing.class_maps import background_class, segmentation_outputs
from hipie.structures import InferenceSize
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free.error import TrainingFreeError

if TYPE_CHECKING:
    from hipie.structures import ImageFeatures

Size = tuple[int, int]


@dataclass(frozen=True)
class InferenceConfig:
    """Inputs and outputs of all architectures.

    Attributes:
        background: threshold of MODEL.TRAINING_FREE.BACKGROUND.
        image_format: "RGB" or "BGR".
        default_dataset: data set whose classes are used for images without a vocabulary.
    """

    background: float = 0.0
    image_format: str = "RGB"
    default_dataset: str = ""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InferenceConfig:
        """Read `MODEL.TRAINING_FREE.BACKGROUND` and Detectron2's keys.

        Raises:
            TrainingFreeError: for a threshold outside 0..1.
        """
        background = cfg.MODEL.TRAINING_FREE.BACKGROUND
        if not 0 <= background <= 1:
            raise TrainingFreeError(
                f"MODEL.TRAINING_FREE.BACKGROUND is {background}; it has to be in 0..1"
            )
        default_dataset = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else ""
        return cls(background, cfg.INPUT.FORMAT, default_dataset)


@dataclass(frozen=True)
class ClassificationConfig:
    """Classification by CLIP; see `MODEL.TRAINING_FREE`.

    Attributes:
        templates: prompt templates.
        scale: factor of the cosines before the softmax.
        size: side of the square that images are resized to; 0 keeps their size.
    """

    templates: str = "imagenet"
    scale: float = 100.0
    size: int = 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ClassificationConfig:
        """Read the keys of `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE
        return cls(keys.TEMPLATES, keys.SCALE, keys.SIZE)


class TrainingFree(SegmentationModel):
    """Open-vocabulary segmentation with frozen pre-trained networks.

    Takes Detectron2's list of dicts. Every dict has `image` ([3, H, W], 0..255) and may have
    `vocabulary`, by default the classes of `DATASETS.TEST[0]`; `height` and `width` give the size
    of the outputs. Returns a dict for each image with `sem_seg` and `panoptic_seg`.

    Args:
        config: inputs and outputs.
    """

    tasks: ClassVar[frozenset[str]] = frozenset({"universal"})

    def __init__(self, config: InferenceConfig | None = None) -> None:
        super().__init__()
        self.config = config or InferenceConfig()
        self.register_buffer("device_indicator", torch.zeros(()), False)

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return False: the pre-trained networks have weights of their own."""
        return False

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.device_indicator.device

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Raise an error, since there is nothing to train.

        Raises:
            TrainingFreeError: always.
        """
        raise TrainingFreeError(f"{type(self).__name__} has nothing to train; use --eval-only")

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        image_features: ImageFeatures | None = None,
    ) -> list[dict[str, Any]]:
        """Segment a batch of images; see the class."""
        return [self._segment_input(item) for item in batched_inputs]

    @abstractmethod
    def segment(self, image: Tensor, vocabulary: Vocabulary, size: Size) -> dict[str, Any]:
        """Segment one image.

        Args:
            image: [3, H, W] RGB in 0..1.
            vocabulary: the classes.
            size: (height, width) of the outputs.

        Returns:
            `sem_seg` and `panoptic_seg`; see `segmentation_outputs`.
        """

    def rgb_image(self, item: dict[str, Any]) -> Tensor:
        """Return the image of an input dict as [3, H, W] RGB in 0..1.

        Raises:
            TrainingFreeError: for another shape, naming the file.
        """
        image = item["image"]
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            file = item.get("file_name", "an image")
            raise TrainingFreeError(
                f"{file}: images have to be [3, H, W], and this is {list(image.shape)}"
            )
        image = image.to(self.device).float() / 255
        return image.flip(0) if self.config.image_format == "BGR" else image

    def outputs(self, scores: Tensor, vocabulary: Vocabulary, **options: Any) -> dict[str, Any]:
        """Convert scores [K, H, W] to outputs; see `segmentation_outputs`."""
        return segmentation_outputs(scores, vocabulary, self.config.background, **options)

    def inference_size(self, batched_inputs: Sequence[dict[str, Any]]) -> InferenceSize:
        """Sizes that determine the memory of inference; see `SegmentationModel`."""
        return named_inference_size(batched_inputs, self.config.default_dataset)

    def _segment_input(self, item: dict[str, Any]) -> dict[str, Any]:
        image = self.rgb_image(item)
        vocabulary = vocabulary_of(item, self.config.default_dataset)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        return self.segment(image, vocabulary, output_size(item, size))


class VocabularyEncoder:
    """CLIP text features of a vocabulary.

    Args:
        clip: the model.
        templates: see `hipie.modeling.open_vocabulary.prompt_templates`.
        background: with a threshold, the class "background" has no text features.
    """

    def __init__(self, clip: Clip, templates: str, background: float) -> None:
        self.clip, self.templates, self.background = clip, templates, background

    def encode(self, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
        """Return [N, D] unit features of all names, and [N] the class of each.

        Raises:
            TrainingFreeError: if "background" is the only class.
        """
        pairs = class_phrases(vocabulary, self.background)
        features = self.clip.text_features([phrase for phrase, _ in pairs], self.templates)
        return features, torch.tensor([index for _, index in pairs], device=features.device)


def class_phrases(vocabulary: Vocabulary, background: float) -> list[tuple[str, int]]:
    """Return all names and synonyms of a vocabulary with the index of their class.

    Args:
        vocabulary: the classes.
        background: with a threshold, the class "background" is left out.

    Raises:
        TrainingFreeError: if "background" is the only class.
    """
    left_out = background_class(vocabulary, background)
    pairs = [
        (phrase, index)
        for index, entry in enumerate(vocabulary.classes)
        if index != left_out
        for phrase in entry.phrases
    ]
    if not pairs:
        raise TrainingFreeError('a vocabulary needs a class besides "background"')
    return pairs


def build_clip(cfg: CfgNode) -> Clip:
    """Build the CLIP of `MODEL.TRAINING_FREE.CLIP`."""
    keys = cfg.MODEL.TRAINING_FREE.CLIP
    return Clip.from_source(keys.MODEL, keys.WEIGHTS)


def round_up_to_patches(size: Size, patch_size: int, square: int = 0) -> Size:
    """Round (height, width), or the side of a square, up to multiples of the patch size."""
    height, width = (square, square) if square else size
    return (-(-height // patch_size) * patch_size, -(-width // patch_size) * patch_size)
