"""Scores of texts for images from the similarities of patches and texts.

Strudel, Laptev, Schmid, "Weakly-supervised segmentation of referring expressions", 2022. Patches
are assigned to each text independently of the other texts (multi-label patch assignment), since a
patch may belong to several expressions. The assignment is a softmax over the text and the
background, and weights the mean of the similarities, which is the score of the text for the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6


def patch_text_similarity(patches: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Compute the scaled cosines of patches and texts.

    Args:
        patches: [B, N, C].
        texts: [K, C].
        scale: scalar factor.

    Returns:
        [B, N, K] float32.
    """
    unit_patches = F.normalize(patches.float(), dim=-1)
    return scale.float() * unit_patches @ F.normalize(texts.float(), dim=-1).t()


def assign_patches(similarity: Tensor, background: Tensor) -> Tensor:
    """Compute the probability that a patch belongs to a text and not to the background.

    Args:
        similarity: [..., K].
        background: scalar, the background's similarity with every patch.

    Returns:
        [..., K]: exp(s) / (exp(s) + exp(background)) for each text by itself.
    """
    return torch.sigmoid(similarity - background)


def image_text_scores(similarity: Tensor, background: Tensor, is_patch: Tensor) -> Tensor:
    """Pool the similarities over the patches, weighted by the assignment.

    Args:
        similarity: [B, N, K].
        background: scalar; see `assign_patches`.
        is_patch: [B, N] bool, False for padding.

    Returns:
        [B, K] logits, similarities above the background's.
    """
    weights = assign_patches(similarity, background) * is_patch[..., None]
    total = weights.sum(1)
    return (weights * (similarity - background)).sum(1) / (total + EPS)


def image_text_loss(scores: Tensor, is_positive: Tensor) -> Tensor:
    """Compute the mean binary cross entropy over all pairs of an image and a text.

    Args:
        scores: [B, K] logits.
        is_positive: [B, K] bool, whether the text is one of the image's.

    Returns:
        Scalar.
    """
    return F.binary_cross_entropy_with_logits(scores.float(), is_positive.float())


def positive_pairs(expressions: Sequence[Sequence[str]]) -> tuple[list[str], Tensor]:
    """Return the different texts of a batch, and which images have them.

    Args:
        expressions: of B images.

    Returns:
        K texts in the order of their first occurrence, and [B, K] bool.
    """
    texts = list(dict.fromkeys(text for of_image in expressions for text in of_image))
    of_images = [set(of_image) for of_image in expressions]
    return texts, torch.tensor([[text in own for text in texts] for own in of_images])
