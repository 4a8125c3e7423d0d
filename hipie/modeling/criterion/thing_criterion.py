"""Criterion of the thing decoder (HIPIE, after DINO and UNINEXT)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from hipie.errors import InputError
from hipie.modeling.criterion.build import CRITERION_REGISTRY, Criterion
from hipie.modeling.criterion.checks import FiniteChecks, check_annotations, invalidate
from hipie.modeling.criterion.losses import THING_LOSSES, LossConfig, MatchedLayer
from hipie.modeling.criterion.normalizer_averaging import average_over_processes
from hipie.modeling.criterion.point_sampling import IMPORTANCE_RATIO
from hipie.modeling.criterion.weak_losses import weak_loss_settings
from hipie.modeling.device_transfer import HostSteps, join, to_device
from hipie.modeling.matcher.hungarian import CostWeights, HungarianMatcher
from hipie.modeling.matcher.matching import (
    Matcher,
    Matching,
    build_matcher,
    denoising_matching,
    match_layers,
)
from hipie.modeling.matcher.sim_ota import SimOTAMatcher
from hipie.structures import (
    BatchedTargets,
    DecoderOutput,
    LayerOutput,
    MaskContext,
    MaskHead,
    Targets,
)

TARGET_STRIDE = 4
PUBLISHED_PROPOSAL_COSTS = CostWeights()


@CRITERION_REGISTRY.register()
class ThingCriterion(Criterion):
    """Weighted losses of the thing decoder.

    Decoder layers are matched to the things, by SimOTA unless another matcher is given; denoising
    queries and the encoder's proposals (Hungarian, all objects of one class) learn from stuff too,
    except for its boxes. A batch without a single thing gives zeros, see
    `learn_from_empty_batches`.

    Losses of a layer are divided by its number of pairs, box losses by the pairs that are things.
    These counts are of this process alone, as published, unless `average_normalizers` is on: then
    several processes with shares of a batch have the gradients of one process with all of it
    (provided that denoising has the same layout in all of them), and all of them have to call the
    criterion together.

    Args:
        num_points: points at which mask losses are computed.
        losses: terms and weights; its number of points is replaced by `num_points`.
        matcher: of the decoder layers; by default SimOTA.
        proposal_costs: of the Hungarian matching of the encoder's proposals.
        average_normalizers: see above.
        supervise_last_iou: also supervise the IoU head of the last layer, which inference reads.
            The published system does not.
        learn_from_empty_batches: in a batch without any object, of all processes with
            `average_normalizers`, all queries learn that they are no object, as if every image (or
            expression) had one pair. As published such a batch gives zeros, since every expression
            has a target there.
    """

    @configurable
    def __init__(
        self,
        num_points: int = 12544,
        *,
        losses: LossConfig = THING_LOSSES,
        matcher: Matcher | None = None,
        proposal_costs: CostWeights = PUBLISHED_PROPOSAL_COSTS,
        average_normalizers: bool = False,
        supervise_last_iou: bool = False,
        learn_from_empty_batches: bool = False,
    ) -> None:
        super().__init__()
        if int(IMPORTANCE_RATIO * num_points) < 1:
            raise InputError(f"mask losses need at least 2 points, not {num_points}")
        self.losses = replace(losses, num_points=num_points)
        self.matcher = matcher or SimOTAMatcher()
        self.average_normalizers = average_normalizers
        self.supervise_last_iou = supervise_last_iou
        self.learn_from_empty_batches = learn_from_empty_batches
        self.proposal_matcher = HungarianMatcher(proposal_costs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.HIPIE.LOSS` and `INPUT.GENERALIZED_EXPRESSIONS`."""
        loss = cfg.MODEL.HIPIE.LOSS
        return {
            "num_points": loss.NUM_POINTS,
            "losses": LossConfig(
                tuple(loss.THING_TERMS), dict(loss.THING_WEIGHTS), weak=weak_loss_settings(cfg)
            ),
            "matcher": build_matcher(loss.THING_MATCHER, cfg, "THING"),
            "proposal_costs": CostWeights(
                loss.PROPOSAL_COSTS.CLASS, loss.PROPOSAL_COSTS.BOX, loss.PROPOSAL_COSTS.GIOU
            ),
            "average_normalizers": loss.AVERAGE_NORMALIZERS,
            "supervise_last_iou": loss.SUPERVISE_LAST_IOU,
            "learn_from_empty_batches": cfg.INPUT.GENERALIZED_EXPRESSIONS,
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
            output: of the thing decoder, with proposals.
            targets: one an image (or expression).
            mask_head: of the thing decoder.
            text_mask: [B, T] bool, True for real tokens; None: all are real.

        Returns:
            Scalars by name: `loss_ce`, `loss_bbox`, `loss_giou`, `loss_boxiou`, `loss_mask`,
            `loss_dice` of the last layer, the same with `_0`, `_1`, ... of the others, and `_enc`
            of the proposals. Denoising adds to the losses of the same layer. All are nan if a
            prediction is nan or infinite, which is logged.

        Raises:
            ValueError: if there are no proposals, or a box of an object is not finite.
        """
        if output.proposals is None:
            raise ValueError("the thing criterion needs the proposals of a training forward pass")
        objects = BatchedTargets.concatenate(targets)
        masks = MaskContext(mask_head, output.mask_features)
        matchings, finite = yield from self._match(output, objects, masks, text_mask)
        matched = self._matched_layers(output, objects, masks, text_mask, matchings)
        copies = 1 if output.denoising_layout is None else output.denoising_layout.num_groups
        per_pair, per_thing, any_thing = self._normalizers(
            [layer for _, layer in matched], objects, len(output.layers) + 1, copies
        )
        offset = TARGET_STRIDE // 2
        small_masks = objects.masks[:, offset::TARGET_STRIDE, offset::TARGET_STRIDE].contiguous()
        ignored = objects.ignored and objects.ignored.strided(offset, TARGET_STRIDE)
        small = replace(objects, masks=small_masks, ignored=ignored)
        losses: dict[str, Tensor] = {}
        for i, (suffix, layer) in enumerate(matched):
            terms = self.losses.compute(replace(layer, targets=small))
            for term, value in terms.items():
                normalizer = per_thing[i] if term.group == "box" else per_pair[i]
                name = f"loss_{term.name}{suffix}"
                if term.group == "tag":
                    value = value / len(targets)
                else:
                    value = value * normalizer * any_thing
                losses[name] = losses[name] + value if name in losses else value
        return losses if finite else invalidate(losses)

    def _match(
        self,
        output: DecoderOutput,
        objects: BatchedTargets,
        masks: MaskContext,
        text_mask: Tensor | None,
    ) -> HostSteps[tuple[list[Matching], bool]]:
        """Match the layers and the proposals, and check all predictions, by one transfer.

        Returns:
            Matchings of the layers, of the proposals and of the denoising queries (if there are
            any), and whether all predictions are finite.
        """
        assert output.proposals is not None  # checked by the caller
        names = [f"thing layer {i}" for i in range(len(output.layers))]
        checks = FiniteChecks()
        padded = None if text_mask is None else ~text_mask.bool()[:, None]
        for name, layer in zip(names, output.layers, strict=True):
            checks.add_layer(layer, padded, name)
        checks.add_layer(output.proposals, None, "the thing proposals")
        for i, layer in enumerate(output.denoising):
            checks.add_layer(layer, padded, f"thing denoising layer {i}")
        (matchings, finite), (proposals, proposals_finite), predictions_finite, _ = yield from join(
            match_layers(self.matcher, output.layers, objects, masks, names),
            match_layers(
                self.proposal_matcher,
                [output.proposals],
                replace(objects, positive_map=_one_class(objects)),
                None,
                ["the thing proposals"],
            ),
            checks.run(),
            check_annotations(objects),
        )
        matchings = [*matchings, *proposals]
        if output.denoising_layout is not None:
            matchings.append(denoising_matching(output.denoising_layout, objects))
        return matchings, finite and proposals_finite and predictions_finite

    def _matched_layers(
        self,
        output: DecoderOutput,
        objects: BatchedTargets,
        masks: MaskContext,
        text_mask: Tensor | None,
        matchings: Sequence[Matching],
    ) -> list[tuple[str, MatchedLayer]]:
        """Suffix and pairs of every layer: the decoder's, the proposals, denoising."""
        assert output.proposals is not None  # checked by the caller
        last = len(output.layers) - 1

        def matched(layer: LayerOutput, matching: Matching, **options: Any) -> MatchedLayer:
            return self.matched_layer(
                layer=layer,
                matching=matching,
                targets=objects,
                has_box=objects.is_thing[matching.target_index],
                num_points=self.losses.num_points,
                weak=self.losses.weak,
                things_only=True,
                **options,
            )

        options: dict[str, Any] = {
            "positive_map": objects.positive_map,
            "text_mask": text_mask,
            "masks": masks,
        }
        suffixes = ["" if i == last else f"_{i}" for i in range(last + 1)]
        layers = []
        for i, (suffix, layer) in enumerate(zip(suffixes, output.layers, strict=True)):
            supervise_iou = self.supervise_last_iou or i != last
            one = matched(layer, matchings[i], supervise_iou=supervise_iou, **options)
            layers.append((suffix, one))
        proposals = matched(output.proposals, matchings[last + 1], positive_map=_one_class(objects))
        layers.append(("_enc", proposals))
        for suffix, layer in zip(suffixes, output.denoising, strict=bool(output.denoising)):
            layers.append((suffix, matched(layer, matchings[-1], **options)))
        return layers

    def _normalizers(
        self,
        layers: Sequence[MatchedLayer],
        objects: BatchedTargets,
        num_matching: int,
        copies: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reciprocals of the pairs and of the thing pairs of every layer; 1 if there is a thing.

        Processes exchange counts of `num_matching` layers and of as many denoising layers but one,
        of which those that a process does not have are 0. Denoising pairs of one group are counted,
        since micro-batches may have been counted with another number of groups, `copies`.
        """
        device = objects.boxes.device
        pairs = to_device(torch.tensor([float(len(layer.matching)) for layer in layers]), device)
        things = torch.stack(
            [objects.is_thing[layer.matching.target_index].sum().float() for layer in layers]
        )
        num_layers = 2 * num_matching - 1
        missing = pairs.new_zeros(num_layers - len(layers))
        any_thing = objects.is_thing.sum().float()[None]
        groups = pairs.new_ones(num_layers)
        groups[num_matching:] = copies
        groups = torch.cat([groups, groups, pairs.new_ones(2)])
        images = pairs.new_full((1,), float(objects.num_images))
        counts = torch.cat([pairs, missing, things, missing, any_thing, images]) / groups
        if self.average_normalizers:
            counts = average_over_processes(counts)
        counts, images = (counts * groups).split([len(counts) - 1, 1])
        if self.learn_from_empty_batches:
            counts = torch.where(counts.sum() > 0, counts, images)
        inverse = torch.where(counts > 0, 1 / counts.clamp(min=1e-6), 0.0)
        return inverse[:num_layers], inverse[num_layers:-1], (counts[-1] > 0).float()


def _one_class(objects: BatchedTargets) -> Tensor:
    """[M, 1] positive map in which all objects have the class of the only logit."""
    return objects.is_thing.new_ones(len(objects), 1)
