"""Classification of embeddings by CLIP's text features, with a class for no object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.structures import TextFeatures
from hipie.vocabularies.vocabulary import Vocabulary

# Logit of classes that pad the vocabularies of a batch to one length.
PADDED_LOGIT = -1e4


@dataclass(frozen=True)
class TextClassifier:
    """Text features of a vocabulary.

    Attributes:
        features: [n, D] of all names, of unit length.
        lengths: number of names of each of the K classes; a class has the logit of its best name.
    """

    features: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of_vocabulary(cls, clip: Clip, vocabulary: Vocabulary, templates: str) -> TextClassifier:
        """Encode a vocabulary.

        Args:
            clip: encodes the names.
            vocabulary: K classes.
            templates: see `hipie.modeling.open_vocabulary.prompt_templates`.
        """
        phrases = [entry.phrases for entry in vocabulary.classes]
        features = clip.text_features(list(chain.from_iterable(phrases)), templates)
        return cls(features, tuple(len(names) for names in phrases))

    def logits(self, embeddings: Tensor, scale: Tensor, void: Tensor | None = None) -> Tensor:
        """Compute scaled cosines, for every class the largest of its names.

        Args:
            embeddings: [..., D], of any length.
            scale: scalar factor of the cosines.
            void: [1, D] embedding of no object, of any length; None = no such class.

        Returns:
            [..., K], or [..., K + 1] with no object last; float32.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            unit = F.normalize(embeddings.float(), dim=-1)
            texts = self.features.to(unit.device, torch.float32)
            if void is not None:
                texts = torch.cat([texts, F.normalize(void.float(), dim=-1)])
            cosines = unit @ texts.t()
            parts = cosines.split([*self.lengths, *([] if void is None else [1])], dim=-1)
            return scale * torch.stack([part.amax(-1) for part in parts], dim=-1)


def batch_logits(
    classifiers: Sequence[TextClassifier], embeddings: Tensor, scale: Tensor, void: Tensor
) -> Tensor:
    """Compute the logits of a batch of B images, each with its own vocabulary.

    Args:
        classifiers: B vocabularies, the largest of K classes.
        embeddings: [B, Q, D].
        scale: see `TextClassifier.logits`.
        void: likewise.

    Returns:
        [B, Q, K + 1] float32, no object last; classes that an image does not have are -10000.
    """
    most = max(len(classifier.lengths) for classifier in classifiers)
    rows = []
    for classifier, image_embeddings in zip(classifiers, embeddings, strict=True):
        logits = classifier.logits(image_embeddings, scale, void)
        padding = logits.new_full((len(logits), most + 1 - logits.shape[1]), PADDED_LOGIT)
        rows.append(torch.cat([logits[:, :-1], padding, logits[:, -1:]], dim=1))
    return torch.stack(rows)


def classes_as_tokens(classifiers: Sequence[TextClassifier], device: torch.device) -> TextFeatures:
    """Describe the classes of B images as captions, in which each class is one token.

    Targets and criteria of `hipie.modeling` are in terms of the tokens of captions.

    Args:
        classifiers: B vocabularies, the largest of K classes.
        device: of the result.

    Returns:
        Features [B, K + 1, D]: the mean text feature of each class, 0 for no object, which is the
        last token, and for classes that an image does not have, which `mask` leaves out.
    """
    most = max(len(classifier.lengths) for classifier in classifiers)
    width = classifiers[0].features.shape[1]
    hidden = torch.zeros(len(classifiers), most + 1, width, device=device)
    mask = torch.zeros(len(classifiers), most + 1, dtype=torch.bool, device=device)
    mask[:, -1] = True
    for image, classifier in enumerate(classifiers):
        count = len(classifier.lengths)
        parts = classifier.features.to(device, torch.float32).split(classifier.lengths)
        hidden[image, :count] = torch.stack([part.mean(0) for part in parts])
        mask[image, :count] = True
    return TextFeatures(
        hidden=hidden,
        mask=mask,
        input_ids=torch.zeros(mask.shape, dtype=torch.long, device=device),
        token_spans=tuple(
            tuple((index,) for index in range(len(classifier.lengths)))
            for classifier in classifiers
        ),
    )
