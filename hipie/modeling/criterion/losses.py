"""Loss functions, and the loss terms that criteria compute for a matched layer.

A loss term is an entry of `LOSS_REGISTRY`: a `LossTerm` that declares its name, the key of its
weight, its group and its function. A term from another package is one file and two configuration
keys::

    @LOSS_REGISTRY.register_term("center", weight_key="CENTER", group="box")
    def center_loss(matched: MatchedLayer) -> Tensor | None:
        boxes, targets = matched.paired_boxes
        return (boxes[:, :2] - targets[:, :2]).abs().sum()

with `MODEL.HIPIE.LOSS.THING_TERMS` naming `center_loss` and, unless 1 is right,
`MODEL.HIPIE.LOSS.THING_WEIGHTS` holding `CENTER`. It then appears as `loss_center` with the
suffixes of all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import torch
import torch.nn.functional as F
from fvcore.common.registry import Registry
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from hipie.box_ops import box_cxcywh_to_xyxy, box_iou, generalized_box_iou
from hipie.modeling.criterion.ignored_pixels import (
    MAX_IGNORED_SHARE,
    ignored_share,
    labelled_points,
)
from hipie.modeling.criterion.point_sampling import (
    point_sample,
    point_sample_masks,
    uncertain_points,
)
from hipie.modeling.matcher.matching import Matching
from hipie.structures import BatchedTargets, LayerOutput, MaskContext

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
LOG_EPSILON = 1e-8
LABEL_SHARE = 0.95
"""Share of the label in the target of `bootstrapped_cross_entropy`."""
WEAK_TERMS, TAG_TERM = ("projection_loss", "pairwise_loss", "point_loss"), "tag_loss"
"""Terms of objects without masks and of images without objects, where a batch has any."""


@dataclass(frozen=True)
class WeakLossSettings:
    """Constants of the losses of objects without masks; the defaults are those of BoxInst.

    Attributes:
        projection: weight of the projection loss, as a multiple of that of the dice loss.
        pairwise: likewise of the pairwise loss.
        color_threshold: similarity of two colours, in 0..1, from which on their pixels are to be in
            the same mask.
        warmup: iterations in which the weight of the pairwise loss rises from 0 to 1.
    """

    projection: float = 1.0
    pairwise: float = 1.0
    color_threshold: float = 0.3
    warmup: int = 10_000


WEAK_LOSSES = WeakLossSettings()


# Functions ----------------------------------------------------------------------------------


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary focal loss (Lin et al., ICCV 2017) of every element: alpha 0.25, gamma 2.

    Args:
        logits: any shape.
        targets: 0..1, same shape.

    Returns:
        Same shape, float32.
    """
    return sigmoid_focal_loss(
        logits.float(), targets.float(), FOCAL_ALPHA, FOCAL_GAMMA, reduction="none"
    )


def token_focal(
    logits: Tensor, positive: Tensor, text_mask: Tensor | None, weights: Tensor | None = None
) -> Tensor:
    """Sum of the focal loss over all queries and all real tokens.

    Args:
        logits: [B, Q, T].
        positive: [B, Q, T] bool, the tokens that name the query's object.
        text_mask: [B, T] bool, True for real tokens; None: all are real.
        weights: [B, Q] of the queries; None: all are 1.
    """
    if text_mask is None:
        losses = focal(logits, positive)
    else:
        real = text_mask.bool()[:, None, :]
        losses = focal(logits.masked_fill(~real, 0.0), positive) * real
    return (losses if weights is None else losses * weights[:, :, None]).sum()


