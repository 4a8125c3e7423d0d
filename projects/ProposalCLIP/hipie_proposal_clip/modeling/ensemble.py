"""Geometric ensemble of a decoder's class probabilities with CLIP's."""

from __future__ import annotations

import torch
from torch import Tensor

from hipie.modeling.open_vocabulary.clip_ensemble import ScoreEnsemble


def geometric_ensemble(
    ensemble: ScoreEnsemble,
    logits: Tensor,
    clip_probabilities: Tensor,
    weights: Tensor,
    *,
    normalized: bool = True,
) -> Tensor:
    """Combine class probabilities p of queries with CLIP's c: p^(1 - w) c^w.

    Normalised, as in FC-CLIP (equation 7): p is the softmax over the classes without no object,
    the combination sums to 1 over the classes, and is multiplied by 1 minus the probability of no
    object. Not normalised, as in OVSeg: p is the softmax with no object, and nothing follows.

    Args:
        ensemble: its formula.
        logits: [Q, K + 1] of the decoder, no object last.
        clip_probabilities: [Q, K].
        weights: [K] or [Q, K] CLIP's weight w of each class.
        normalized: see above.

    Returns:
        [Q, K + 1] scores of the classes, and the probability of no object.
    """
    with_void = logits.float().softmax(-1)
    void = with_void[:, -1:]
    if normalized:
        own = logits[:, :-1].float().log_softmax(-1).exp()
        combined = ensemble.panoptic_scores(own, clip_probabilities, weights) * (1 - void)
    else:
        combined = ensemble.combine(with_void[:, :-1], clip_probabilities, weights).exp()
    return torch.cat([combined, void], dim=1)
