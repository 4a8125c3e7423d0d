"""Export of ReferSAM: an image of the configured size and an expression to mask logits."""

from __future__ import annotations

import copy

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.export import Dim

from hipie.errors import InputError, UnsupportedError
from hipie.export.text_network import tokenizer_description
from hipie.export.traceable import ExportRequest, TraceableNetwork
from hipie.modeling.meta_arch.base import SegmentationModel
from refersam.meta_arch import ReferSAM
from refersam.postprocessing import REFERENCE_SIDE


class ReferSAMNetwork(nn.Module):
    """ReferSAM for one image and one expression.

    Args:
        model: in evaluation mode; it is copied.
    """

    def __init__(self, model: ReferSAM) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        del self.model.criterion

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        """Compute mask logits.

        Args:
            image: [3, S, S] float32, 0..255, in the model's channel order.
            ids: [1, T] int64, token ids, start and end tokens included.

        Returns:
            [S, S] float32.
        """
        model = self.model
        pixels = ((image - model.pixel_mean) / model.pixel_std)[None]
        text_mask = torch.ones_like(ids, dtype=torch.bool)
        text = model.text_encoder.encode_tokens(ids, text_mask)
        return model._segment(pixels, text, text_mask, None)[0][0]


def refersam_networks(
    model: SegmentationModel, cfg: CfgNode, request: ExportRequest
) -> dict[str, TraceableNetwork]:
    """Build the network of a ReferSAM, of which the size of the image is fixed."""
    assert isinstance(model, ReferSAM)
    if request.vocabulary is not None or request.num_images is not None:
        raise InputError(
            "ReferSAM is exported for one image, with the expression as an input: leave class "
            "names and the number of images out"
        )
    side = cfg.INPUT.SQUARE_SIZE
    if not side or model.precision != "float32":
        raise UnsupportedError("ReferSAM is exported in float32, with INPUT.SQUARE_SIZE")
    description = {
        **tokenizer_description(model.text_encoder),
        "task": "referring",
        "cleaned": True,
        "square_size": side,
        "format": cfg.INPUT.FORMAT,
        "no_target_pixels": model.no_target_pixels,
        "reference_side": REFERENCE_SIDE,
    }
    inputs = {
        "image": torch.rand(3, side, side, generator=torch.Generator().manual_seed(0)) * 255,
        "ids": torch.arange(100, 107)[None],
    }
    tokens = Dim("tokens", min=3, max=model.text_encoder.window)
    dynamic = {"image": None, "ids": {1: tokens}}
    network = ReferSAMNetwork(model).eval()
    return {"": TraceableNetwork(network, inputs, ("logits",), description, dynamic)}
