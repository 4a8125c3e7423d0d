"""Export of GRSer: a group of images of the configured size and an expression to mask logits."""

from __future__ import annotations

import copy

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.export import Dim

from grser.meta_arch import GRSer
from grser.modeling.lavt import upsample
from grser.modeling.text import NUM_MARKERS
from hipie.errors import InputError, UnsupportedError
from hipie.export.text_network import tokenizer_description
from hipie.export.traceable import ExportRequest, TraceableNetwork
from hipie.modeling.meta_arch.base import SegmentationModel


class GRSerNetwork(nn.Module):
    """GRSer for a group of N images and one expression.

    Args:
        model: in evaluation mode; it is copied.
    """

    def __init__(self, model: GRSer) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        del self.model.criterion

    def forward(self, images: Tensor, ids: Tensor, anti_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mask logits and the distances that reject images.

        Args:
            images: [N, 3, S, S] float32, 0..255, in the model's channel order.
            ids: [1, T] int64, token ids of the expression, start and end tokens included.
            anti_ids: [1, T'] int64, likewise of the anti-expression.

        Returns:
            `logits` [N, S, S] of the target; and `distances` [N, 2] to the expression and to the
            anti-expression, 0 for a model without rejection.
        """
        model = self.model
        pixels = (images - model.pixel_mean) / model.pixel_std
        tokens, expression = self._encode(ids)
        _, anti_expression = self._encode(anti_ids)
        count = len(images)
        mask = torch.ones_like(ids, dtype=torch.bool).expand(count, -1)
        features = model.lavt.encoder(pixels, tokens.expand(count, -1, -1), mask)
        distances = pixels.new_zeros(count, 2)
        if model.triphasic_head is None:
            logits = model.lavt.decoder(features)
        else:
            triphasic = model.triphasic_head(
                features[model.feature_level], expression[0], anti_expression[0]
            )
            logits = model._decode(features, triphasic.z)
            if model.rejection_head is not None:
                both = model.rejection_head(triphasic.z, expression, anti_expression)
                distances = torch.stack(both, dim=1)
        full = upsample(logits, tuple(pixels.shape[-2:]))
        return full[:, 1] - full[:, 0], distances

    def _encode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Features of tokens [1, T, W], and pooled [1, W]."""
        encoder = self.model.text_encoder
        mask = torch.ones_like(ids)
        hidden = encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return hidden, encoder._pool(hidden, mask.bool())


def grser_networks(
    model: SegmentationModel, cfg: CfgNode, request: ExportRequest
) -> dict[str, TraceableNetwork]:
    """Build the network of a GRSer, of which size and number of the images are fixed."""
    assert isinstance(model, GRSer)
    if request.vocabulary is not None:
        raise InputError("GRSer is exported with the expression as an input: leave class names out")
    side, encoder = cfg.INPUT.SQUARE_SIZE, model.text_encoder
    if not side or model.precision != "float32":
        raise UnsupportedError("GRSer is exported in float32, with INPUT.SQUARE_SIZE")
    count = request.num_images or cfg.MODEL.GRSER.GROUP_SIZE
    config = model.inference_config
    rejects = model.rejection_head is not None and config.reject_negatives
    description = {
        **tokenizer_description(encoder),
        "window": encoder.max_expression_tokens + NUM_MARKERS,
        "task": "group",
        "cleaned": False,
        "anti_prefix": encoder.anti_prefix,
        "num_images": count,
        "square_size": side,
        "format": cfg.INPUT.FORMAT,
        "margin": config.margin if rejects else None,
    }
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "images": torch.rand(count, 3, side, side, generator=generator) * 255,
        "ids": torch.arange(100, 107)[None],
        "anti_ids": torch.arange(100, 110)[None],
    }
    tokens = Dim("tokens", min=3, max=encoder.window)
    anti_tokens = Dim("anti_tokens", min=3, max=encoder.window)
    dynamic = {"images": None, "ids": {1: tokens}, "anti_ids": {1: anti_tokens}}
    network = GRSerNetwork(model).eval()
    return {"": TraceableNetwork(network, inputs, ("logits", "distances"), description, dynamic)}