def focal_class_cost(logits: Tensor, positive_map: Tensor) -> Tensor:
    """Focal matching cost of the classes of queries and objects.

    The focal loss as a positive minus the focal loss as a negative, averaged over the object's
    tokens; 0 for an object whose name is not in the caption.

    Args:
        logits: [Q, T].
        positive_map: [N, T] bool.

    Returns:
        [Q, N] float32.
    """
    with torch.autocast(logits.device.type, enabled=False):
        probability = logits.float().sigmoid()
        negative_cost = (
            (1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * -(1 - probability + LOG_EPSILON).log()
        )
        positive_cost = (
            FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * -(probability + LOG_EPSILON).log()
        )
        share = positive_map.float()
        share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
        return (positive_cost - negative_cost) @ share.T


def bootstrapped_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy with the target 0.95 t + 0.05 p, p being the prediction.

    Soft bootstrapping (Reed et al., "Training deep neural networks on noisy labels with
    bootstrapping", ICLR 2015 workshop, equation 6). The gradient flows through the target as well,
    so that the share of p lowers the entropy of predictions, whatever their labels are.

    Args:
        logits: any shape.
        targets: 0..1, same shape.

    Returns:
        Same shape, float32.
    """
    logits = logits.float()
    mixed = LABEL_SHARE * targets + (1 - LABEL_SHARE) * logits.sigmoid()
    return F.binary_cross_entropy_with_logits(logits, mixed, reduction="none")


def dice(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Dice loss (Milletari et al., 3DV 2016), 1 - (2 p.g + 1) / (sum p + sum g + 1) of each row.

    Args:
        logits: [n, P].
        targets: [n, P] in 0..1.
        weights: [n, P] of the points, 0 or 1; None: all are 1.

    Returns:
        [n].
    """
    probability = logits.float().sigmoid()
    targets = targets.float()
    if weights is not None:
        probability, targets = probability * weights, targets * weights
    intersection = (probability * targets).sum(dim=1)
    return 1 - (2 * intersection + 1) / (probability.sum(dim=1) + targets.sum(dim=1) + 1)


def pairwise_dice(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Dice loss of every row of `logits` [Q, P] with every row of `targets` [N, P] -> [Q, N].

    Points with the weight 0 in `weights` [P] (0 or 1) do not count.
    """
    with torch.autocast(logits.device.type, enabled=False):
        probability = logits.float().sigmoid()
        targets = targets.float()
        if weights is not None:
            probability, targets = probability * weights, targets * weights
        intersection = probability @ targets.T
        total = probability.sum(dim=1)[:, None] + targets.sum(dim=1)
        return 1 - (2 * intersection + 1) / (total + 1)


def pairwise_cross_entropy(
    logits: Tensor, targets: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean binary cross entropy of rows [Q, P] against rows [N, P] of 0..1 -> [Q, N].

    Points with the weight 0 in `weights` [P] (0 or 1) do not count.

    Since BCE(x, t) = softplus(x) - x t, one matrix product suffices; softplus(x) is computed as
    max(x, 0) - log sigmoid(|x|), which is several times faster on a CPU than the library's and
    exact enough for a cost.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        base = logits.clamp(min=0) - logits.abs().sigmoid().log()
        if weights is None:
            return (base.sum(dim=1)[:, None] - logits @ targets.float().T) / logits.shape[1]
        products = (logits * weights) @ targets.float().T
        return ((base * weights).sum(dim=1)[:, None] - products) / weights.sum().clamp(min=1)


# Terms --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MatchedLayer:
    """A supervised layer with its matching: the input of a loss term.

    Attributes:
        layer: predictions of B images.
        matching: n pairs.
        targets: objects of the batch; `masks` may be at another resolution than the images.
        positive_map: [M, T] bool, the tokens that name each object.
        text_mask: [B, T] bool, True for real tokens; None = all are real.
        has_box: [n] bool, the pairs whose box counts; None = all.
        masks: mask head and features; None = the layer has no mask losses.
        supervise_iou: whether the layer has an IoU loss.
        num_points: points a mask.
        weak: constants of the losses of objects without masks.
        things_only: whether tags of stuff are no positives.
    """

    layer: LayerOutput
    matching: Matching
    targets: BatchedTargets
    positive_map: Tensor
    text_mask: Tensor | None = None
    has_box: Tensor | None = None
    masks: MaskContext | None = None
    supervise_iou: bool = False
    num_points: int = 12544
    weak: WeakLossSettings = WEAK_LOSSES
    things_only: bool = False

    @cached_property
    def scores(self) -> Tensor | None:
        """[n] confidences of the pairs' annotations, weights of their losses; None = all are 1."""
        supervision = self.targets.supervision
        return None if supervision is None else supervision.scores[self.matching.target_index]

    @cached_property
    def with_mask(self) -> MatchedLayer:
        """The pairs whose objects have masks; the layer itself if all have."""
        supervision = self.targets.supervision
        if supervision is None:
            return self
        return self.select(supervision.has_mask[self.matching.target_index])

    def select(self, pairs: Tensor) -> MatchedLayer:
        """Some of the pairs, by [n] bool."""
        has_box = None if self.has_box is None else self.has_box[pairs]
        return replace(self, matching=self.matching.select(pairs), has_box=has_box)

    @cached_property
    def paired_boxes(self) -> tuple[Tensor, Tensor]:
        """Predicted and ground-truth boxes [n, 4] cxcywh of the pairs, float32."""
        matching = self.matching
        boxes = self.layer.boxes.float()[matching.image_index, matching.query_index]
        return boxes, self.targets.boxes[matching.target_index]

    @property
    def paired_points(self) -> tuple[Tensor, Tensor] | None:
        """Mask logits and ground truth [n, P] of the pairs at points (see `uncertain_points`).

        None if the layer has no mask losses. Masks of matched queries only are computed.
        """
        sampled = self._sampled_masks
        return None if sampled is None else sampled[:2]

    @cached_property
    def point_weights(self) -> Tensor | None:
        """[n, P], 0 at unlabelled points of `paired_points` and 1 elsewhere; None = all are 1."""
        sampled, ignored = self._sampled_masks, self.targets.ignored
        if sampled is None or ignored is None:
            return None
        return labelled_points(ignored, self.matching.image_index, sampled[2])

    @property
    def annotated_tokens(self) -> Tensor | None:
        """[B, T] bool, real tokens of images whose objects are annotated; None = all are."""
        if not self.targets.has_tags:
            return self.text_mask
        logits = self.layer.require_logits()
        annotated = torch.tensor([tags is None for tags in self.targets.tags], device=logits.device)
        annotated = annotated[:, None].expand(-1, logits.shape[2])
        return annotated if self.text_mask is None else annotated & self.text_mask.bool()

    @cached_property
    def query_weights(self) -> Tensor | None:
        """[B, Q], 0 for queries without object whose box is mostly ignored, else 1 or the score.

        Queries of an object have the score of its annotation. None = all are 1.
        """
        if self.targets.ignored is None and self.scores is None:
            return None
        weights = self.layer.boxes.new_ones(self.layer.boxes.shape[:2], dtype=torch.float32)
        if self.targets.ignored is not None:
            share = ignored_share(self.targets.ignored, self.layer.boxes.detach())
            weights = (share <= MAX_IGNORED_SHARE).float()
        scores = 1.0 if self.scores is None else self.scores
        weights[self.matching.image_index, self.matching.query_index] = scores
        return weights

    @cached_property
    def _sampled_masks(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Mask logits and ground truth [n, P], and the points [n, P, 2]."""
        if self.masks is None:
            return None
        matching = self.matching
        masks = self.masks.head.logits(
            self.layer,
            self.masks.features,
            matching.image_index,
            matching.query_index,
            matching.counts,
        ).float()
        points = uncertain_points(masks, self.num_points)
        logits = point_sample(masks, points)
        targets = point_sample_masks(self.targets.masks, self.matching.target_index, points)
        return logits, targets, points

    def sum_over_boxes(self, values: Tensor) -> Tensor:
        """Sum of one value [n] a pair over the pairs whose box counts."""
        supervision = self.targets.supervision
        if supervision is not None:
            index = self.matching.target_index
            values = values * supervision.has_box[index] * supervision.scores[index]
        return (values if self.has_box is None else values * self.has_box).sum()

    def zero_of_masks(self, masks: MaskContext) -> Tensor:
        """Sum over the masks of no query: 0, with zero gradients in the mask head."""
        none = self.matching.query_index[:0]
        counts = [0] * len(masks.features)
        return masks.head.logits(self.layer, masks.features, none, none, counts).float().sum()


LossFunction = Callable[[MatchedLayer], "Tensor | None"]


@dataclass(frozen=True)
class LossTerm:
    """A loss term of a matched layer.

    Attributes:
        name: the loss is logged as `loss_<name>` with the suffix of the layer.
        weight_key: leaf of `MODEL.HIPIE.LOSS.THING_WEIGHTS` and `STUFF_WEIGHTS` with its weight;
            1 where the configuration has no such key.
        group: "ce", "box", "mask" or another: the group under which the progress line sums it.
            Terms of the group "tag" are divided by the number of images. Terms of the thing
            criterion in the group "box" are divided by the number of pairs that are things, all
            others by the number of pairs.
        function: sum of the loss over the pairs of a layer, or None if the layer does not have it.
    """

    name: str
    weight_key: str
    group: str
    function: LossFunction

    def __call__(self, matched: MatchedLayer) -> Tensor | None:
        """Compute the term."""
        return self.function(matched)


class LossRegistry(Registry):
    """Loss terms by the name of their function."""

    def register_term(
        self, name: str, *, weight_key: str, group: str
    ) -> Callable[[LossFunction], LossFunction]:
        """Decorator that registers a function as a `LossTerm` under the function's own name.

        Args:
            name: the loss is logged as `loss_<name>`.
            weight_key: see `LossTerm`.
            group: see `LossTerm`.
        """

        def register(function: LossFunction) -> LossFunction:
            self._do_register(function.__name__, LossTerm(name, weight_key, group, function))
            return function

        return register

    def group_of(self, name: str) -> str | None:
        """Group of the loss terms with this name, or None for an unknown name."""
        return next((term.group for _, term in self if term.name == name), None)


LOSS_REGISTRY = LossRegistry("LOSS")


@LOSS_REGISTRY.register_term("ce", weight_key="CLASS", group="ce")
def class_loss(matched: MatchedLayer) -> Tensor:
    """Token focal loss of all queries; the positives of a matched query are its object's tokens."""
    logits, matching = matched.layer.require_logits(), matched.matching
    text_mask = matched.annotated_tokens
    positive = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    positive[matching.image_index, matching.query_index] = matched.positive_map[
        matching.target_index
    ]
    return token_focal(logits, positive, text_mask, matched.query_weights)


@LOSS_REGISTRY.register_term("token", weight_key="TOKEN", group="ce")
def token_softmax_loss(matched: MatchedLayer) -> Tensor:
    """Cross entropy of the pairs' tokens, a further class loss (MDETR, Kamath et al., ICCV 2021).

    The softmax is over the real tokens of the caption, and its target is uniform over those that
    name the pair's object: MDETR's soft token prediction. It compares the classes of one query with
    each other, which the focal loss of `class_loss` does not. The key of its weight is `TOKEN`; the
    weight is 1 where the configuration has no such key.
    """
    logits, matching = matched.layer.require_logits(), matched.matching
    logits = logits[matching.image_index, matching.query_index].float()
    if matched.text_mask is not None:
        real = matched.text_mask.bool()[matching.image_index]
        logits = logits.masked_fill(~real, torch.finfo(torch.float32).min)
    target = matched.positive_map[matching.target_index].float()
    target = target / target.sum(dim=1, keepdim=True).clamp(min=1)
    losses = -(target * logits.log_softmax(dim=1)).sum(dim=1)
    return (losses if matched.scores is None else losses * matched.scores).sum()


@LOSS_REGISTRY.register_term("bbox", weight_key="BOX", group="box")
def box_l1_loss(matched: MatchedLayer) -> Tensor:
    """L1 distance of the pairs' boxes."""
    boxes, targets = matched.paired_boxes
    return matched.sum_over_boxes((boxes - targets).abs().sum(dim=1))


@LOSS_REGISTRY.register_term("giou", weight_key="GIOU", group="box")
def giou_loss(matched: MatchedLayer) -> Tensor:
    """1 - GIoU of the pairs' boxes."""
    boxes, targets = (box_cxcywh_to_xyxy(boxes) for boxes in matched.paired_boxes)
    return matched.sum_over_boxes(1 - generalized_box_iou(boxes, targets))


@LOSS_REGISTRY.register_term("boxiou", weight_key="IOU", group="box")
def iou_loss(matched: MatchedLayer) -> Tensor | None:
    """Binary cross entropy of the predicted IoU against that of the pair; none for the boxes."""
    if not matched.supervise_iou or matched.layer.iou_logits is None:
        return None
    boxes, targets = (box_cxcywh_to_xyxy(boxes.detach()) for boxes in matched.paired_boxes)
    iou = box_iou(boxes, targets).clamp(0, 1)
    matching = matched.matching
    logits = matched.layer.iou_logits.float()[matching.image_index, matching.query_index, 0]
    supervision = matched.targets.supervision
    if supervision is None:
        return F.binary_cross_entropy_with_logits(logits, iou, reduction="sum")
    index = matching.target_index
    weights = supervision.has_box[index] * supervision.scores[index]
    return F.binary_cross_entropy_with_logits(logits, iou, weights, reduction="sum")


@LOSS_REGISTRY.register_term("mask", weight_key="MASK", group="mask")
def mask_focal_loss(matched: MatchedLayer) -> Tensor | None:
    """Mean focal loss over the points of each pair's mask."""
    return _mask_loss(matched, _mean_focal)


@LOSS_REGISTRY.register_term("mask", weight_key="MASK", group="mask")
def mask_cross_entropy_loss(matched: MatchedLayer) -> Tensor | None:
    """Mean binary cross entropy over the points of each pair's mask."""
    return _mask_loss(matched, _mean_cross_entropy)


@LOSS_REGISTRY.register_term("mask", weight_key="MASK", group="mask")
def mask_bootstrapped_loss(matched: MatchedLayer) -> Tensor | None:
    """Mean bootstrapped cross entropy over the points of each pair's mask, for noisy masks."""
    return _mask_loss(matched, _mean_bootstrapped)


@LOSS_REGISTRY.register_term("dice", weight_key="DICE", group="mask")
def mask_dice_loss(matched: MatchedLayer) -> Tensor | None:
    """Dice loss over the points of each pair's mask."""
    return _mask_loss(matched, dice)


def _mask_loss(
    matched: MatchedLayer, per_pair: Callable[[Tensor, Tensor, Tensor | None], Tensor]
) -> Tensor | None:
    matched = matched.with_mask
    if matched.masks is not None and len(matched.matching) == 0:
        return matched.zero_of_masks(matched.masks)
    points = matched.paired_points
    if points is None:
        return None
    losses = per_pair(*points, matched.point_weights)
    return (losses if matched.scores is None else losses * matched.scores).sum()


def _mean_focal(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    return _mean_over_points(focal(logits, targets), weights)


def _mean_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return _mean_over_points(losses, weights)


def _mean_bootstrapped(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    return _mean_over_points(bootstrapped_cross_entropy(logits, targets), weights)


def _mean_over_points(losses: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return losses.mean(dim=1)
    return (losses * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


@dataclass(frozen=True)
class LossConfig:
    """Loss terms of a criterion and their weights.

    Attributes:
        terms: names of `LOSS_REGISTRY`.
        weights: by weight key.
        num_points: points a mask.
        weak: constants of the losses of objects without masks.
    """

    terms: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    num_points: int = 12544
    weak: WeakLossSettings = WEAK_LOSSES

    def compute(self, matched: MatchedLayer) -> dict[LossTerm, Tensor]:
        """Weighted sums over the pairs of a layer, of all terms that it has."""
        losses = {}
        weak = () if matched.targets.supervision is None else WEAK_TERMS
        weak = (*weak, TAG_TERM) if matched.targets.has_tags else weak
        for key in (*self.terms, *weak):
            term: LossTerm = LOSS_REGISTRY.get(key)
            value = term(matched)
            if value is not None:
                losses[term] = value * self.weights.get(term.weight_key, 1.0)
        return losses


THING_LOSSES = LossConfig(
    terms=(
        "class_loss",
        "box_l1_loss",
        "giou_loss",
        "iou_loss",
        "mask_focal_loss",
        "mask_dice_loss",
    ),
    weights={"CLASS": 2.0, "BOX": 5.0, "GIOU": 2.0, "IOU": 1.0, "MASK": 5.0, "DICE": 5.0},
)
STUFF_LOSSES = LossConfig(
    terms=("class_loss", "mask_cross_entropy_loss", "mask_dice_loss", "box_l1_loss", "giou_loss"),
    weights={"CLASS": 4.0, "BOX": 5.0, "GIOU": 2.0, "MASK": 5.0, "DICE": 5.0},
)
