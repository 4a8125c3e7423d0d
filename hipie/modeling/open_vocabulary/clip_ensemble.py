"""Ensemble of CLIP's mask classification with the model's class scores (ODISE, HIPIE).

`ScoreEnsemble` has the formulas, `ClipMaskScores` the CLIP scores of the masks of one image, and
`ClipEnsemble` builds them from the configuration.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from hipie.errors import InputError
from hipie.modeling.open_vocabulary.clip import CROP_BATCH_SIZE, Clip, mask_crops
from hipie.modeling.open_vocabulary.clip_loading import require_clip
from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown_name
from hipie.modeling.open_vocabulary.masked_attention_pooling import (
    EncodedImage,
    patches_of_soft_masks,
)
from hipie.vocabularies.tables import load_vocabulary, vocabulary_names
from hipie.vocabularies.vocabulary import Vocabulary

METHODS = ("multiply", "add")
EPSILON = 1e-9
# Features of masks, see `ClipMaskScores.features`.
CLASS_TOKEN, PATCH_POOLING, CROPS = "class_token", "patch_pooling", "crops"
MASK_FEATURES = (CLASS_TOKEN, PATCH_POOLING, CROPS)
MASKED_LOGIT_LIMIT = -1000.0
MAX_CACHED_VOCABULARIES = 16


@dataclass(frozen=True)
class ScoreEnsemble:
    """Formulas that combine the model's probabilities p with CLIP's probabilities c.

    Attributes:
        alpha: CLIP's weights for classes of the training vocabulary, (things, stuff).
        beta: CLIP's weights for all other classes, (things, stuff).
        method: "multiply", p^(1 - w) c^w, or "add", (1 - w) p + w c, with weight w.
        thing_temperature: of the softmax over the classes of things, before the combination.
        powers: exponents of the combined class probability and of the predicted IoU in the scores
            of things.
    """

    alpha: tuple[float, float] = (0.35, 0.35)
    beta: tuple[float, float] = (0.7, 0.7)
    method: str = "multiply"
    thing_temperature: float = 0.06
    powers: tuple[float, float] = (0.3, 1.7)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f'the ensemble method "{self.method}" is none of {", ".join(METHODS)}')
        for weights in (self.alpha, self.beta):
            if len(weights) != 2 or not all(0 <= weight <= 1 for weight in weights):
                raise InputError(
                    "weights of CLIP are two numbers in 0..1, for things and for stuff, and not "
                    f"{weights}"
                )
        if len(self.powers) != 2 or min(self.powers) < 0:
            raise InputError(
                "MODEL.HIPIE.CLIP.SCORE_POWERS are two numbers of at least 0, of the class and of "
                f"the IoU, and not {self.powers}"
            )
        if self.thing_temperature <= 0:
            raise InputError(f"a temperature has to be positive, not {self.thing_temperature}")

    def weights(
        self,
        in_training: Sequence[bool],
        is_thing: Sequence[bool],
        device: torch.device | None = None,
    ) -> Tensor:
        """[K] CLIP's weight for each class."""
        weights = [
            (self.alpha if trained else self.beta)[0 if thing else 1]
            for trained, thing in zip(in_training, is_thing, strict=True)
        ]
        return torch.tensor(weights, dtype=torch.float32, device=device)

    def combine(self, probabilities: Tensor, clip_probabilities: Tensor, weights: Tensor) -> Tensor:
        """Compute the logarithm of the combined probabilities, which need not sum to 1.

        Args:
            probabilities: [..., K] of the model.
            clip_probabilities: [..., K] probabilities of CLIP.
            weights: [K], see `weights`.
        """
        if self.method == "add":
            return torch.log((1 - weights) * probabilities + weights * clip_probabilities + EPSILON)
        return torch.xlogy(1 - weights, probabilities) + torch.xlogy(weights, clip_probabilities)

    def instance_scores(
        self,
        class_logits: Tensor,
        iou_logits: Tensor | None,
        clip_probabilities: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Compute instance scores from class logits, CLIP's probabilities and the predicted IoU.

        Args:
            class_logits: [Q, K]; masked classes have -1000 or less and score 0.
            iou_logits: [Q, 1]; None = the factor of the IoU is 1.
            clip_probabilities: [Q, K] probabilities of CLIP.
            weights: [K].

        Returns:
            [Q, K] in 0..1.
        """
        probabilities = class_logits.float().sigmoid()
        if probabilities.shape[-1] > 1:
            probabilities = (probabilities / self.thing_temperature).softmax(-1)
        combined = self.combine(probabilities, clip_probabilities, weights).sigmoid()
        combined = combined.masked_fill(class_logits <= MASKED_LOGIT_LIMIT, 0.0)
        class_power, iou_power = self.powers
        scores = combined**class_power
        if iou_logits is not None:
            scores = scores * iou_logits.float().sigmoid() ** iou_power
        return scores.sqrt()

    def panoptic_scores(
        self, scores: Tensor, clip_probabilities: Tensor, weights: Tensor
    ) -> Tensor:
        """Combine the scores of queries that compete for pixels, keeping their sum over classes.

        Args:
            scores: [N, K] of the model. They sum to less than 1 where a small vocabulary is scored
                as a large one, and keep that sum.
            clip_probabilities: [N, K] probabilities of CLIP.
            weights: [K].
        """
        total = scores.sum(-1, keepdim=True)
        return self.combine(scores / total, clip_probabilities, weights).softmax(-1) * total


@dataclass(frozen=True)
class ClassPrompts:
    """Prompts of K classes for CLIP.

    Attributes:
        prompts: K tuples of names; the score of a class is that of its best name.
        in_training: K flags, whether the class belongs to the training vocabulary.
        is_thing: K flags.
    """

    prompts: tuple[tuple[str, ...], ...]
    in_training: tuple[bool, ...]
    is_thing: tuple[bool, ...]


def clip_class_logits(
    clip: Clip, features: Tensor, prompts: Sequence[Sequence[str]], templates: str = "one"
) -> Tensor:
    """Compute scaled cosines, for every class the maximum over its names.

    Args:
        clip: encodes the prompts.
        features: [N, D] of images or masks, of unit length.
        prompts: K non-empty lists of names.
        templates: see `hipie.modeling.open_vocabulary.prompt_templates`.

    Returns:
        [N, K] float32.

    Raises:
        OpenVocabularyError: if a class has no name.
    """
    lengths = [len(names) for names in prompts]
    if 0 in lengths:
        raise OpenVocabularyError(f"class {lengths.index(0)} has no prompt for CLIP")
    texts = clip.text_features(list(chain.from_iterable(prompts)), templates).to(features.device)
    logits = features.float() @ texts.t() * clip.logit_scale.to(features.device)
    if len(texts) == len(prompts):
        return logits
    if not len(features):
        return logits.new_zeros(0, len(prompts))
    sizes = torch.tensor(lengths, device=features.device)
    return torch.segment_reduce(logits.t().contiguous(), "max", lengths=sizes).t()


class ClipMaskScores:
    """CLIP scores of the masks of one image, which is encoded once.

    HIPIE's inference uses them twice: for all thing queries before non-maximum suppression, and
    for the queries that compete for the pixels of the semantic and panoptic maps.

    Args:
        clip: a model that supports masked attention pooling.
        image: [3, H, W] RGB in 0..1, padded as if the model had received it alone.
        classes: prompts of the vocabulary.
        ensemble: combines CLIP's probabilities with the model's.
        mask_features: how a mask's feature is computed, see `features`.
    """

    def __init__(
        self,
        clip: Clip,
        image: Tensor,
        classes: ClassPrompts,
        ensemble: ScoreEnsemble,
        mask_features: str = CLASS_TOKEN,
    ) -> None:
        self.mask_features = mask_features
        self.clip = clip
        self.image = image
        self.classes = classes
        self.ensemble = ensemble

    @cached_property
    def encoded_image(self) -> EncodedImage:
        """Features of the image in CLIP's image encoder."""
        return self.clip.encode(self.image)

    def with_ensemble(self, ensemble: ScoreEnsemble) -> ClipMaskScores:
        """Return scores for the same encoded image with another ensemble."""
        other = ClipMaskScores(self.clip, self.image, self.classes, ensemble, self.mask_features)
        other.encoded_image = self.encoded_image
        return other

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image, padding included."""
        return self.image.shape[-2], self.image.shape[-1]

    def patch_masks(self, mask_logits: Tensor) -> Tensor:
        """[N, g, g] bool, patches of masks [N, h, w]; see `patches_of_soft_masks`."""
        return patches_of_soft_masks(mask_logits, self.clip.image_size, self.clip.patch_size)

    @torch.no_grad()
    def features(self, patch_masks: Tensor) -> Tensor:
        """Features of masks.

        "class_token": of a class token that attends to the mask's patches (as published);
        "patch_pooling": the mean of the features of the mask's patches, `MaskPooling(M, V(I))` of
        the paper; "crops": of the image inside the box of the mask's patches, grey outside them. A
        mask without patches has the feature of the class token alone, or else of the image.

        Args:
            patch_masks: [N, g, g] bool.

        Returns:
            [N, D] of unit length.
        """
        if self.mask_features == CLASS_TOKEN:
            features = self.encoded_image.mask_features(patch_masks)
            return F.normalize(features.float(), dim=-1)
        if self.mask_features == PATCH_POOLING:
            patches = self.encoded_image.patch_features.float()
            members = patch_masks.flatten(1).float()
            pooled = members @ patches.flatten(0, 1) / members.sum(1, keepdim=True).clamp(min=1)
        else:
            pooled = self._crop_features(patch_masks)
        whole = self.encoded_image.image_feature.float()
        is_empty = ~patch_masks.flatten(1).any(1)
        return F.normalize(torch.where(is_empty[:, None], whole, pooled), dim=-1)

    def _crop_features(self, patch_masks: Tensor) -> Tensor:
        """Features [N, D] of the crops of the masks that have patches, 0 for the others."""
        has_patches = patch_masks.flatten(1).any(1)
        features = self.image.new_zeros(len(patch_masks), self.clip.width)
        pixels = F.interpolate(patch_masks[has_patches][None].float(), size=self.size)[0] > 0
        crops = mask_crops(self.image, pixels, self.clip.image_size, CROP_BATCH_SIZE)
        batches = [self.clip.image_features(batch) for batch in crops]
        if batches:
            features[has_patches] = torch.cat(batches)
        return features

    @torch.no_grad()
    def probabilities(self, patch_masks: Tensor) -> Tensor:
        """Class probabilities [N, K] of masks [N, g, g]: softmax, or sigmoid for a single class."""
        features = self.features(patch_masks)
        logits = clip_class_logits(self.clip, features, self.classes.prompts)
        return logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)

    def instance_scores(
        self, class_logits: Tensor, iou_logits: Tensor | None, patch_masks: Tensor
    ) -> Tensor:
        """[Q, K] instance scores; see `ScoreEnsemble.instance_scores`."""
        clip_probabilities = self.probabilities(patch_masks)
        return self.ensemble.instance_scores(
            class_logits, iou_logits, clip_probabilities, self._weights(clip_probabilities)
        )

    def panoptic_scores(self, scores: Sequence[Tensor], patch_masks: Tensor) -> list[Tensor]:
        """Combine several score tensors [N, K] of the same masks.

        See `ScoreEnsemble.panoptic_scores`.
        """
        clip_probabilities = self.probabilities(patch_masks)
        weights = self._weights(clip_probabilities)
        return [
            self.ensemble.panoptic_scores(class_scores, clip_probabilities, weights)
            for class_scores in scores
        ]

    def _weights(self, clip_probabilities: Tensor) -> Tensor:
        return self.ensemble.weights(
            self.classes.in_training, self.classes.is_thing, clip_probabilities.device
        )


class ClipEnsemble:
    """Builds the CLIP scores of images from a vocabulary.

    CLIP is loaded with the first image, stays frozen, and is not part of checkpoints; its name is
    checked at once.

    Args:
        model: see `hipie.modeling.open_vocabulary.clip_loading.load_clip`.
        weights: likewise.
        ensemble: formulas and weights of the combination; by default the published ones.
        train_vocabulary: name of a public vocabulary ("coco_panoptic"), or of a registered data
            set, whose `unseen_classes` are not counted.
        bgr: whether images have blue first.
        mask_features: see `ClipMaskScores.features`.

    Raises:
        ValueError: for an unknown model, unknown weights or unknown `mask_features`.
    """

    def __init__(
        self,
        model: str,
        weights: str = "",
        *,
        ensemble: ScoreEnsemble = ScoreEnsemble(),
        train_vocabulary: str = "coco_panoptic",
        bgr: bool = False,
        mask_features: str = CLASS_TOKEN,
    ) -> None:
        require_clip(model, weights)
        if mask_features not in MASK_FEATURES:
            raise InputError(
                f"MODEL.HIPIE.CLIP.MASK_FEATURES is {mask_features!r}; it has to be "
                f"{' or '.join(MASK_FEATURES)}"
            )
        self._mask_features = mask_features
        self.ensemble = ensemble
        self._source = (model, weights)
        self._train_vocabulary = train_vocabulary
        self._bgr = bgr
        self._prompts: OrderedDict[Vocabulary, ClassPrompts] = OrderedDict()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ClipEnsemble:
        """Build from `MODEL.HIPIE.CLIP`."""
        keys = cfg.MODEL.HIPIE.CLIP
        ensemble = ScoreEnsemble(
            tuple(keys.ALPHA),
            tuple(keys.BETA),
            keys.ENSEMBLE,
            keys.THING_TEMPERATURE,
            tuple(keys.SCORE_POWERS),
        )
        return cls(
            keys.MODEL,
            keys.WEIGHTS,
            ensemble=ensemble,
            train_vocabulary=keys.TRAIN_VOCABULARY,
            bgr=cfg.INPUT.FORMAT == "BGR",
            mask_features=keys.MASK_FEATURES,
        )

    @cached_property
    def clip(self) -> Clip:
        """The model, loaded on first use.

        Raises:
            OpenVocabularyError: if its image encoder does not support masked attention pooling.
        """
        clip = Clip.from_source(*self._source)
        clip.require_mask_pooling()
        return clip

    def mask_scores(
        self,
        image: Tensor,
        pixel_mean: Tensor,
        vocabulary: Vocabulary,
        size_divisibility: int = 0,
    ) -> ClipMaskScores:
        """CLIP scores of the masks of one image.

        Args:
            image: [3, H, W], 0..255.
            pixel_mean: [3, 1, 1], value of the padding.
            vocabulary: the classes.
            size_divisibility: of the canvas that the model pads the image to.
        """
        step = max(size_divisibility, 1)
        height, width = image.shape[-2:]
        centered = image.to(pixel_mean.device, torch.float32) - pixel_mean
        padded = F.pad(centered, (0, -width % step, 0, -height % step)) + pixel_mean
        scaled = padded / 255
        rgb = scaled.flip(0) if self._bgr else scaled
        classes = self._class_prompts(vocabulary)
        return ClipMaskScores(self.clip, rgb, classes, self.ensemble, self._mask_features)

    def _class_prompts(self, vocabulary: Vocabulary) -> ClassPrompts:
        classes = self._prompts.pop(vocabulary, None)
        if classes is None:
            prompts = tuple(entry.phrases for entry in vocabulary.classes)
            in_training = tuple(not self._train_prompts.isdisjoint(names) for names in prompts)
            classes = ClassPrompts(prompts, in_training, vocabulary.is_thing)
        self._prompts[vocabulary] = classes
        if len(self._prompts) > MAX_CACHED_VOCABULARIES:
            self._prompts.popitem(last=False)
        return classes

    @cached_property
    def _train_prompts(self) -> frozenset[str]:
        return train_vocabulary_prompts(self._train_vocabulary, "MODEL.HIPIE.CLIP.TRAIN_VOCABULARY")


def train_vocabulary_prompts(name: str, key: str) -> frozenset[str]:
    """Prompts of the classes that a model was trained on.

    Args:
        name: a public vocabulary ("coco_panoptic"), or a registered data set, whose
            `unseen_classes` are left out.
        key: of the configuration, for the message.

    Raises:
        OpenVocabularyError: for an unknown name, with similar ones.
    """
    if name in vocabulary_names():
        return load_vocabulary(name).prompts()
    if name not in MetadataCatalog.list():
        raise unknown_name(
            f"vocabulary of the training data ({key})",
            name,
            [*vocabulary_names(), *MetadataCatalog.list()],
        )
    metadata = MetadataCatalog.get(name)
    vocabulary = Vocabulary.from_metadata(metadata)
    return vocabulary.prompts(excluded=metadata.get("unseen_classes", ()))
