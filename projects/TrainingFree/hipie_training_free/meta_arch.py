"""What the architectures of this package share: Detectron2's dicts in, scores of classes out."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from hipie.modeling.meta_arch.base import SegmentationModel
from hipie.modeling.meta_arch.inputs import check_input_memory, output_size, vocabulary_of
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.postprocessing import background_class, results

Size = tuple[int, int]


class TrainingFree(SegmentationModel):
    """Segments by a vocabulary, with networks that somebody else has trained.

    Takes Detectron2's list of dicts. Every dict has `image` ([3, H, W], 0..255) and may have
    `vocabulary`, else the classes of `DATASETS.TEST[0]` are asked for; `height` and `width` give
    the size of the results. Returns a dict an image with `sem_seg` and `panoptic_seg`.

    Args:
        background: see MODEL.TRAINING_FREE.BACKGROUND.
        image_format: "RGB" or "BGR".
        default_dataset: names the classes of images without a vocabulary.
    """

    tasks = frozenset({"universal"})

    def __init__(
        self, *, background: float = 0.0, image_format: str = "RGB", default_dataset: str = ""
    ) -> None:
        super().__init__()
        self.background = background
        self.image_format = image_format
        self.default_dataset = default_dataset
        self.register_buffer("place", torch.zeros(()), False)

    @classmethod
    def requires_checkpoint(cls) -> bool:
        """Return False: the pre-trained networks have weights of their own."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return self.place.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """See the class.

        Raises:
            TrainingFreeError: in training mode.
        """
        if self.training:
            raise TrainingFreeError(f"{type(self).__name__} has nothing to train; use --eval-only")
        with torch.no_grad():
            return [self._answer(item) for item in batched_inputs]

    @abstractmethod
    def answer(self, image: Tensor, vocabulary: Vocabulary, size: Size) -> dict[str, Any]:
        """Results of one image.

        Args:
            image: [3, H, W] RGB in 0..1.
            vocabulary: what to look for.
            size: (height, width) of the results.
        """

    def picture(self, item: dict[str, Any]) -> Tensor:
        """[3, H, W] RGB in 0..1 of one of Detectron2's dicts.

        Raises:
            TrainingFreeError: if it is no image, naming the file.
        """
        image = item["image"]
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            where = item.get("file_name", "an image")
            raise TrainingFreeError(
                f"{where}: images have to be [3, H, W], and this is {list(image.shape)}"
            )
        image = image.to(self.device).float() / 255
        return image.flip(0) if self.image_format == "BGR" else image

    def results(self, scores: Tensor, vocabulary: Vocabulary, **known: Any) -> dict[str, Any]:
        """Scores [K, H, W] as `hipie_training_free.postprocessing` makes them."""
        return results(scores, vocabulary, self.background, **known)

    def _answer(self, item: dict[str, Any]) -> dict[str, Any]:
        image = self.picture(item)
        vocabulary = vocabulary_of(item, self.default_dataset)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        check_input_memory(
            [item], [size], classes=len(vocabulary), width=image.shape[0], device=self.device
        )
        return self.answer(image, vocabulary, output_size(item, size))


class Names:
    """A vocabulary as CLIP reads it.

    Args:
        clip: the model.
        templates: see `hipie.modeling.open_vocabulary.prompt_templates`.
        background: with a threshold, the class "background" is not asked for.
    """

    def __init__(self, clip: Clip, templates: str, background: float) -> None:
        self.clip, self.templates, self.background = clip, templates, background

    def features(self, vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
        """[N, D] unit features of all names, and [N] the class of each.

        Raises:
            TrainingFreeError: if "background" is all there is.
        """
        pairs = phrases_of(vocabulary, self.background)
        found = self.clip.text_features([phrase for phrase, _ in pairs], self.templates)
        return found, torch.tensor([place for _, place in pairs], device=found.device)


def phrases_of(vocabulary: Vocabulary, background: float) -> list[tuple[str, int]]:
    """Every phrase that is asked for, and the place of its class.

    Args:
        vocabulary: with all its synonyms.
        background: with a threshold, the class "background" is not asked for.

    Raises:
        TrainingFreeError: if "background" is all there is.
    """
    empty = background_class(vocabulary, background)
    pairs = [
        (phrase, place)
        for place, entry in enumerate(vocabulary.classes)
        if place != empty
        for phrase in entry.phrases
    ]
    if not pairs:
        raise TrainingFreeError('a vocabulary needs a class besides "background"')
    return pairs


def build_clip(cfg: CfgNode) -> Clip:
    """The CLIP of `MODEL.TRAINING_FREE.CLIP`."""
    keys = cfg.MODEL.TRAINING_FREE.CLIP
    return Clip.from_source(keys.MODEL, keys.WEIGHTS)


def shared_settings(cfg: CfgNode) -> dict[str, Any]:
    """Constructor arguments of `TrainingFree` from a configuration.

    Raises:
        TrainingFreeError: for a threshold outside 0..1.
    """
    background = cfg.MODEL.TRAINING_FREE.BACKGROUND
    if not 0 <= background <= 1:
        raise TrainingFreeError(
            f"MODEL.TRAINING_FREE.BACKGROUND is {background}; it has to be in 0..1"
        )
    return {
        "background": background,
        "image_format": cfg.INPUT.FORMAT,
        "default_dataset": cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "",
    }


def rounded_size(size: Size, patch: int, square: int = 0) -> Size:
    """(height, width) in whole patches: of a square, or each side rounded up."""
    height, width = (square, square) if square else size
    return (-(-height // patch) * patch, -(-width // patch) * patch)
