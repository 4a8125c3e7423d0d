"""The networks' own numbers, before anything is chosen, merged or thresholded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hipie.modeling.criterion.predictions import LayerPrediction


@dataclass(frozen=True)
class RawBranch:
    """What the last layer of one branch says of Q queries.

    Attributes:
        token_logits: [B, Q, T] one logit a token; T is 1 for an expression.
        boxes: [B, Q, 4] cxcywh in 0..1: of the image for things, of the canvas for stuff.
        mask_logits: [B, M, h, w] at a quarter of the canvas, of all queries or of those asked for.
        references: [B, Q, 4] the boxes that the decoder started from, as `boxes`.
        proposals: [B, Q] the position each query came from, counted as the branch's decoder
            flattens its levels: from stride 8 on for things, from stride 64 on for stuff.
        iou_logits: [B, Q, 1] predicted quality of the boxes; things only.
    """

    token_logits: Tensor
    boxes: Tensor
    mask_logits: Tensor
    references: Tensor
    proposals: Tensor
    iou_logits: Tensor | None = None


@dataclass(frozen=True)
class RawPredictions:
    """Both branches' numbers for B images, or B (image, expression) pairs in order.

    Attributes:
        things: of the matching queries; background queries are left out.
        stuff: of the stuff queries.
        fused_text: [B, T, C] words after they have seen the pixels; T counts the unpadded caption,
            start and end markers included.
        encoder_memory: [B, S, C] the thing encoder's result, from stride 8 on.
    """

    things: RawBranch
    stuff: RawBranch
    fused_text: Tensor
    encoder_memory: Tensor


def raw_branch(
    last: LayerPrediction,
    *,
    first_query: int,
    references: Tensor,
    proposals: Tensor,
    masks_of: Sequence[int] | Tensor | None,
) -> RawBranch:
    """Gather a branch's numbers.

    Args:
        last: the prediction of its last layer.
        first_query: how many queries at the start are left out.
        references: [B, N, 4] of all queries.
        proposals: [B, Q].
        masks_of: which queries' masks are made (0 = the first that is not left out); None = all.

    Raises:
        ValueError: if a query is asked for that does not exist.
    """
    logits = last.token_logits[:, first_query:]
    count = logits.shape[1]
    wanted = torch.arange(count) if masks_of is None else torch.as_tensor(masks_of).long()
    if len(wanted) and not 0 <= int(wanted.min()) <= int(wanted.max()) < count:
        raise ValueError(f"masks of query {int(wanted.max())} asked for; there are {count}")
    wanted = wanted.to(logits.device)
    rows = torch.arange(len(logits), device=logits.device)
    masks = last.masks(
        rows.repeat_interleave(len(wanted)), (wanted + first_query).repeat(len(rows))
    )
    return RawBranch(
        token_logits=logits,
        boxes=last.boxes[:, first_query:],
        mask_logits=masks.unflatten(0, (len(rows), len(wanted))),
        references=references[:, first_query:],
        proposals=proposals,
        iou_logits=None if last.iou_logits is None else last.iou_logits[:, first_query:],
    )


TokenSpans = tuple[tuple[int, ...], ...]


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
        index = torch.as_tensor(rows, dtype=torch.long, device=self.hidden.device)
        return TextFeatures(
            self.hidden[index],
            self.mask[index],
            self.input_ids[index],
            tuple(self.token_spans[row] for row in index.tolist()),
        )

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
