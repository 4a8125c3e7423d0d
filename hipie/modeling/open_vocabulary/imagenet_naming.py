"""Class probabilities of pixels by a classifier of ImageNet, for names that were never trained.

A classifier knows which of its classes, some thousand kinds of objects, every part of an image
looks like, and a text encoder which names are similar to those classes. As in ConSE (Norouzi et
al., "Zero-shot learning by convex combination of semantic embeddings", ICLR 2014) the probabilities
of the classifier are the weights of a mean over its classes, here of the probabilities that a class
stands for a name instead of text features:

    P(name | x) = sum over classes c of p(c | x) r(name | c)

where r(. | c) is the softmax of the similarities of c with all names, and of a constant similarity
of "none of the names". The result is combined with the probabilities q of the pixel class head,
q^(1 - w) P^w, as CLIP's are with those of queries (ODISE, Xu et al., CVPR 2023, equation 7), with a
weight w for every name.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from hipie.errors import InputError
from hipie.modeling.class_activation import ClassActivation
from hipie.modeling.open_vocabulary.clip_ensemble import train_vocabulary_prompts
from hipie.modeling.open_vocabulary.imagenet_embeddings import class_embeddings
from hipie.modeling.tag_matching import embed
from hipie.modeling.text_encoder.base import TextEncoder
from hipie.vocabularies.vocabulary import Vocabulary, name_key

KEY = "MODEL.HIPIE.IMAGENET"
MAX_CACHED_VOCABULARIES = 16


@dataclass(frozen=True)
class NamingSettings:
    """Weights and constants of the combination.

    Attributes:
        alpha: weight w of a name of the training.
        beta: of any other name. Names that no class of the classifier is similar to, and parts,
            have weight 0.
        temperature: of the softmax over the names.
        none_similarity: cosine of "none of the names" with every class.
        min_similarity: lowest cosine of the most similar class.
        scale: of the classifier's input, relative to the size at which it was trained.
    """

    alpha: float = 0.35
    beta: float = 0.85
    temperature: float = 0.06
    none_similarity: float = 0.35
    min_similarity: float = 0.5
    scale: float = 1.5

    def __post_init__(self) -> None:
        for key in ("alpha", "beta"):
            if not 0 <= getattr(self, key) <= 1:
                raise InputError(f"{KEY}.{key.upper()} must be in 0 to 1, not {getattr(self, key)}")
        for key in ("temperature", "scale"):
            if not getattr(self, key) > 0:
                raise InputError(f"{KEY}.{key.upper()} must be positive, not {getattr(self, key)}")


@dataclass(frozen=True)
class TransferredNames:
    """What the classes of a classifier say about K names.

    Attributes:
        transfer: [C, K + 1], r(name | c); the last column is that of none of the names.
        weights: [K + 1] of the combination.
    """

    transfer: Tensor
    weights: Tensor


def transfer_names(
    similarity: Tensor,
    is_part: Sequence[bool],
    in_training: Sequence[bool],
    settings: NamingSettings,
) -> TransferredNames:
    """Compute r(name | c) and the weights of the names.

    Args:
        similarity: [C, K] cosines of classes and names.
        is_part: [K]; no class stands for a part.
        in_training: [K].
        settings: see `NamingSettings`.

    Returns:
        For the names and none of them; "none" has the largest weight of a name. All weights are 0
        if no untrained name has one.
    """
    parts = torch.tensor(is_part, device=similarity.device)
    trained = torch.tensor(in_training, device=similarity.device)
    none = similarity.new_full((len(similarity), 1), settings.none_similarity)
    logits = torch.cat([similarity.masked_fill(parts, -torch.inf), none], dim=1)
    is_known = similarity.amax(0) >= settings.min_similarity
    has_weight = is_known & ~parts
    weights = torch.where(trained, settings.alpha, settings.beta) * has_weight
    # Without a name that needs the classifier, the others do not either.
    weights = weights * (has_weight & ~trained).any()
    return TransferredNames(
        (logits / settings.temperature).softmax(1), torch.cat([weights, weights.amax(0, True)])
    )


def combine_pixels(logits: Tensor, probabilities: Tensor, weights: Tensor) -> Tensor:
    """Compute the logarithm of q^(1 - w) P^w, which need not sum to 1.

    Args:
        logits: [K + 1, h, w]; q is their softmax.
        probabilities: [K + 1, h, w], P.
        weights: [K + 1], w in 0..1; 0 leaves q as it is even where P is 0.
    """
    weights = weights[:, None, None]
    return (1 - weights) * logits.log_softmax(0) + torch.xlogy(weights, probabilities)


class ImageNetNaming:
    """Combines the logits of the pixel class head with a classifier's probabilities.

    A vocabulary whose names have all been trained keeps its logits. The classifier is loaded with
    the first image of another one, stays frozen, and is not part of checkpoints.

    Args:
        model: of timm, see `ClassActivation.from_timm`.
        weights: likewise.
        settings: of the combination.
        train_vocabularies: names of public vocabularies ("coco_panoptic"), or of registered data
            sets, whose names have been trained.
        train_names: further names that have been trained.
        held_out: names that have not.
        bgr: whether images have blue first.

    Raises:
        OpenVocabularyError: for an unknown vocabulary, at the first image.
    """

    def __init__(
        self,
        model: str,
        weights: str = "package",
        *,
        settings: NamingSettings = NamingSettings(),
        train_vocabularies: Sequence[str] = (),
        train_names: Sequence[str] = (),
        held_out: Sequence[str] = (),
        bgr: bool = False,
    ) -> None:
        self.settings = settings
        self._source = (model, weights)
        self._train_vocabularies = tuple(train_vocabularies)
        self._train_names = frozenset(train_names)
        self._held_out = frozenset(held_out)
        self._bgr = bgr
        self._names: OrderedDict[Vocabulary, TransferredNames] = OrderedDict()
        self._embeddings: Tensor | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ImageNetNaming:
        """Build from `MODEL.HIPIE.IMAGENET`."""
        keys = cfg.MODEL.HIPIE.IMAGENET
        settings = NamingSettings(
            keys.ALPHA,
            keys.BETA,
            keys.TEMPERATURE,
            keys.NONE_SIMILARITY,
            keys.MIN_SIMILARITY,
            keys.SCALE,
        )
        return cls(
            keys.MODEL,
            keys.WEIGHTS,
            settings=settings,
            train_vocabularies=keys.TRAIN_VOCABULARIES,
            train_names=keys.TRAIN_NAMES,
            held_out=cfg.DATASETS.HELD_OUT_CLASSES,
            bgr=cfg.INPUT.FORMAT == "BGR",
        )

    @cached_property
    def classifier(self) -> ClassActivation:
        """The classifier, loaded on first use."""
        return ClassActivation.from_timm(*self._source)

    @torch.no_grad()
    def combine(
        self,
        logits: Tensor,
        stride: int,
        image: Tensor,
        vocabulary: Vocabulary,
        encoder: TextEncoder,
    ) -> Tensor:
        """Combine the logits of one image with the classifier's probabilities.

        Args:
            logits: [K + 1, h, w] of the padded canvas; the last is that of no class.
            stride: of the logits.
            image: [3, H, W] 0..255, without padding.
            vocabulary: K classes.
            encoder: of names and of the descriptions of the classifier's classes.

        Returns:
            [K + 1, h, w] float32; `logits` themselves if no name has a weight.
        """
        names = self._transferred_names(vocabulary, encoder, logits.device)
        if not names.weights.any():
            return logits
        size = [-(-side // stride) for side in image.shape[-2:]]
        with torch.autocast(logits.device.type, enabled=False):
            probabilities = self._probabilities(image, names.transfer, logits.device)
            resized = F.interpolate(probabilities[None], size, mode="bilinear")[0]
            bottom, right = logits.shape[-2] - size[0], logits.shape[-1] - size[1]
            padded = F.pad(resized[None], (0, right, 0, bottom), mode="replicate")[0]
            return combine_pixels(logits.float(), padded, names.weights)

    def _probabilities(self, image: Tensor, transfer: Tensor, device: torch.device) -> Tensor:
        """P [K + 1, h, w] at the positions of the classifier's last feature map."""
        pixels = image.to(device, torch.float32)[None] / 255
        if self._bgr:
            pixels = pixels.flip(1)
        classifier = self.classifier.to(device)
        return (classifier.probabilities(pixels, self.settings.scale) @ transfer).permute(2, 0, 1)

    def _transferred_names(
        self, vocabulary: Vocabulary, encoder: TextEncoder, device: torch.device
    ) -> TransferredNames:
        names = self._names.pop(vocabulary, None)
        if names is None:
            names = self._compare(vocabulary, encoder)
        self._names[vocabulary] = names
        if len(self._names) > MAX_CACHED_VOCABULARIES:
            self._names.popitem(last=False)
        return TransferredNames(names.transfer.to(device), names.weights.to(device))

    def _compare(self, vocabulary: Vocabulary, encoder: TextEncoder) -> TransferredNames:
        phrases = [entry.phrases for entry in vocabulary.classes]
        is_part = [entry.whole is not None for entry in vocabulary.classes]
        in_training = [not self._train_keys.isdisjoint(map(name_key, names)) for names in phrases]
        if all(trained or part for trained, part in zip(in_training, is_part, strict=True)):
            count = len(phrases) + 1
            return TransferredNames(torch.zeros(1, count), torch.zeros(count))
        classes = self._embedded_classes(encoder)
        columns = [(classes @ embed(names, encoder).float().T).amax(1) for names in phrases]
        return transfer_names(torch.stack(columns, 1), is_part, in_training, self.settings)

    def _embedded_classes(self, encoder: TextEncoder) -> Tensor:
        """[C, D] of unit length, of the descriptions of the classifier's classes."""
        if self._embeddings is None:
            classifier = self.classifier
            self._embeddings = class_embeddings(classifier.num_classes, classifier.name, encoder)
        return self._embeddings

    @cached_property
    def _train_keys(self) -> frozenset[str]:
        names = set(self._train_names)
        for vocabulary in self._train_vocabularies:
            names |= train_vocabulary_prompts(vocabulary, f"{KEY}.TRAIN_VOCABULARIES")
        return frozenset(map(name_key, names)) - frozenset(map(name_key, self._held_out))
