"""Tensors that are passed between the modules of a model.

Shapes: B images or (image, expression) pairs, N queries of a layer, Q matching queries, M objects
of a batch, K classes, T tokens, C channels, L feature levels, S tokens of all levels, H x W pixels
of the padded canvas. Boxes are (centre x, centre y, width, height) in 0..1 of the unpadded image
for things and of the padded canvas for stuff.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
TokenSpans = tuple[tuple[int, ...], ...]
CROWD, UNLABELLED = 1, 2
"""Values of ignored pixels in ground truth, see `IgnoredPixels`."""
MASK, BOX, POINTS, SCRIBBLE = 0, 1, 2, 3
"""What is annotated of an object, see `Supervision`."""
COLOR_STRIDE = 4
"""Pixels of an image's side that have one colour in `Supervision`, that of mask predictions."""


@dataclass(frozen=True)
class FeatureLevels:
    """L feature maps of B images, flattened and concatenated to S = sum of areas tokens.

    Attributes:
        tokens: [B, S, C].
        position_embeddings: [B, S, C], added to queries and keys.
        padding_mask: [B, S] bool, True where padded.
        spatial_shapes: [L, 2] int64 (height, width).
        level_start_index: [L] int64, the first token of every level.
        valid_ratios: [B, L, 2] share of every level's canvas that an image covers, (x, y).
        sizes: (height, width) of every level as Python numbers.
    """

    tokens: Tensor
    position_embeddings: Tensor
    padding_mask: Tensor
    spatial_shapes: Tensor
    level_start_index: Tensor
    valid_ratios: Tensor
    sizes: tuple[Size, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def select(self, image_index: Tensor) -> FeatureLevels:
        """Features of the images [n], repeated as often as an image is named."""
        return replace(
            self,
            tokens=self.tokens[image_index],
            position_embeddings=self.position_embeddings[image_index],
            padding_mask=self.padding_mask[image_index],
            valid_ratios=self.valid_ratios[image_index],
        )

    def with_tokens(self, tokens: Tensor) -> FeatureLevels:
        """The same levels with other tokens [B, S, C]."""
        return replace(self, tokens=tokens)

    def to_maps(self) -> list[Tensor]:
        """Tokens as L maps [B, C, h, w]."""
        levels = self.tokens.split([h * w for h, w in self.sizes], dim=1)
        return [
            level.transpose(1, 2).unflatten(2, size)
            for level, size in zip(levels, self.sizes, strict=True)
        ]

    def valid_size(self, level: int) -> Tensor:
        """[B, 2] pixels (width, height) of a level's canvas that every image covers."""
        height, width = self.sizes[level]
        share_x, share_y = self.valid_ratios[:, level].unbind(-1)
        return torch.stack([share_x * width, share_y * height], dim=-1)

    def reference_points(self) -> Tensor:
        """[B, S, L, 2] pixel centre (x, y) of every token in 0..1 of each level's canvas."""
        points = []
        for level, (height, width) in enumerate(self.sizes):
            y, x = torch.meshgrid(
                torch.arange(height, device=self.tokens.device) + 0.5,
                torch.arange(width, device=self.tokens.device) + 0.5,
                indexing="ij",
            )
            grid = torch.stack([x, y], dim=-1).view(1, -1, 2)
            points.append(grid / self.valid_size(level)[:, None])
        return torch.cat(points, dim=1)[:, :, None] * self.valid_ratios[:, None]


@dataclass(frozen=True)
class DenoisingLayout:
    """Order of the noised copies of objects among the denoising queries.

    Copy `g` of object `i` is query `g * group_size + i`; where `negatives` is true its negative
    follows `max_objects` later. Images with fewer objects leave their queries unused; of an image
    with more, the first `max_objects` are used.
    """

    num_groups: int
    max_objects: int
    negatives: bool

    @property
    def group_size(self) -> int:
        """Queries of one group."""
        return self.max_objects * (2 if self.negatives else 1)

    @property
    def num_queries(self) -> int:
        """Queries of all groups."""
        return self.num_groups * self.group_size


@dataclass(frozen=True)
class LayerOutput:
    """Predictions of one decoder layer (or of the two-stage proposals) for N queries.

    Attributes:
        boxes: [B, N, 4] cxcywh in 0..1.
        logits: [B, N, T] one logit a token; T is 1 for a pooled expression or a class-agnostic
            proposal. None as long as no text was given.
        class_embeddings: [B, N, C] query features that the class head compares with text; kept
            where text comes later.
        mask_embeddings: [B, N, C] query features that the mask head reads; None = no masks.
        mask_centers: [B, N, 2] (x, y) in pixels of the input that masks are relative to, for mask
            heads that use coordinates.
        iou_logits: [B, N, 1] predicted IoU of the boxes before the sigmoid, or None.
    """

    boxes: Tensor
    logits: Tensor | None = None
    class_embeddings: Tensor | None = None
    mask_embeddings: Tensor | None = None
    mask_centers: Tensor | None = None
    iou_logits: Tensor | None = None

    def select_queries(self, queries: slice) -> LayerOutput:
        """Predictions of a range of the queries."""
        return self._indexed(lambda tensor: tensor[:, queries])

    def select_images(self, image_index: Tensor) -> LayerOutput:
        """Predictions of the images [n], repeated as often as an image is named."""
        return self._indexed(lambda tensor: tensor[image_index])

    def of_image(self, image: int) -> LayerOutput:
        """Predictions of one image, B = 1."""
        return self._indexed(lambda tensor: tensor[image : image + 1])

    def _indexed(self, index: Callable[[Tensor], Tensor]) -> LayerOutput:
        def optional(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else index(tensor)

        return LayerOutput(
            boxes=index(self.boxes),
            logits=optional(self.logits),
            class_embeddings=optional(self.class_embeddings),
            mask_embeddings=optional(self.mask_embeddings),
            mask_centers=optional(self.mask_centers),
            iou_logits=optional(self.iou_logits),
        )

    def require_logits(self) -> Tensor:
        """Return the class logits.

        Raises:
            ValueError: if the layer has none.
        """
        if self.logits is None:
            raise ValueError("a layer has no class logits: it was computed without text")
        return self.logits


@dataclass(frozen=True)
class DecoderOutput:
    """Output of one decoder (things or stuff) for B images.

    Attributes:
        layers: one entry a supervised layer in order; at inference only the last.
        mask_features: B tensors [C, h, w] that the mask head combines with mask embeddings.
        references: [B, Q, 4] boxes that entered the first layer.
        proposal_index: [B, Q] token that every matching query came from, counted in the order of
            the decoder's levels: from stride 8 for things, from stride 64 for stuff.
        proposals: of the two-stage head; None outside training for things.
        denoising: as `layers`, for the denoising queries; empty without denoising.
        denoising_layout: their order, or None.
    """

    layers: tuple[LayerOutput, ...]
    mask_features: tuple[Tensor, ...]
    references: Tensor
    proposal_index: Tensor
    proposals: LayerOutput | None = None
    denoising: tuple[LayerOutput, ...] = ()
    denoising_layout: DenoisingLayout | None = None

    def of_image(self, image: int, mask_head: MaskHead) -> ImageQueries:
        """Predictions of the last layer for one image (or pair)."""
        return ImageQueries(
            self.layers[-1].of_image(image), mask_head, self.mask_features[image : image + 1]
        )

    def select_images(self, image_index: Tensor) -> DecoderOutput:
        """Output for the images [n], repeated as often as an image is named; no denoising."""
        return DecoderOutput(
            layers=tuple(layer.select_images(image_index) for layer in self.layers),
            mask_features=tuple(self.mask_features[i] for i in image_index.tolist()),
            references=self.references[image_index],
            proposal_index=self.proposal_index[image_index],
            proposals=self.proposals and self.proposals.select_images(image_index),
        )


class MaskHead(Protocol):
    """Computes masks of chosen queries, so that all masks need never exist at once."""

    def logits(
        self,
        layer: LayerOutput,
        mask_features: Sequence[Tensor],
        image_index: Tensor,
        query_index: Tensor,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Mask logits of n queries.

        Args:
            layer: with `mask_embeddings` (and `mask_centers` where the head uses coordinates).
            mask_features: B tensors [C, h, w].
            image_index: [n] int64.
            query_index: [n] int64.
            counts: queries of every image, where they are ordered by image; None = they are
                counted, for which the host waits.

        Returns:
            [n, H / 4, W / 4].
        """
        ...

    def logits_at_points(
        self, layers: Sequence[LayerOutput], mask_features: Tensor, image: int, points: Tensor
    ) -> Iterator[Tensor]:
        """Mask logits of all queries of one image at shared points, layer by layer.

        Args:
            layers: L layers, as for `logits`.
            mask_features: [C, h, w] of the image.
            image: its index in the batch.
            points: [P, 2] (x, y) in 0..1 of the canvas.

        Yields:
            L times [N, P] float32.
        """
        ...


@dataclass(frozen=True)
class MaskContext:
    """The mask head of a decoder with the features it needs.

    Attributes:
        head: computes masks of chosen queries.
        features: B tensors [C, h, w].
        frames: for every image the part of the canvas (x, y) that points in 0..1 span on the ground
            truth; None = all of it. Used in matching only.
    """

    head: MaskHead
    features: tuple[Tensor, ...]
    frames: tuple[tuple[float, float], ...] | None = None


@dataclass(frozen=True)
class ImageQueries:
    """Predictions of one decoder layer for the Q queries of one image.

    Attributes:
        layer: with B = 1.
        mask_head: of the decoder.
        mask_features: one tensor [C, h, w].
    """

    layer: LayerOutput
    mask_head: MaskHead
    mask_features: tuple[Tensor, ...]

    @property
    def token_logits(self) -> Tensor:
        """[Q, T] one logit a token.

        Raises:
            ValueError: if the layer was not classified with text.
        """
        if self.layer.logits is None:
            raise ValueError("these queries have no logits, since no text was given")
        return self.layer.logits[0]

    @property
    def iou_logits(self) -> Tensor | None:
        """[Q, 1] predicted IoU before the sigmoid; None if the decoder does not predict it."""
        return None if self.layer.iou_logits is None else self.layer.iou_logits[0]

    def masks(self, query_index: Tensor) -> Tensor:
        """Mask logits of selected queries [n] -> [n, h, w] float32 at a quarter of the canvas."""
        image_index = torch.zeros_like(query_index)
        masks = self.mask_head.logits(
            self.layer, self.mask_features, image_index, query_index, [len(query_index)]
        )
        return masks.float()


@dataclass(frozen=True)
class ImageFeatures:
    """Features of B images before any text: computed once, used with many prompts.

    Attributes:
        image_sizes: (height, width) of each unpadded image as the model reads it.
        canvas_size: (H, W) they are padded to.
        things: projected levels of the thing encoder, from stride 8 on.
        stuff: output of the stuff decoder without class logits (late fusion: text is read by its
            class head only); None if the model has no such decoder or it was not requested.
        stuff_inputs: feature maps [B, C_i, h_i, w_i] of the backbone for a stuff decoder with early
            fusion, which runs when there is text; () otherwise.
        pixels: B tensors [C, h, w] at stride 8 of the pixel class head; () without one.
    """

    image_sizes: tuple[Size, ...]
    canvas_size: Size
    things: FeatureLevels
    stuff: DecoderOutput | None = None
    stuff_inputs: tuple[Tensor, ...] = ()
    pixels: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.image_sizes)

    def select(self, image_index: Sequence[int]) -> ImageFeatures:
        """Features of some of the images, repeated as often as an image is named."""
        index = torch.as_tensor(image_index, dtype=torch.long, device=self.things.tokens.device)
        return ImageFeatures(
            image_sizes=tuple(self.image_sizes[i] for i in index.tolist()),
            canvas_size=self.canvas_size,
            things=self.things.select(index),
            stuff=self.stuff and self.stuff.select_images(index),
            stuff_inputs=tuple(features[index] for features in self.stuff_inputs),
            pixels=tuple(self.pixels[i] for i in index.tolist()) if self.pixels else (),
        )


@dataclass(frozen=True)
class InferenceSize:
    """Sizes that determine the memory of inference on a batch.

    Attributes:
        canvas_size: (H, W) of the padded images, after the resize.
        num_images: B.
        output_pixels: number of pixels of all results together.
        channels: C, feature channels of the model.
        num_classes: K of the largest vocabulary with a semantic map; 0 without maps.
        output_size: (height, width) of the largest result, which is that of the image before the
            resize.
    """

    canvas_size: Size
    num_images: int
    output_pixels: int
    channels: int
    num_classes: int
    output_size: Size


@dataclass(frozen=True)
class SemanticLabels:
    """Best class of every pixel of a semantic map, for results that need no other scores.

    Attributes:
        labels: [H, W] int64.
        scores: [H, W] score of that class.
        totals: [H, W] sum of the scores of all classes.
    """

    labels: Tensor
    scores: Tensor
    totals: Tensor

    def shares(self) -> Tensor:
        """[H, W] share of the best class in the scores of all classes, 0..1."""
        return self.scores / self.totals.clamp(min=torch.finfo(self.totals.dtype).tiny)

    def cpu(self) -> SemanticLabels:
        """The same on the host."""
        return SemanticLabels(self.labels.cpu(), self.scores.cpu(), self.totals.cpu())

    def argmax(self, dim: int = 0) -> Tensor:
        """The labels, as `argmax(dim=0)` of all scores [K, H, W] gives them."""
        if dim != 0:
            raise ValueError(f"the classes are dimension 0, not {dim}")
        return self.labels


@dataclass(frozen=True)
class HIPIEOutput:
    """Outputs of both decoders of HIPIE before postprocessing.

    Attributes:
        things: of the thing decoder.
        stuff: of the stuff decoder, if there is one and a vocabulary was given.
        image_sizes: (height, width) of each unpadded image.
        token_spans: per image K tuples, the tokens of each class.
        fused_text: [B, T, C] text features after early fusion.
        encoder_memory: [B, S, C] output of the thing encoder, from stride 8 on.
        pixel_logits: B tensors [K + 1, h, w] of the pixel class head at stride 8, the last class is
            none of the vocabulary; () without such a head.
    """

    things: DecoderOutput
    stuff: DecoderOutput | None
    image_sizes: tuple[Size, ...]
    token_spans: tuple[TokenSpans, ...]
    fused_text: Tensor
    encoder_memory: Tensor
    pixel_logits: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class RawBranch:
    """Predictions of the last layer of one decoder for Q queries.

    Attributes:
        token_logits: [B, Q, T] one logit a token; T is 1 for an expression.
        boxes: [B, Q, 4] cxcywh in 0..1: of the image for things, of the canvas for stuff.
        mask_logits: [B, M, h, w] at a quarter of the canvas, of all queries or of those requested.
        references: [B, Q, 4] the boxes that entered the decoder, as `boxes`.
        proposals: [B, Q] token that each query came from, counted as the decoder flattens its
            levels: from stride 8 on for things, from stride 64 on for stuff.
        iou_logits: [B, Q, 1] predicted IoU of the boxes before the sigmoid; things only.
    """

    token_logits: Tensor
    boxes: Tensor
    mask_logits: Tensor
    references: Tensor
    proposals: Tensor
    iou_logits: Tensor | None = None


@dataclass(frozen=True)
class RawPredictions:
    """Network outputs for B images, or for B (image, expression) pairs in order.

    Attributes:
        things: of the matching queries; background queries are left out.
        stuff: of the stuff queries.
        fused_text: [B, T, C] text features after early fusion; T counts the unpadded caption, start
            and end markers included.
        encoder_memory: [B, S, C] output of the thing encoder, from stride 8 on.
    """

    things: RawBranch
    stuff: RawBranch
    fused_text: Tensor
    encoder_memory: Tensor


@dataclass(frozen=True)
class Supervision:
    """What is annotated of N objects of one image, or of the M objects of B images.

    Of a `MASK` all is annotated, of a `BOX` the box, of `POINTS` the box and some pixels, of a
    `SCRIBBLE` some pixels. What is not annotated gives no loss: masks of the others are filled
    boxes, and the box of a scribble is the extent of its pixels, for matching only.

    Attributes:
        kinds: [N] int64, `MASK`, `BOX`, `POINTS` or `SCRIBBLE`.
        scores: [N] float32 in 0..1, confidence of the annotation and weight of its losses.
        points: [N, P, 2] annotated points, (x, y) in 0..1 of the padded canvas.
        point_labels: [N, P] int64, 1 = on the object, 0 = not, -1 = there is no such point.
        similarity: [8, h, w] in 0..1, of a batch [B, 8, h, w]: similarity of the colours of pixels
            and their neighbours (`color_similarity`) on the canvas with the stride `COLOR_STRIDE`;
            h = w = 0 without objects of the kind `BOX`.
    """

    kinds: Tensor
    scores: Tensor
    points: Tensor
    point_labels: Tensor
    similarity: Tensor

    @classmethod
    def concatenate(cls, targets: Sequence[Targets]) -> Supervision | None:
        """Supervision of a batch; None if all objects of all images have masks."""
        parts = [target.supervision for target in targets]
        if all(part is None for part in parts):
            return None
        complete = [
            part or cls.of_masks(len(target), target.boxes)
            for part, target in zip(parts, targets, strict=True)
        ]
        most = max(part.points.shape[1] for part in complete)
        height, width = max(part.similarity.shape[1:] for part in complete)
        points, labels, similarity = [], [], []
        for part in complete:
            missing = most - part.points.shape[1]
            points.append(F.pad(part.points, (0, 0, 0, missing)))
            labels.append(F.pad(part.point_labels, (0, missing), value=-1))
            edges = part.similarity
            similarity.append(edges if edges.numel() else edges.new_zeros(8, height, width))
        return cls(
            torch.cat([part.kinds for part in complete]),
            torch.cat([part.scores for part in complete]),
            torch.cat(points),
            torch.cat(labels),
            torch.stack(similarity),
        )

    @classmethod
    def of_masks(cls, count: int, like: Tensor) -> Supervision:
        """Supervision of objects with masks, on the device of a float tensor."""
        return cls(
            like.new_full((count,), MASK, dtype=torch.long),
            like.new_ones(count),
            like.new_zeros(count, 0, 2),
            like.new_zeros((count, 0), dtype=torch.long),
            like.new_zeros(8, 0, 0),
        )

    def select(self, index: Tensor) -> Supervision:
        """Some of the objects, by a mask of bool or by index."""
        return replace(
            self,
            kinds=self.kinds[index],
            scores=self.scores[index],
            points=self.points[index],
            point_labels=self.point_labels[index],
        )

    @cached_property
    def has_box(self) -> Tensor:
        """[N] bool, whether the box is annotated."""
        return self.kinds != SCRIBBLE

    @cached_property
    def has_mask(self) -> Tensor:
        """[N] bool, whether the whole mask is annotated."""
        return self.kinds == MASK


@dataclass(frozen=True)
class Tags:
    """Classes of an image whose objects are not annotated.

    Attributes:
        positive_map: [C, T] bool, the tokens of each class that the image shows.
        is_thing: [C] bool.
        absent_tokens: [T] bool, tokens that name no object of the image.
    """

    positive_map: Tensor
    is_thing: Tensor
    absent_tokens: Tensor


@dataclass(frozen=True)
class Targets:
    """N ground-truth objects of one image (or of one expression).

    Attributes:
        labels: [N] int64, index of the class in the vocabulary (0 for an expression).
        boxes: [N, 4] cxcywh in 0..1 of the unpadded image.
        masks: [N, H, W] bool on the padded canvas.
        is_thing: [N] bool.
        positive_map: [N, T] bool, the tokens that name the object ([N, 1] for an expression).
        image_size: (height, width) of the unpadded image in pixels.
        ignored: [H, W] uint8 on the padded canvas: `UNLABELLED`, `CROWD`, or 0; None = all 0.
        supervision: what of the objects is annotated; None = everything.
        tags: of an image without annotated objects; None = all objects are annotated.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor
    is_thing: Tensor
    positive_map: Tensor
    image_size: Size
    ignored: Tensor | None = None
    supervision: Supervision | None = None
    tags: Tags | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def without_things(self) -> Targets:
        """The same with its objects that are no things."""
        kept = ~self.is_thing
        return replace(
            self,
            labels=self.labels[kept],
            boxes=self.boxes[kept],
            masks=self.masks[kept],
            is_thing=self.is_thing[kept],
            positive_map=self.positive_map[kept],
            supervision=self.supervision and self.supervision.select(kept),
        )

    def boxes_on_canvas(self) -> Tensor:
        """[N, 4] cxcywh in 0..1 of the padded canvas, the frame of the stuff decoder."""
        height, width = self.image_size
        canvas_height, canvas_width = self.masks.shape[-2:]
        x, y, w, h = self.boxes.unbind(-1)
        across, down = width / canvas_width, height / canvas_height
        return torch.stack([x * across, y * down, w * across, h * down], dim=-1)


@dataclass(frozen=True)
class IgnoredPixels:
    """Pixels of B images that give no loss.

    Attributes:
        values: [B, H, W] uint8: `UNLABELLED` (no loss at all), `CROWD` (no class loss, since its
            objects are not annotated one by one), or 0.
        frames: [B, 2] part of the canvas (x, y) that the boxes of the decoder span.
    """

    values: Tensor
    frames: Tensor

    @classmethod
    def of_targets(cls, targets: Sequence[Targets], *, on_canvas: bool) -> IgnoredPixels | None:
        """Ignored pixels of a batch; None if no image has any map of them."""
        maps = [target.ignored for target in targets]
        if all(ignored is None for ignored in maps):
            return None
        values, frames = [], []
        for target, ignored in zip(targets, maps, strict=True):
            canvas, (height, width) = target.masks.shape[-2:], target.image_size
            none = target.masks.new_zeros(canvas, dtype=torch.uint8)
            values.append(none if ignored is None else ignored)
            frames.append((1.0, 1.0) if on_canvas else (width / canvas[1], height / canvas[0]))
        stacked = torch.stack(values)
        return cls(stacked, torch.tensor(frames).to(stacked.device, non_blocking=True))

    def strided(self, offset: int, stride: int) -> IgnoredPixels:
        """Every `stride`-th pixel."""
        return replace(self, values=self.values[:, offset::stride, offset::stride].contiguous())

    @cached_property
    def unlabelled(self) -> Tensor:
        """[B, H, W] bool, pixels that give no mask loss."""
        return self.values == UNLABELLED


@dataclass(frozen=True)
class BatchedTargets:
    """M ground-truth objects of B images, concatenated so that losses index instead of looping.

    Attributes:
        boxes: [M, 4] cxcywh, float32, in the frame of the decoder.
        is_thing: [M] bool.
        positive_map: [M, T] bool.
        masks: [M, H, W] bool.
        starts: index of the first object of each image, and M: B + 1 numbers.
        ignored: pixels without ground truth; None = every pixel has one.
        supervision: what of the objects is annotated; None = everything.
        tags: of the images without annotated objects, None for the others.
    """

    boxes: Tensor
    is_thing: Tensor
    positive_map: Tensor
    masks: Tensor
    starts: tuple[int, ...]
    ignored: IgnoredPixels | None = None
    supervision: Supervision | None = None
    tags: tuple[Tags | None, ...] = ()

    @classmethod
    def concatenate(cls, targets: Sequence[Targets], *, on_canvas: bool = False) -> BatchedTargets:
        """Concatenate the targets of a batch.

        Args:
            targets: one an image, at least one.
            on_canvas: boxes in 0..1 of the padded canvas instead of the unpadded image.
        """
        boxes = [t.boxes_on_canvas() if on_canvas else t.boxes for t in targets]
        starts = [0]
        for image_boxes in boxes:
            starts.append(starts[-1] + len(image_boxes))
        return cls(
            boxes=torch.cat(boxes).float(),
            is_thing=torch.cat([t.is_thing for t in targets]),
            positive_map=torch.cat([t.positive_map for t in targets]),
            masks=torch.cat([t.masks for t in targets]),
            starts=tuple(starts),
            ignored=IgnoredPixels.of_targets(targets, on_canvas=on_canvas),
            supervision=Supervision.concatenate(targets),
            tags=tuple(target.tags for target in targets),
        )

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def num_images(self) -> int:
        """B."""
        return len(self.starts) - 1

    @property
    def has_tags(self) -> bool:
        """Whether the objects of any image are not annotated."""
        return any(tags is not None for tags in self.tags)

    def of_image(self, image: int) -> slice:
        """Target indices of one image's objects."""
        return slice(self.starts[image], self.starts[image + 1])


@dataclass(frozen=True)
class TextFeatures:
    """Token features of B captions, padded to the longest one.

    Attributes:
        hidden: [B, T, C] one vector a token, zero where padded.
        mask: [B, T] bool, True for real tokens (start and end tokens included).
        input_ids: [B, T] int64.
        token_spans: B times K tuples of token positions, one tuple a class.
    """

    hidden: Tensor
    mask: Tensor
    input_ids: Tensor
    token_spans: tuple[TokenSpans, ...]

    def __len__(self) -> int:
        return len(self.hidden)

    def pooled(self) -> Tensor:
        """[B, 1, C] mean over all real tokens, start and end tokens included."""
        weight = self.mask.unsqueeze(-1).to(self.hidden.dtype)
        return (self.hidden * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)

    def with_hidden(self, hidden: Tensor) -> TextFeatures:
        """The same captions with other features [B, T, C'], such as fused ones."""
        return replace(self, hidden=hidden)

    def select(self, rows: Sequence[int] | Tensor) -> TextFeatures:
        """Captions by index, in the given order; indices may repeat."""
        index = torch.as_tensor(rows, dtype=torch.long)
        spans = tuple(self.token_spans[row] for row in index.tolist())
        index = index.to(self.hidden.device, non_blocking=True)
        return TextFeatures(self.hidden[index], self.mask[index], self.input_ids[index], spans)

    def expand(self, size: int) -> TextFeatures:
        """Repeat a single caption for `size` images without copying its features.

        Raises:
            ValueError: if there is not exactly one caption.
        """
        if len(self) != 1:
            raise ValueError(f"only a single caption can be expanded, not {len(self)}")
        return TextFeatures(
            self.hidden.expand(size, -1, -1),
            self.mask.expand(size, -1),
            self.input_ids.expand(size, -1),
            self.token_spans * size,
        )
