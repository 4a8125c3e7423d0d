"""Matcher: patches matched there and back become points, SAM makes masks, the like ones join."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import cv2
import numpy as np

from hipie.modeling.sam.predictor import Sam
from hipie_fewshot.feature_cache import Remembered
from hipie_fewshot.modeling.dino import Dino
from hipie_fewshot.modeling.mask_proposals import ProposalSettings, proposals
from hipie_fewshot.modeling.mask_selection import SelectionSettings, measure, select
from hipie_fewshot.modeling.patch_grid import example_features, features, squashed
from hipie_fewshot.modeling.patch_matching import matched_patches, patch_centres
from hipie_fewshot.modeling.prototype import Found
from hipie_fewshot.support_set import Example


class Matcher:
    """All three steps, on the square that DINO sees.

    Args:
        dino, sam: the models.
        proposing, selecting: see there; by default as published for COCO-20i.
        seed: of the draws.
    """

    def __init__(
        self,
        dino: Dino,
        sam: Sam,
        proposing: ProposalSettings | None = None,
        selecting: SelectionSettings | None = None,
        seed: int = 0,
    ) -> None:
        self.dino, self.sam = dino, sam
        self.proposing = proposing or ProposalSettings()
        self.selecting = selecting or SelectionSettings()
        self.seed = seed
        self.shown = Remembered(partial(example_features, dino))

    def find(self, image: np.ndarray, examples: Sequence[Example]) -> Found:
        """The examples' object in an image [H, W, 3]; an empty mask if no mask can be used.

        Raises:
            ExampleError: without examples.
        """
        mask, score = self.find_in_square(squashed(image, self.dino.size), examples)
        height, width = image.shape[:2]
        full = cv2.resize(
            mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
        )
        return Found(full.astype(bool), float(np.clip(score, 0, 1)))

    def find_in_square(
        self, square: np.ndarray, examples: Sequence[Example]
    ) -> tuple[np.ndarray, float]:
        """The same at the size [S, S] at which the method works, with its score."""
        shown, shares = self.shown(examples, self.dino.device)
        similarity = (shown @ features(self.dino, [square])[0].T).float()
        inside = shares > 0
        side = self.dino.size // self.dino.patch
        points = patch_centres(matched_patches(similarity, inside), side, self.dino.patch)
        masks = proposals(self.sam.encode(square), points, self.proposing, self.seed)
        if not len(masks):
            return np.zeros(square.shape[:2], bool), 0.0
        found = masks.cpu().numpy()
        costs = ((1 - similarity[inside]) / 2).cpu().numpy()
        chosen, score = select(measure(found, points, costs, side), self.selecting)
        return found[chosen].any(0), score
