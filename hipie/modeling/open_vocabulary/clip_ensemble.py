"""CLIP beside the model: from a configuration and a vocabulary to opinions of single images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_loading import require_clip
from hipie.modeling.open_vocabulary.clip_mask_scores import ClassPrompts, ClipMaskScores
from hipie.modeling.open_vocabulary.error import unknown
from hipie.modeling.open_vocabulary.score_ensemble import ScoreEnsemble
from hipie.vocabularies.tables import load_vocabulary, vocabulary_names
from hipie.vocabularies.vocabulary import Vocabulary

# The weights of the published program where no configuration says otherwise.
PUBLISHED = ScoreEnsemble()


class ClipEnsemble:
    """Asks CLIP about the masks of images.

    CLIP is loaded when the first image comes, stays frozen, and is in no checkpoint; its name is
    checked at once.

    Args:
        model, weights: see `hipie.modeling.open_vocabulary.clip_loading.load_clip`.
        ensemble: how the opinions join.
        seen: which classes training knew: the name of a public vocabulary ("coco_panoptic"), or of
            a registered data set, whose `unseen_classes` do not count.
        bgr: images have blue first.

    Raises:
        ValueError: for a name or weights that nothing is behind.
    """

    def __init__(
        self,
        model: str,
        weights: str = "",
        *,
        ensemble: ScoreEnsemble = PUBLISHED,
        seen: str = "coco_panoptic",
        bgr: bool = False,
    ) -> None:
        require_clip(model, weights)
        self.ensemble = ensemble
        self._source = (model, weights)
        self._seen = seen
        self._bgr = bgr
        self._clip: Clip | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ClipEnsemble:
        """What `MODEL.HIPIE.CLIP` says."""
        keys = cfg.MODEL.HIPIE.CLIP
        ensemble = ScoreEnsemble(
            tuple(keys.ALPHA), tuple(keys.BETA), keys.ENSEMBLE, keys.THING_TEMPERATURE
        )
        return cls(
            keys.MODEL,
            keys.WEIGHTS,
            ensemble=ensemble,
            seen=keys.TRAIN_VOCABULARY,
            bgr=cfg.INPUT.FORMAT == "BGR",
        )

    @property
    def clip(self) -> Clip:
        """The model, loaded when it is first asked for.

        Raises:
            OpenVocabularyError: if its image tower cannot look at masks in one pass.
        """
        if self._clip is None:
            self._clip = Clip.from_source(*self._source)
            self._clip.require_one_pass()
        return self._clip

    def of(
        self, image: Tensor, mean: Tensor, vocabulary: Vocabulary, divisibility: int = 0
    ) -> ClipMaskScores:
        """The opinion of one image's masks.

        Args:
            image: [3, H, W], 0..255.
            mean: [3, 1, 1] what padding is filled with.
            vocabulary: the classes.
            divisibility: the model saw the image padded to multiples of this, if it is alone.
        """
        step = max(divisibility, 1)
        height, width = image.shape[-2:]
        centred = image.to(mean.device, torch.float32) - mean
        padded = F.pad(centred, (0, -width % step, 0, -height % step)) + mean
        scaled = padded / 255
        return ClipMaskScores(
            self.clip,
            scaled.flip(0) if self._bgr else scaled,
            _classes(vocabulary, self._seen),
            self.ensemble,
        )


@lru_cache(maxsize=16)
def _classes(vocabulary: Vocabulary, seen: str) -> ClassPrompts:
    known = _known_phrases(seen)
    phrases = tuple(one.phrases for one in vocabulary.classes)
    return ClassPrompts(
        phrases,
        tuple(not known.isdisjoint(names) for names in phrases),
        vocabulary.is_thing,
    )


@lru_cache(maxsize=16)
def _known_phrases(seen: str) -> frozenset[str]:
    if seen in vocabulary_names():
        return _phrases(load_vocabulary(seen))
    if seen not in MetadataCatalog.list():
        names = [*vocabulary_names(), *MetadataCatalog.list()]
        raise unknown(
            "vocabulary of the training data (MODEL.HIPIE.CLIP.TRAIN_VOCABULARY)", seen, names
        )
    metadata = MetadataCatalog.get(seen)
    return _phrases(Vocabulary.from_metadata(metadata), metadata.get("unseen_classes", ()))


def _phrases(vocabulary: Vocabulary, but: Sequence[str] = ()) -> frozenset[str]:
    classes = (one for one in vocabulary.classes if one.name not in but)
    return frozenset(phrase for one in classes for phrase in one.phrases)
