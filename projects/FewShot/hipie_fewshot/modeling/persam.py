"""PerSAM: SAM, told by an example where to look and what to look for, then by its own mask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from hipie.modeling.sam.predictor import Sam, SamImage, SamMasks
from hipie_fewshot.feature_cache import Remembered
from hipie_fewshot.modeling.location_prior import Prior, location_prior, target_feature
from hipie_fewshot.modeling.prompted_decoder import guided_masks
from hipie_fewshot.modeling.prototype import Found
from hipie_fewshot.support_set import Example

INSIDE, OUTSIDE = 1, 0


class PerSam:
    """The training-free form.

    Args:
        sam: the model.
        stretched_guidance: see `location_prior`.
    """

    def __init__(self, sam: Sam, stretched_guidance: bool = True) -> None:
        self.sam = sam
        self.stretched_guidance = stretched_guidance
        self.target = Remembered(partial(target_feature, sam))

    def find(self, image: np.ndarray, examples: Sequence[Example]) -> Found:
        """The examples' object in an image [H, W, 3].

        Three rounds: one point where it is most alike and one where it is least, with guidance;
        the same points with the mask that came of it; with that mask's box as well.

        Raises:
            ExampleError: without examples.
        """
        target = self.target(examples, self.sam.device)
        picture = self.sam.encode(image)
        prior = location_prior(picture, target, self.stretched_guidance)
        answer = again(picture, prior.points, first_round(picture, prior, target))
        box = box_of(answer.masks[0, 0])
        if box is not None:
            answer = again(picture, prior.points, answer.low_resolution[:, 0], box)
        return Found(answer.masks[0, 0].cpu().numpy(), float(answer.scores[0, 0].clamp(0, 1)))


@torch.no_grad()
def first_round(picture: SamImage, prior: Prior, target: Tensor) -> Tensor:
    """Logits [1, 4g, 4g] of the single mask of the guided decoder."""
    model = picture.sam.model
    transform = ResizeLongestSide(picture.sam.image_size)
    points = torch.from_numpy(prior.points.astype(np.float32))[None].to(picture.sam.device)
    labels = torch.tensor([[INSIDE, OUTSIDE]], device=points.device)
    sparse, dense = model.prompt_encoder(
        points=(transform.apply_coords_torch(points, picture.size), labels), boxes=None, masks=None
    )
    masks, _ = guided_masks(
        model.mask_decoder,
        picture.features,
        model.prompt_encoder.get_dense_pe(),
        sparse,
        dense,
        where=prior.guidance,
        what=target,
    )
    return masks[:, 0]


def again(
    picture: SamImage, points: np.ndarray, logits: Tensor, box: np.ndarray | None = None
) -> SamMasks:
    """The best of three masks for points, earlier logits [1, h, w], and perhaps a box.

    The first of the points [P, 2] is inside, the second, if there is one, outside.
    """
    return picture.predict(
        points=points[None],
        labels=np.array([[INSIDE, OUTSIDE][: len(points)]]),
        boxes=None if box is None else box[None],
        masks=logits,
        multimask=True,
    ).best()


def box_of(mask: Tensor) -> np.ndarray | None:
    """x1, y1, x2, y2 of the outermost pixels, at least one apart; None for an empty mask."""
    rows, columns = (mask.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    if not rows:
        return None
    x1, y1, x2, y2 = columns[0], rows[0], columns[-1], rows[-1]
    return np.array([x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)], float)
