"""The losses of the thing branch (HIPIE; DINO and UNINEXT before it)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hipie.modeling.criterion.batched_targets import ObjectTable
from hipie.modeling.criterion.focal import focal
from hipie.modeling.criterion.losses import (
    box_sums,
    class_sum,
    mask_sums,
    quality_sum,
    require_finite_prediction,
)
from hipie.modeling.criterion.normalizer_averaging import average_over_processes
from hipie.modeling.criterion.point_sampling import UNCERTAIN_SHARE
from hipie.modeling.criterion.predictions import LayerPrediction
from hipie.modeling.criterion.targets import Targets
from hipie.modeling.matcher.hungarian import CostWeights, assign, matching_cost
from hipie.modeling.matcher.matching import Matching, denoising_matching
from hipie.modeling.matcher.sim_ota import sim_ota

TARGET_STRIDE = 4


@dataclass(frozen=True)
class ThingWeights:
    """What each term counts; the defaults are the published ones."""

    class_: float = 2.0
    box: float = 5.0
    giou: float = 2.0
    quality: float = 1.0
    mask: float = 5.0
    dice: float = 5.0


@dataclass
class _Part:
    """One supervised prediction: its pairs, its words, and which terms it has."""

    prediction: LayerPrediction
    matching: Matching
    positive_map: Tensor
    text_mask: Tensor | None
    suffix: str
    name: str
    first_query: int = 0
    with_masks: bool = True
    with_quality: bool = False


class ThingCriterion(nn.Module):
    """Weighted losses of a `ThingOutput`.

    Decoder layers are matched by SimOTA to the things; denoising queries and the encoder's
    proposals (Hungarian, all objects alike) learn from stuff too, except for its boxes. Background
    queries take no part. A batch without a single thing gives zeros.

    Each layer is divided by its number of pairs, boxes by the pairs that are things. These counts
    are of this process alone, as published, unless `average_normalizers` is on: then several
    processes with shares of a batch have the gradients of one process with all of it, and all of
    them have to call the criterion together.

    Args:
        num_points: points at which mask losses are taken.
        weights: what each term counts.
        average_normalizers: see above.
        final_quality: also teach the quality head of the last layer, the one that inference reads.
            The published system leaves it out.
    """

    def __init__(
        self,
        num_points: int = 12544,
        *,
        weights: ThingWeights | None = None,
        average_normalizers: bool = False,
        final_quality: bool = False,
    ) -> None:
        super().__init__()
        if int(UNCERTAIN_SHARE * num_points) < 1:
            raise ValueError(f"mask losses need at least 2 points, not {num_points}")
        self.num_points = num_points
        self.weights = weights or ThingWeights()
        self.average_normalizers = average_normalizers
        self.final_quality = final_quality
        self.proposal_costs = CostWeights()

    def forward(
        self, output: Any, targets: Sequence[Targets], text_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Scalars by name: `loss_ce`, `loss_bbox`, `loss_giou`, `loss_boxiou`, `loss_mask`,
        `loss_dice` of the last layer, the same with `_0`, `_1`, ... of the others, and `_enc`.

        Args:
            output: has `layers`, `num_background`, `proposals`, `denoising`, `denoising_layout`.
            targets: one an image (or expression).
            text_mask: [B, T] bool, True for real tokens; None: all are real.

        Raises:
            NonFiniteError: if a prediction is nan or infinite.
        """
        table = ObjectTable.gather(targets)
        parts = self._decoder_parts(output, table, text_mask)
        parts.append(self._proposal_part(output, table))
        parts += self._denoising_parts(output, table, text_mask)
        pairs, things, any_thing = self._normalizers(parts, table)
        masks = table.masks[
            :, TARGET_STRIDE // 2 :: TARGET_STRIDE, TARGET_STRIDE // 2 :: TARGET_STRIDE
        ]
        table = replace(table, masks=masks.contiguous())
        losses: dict[str, Tensor] = {}
        for i, part in enumerate(parts):
            for name, value in self._terms(part, table, pairs[i], things[i]).items():
                value = value * any_thing
                losses[name] = losses[name] + value if name in losses else value
        return losses

    def _decoder_parts(
        self, output: Any, table: ObjectTable, text_mask: Tensor | None
    ) -> list[_Part]:
        parts = []
        last = len(output.layers) - 1
        for i, layer in enumerate(output.layers):
            name = f"thing layer {i}"
            foreground = _foreground(layer, output.num_background)
            require_finite_prediction(foreground, text_mask, name)
            parts.append(
                _Part(
                    prediction=foreground,
                    matching=_match_things(foreground, table),
                    positive_map=table.positive_map,
                    text_mask=text_mask,
                    suffix="" if i == last else f"_{i}",
                    name=name,
                    first_query=output.num_background,
                    with_quality=layer.iou_logits is not None and (self.final_quality or i != last),
                )
            )
        return parts

    def _proposal_part(self, output: Any, table: ObjectTable) -> _Part:
        proposals = output.proposals
        name = "the thing proposals"
        require_finite_prediction(proposals, None, name)
        alike = torch.ones(len(table), 1, dtype=torch.bool, device=table.boxes.device)
        pairs = []
        for image in range(table.num_images):
            rows = table.rows(image)
            cost = matching_cost(
                proposals.token_logits[image],
                proposals.boxes[image],
                table.boxes[rows],
                alike[rows],
                self.proposal_costs,
            )
            query, chosen = assign(cost, f"matching cost of {name}")
            pairs.append((query, rows.start + chosen))
        return _Part(
            prediction=proposals,
            matching=Matching.join(pairs),
            positive_map=alike,
            text_mask=None,
            suffix="_enc",
            name=name,
            with_masks=False,
        )

    def _denoising_parts(
        self, output: Any, table: ObjectTable, text_mask: Tensor | None
    ) -> list[_Part]:
        if output.denoising is None:
            return []
        matching = denoising_matching(output.denoising_layout, table)
        parts = []
        last = len(output.denoising) - 1
        for i, layer in enumerate(output.denoising):
            name = f"thing denoising layer {i}"
            require_finite_prediction(layer, text_mask, name)
            suffix = "" if i == last else f"_{i}"
            parts.append(_Part(layer, matching, table.positive_map, text_mask, suffix, name))
        return parts

    def _normalizers(self, parts: list[_Part], table: ObjectTable) -> tuple[Tensor, Tensor, Tensor]:
        """One over the pairs and over the thing pairs of every part; 1 if there is a thing."""
        pairs = torch.tensor([float(len(p.matching)) for p in parts], device=table.boxes.device)
        things = torch.stack([table.is_thing[p.matching.row].sum().float() for p in parts])
        counts = torch.cat([pairs, things, table.is_thing.sum().float()[None]])
        if self.average_normalizers:
            counts = average_over_processes(counts)
        inverse = torch.where(counts > 0, 1 / counts.clamp(min=1e-6), 0.0)
        return inverse[: len(parts)], inverse[len(parts) : -1], (counts[-1] > 0).float()

    def _terms(
        self, part: _Part, table: ObjectTable, per_pair: Tensor, per_thing: Tensor
    ) -> dict[str, Tensor]:
        prediction, matching, weights = part.prediction, part.matching, self.weights
        words = class_sum(prediction.token_logits, matching, part.positive_map, part.text_mask)
        is_thing = table.is_thing[matching.row]
        distance, apart = box_sums(prediction.boxes, matching, table, counted=is_thing)
        terms = {
            "loss_ce": words * weights.class_ * per_pair,
            "loss_bbox": distance * weights.box * per_thing,
            "loss_giou": apart * weights.giou * per_thing,
        }
        if part.with_quality:
            quality = quality_sum(prediction.iou_logits, prediction.boxes, matching, table)
            terms["loss_boxiou"] = quality * weights.quality * per_thing
        if part.with_masks:
            pointwise, dice = mask_sums(
                prediction,
                matching,
                table.masks,
                num_points=self.num_points,
                pointwise=focal,
                first_query=part.first_query,
                name=f"masks of {part.name}",
            )
            terms["loss_mask"] = pointwise * weights.mask * per_pair
            terms["loss_dice"] = dice * weights.dice * per_pair
        return {name + part.suffix: value for name, value in terms.items()}


def _foreground(layer: LayerPrediction, num_background: int) -> LayerPrediction:
    quality = layer.iou_logits
    return replace(
        layer,
        token_logits=layer.token_logits[:, num_background:],
        boxes=layer.boxes[:, num_background:],
        iou_logits=None if quality is None else quality[:, num_background:],
    )


def _match_things(layer: LayerPrediction, table: ObjectTable) -> Matching:
    pairs = []
    for image in range(table.num_images):
        rows = table.rows(image)
        things = table.is_thing[rows].nonzero().flatten() + rows.start
        query, chosen = sim_ota(
            layer.token_logits[image],
            layer.boxes[image],
            table.boxes[things],
            table.positive_map[things],
        )
        pairs.append((query, things[chosen]))
    return Matching.join(pairs)
