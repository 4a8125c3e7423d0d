"""Text embeddings of the classes of a classifier of ImageNet.

Those of the 1,000 classes by the MiniLM of the package are in a file, since a text encoder takes
seconds for so many descriptions. It is written by

    python -m hipie.modeling.open_vocabulary.imagenet_embeddings
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.tag_matching import class_descriptions, embed
from hipie.modeling.text_encoder.base import TextEncoder
from hipie.modeling.text_encoder.bert import BertTextEncoder

# `embeddings` [1000, 384] float16, and `digest` of the texts.
FILE = Path(__file__).with_name("imagenet_minilm.npz")
# Texts whose embeddings are compared with those of the file, and the largest difference, which
# allows for bfloat16.
PROBES = 2
PROBE_TOLERANCE = 0.01


def class_embeddings(num_classes: int, network: str, encoder: TextEncoder) -> Tensor:
    """Embed the names and definitions of the classes of a classifier.

    Args:
        num_classes: see `class_descriptions`.
        network: likewise.
        encoder: of texts.

    Returns:
        [C, D] float32 of unit length.
    """
    texts = class_descriptions(num_classes, network)
    stored = _stored(texts, encoder)
    return embed(texts, encoder).float() if stored is None else stored


def _stored(texts: Sequence[str], encoder: TextEncoder) -> Tensor | None:
    """Embeddings of the file; None if they are of other texts, or not of this encoder."""
    with np.load(FILE, allow_pickle=False) as content:
        stored, digest = torch.from_numpy(content["embeddings"]).float(), str(content["digest"])
    if digest != _digest(texts):
        return None
    first = embed(texts[:PROBES], encoder).float()
    if first.shape[1] != stored.shape[1]:
        return None
    is_same = torch.allclose(first.cpu(), stored[:PROBES], atol=PROBE_TOLERANCE)
    return F.normalize(stored, dim=1).to(first.device) if is_same else None


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def main() -> None:
    """Write the file."""
    texts = class_descriptions(1000, "ImageNet")
    embeddings = embed(texts, BertTextEncoder.from_source("minilm", frozen=True).eval())
    np.savez(FILE, embeddings=embeddings.half().numpy(), digest=_digest(texts))


if __name__ == "__main__":
    main()
