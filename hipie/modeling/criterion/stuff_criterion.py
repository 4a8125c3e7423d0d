"""Criterion of the stuff decoder (MaskDINO, Li et al., CVPR 2023, with text as classes)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from detectron2.config import CfgNode, configurable
from torch import Tensor

from hipie.errors import InputError
from hipie.modeling.criterion.build import CRITERION_REGISTRY, Criterion
from hipie.modeling.criterion.checks import FiniteChecks, check_annotations, invalidate
from hipie.modeling.criterion.losses import STUFF_LOSSES, LossConfig, MatchedLayer
from hipie.modeling.criterion.normalizer_averaging import average_over_processes, share_of_batch
from hipie.modeling.criterion.point_sampling import IMPORTANCE_RATIO
from hipie.modeling.criterion.weak_losses import weak_loss_settings
from hipie.modeling.device_transfer import HostSteps, join
from hipie.modeling.matcher.hungarian import CostWeights, HungarianMatcher
from hipie.modeling.matcher.matching import (
    Matcher,
    Matching,
    build_matcher,
    denoising_matching,
    match_layers,
)
from hipie.structures import (
    BatchedTargets,
    DecoderOutput,
    LayerOutput,
    MaskContext,
    MaskHead,
    Targets,
)


@CRITERION_REGISTRY.register()
class StuffCriterion(Criterion):
    """Weighted losses of the stuff decoder: one query for every object, things and stuff alike.

    All losses are divided by the number of objects, averaged over processes, so all processes have
    to call the criterion together. As published, the average counts as 1 at least.

    Args:
        num_points: points at which masks are compared, in losses and in matching.
        losses: terms and weights; its number of points is replaced by `num_points`.
        matcher: by default Hungarian, with the loss weights as costs.
        average_normalizers: the number of objects of all processes together counts as 1 at least,
            not their average, so that gradients do not depend on the number of processes.
        stuff_boxes: boxes of stuff count, too (published). If not, they give no loss, and their
            matching cost is the mean of the things'.
        official_frames: the decoder takes no padding mask, so its boxes are those of the padded
            canvas. The published system trains it on boxes of the unpadded image all the same, and
            in the matching stretches the ground-truth masks from the image over the canvas. True
            reproduces that; where nothing is padded it makes no difference.
    """

    @configurable
    def __init__(
        self,
        num_points: int = 12544,
        *,
        losses: LossConfig = STUFF_LOSSES,
        matcher: Matcher | None = None,
        average_normalizers: bool = False,
        stuff_boxes: bool = True,
        official_frames: bool = False,
    ) -> None:
        super().__init__()
        if int(IMPORTANCE_RATIO * num_points) < 1:
            raise InputError(f"mask losses need at least 2 points, not {num_points}")
        self.losses = replace(losses, num_points=num_points)
        self.average_normalizers = average_normalizers
        self.stuff_boxes = stuff_boxes
        self.official_frames = official_frames
        self.matcher = matcher or HungarianMatcher(
            _costs(losses), num_points, stuff_boxes=stuff_boxes
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.HIPIE.LOSS` and `MODEL.HIPIE.STUFF.BOX_LOSS`."""
        loss = cfg.MODEL.HIPIE.LOSS
        return {
            "num_points": loss.NUM_POINTS,
            "losses": LossConfig(
                tuple(loss.STUFF_TERMS), dict(loss.STUFF_WEIGHTS), weak=weak_loss_settings(cfg)
            ),
            "matcher": build_matcher(loss.STUFF_MATCHER, cfg),
            "average_normalizers": loss.AVERAGE_NORMALIZERS,
            "stuff_boxes": cfg.MODEL.HIPIE.STUFF.BOX_LOSS,
            "official_frames": loss.OFFICIAL_BOX_FRAMES,
        }

    def steps(
        self,
        output: DecoderOutput,
        targets: Sequence[Targets],
        mask_head: MaskHead,
        text_mask: Tensor | None = None,
    ) -> HostSteps[dict[str, Tensor]]:
        """Compute all losses, see `Criterion.steps`.

        Args:
            output: of the stuff decoder, with all layers and proposals.
            targets: one an image.
            mask_head: of the stuff decoder.
            text_mask: [B, T] bool, True for real tokens; None: all are real.

        Returns:
            Scalars by name: `loss_{ce, mask, dice, bbox, giou}_maskdino` of the last layer, with
            `_{i}` before `_maskdino` for the others, `_interm` for the proposals, and `_dn`,
            `_dn_{i}` for denoising. All are nan if a prediction is nan or infinite, which is
            logged.

        Raises:
            ValueError: if there are no proposals, or a box of an object is not finite.
        """
        if output.proposals is None:
            raise ValueError("the stuff criterion needs the proposals of a training forward pass")
        objects = BatchedTargets.concatenate(targets, on_canvas=not self.official_frames)
        frames = tuple(map(_frame, targets)) if self.official_frames else None
        masks = MaskContext(mask_head, output.mask_features, frames)
        count = objects.boxes.new_full((), float(len(objects)))
        at_least = share_of_batch() if self.average_normalizers else 1
        per_object = 1 / average_over_processes(count).clamp(min=at_least)
        supervised = [
            (suffix, layer, f"stuff layer {i}")
            for i, (suffix, layer) in enumerate(_suffixes(output.layers, ""))
        ]
        supervised.append(("_interm", output.proposals, "the stuff proposals"))
        checks = FiniteChecks()
        padded = None if text_mask is None else ~text_mask.bool()[:, None]
        for _, layer, name in supervised:
            checks.add_layer(layer, padded, name)
        for i, layer in enumerate(output.denoising):
            checks.add_layer(layer, padded, f"stuff denoising layer {i}")
        (matchings, finite), predictions_finite, _ = yield from join(
            match_layers(
                self.matcher,
                [layer for _, layer, _ in supervised],
                objects,
                masks,
                [name for _, _, name in supervised],
            ),
            checks.run(),
            check_annotations(objects),
        )
        losses: dict[str, Tensor] = {}
        for (suffix, layer, _), matching in zip(supervised, matchings, strict=True):
            matched = self._matched(layer, matching, objects, masks, text_mask)
            losses.update(self._compute(matched, suffix, per_object))
        if output.denoising_layout is not None:
            matching = denoising_matching(output.denoising_layout, objects)
            per_copy = per_object / output.denoising_layout.num_groups
            for suffix, layer in _suffixes(output.denoising, "_dn"):
                matched = self._matched(layer, matching, objects, masks, text_mask)
                losses.update(self._compute(matched, suffix, per_copy))
        return losses if finite and predictions_finite else invalidate(losses)

    def _matched(
        self,
        layer: LayerOutput,
        matching: Matching,
        objects: BatchedTargets,
        masks: MaskContext,
        text_mask: Tensor | None,
    ) -> MatchedLayer:
        return self.matched_layer(
            layer=layer,
            matching=matching,
            targets=objects,
            positive_map=objects.positive_map,
            text_mask=text_mask,
            has_box=None if self.stuff_boxes else objects.is_thing[matching.target_index],
            masks=masks,
            num_points=self.losses.num_points,
            weak=self.losses.weak,
        )

    def _compute(self, matched: MatchedLayer, suffix: str, normalizer: Tensor) -> dict[str, Tensor]:
        per_image = 1 / matched.targets.num_images
        return {
            f"loss_{term.name}{suffix}_maskdino": (
                value * (per_image if term.group == "tag" else normalizer)
            )
            for term, value in self.losses.compute(matched).items()
        }


def _frame(target: Targets) -> tuple[float, float]:
    """Part of the canvas (x, y) that the image covers."""
    height, width = target.image_size
    canvas_height, canvas_width = target.masks.shape[-2:]
    return width / canvas_width, height / canvas_height


def _suffixes(layers: Sequence[LayerOutput], start: str) -> list[tuple[str, LayerOutput]]:
    last = len(layers) - 1
    return [(start if i == last else f"{start}_{i}", layer) for i, layer in enumerate(layers)]


def _costs(losses: LossConfig) -> CostWeights:
    """Matching costs that equal the loss weights."""
    weights = losses.weights
    return CostWeights(
        weights["CLASS"], weights["BOX"], weights["GIOU"], weights["MASK"], weights["DICE"]
    )
