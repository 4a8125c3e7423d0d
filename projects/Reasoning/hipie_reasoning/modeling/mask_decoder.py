"""Mask decoders that are prompted with projected hidden states: SAM's, and HIPIE's queries."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from hipie.errors import InputError, printable
from hipie.modeling.postprocessing.mask_upsampling import upsample_to_input

Size = tuple[int, int]
NAMES = ("sam", "hipie")
# Few of the queries fit a prompt.
SCORE_BIAS = -2.0


class MaskDecoder(nn.Module):
    """Encodes images without text, and decodes a mask for every prompt.

    Attributes:
        prompt_width: channels of a prompt.
    """

    prompt_width: int

    @abstractmethod
    def encode(self, image: Tensor) -> Any:
        """Compute the features of an image.

        Args:
            image: [3, H, W] RGB, 0..255.
        """

    @abstractmethod
    def decode(self, features: Any, prompts: Tensor, size: Size) -> Tensor:
        """Compute mask logits.

        Args:
            features: of `encode`.
            prompts: [n, prompt_width].
            size: (height, width) of the masks.

        Returns:
            [n, height, width].
        """


class SamMaskDecoder(MaskDecoder):
    """SAM (Kirillov et al., ICCV 2023), whose sparse prompt is a projected hidden state.

    The image encoder and the prompt encoder are frozen.

    Args:
        sam: a model of `segment_anything`.
        frozen: do not train the mask decoder either.
    """

    def __init__(self, sam: nn.Module, *, frozen: bool = False) -> None:
        super().__init__()
        from hipie.modeling.sam.predictor import Sam

        Sam(sam).require_padded("ReasoningSeg")
        model: Any = sam
        self.sam: Any = model
        model.requires_grad_(False)
        model.mask_decoder.requires_grad_(not frozen)
        self.prompt_width = int(model.prompt_encoder.embed_dim)

    @torch.no_grad()
    def encode(self, image: Tensor) -> tuple[Tensor, Size]:
        """Resize to SAM's size, pad, and run the image encoder; see `MaskDecoder.encode`.

        Returns:
            Features [1, C, g, g], and (height, width) of the image inside the square.
        """
        from segment_anything.utils.transforms import ResizeLongestSide

        pixels = image.permute(1, 2, 0).to("cpu", torch.uint8).numpy()
        resized = ResizeLongestSide(self.sam.image_encoder.img_size).apply_image(pixels)
        tensor = torch.as_tensor(np.ascontiguousarray(resized), device=self.sam.device)
        square = self.sam.preprocess(tensor.permute(2, 0, 1)[None])
        return self.sam.image_encoder(square), resized.shape[:2]

    def decode(self, features: tuple[Tensor, Size], prompts: Tensor, size: Size) -> Tensor:
        """Decode one mask for every prompt; see `MaskDecoder.decode`."""
        embedding, input_size = features
        if not len(prompts):
            return embedding.new_zeros(0, *size)
        _, dense = self.sam.prompt_encoder(points=None, boxes=None, masks=None)
        small, _ = self.sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=prompts[:, None],
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        logits: Tensor = self.sam.postprocess_masks(small, input_size, size)
        return logits[:, 0]


class HipieMaskDecoder(MaskDecoder):
    """Queries of a frozen HIPIE, scored by a projected hidden state in place of a class name.

    HIPIE's stuff decoder reads no text before its class head, which compares every query's feature
    with text. Here a query's score is the sigmoid of the scaled dot product of its feature with the
    prompt, plus a learned bias, and the probability of a pixel the largest product, over all
    queries, of the query's score and its mask.

    Args:
        model: a `HIPIE` with a stuff decoder without early fusion.
        cfg: its configuration, which has the size and the channel order of images.
    """

    def __init__(self, model: Any, cfg: CfgNode) -> None:
        super().__init__()
        if getattr(model, "stuff", None) is None or model.stuff.fusion is not None:
            raise InputError(
                "MODEL.REASONING.HIPIE names a configuration without a stuff decoder that reads no "
                "text (MODEL.HIPIE.STUFF)"
            )
        self.hipie = model.requires_grad_(False).eval()
        self._cfg = cfg
        self.prompt_width = int(
            model.stuff.class_heads[-1].dot_product_projection_text.out_features
        )
        self.score_bias = nn.Parameter(torch.full((1,), SCORE_BIAS))

    def train(self, mode: bool = True) -> HipieMaskDecoder:
        """Set the mode of this module; HIPIE remains in evaluation mode."""
        super().train(mode)
        self.hipie.eval()
        return self

    @torch.no_grad()
    def encode(self, image: Tensor) -> Any:
        """Compute the queries of an image; see `MaskDecoder.encode`.

        Returns:
            `hipie.structures.ImageFeatures`.
        """
        from hipie.data.dataset_mappers.transforms import inputs_at_test_size

        pixels = image.permute(1, 2, 0).to("cpu", torch.uint8).numpy()
        return self.hipie.encode_images([inputs_at_test_size(pixels, self._cfg)])

    def decode(self, features: Any, prompts: Tensor, size: Size) -> Tensor:
        """Combine the masks of the queries that fit each prompt; see `MaskDecoder.decode`."""
        layer = features.stuff.layers[-1]
        products = layer.class_embeddings[0].float() @ prompts.float().t()
        scores = (products / self.prompt_width**0.5 + self.score_bias).sigmoid()
        queries = torch.arange(len(scores), device=scores.device)
        masks = self.hipie.stuff.mask_head.logits(
            layer, features.stuff.mask_features, torch.zeros_like(queries), queries
        )
        probabilities = masks.float().sigmoid()
        combined = [(score[:, None, None] * probabilities).amax(0) for score in scores.t()]
        if not combined:
            return scores.new_zeros(0, *size)
        logits = torch.stack(combined).clamp(1e-4, 1 - 1e-4).logit()
        upsampled = upsample_to_input(logits, features.image_sizes[0])
        return F.interpolate(upsampled[None], size=size, mode="bilinear")[0]


def build_mask_decoder(cfg: CfgNode) -> MaskDecoder:
    """Build the mask decoder that `MODEL.REASONING.MASK_DECODER` names.

    Raises:
        InputError: for another name.
        CheckpointError: if a file of weights belongs to another model.
    """
    node = cfg.MODEL.REASONING
    if node.MASK_DECODER == "sam":
        from hipie.modeling.sam.loading import load_sam

        sam = load_sam(node.SAM, node.SAM_WEIGHTS)
        return SamMaskDecoder(sam, frozen=node.FREEZE_MASK_DECODER)
    if node.MASK_DECODER == "hipie":
        from hipie import Segmenter

        segmenter = Segmenter.from_config(node.HIPIE, node.HIPIE_WEIGHTS or None, "cpu")
        return HipieMaskDecoder(segmenter.model, segmenter.cfg)
    raise InputError(
        f'MODEL.REASONING.MASK_DECODER is "{printable(node.MASK_DECODER)}"; it has to be one of '
        f"{', '.join(NAMES)}"
    )
