"""Class probabilities of regions, by prototypes or CLIP."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_ensemble import clip_class_logits
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_classical.modeling.label_maps import LabelMap, RGBImage
from hipie_classical.modeling.prototypes import Prototypes
from hipie_classical.modeling.region_features import RegionFeatures


class PrototypeNaming(nn.Module):
    """Classes of regions by the nearest prototype.

    Args:
        prototypes: of the classes.
        temperature: divisor of the cosines before the softmax.
    """

    def __init__(self, prototypes: Prototypes, temperature: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise InputError(
                f"MODEL.CLASSICAL.PROTOTYPES.TEMPERATURE is {temperature}; it has to be above 0"
            )
        self.prototypes, self.temperature = prototypes, temperature
        self.features = RegionFeatures(prototypes.features)

    def forward(self, image: RGBImage, labels: LabelMap, vocabulary: Vocabulary) -> Tensor:
        """Compute class probabilities [R, K] of the regions [H, W] of an image [H, W, 3].

        Raises:
            InputError: if no class has a prototype.
        """
        self.prototypes.rows_of(vocabulary)
        features = self.features(image, labels)
        return self.prototypes.probabilities(features, vocabulary, self.temperature)


class ClipNaming(nn.Module):
    """Classes of regions by CLIP's features of their masks.

    Args:
        clip: the model.
        templates: see `hipie.modeling.open_vocabulary.prompt_templates`.
    """

    def __init__(self, clip: Clip, templates: str = "imagenet") -> None:
        super().__init__()
        self.clip, self.templates = clip, templates
        self.network = clip.model

    @torch.no_grad()
    def forward(self, image: RGBImage, labels: LabelMap, vocabulary: Vocabulary) -> Tensor:
        """Compute class probabilities [R, K] of the regions [H, W] of an image [H, W, 3]."""
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(self.clip.device)
        masks = torch.from_numpy(labels)[None] == torch.arange(int(labels.max()) + 1)[:, None, None]
        features = self.clip.mask_features(pixels.permute(2, 0, 1).float() / 255, masks)
        prompts = [entry.phrases for entry in vocabulary.classes]
        return clip_class_logits(self.clip, features, prompts, self.templates).softmax(1).cpu()
