"""Matcher: patch matching, mask proposals by SAM and mask selection, without training.

Liu et al., "Matcher: Segment Anything with One Shot Using All-Purpose Feature Matching", ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hipie.modeling.sam.predictor import Sam, SamImage
from hipie_fewshot.feature_cache import FeatureCache
from hipie_fewshot.modeling.dino import Dino
from hipie_fewshot.modeling.mask_proposals import ProposalSettings, generate_proposals
from hipie_fewshot.modeling.mask_selection import SelectionSettings, score_masks, select_masks
from hipie_fewshot.modeling.method import FewShotMethod, MaskPrediction
from hipie_fewshot.modeling.patch_features import (
    normalized_features,
    patch_centres,
    resize_to_square,
    support_features,
)
from hipie_fewshot.modeling.patch_matching import match_patches
from hipie_fewshot.support_set import Example


class MatcherQuery(NamedTuple):
    """Encoded query image.

    Attributes:
        patches: [g * g, C] unit-length features of DINO.
        square: SAM's encoding of the image at DINO's input size.
        size: (height, width) of the image.
    """

    patches: Tensor
    square: SamImage
    size: tuple[int, int]


class Matcher(FewShotMethod[MatcherQuery]):
    """Matcher on the square input of DINO.

    Args:
        dino, sam: the networks.
        proposals, selection: settings; by default those published for COCO-20i.
        seed: of the random prompts.
    """

    def __init__(
        self,
        dino: Dino,
        sam: Sam,
        proposals: ProposalSettings | None = None,
        selection: SelectionSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.dino, self.sam = dino, sam
        self.proposals = proposals or ProposalSettings()
        self.selection = selection or SelectionSettings()
        self.seed = seed
        self.support_features = FeatureCache(partial(support_features, dino))

    def encode(self, image: NDArray[np.uint8]) -> MatcherQuery:
        """Compute the features of DINO and SAM of a query image [H, W, 3]."""
        square = resize_to_square(image, self.dino.image_size)
        patches = normalized_features(self.dino, [square])[0]
        return MatcherQuery(patches, self.sam.encode(square), (image.shape[0], image.shape[1]))

    def predict_encoded(self, query: MatcherQuery, examples: Sequence[Example]) -> MaskPrediction:
        """Segment the examples' object in an encoded query image.

        Returns:
            An empty mask of score 0 if no proposal passes the thresholds.

        Raises:
            ExampleError: if there are no examples.
        """
        support, fractions = self.support_features(examples, self.dino.device)
        similarity = (support @ query.patches.T).float()
        inside = fractions > 0
        side = self.dino.image_size // self.dino.patch_size
        matches = match_patches(similarity, inside)
        points = patch_centres(matches, side, self.dino.patch_size)
        masks = generate_proposals(query.square, points, self.proposals, self.seed)
        if not len(masks):
            return MaskPrediction(torch.zeros(query.size, dtype=torch.bool), 0.0)
        costs = ((1 - similarity[inside]) / 2).cpu().numpy()
        scores = score_masks(list(masks.cpu().numpy()), points, costs, side)
        selected, score = select_masks(scores, self.selection)
        square = masks[selected].any(0).cpu().numpy().astype(np.uint8)
        height, width = query.size
        mask = cv2.resize(square, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return MaskPrediction(torch.from_numpy(mask.astype(bool)), float(np.clip(score, 0, 1)))
