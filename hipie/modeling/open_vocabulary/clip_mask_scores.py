"""What CLIP says of the masks that the model found in one image, joined with the model's scores.

HIPIE's inference asks twice: of all queries of the thing branch before duplicates are removed, and
of those that compete for pixels in the semantic and panoptic maps. The image is encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie.modeling.open_vocabulary.masked_attention_pooling import EncodedImage, visible_patches
from hipie.modeling.open_vocabulary.score_ensemble import ScoreEnsemble


@dataclass(frozen=True)
class ClassPrompts:
    """K classes as CLIP reads them.

    Attributes:
        phrases: K tuples of names; a class is as likely as the likeliest of its names.
        is_seen: K truth values, whether training knew the class.
        is_thing: K truth values.
    """

    phrases: tuple[tuple[str, ...], ...]
    is_seen: tuple[bool, ...]
    is_thing: tuple[bool, ...]


def class_probabilities(
    clip: Clip, features: Tensor, phrases: Sequence[Sequence[str]], templates: str = "one"
) -> Tensor:
    """How likely each class is by CLIP: softmax over the classes, a sigmoid if there is only one.

    Args:
        clip: whose texts the phrases are.
        features: [N, D] of images or masks, of unit length.
        phrases: K non-empty lists of names.
        templates: see `hipie.modeling.open_vocabulary.prompt_templates`.

    Returns:
        [N, K] float32.
    """
    logits = class_logits(clip, features, phrases, templates)
    return logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)


def class_logits(
    clip: Clip, features: Tensor, phrases: Sequence[Sequence[str]], templates: str = "one"
) -> Tensor:
    """[N, K] cosines times CLIP's scale, of every class the largest among its names."""
    lengths = [len(names) for names in phrases]
    if 0 in lengths:
        raise OpenVocabularyError(f"class {lengths.index(0)} has no name that CLIP could read")
    texts = clip.text_features(list(chain.from_iterable(phrases)), templates).to(features.device)
    logits = features.float() @ texts.t() * clip.logit_scale.to(features.device)
    if len(texts) == len(phrases):
        return logits
    sizes = torch.tensor(lengths, device=features.device)
    if not len(features):
        return logits.new_zeros(0, len(phrases))
    return torch.segment_reduce(logits.t().contiguous(), "max", lengths=sizes).t()


@dataclass
class ClipMaskScores:
    """CLIP's opinion of the masks of one image.

    Attributes:
        clip: a model that sees masks in one pass.
        image: [3, H, W] RGB in 0..1, padded as the model saw it alone.
        classes: the vocabulary.
        ensemble: how the two opinions become one.
    """

    clip: Clip
    image: Tensor
    classes: ClassPrompts
    ensemble: ScoreEnsemble
    _image: EncodedImage | None = field(default=None, init=False, repr=False)

    def with_ensemble(self, ensemble: ScoreEnsemble) -> ClipMaskScores:
        """The same image, joined in another way; it is not encoded again."""
        other = ClipMaskScores(self.clip, self.image, self.classes, ensemble)
        other._image = self._image = self._image or self._encoded()
        return other

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image, padding included."""
        return tuple(self.image.shape[-2:])

    def patch_masks(self, mask_logits: Tensor) -> Tensor:
        """[N, g, g] the patches that masks [N, h, w] reach; see `visible_patches`."""
        return visible_patches(mask_logits, self.clip.image_size, self.clip.patch_size)

    def probabilities(self, visible: Tensor) -> Tensor:
        """[N, K] by CLIP, of masks that show these patches [N, g, g].

        A mask that is nowhere as likely as not is judged by the class token alone.
        """
        with torch.no_grad():
            self._image = self._image or self._encoded()
            features = F.normalize(self._image.mask_features(visible).float(), dim=-1)
            return class_probabilities(self.clip, features, self.classes.phrases)

    def instance_scores(self, class_logits: Tensor, iou_logits: Tensor, visible: Tensor) -> Tensor:
        """[Q, K] scores of things; see `ScoreEnsemble.instance_scores`."""
        clip = self.probabilities(visible)
        return self.ensemble.instance_scores(class_logits, iou_logits, clip, self._weights(clip))

    def panoptic_scores(self, scores: Sequence[Tensor], visible: Tensor) -> list[Tensor]:
        """Scores [N, K], of several merges of the same masks; see `ScoreEnsemble.panoptic_scores`."""
        clip = self.probabilities(visible)
        weights = self._weights(clip)
        return [self.ensemble.panoptic_scores(own, clip, weights) for own in scores]

    def _encoded(self) -> EncodedImage:
        return self.clip.encode(self.image)

    def _weights(self, clip: Tensor) -> Tensor:
        return self.ensemble.weights(self.classes.is_seen, self.classes.is_thing, clip.device)
