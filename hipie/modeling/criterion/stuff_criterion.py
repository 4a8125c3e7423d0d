"""The losses of the stuff branch (MaskDINO, Li et al., CVPR 2023, with words as classes)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.modeling.criterion.batched_targets import ObjectTable
from hipie.modeling.criterion.checks import require_finite
from hipie.modeling.criterion.losses import (
    box_sums,
    class_sum,
    mask_sums,
    require_finite_prediction,
)
from hipie.modeling.criterion.normalizer_averaging import average_over_processes
from hipie.modeling.criterion.point_sampling import UNCERTAIN_SHARE, sample_objects
from hipie.modeling.criterion.predictions import LayerPrediction
from hipie.modeling.criterion.targets import Targets
from hipie.modeling.matcher.hungarian import CostWeights, assign, matching_cost
from hipie.modeling.matcher.matching import Matching, denoising_matching


@dataclass(frozen=True)
class StuffWeights:
    """What each term counts, as loss and as matching cost; the published numbers."""

    class_: float = 4.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 5.0
    dice: float = 5.0

    def costs(self) -> CostWeights:
        """The same numbers for the matching."""
        return CostWeights(self.class_, self.box, self.giou, self.mask, self.dice)


class StuffCriterion(nn.Module):
    """Weighted losses of a `StuffOutput`: one query for every object, things and stuff alike.

    All terms are divided by the number of objects, averaged
    over processes (at least 1), so all processes have to call the criterion together.

    Args:
        num_points: points at which masks are compared, in losses and in matching.
        weights: what each term counts.
        stuff_boxes: boxes of stuff count, too (published). If not, they give no loss, and their
            matching cost is the mean of the things'.
        published_frame: the branch sees no padding, so its boxes are those of the padded canvas.
            The published system trains it on boxes of the unpadded image all the same, and in the
            matching stretches the objects' masks from the image over the canvas. On does that,
            too; where nothing is padded it makes no difference.
    """

    def __init__(
        self,
        num_points: int = 12544,
        *,
        weights: StuffWeights | None = None,
        stuff_boxes: bool = True,
        published_frame: bool = False,
    ) -> None:
        super().__init__()
        if int(UNCERTAIN_SHARE * num_points) < 1:
            raise ValueError(f"mask losses need at least 2 points, not {num_points}")
        self.num_points = num_points
        self.weights = weights or StuffWeights()
        self.stuff_boxes = stuff_boxes
        self.published_frame = published_frame

    def forward(
        self, output: Any, targets: Sequence[Targets], text_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Scalars by name: `loss_{ce, mask, dice, bbox, giou}_maskdino` of the last layer, with
        `_{i}` before `_maskdino` for the others, `_interm` for the selected queries, and `_dn`,
        `_dn_{i}` for denoising.

        Args:
            output: has `layers`, `proposals`, `denoising`, `denoising_layout`.
            targets: one an image.
            text_mask: [B, T] bool, True for real tokens; None: all are real.

        Raises:
            NonFiniteError: if a prediction is nan or infinite.
        """
        table = ObjectTable.gather(targets, on_canvas=not self.published_frame)
        frames = [self._frame(target) for target in targets]
        count = torch.tensor(float(len(table)), device=table.boxes.device)
        per_object = 1 / average_over_processes(count).clamp(min=1)
        losses: dict[str, Tensor] = {}
        supervised = [
            (suffix, layer, f"stuff layer {i}")
            for i, (suffix, layer) in enumerate(_suffixes(output.layers, ""))
        ]
        supervised.append(("_interm", output.proposals, "the stuff proposals"))
        for suffix, layer, name in supervised:
            require_finite_prediction(layer, text_mask, name)
            matching = self._match(layer, table, frames, name)
            terms = self._terms(layer, matching, table, text_mask, suffix, name)
            losses.update({key: value * per_object for key, value in terms.items()})
        if output.denoising is None:
            return losses
        matching = denoising_matching(output.denoising_layout, table)
        per_copy = per_object / output.denoising_layout.num_groups
        for i, (suffix, layer) in enumerate(_suffixes(output.denoising, "_dn")):
            name = f"stuff denoising layer {i}"
            require_finite_prediction(layer, text_mask, name)
            terms = self._terms(layer, matching, table, text_mask, suffix, name)
            losses.update({key: value * per_copy for key, value in terms.items()})
        return losses

    def _frame(self, target: Targets) -> Tensor:
        """[2] what part of the canvas (x, y) the matching's points in 0..1 span on masks."""
        if not self.published_frame:
            return target.boxes.new_ones(2)
        height, width = target.image_size
        canvas_height, canvas_width = target.masks.shape[-2:]
        return target.boxes.new_tensor([width / canvas_width, height / canvas_height])

    @torch.no_grad()
    def _match(
        self, layer: LayerPrediction, table: ObjectTable, frames: list[Tensor], name: str
    ) -> Matching:
        pairs = []
        for image in range(table.num_images):
            rows = table.rows(image)
            points = torch.rand(1, self.num_points, 2, device=table.boxes.device)
            point_logits = layer.point_masks(image, points[0])
            require_finite(point_logits, f"masks of {name}")
            objects = torch.arange(rows.start, rows.stop, device=table.boxes.device)
            cost = matching_cost(
                layer.token_logits[image],
                layer.boxes[image],
                table.boxes[rows],
                table.positive_map[rows],
                self.weights.costs(),
                point_logits=point_logits,
                object_points=sample_objects(table.masks, objects, points * frames[image]),
                has_box=None if self.stuff_boxes else table.is_thing[rows],
            )
            query, chosen = assign(cost, f"matching cost of {name}")
            pairs.append((query, rows.start + chosen))
        return Matching.join(pairs)

    def _terms(
        self,
        layer: LayerPrediction,
        matching: Matching,
        table: ObjectTable,
        text_mask: Tensor | None,
        suffix: str,
        name: str,
    ) -> dict[str, Tensor]:
        words = class_sum(layer.token_logits, matching, table.positive_map, text_mask)
        counted = None if self.stuff_boxes else table.is_thing[matching.row]
        distance, apart = box_sums(layer.boxes, matching, table, counted)
        mask, dice = mask_sums(
            layer,
            matching,
            table.masks,
            num_points=self.num_points,
            pointwise=_cross_entropy,
            name=f"masks of {name}",
        )
        weights = self.weights
        terms = {
            "ce": words * weights.class_,
            "mask": mask * weights.mask,
            "dice": dice * weights.dice,
            "bbox": distance * weights.box,
            "giou": apart * weights.giou,
        }
        return {f"loss_{key}{suffix}_maskdino": value for key, value in terms.items()}


def _suffixes(layers: list[LayerPrediction], start: str) -> list[tuple[str, LayerPrediction]]:
    last = len(layers) - 1
    return [(start if i == last else f"{start}_{i}", layer) for i, layer in enumerate(layers)]


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
