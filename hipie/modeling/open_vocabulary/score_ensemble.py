"""How CLIP's opinion of a mask joins the model's own: ODISE's geometric ensemble, HIPIE's way.

p is the model's probability of a class, c is CLIP's, a the weight of CLIP: large for classes that
training never showed, small for those it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WAYS = ("multiply", "add")
TINY = 1e-9
# Of the score of a thing: how much its class counts, and how much the quality of its box.
CLASS_POWER, QUALITY_POWER = 0.3, 1.7
HIDDEN = -1000.0


@dataclass(frozen=True)
class ScoreEnsemble:
    """Weights of CLIP and how they act.

    Attributes:
        seen: weight for classes known from training, of things and of stuff (HIPIE's ALPHA).
        unseen: likewise for all others (HIPIE's BETA).
        way: "multiply", p^(1 - a) c^a, or "add", (1 - a) p + a c.
        thing_temperature: of the softmax over the classes of things, before they are joined.
    """

    seen: tuple[float, float] = (0.35, 0.35)
    unseen: tuple[float, float] = (0.7, 0.7)
    way: str = "multiply"
    thing_temperature: float = 0.06

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise ValueError(f'the way "{self.way}" to join scores is none of {", ".join(WAYS)}')
        for weights in (self.seen, self.unseen):
            if len(weights) != 2 or not all(0 <= weight <= 1 for weight in weights):
                raise ValueError(
                    f"weights of CLIP are two numbers in 0..1, of things and of stuff, and not "
                    f"{weights}"
                )
        if self.thing_temperature <= 0:
            raise ValueError(f"a temperature has to be positive, not {self.thing_temperature}")

    def weights(
        self, is_seen: Sequence[bool], is_thing: Sequence[bool], device: torch.device | None = None
    ) -> Tensor:
        """[K] the weight of CLIP for each class."""
        chosen = [
            (self.seen if seen else self.unseen)[0 if thing else 1]
            for seen, thing in zip(is_seen, is_thing, strict=True)
        ]
        return torch.tensor(chosen, dtype=torch.float32, device=device)

    def join(self, own: Tensor, clip: Tensor, weights: Tensor) -> Tensor:
        """The logarithm of the joined probabilities, which need not sum to 1.

        Args:
            own: [..., K] the model's probabilities.
            clip: [..., K] CLIP's.
            weights: [K], see `weights`.
        """
        if self.way == "add":
            return torch.log((1 - weights) * own + weights * clip + TINY)
        return torch.xlogy(1 - weights, own) + torch.xlogy(weights, clip)

    def instance_scores(
        self, class_logits: Tensor, iou_logits: Tensor, clip: Tensor, weights: Tensor
    ) -> Tensor:
        """Scores of things: class, CLIP and the predicted quality of the box.

        Args:
            class_logits: [Q, K]; hidden columns have -1000 or less and score 0.
            iou_logits: [Q, 1].
            clip: [Q, K] CLIP's probabilities.
            weights: [K].

        Returns:
            [Q, K] in 0..1.
        """
        own = class_logits.float().sigmoid()
        if own.shape[-1] > 1:
            own = (own / self.thing_temperature).softmax(-1)
        joined = self.join(own, clip, weights).sigmoid()
        joined = joined.masked_fill(class_logits <= HIDDEN, 0.0)
        quality = iou_logits.float().sigmoid()
        return (joined**CLASS_POWER * quality**QUALITY_POWER).sqrt()

    def panoptic_scores(self, own: Tensor, clip: Tensor, weights: Tensor) -> Tensor:
        """Scores of queries that compete for pixels: joined, and as much in all as before.

        Args:
            own: [N, K] the model's scores. Where they sum to less than 1 (a small vocabulary that
                is scored as a large one), what is missing stays missing.
            clip: [N, K] CLIP's probabilities.
            weights: [K].
        """
        total = own.sum(-1, keepdim=True)
        return self.join(own / total, clip, weights).softmax(-1) * total
