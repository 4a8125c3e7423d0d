"""PerSAM-F: three weights, one for each of SAM's masks, are fitted to the examples.

Zhang et al., "Personalize Segment Anything Model with One Shot", ICLR 2024, section 3.3. Everything
of SAM stays as it is; two numbers are learned (the third weight is what is missing to 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from hipie.modeling.criterion.dice import dice
from hipie.modeling.sam.predictor import Sam, SamImage
from hipie_fewshot.feature_cache import Remembered
from hipie_fewshot.modeling.location_prior import covered_features, most_alike
from hipie_fewshot.modeling.persam import INSIDE, again, box_of
from hipie_fewshot.modeling.prototype import Found
from hipie_fewshot.support_set import Example

SCALES = 3
# Published, of AdamW; and of the focal loss.
EPSILON = 1e-4
ALPHA, GAMMA = 0.25, 2.0


class Learned(NamedTuple):
    """What is known of the examples.

    Attributes:
        target: [C] half the mean and half the maximum of SAM's features under the masks.
        weights: [3] of SAM's masks, of sum 1.
    """

    target: Tensor
    weights: Tensor


class PerSamF:
    """The form with two learned numbers; fitted once for the same examples.

    Args:
        sam: the model.
        steps: of the fit; published 1,000.
        rate: its learning rate at the start, which a half cosine brings to 0; published 1e-3.
    """

    def __init__(self, sam: Sam, steps: int = 1000, rate: float = 1e-3) -> None:
        if steps < 1 or rate <= 0:
            raise ValueError(
                f"PerSAM-F needs at least one step and a positive rate, and not {steps} and {rate}"
            )
        self.sam = sam
        self.steps, self.rate = steps, rate
        self.learned = Remembered(self._learn)

    def find(self, image: np.ndarray, examples: Sequence[Example]) -> Found:
        """The examples' object in an image [H, W, 3].

        Three rounds: the point where the image is most alike, SAM's three masks weighted; the
        point with that mask and its box; with the best mask that came of it and its box. Where a
        mask is empty the round before it is the answer (the published program ends with an error).

        Raises:
            ExampleError: without examples.
        """
        target, weights = self.learned(examples, self.sam.device)
        picture = self.sam.encode(image)
        point = most_alike(picture, target)
        low = weighted(weights, _three_masks(picture, point))[None]
        mask, score = full_size(picture, low)[0] > 0, 0.0
        for _ in range(2):
            box = box_of(mask)
            if box is None:
                break
            answer = again(picture, point, low, box)
            mask, low = answer.masks[0, 0], answer.low_resolution[:, 0]
            score = float(answer.scores[0, 0].clamp(0, 1))
        return Found(mask.cpu().numpy(), score)

    def _learn(self, examples: Sequence[Example]) -> Learned:
        shown = [self.sam.encode(example.image) for example in examples]
        under = covered_features(shown, examples)
        target = (under.amax(1) + under.mean(1)) / 2
        logits = [
            full_size(picture, _three_masks(picture, most_alike(picture, target)))
            for picture in shown
        ]
        truths = [torch.from_numpy(one.mask).to(target.device) for one in examples]
        return Learned(target, fitted_weights(logits, truths, self.steps, self.rate))


@torch.inference_mode(False)
@torch.enable_grad()
def fitted_weights(
    logits: Sequence[Tensor], truths: Sequence[Tensor], steps: int, rate: float
) -> Tensor:
    """The weights of sum 1 with which SAM's three masks are most like the true ones.

    Dice and focal loss of the weighted logits; from three equal weights, AdamW on two of them.

    Args:
        logits: an example each, [3, H, W].
        truths: likewise, [H, W] bool.
        steps, rate: see `PerSamF`.

    Returns:
        [3]; they may lie outside 0..1.
    """
    rows = [one.detach().clone().float().flatten(1) for one in logits]
    wanted = [one.float().flatten()[None] for one in truths]
    free = torch.full((SCALES - 1,), 1 / SCALES, device=rows[0].device, requires_grad=True)
    optimiser = torch.optim.AdamW([free], lr=rate, eps=EPSILON)
    slower = CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        weights = _of_sum_one(free)
        losses = [
            _unlike(weighted(weights, row)[None], truth)
            for row, truth in zip(rows, wanted, strict=True)
        ]
        optimiser.zero_grad()
        torch.stack(losses).mean().backward()
        optimiser.step()
        slower.step()
    return _of_sum_one(free).detach()


def weighted(weights: Tensor, masks: Tensor) -> Tensor:
    """[...] the sum of masks [3, ...], each times its weight."""
    return (weights.view(-1, *[1] * (masks.ndim - 1)) * masks).sum(0)


def full_size(picture: SamImage, low: Tensor) -> Tensor:
    """Logits [N, h, w] of SAM's grid at the image's size: [N, H, W]."""
    model = picture.sam.model
    return model.postprocess_masks(low[None], picture.input_size, picture.size)[0]


def _three_masks(picture: SamImage, point: np.ndarray) -> Tensor:
    """[3, h, w] logits for a point [1, 2]."""
    labels = np.array([[INSIDE]])
    return picture.predict(points=point[None], labels=labels, multimask=True).low_resolution[0]


def _of_sum_one(free: Tensor) -> Tensor:
    return torch.cat([1 - free.sum(0, keepdim=True), free])


def _unlike(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice and focal loss of [1, P]."""
    focal = sigmoid_focal_loss(logits, truth, ALPHA, GAMMA, reduction="mean")
    return dice(logits, truth).sum() + focal
